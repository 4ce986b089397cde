//! Opens the archives that the settings name, with their S3 settings and keys.

use super::config::{ArchiveUrl, S3Settings, Secret};
use super::crypt::KeyRing;
use super::crypt::keys::{ARCHIVE_2_KEY_VARIABLE, ARCHIVE_KEY_VARIABLE};
use super::store::{Archive, Opening};
use crate::config::Config;
use crate::error::Result;
use std::str::FromStr;

/// Opens the configured archive with its keys; `None` if none is configured.
pub fn open_archive(config: &Config, opening: Opening) -> Result<Option<Archive>> {
    if config.archive.is_empty() {
        return Ok(None);
    }
    let keys = KeyRing::configured(&config.archive_key_file, ARCHIVE_KEY_VARIABLE)?;
    open_url(config, &config.archive, opening).map(|archive| Some(archive.with_keys(keys)))
}

/// Opens the configured second archive; `None` if none is configured. The second archive uses the keys and the S3
/// settings of the first archive where it has none of its own.
pub fn open_second(config: &Config) -> Result<Option<Archive>> {
    if config.archive_2.is_empty() {
        return Ok(None);
    }
    let own = KeyRing::configured(&config.archive_2_key_file, ARCHIVE_2_KEY_VARIABLE)?;
    let keys = match own {
        Some(keys) => Some(keys),
        None => KeyRing::configured(&config.archive_key_file, ARCHIVE_KEY_VARIABLE)?,
    };
    let archive = open_url(&with_own_s3(config), &config.archive_2, Opening::Create)?;
    Ok(Some(archive.with_keys(keys)))
}

/// Returns the settings with the second archive's own S3 settings in place of the first archive's.
fn with_own_s3(config: &Config) -> Config {
    let or = |own: &str, first: &str| if own.is_empty() { first } else { own }.to_owned();
    Config {
        s3_endpoint: or(&config.archive_2_s3_endpoint, &config.s3_endpoint),
        s3_region: or(&config.archive_2_s3_region, &config.s3_region),
        s3_access_key_id: or(&config.archive_2_s3_access_key_id, &config.s3_access_key_id),
        s3_secret_access_key: or(&config.archive_2_s3_secret_access_key, &config.s3_secret_access_key),
        ..config.clone()
    }
}

/// Opens the archive at `url` with the configured S3 settings and without keys.
pub fn open_url(config: &Config, url: &str, opening: Opening) -> Result<Archive> {
    Archive::open(&ArchiveUrl::from_str(url)?, &s3_settings(config), opening)
}

fn s3_settings(config: &Config) -> S3Settings {
    let mut s3 = S3Settings::default();
    let set = |to: &mut Option<String>, value: &str| {
        if !value.is_empty() {
            *to = Some(value.to_owned());
        }
    };
    set(&mut s3.endpoint, &config.s3_endpoint);
    set(&mut s3.region, &config.s3_region);
    set(&mut s3.access_key_id, &config.s3_access_key_id);
    if !config.s3_secret_access_key.is_empty() {
        s3.secret_access_key = Some(Secret::new(config.s3_secret_access_key.clone()));
    }
    if config.s3_allow_http {
        s3.allow_http = Some(true);
    }
    s3
}
