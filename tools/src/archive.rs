//! Opening the archive for the tools.

use crate::exit::Failure;
use std::path::Path;
use std::str::FromStr;
use walferry::archive::config::ArchiveUrl;
use walferry::archive::crypt::KeyRing;
use walferry::archive::crypt::keys::ARCHIVE_KEY_VARIABLE;
use walferry::archive::opening::open_archive;
use walferry::archive::store::{Archive, Opening};
use walferry::config::Config;
use walferry::error::Error;

/// Location and keys of an archive.
#[derive(clap::Args)]
pub(crate) struct ArchiveArgs {
    /// Archive: s3://bucket/prefix or file:///dir. S3 settings come from the AWS_* environment and ~/.aws
    #[arg(long, value_name = "URL")]
    pub archive: String,
    #[command(flatten)]
    pub keys: KeyArgs,
}

/// The keys of an encrypted archive.
#[derive(clap::Args)]
pub(crate) struct KeyArgs {
    /// Keys of an encrypted archive, one ID HEX64 a line [default: those in WALFERRY_ARCHIVE_KEY]
    #[arg(long, value_name = "FILE")]
    pub archive_key_file: Option<String>,
}

impl KeyArgs {
    /// Returns the keys that were given, or `None` without any.
    pub(crate) fn ring(&self) -> Result<Option<KeyRing>, Failure> {
        Ok(KeyRing::configured(self.file()?, ARCHIVE_KEY_VARIABLE)?)
    }

    fn file(&self) -> Result<&str, Failure> {
        named_file("archive-key-file", self.archive_key_file.as_deref())
    }
}

/// Returns the key file that an option names; empty without the option. An option with an empty name is refused: an
/// unset variable in a script causes it, and the archive would be opened without keys.
pub(crate) fn named_file<'o>(option: &str, file: Option<&'o str>) -> Result<&'o str, Failure> {
    match file {
        Some(file) if file.trim().is_empty() => {
            let detail = "is empty. Name the file, or omit the option if the archive is not encrypted".to_owned();
            Err(Error::Config { key: option.to_owned(), detail }.into())
        }
        file => Ok(file.unwrap_or_default()),
    }
}

impl ArchiveArgs {
    /// Refuses a directory that a tool is going to fill if it lies in the archive's directory or contains it.
    pub(crate) fn require_apart(&self, dir: &Path, what: &str) -> Result<(), Failure> {
        Ok(ArchiveUrl::from_str(&self.archive)?.require_apart("archive", dir, what)?)
    }

    /// Opens the archive for reading.
    pub(crate) fn open(&self) -> Result<Archive, Failure> {
        open(&self.archive, &self.keys)
    }
}

/// Opens an archive for reading.
pub(crate) fn open(url: &str, keys: &KeyArgs) -> Result<Archive, Failure> {
    let archive_key_file = keys.file()?.to_owned();
    let config = Config { archive: url.to_owned(), archive_key_file, ..Config::default() };
    let archive = open_archive(&config, Opening::Existing)?;
    archive.ok_or_else(|| {
        Failure::from(Error::Config {
            key: "archive".into(),
            detail: "is empty. Name s3://bucket/prefix or file:///dir".into(),
        })
    })
}
