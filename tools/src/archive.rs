//! The archive as the tools open it.

use crate::exit::Failure;
use walferry::archive::crypt::KeyRing;
use walferry::archive::crypt::keys::ARCHIVE_KEY_VARIABLE;
use walferry::archive::store::{Archive, Opening};
use walferry::config::Config;
use walferry::primary::shipping::open_archive;

/// Which archive.
#[derive(clap::Args)]
pub struct ArchiveArgs {
    /// Archive: s3://bucket/prefix or file:///dir. S3 settings come from the AWS_* environment
    #[arg(long, value_name = "URL")]
    pub archive: String,
    #[command(flatten)]
    pub keys: KeyArgs,
}

/// The keys of an encrypted archive.
#[derive(clap::Args)]
pub struct KeyArgs {
    /// Keys of an encrypted archive, one ID HEX64 a line [default: those in WALFERRY_ARCHIVE_KEY]
    #[arg(long, value_name = "FILE")]
    pub archive_key_file: Option<String>,
}

impl KeyArgs {
    /// The keys that were given.
    pub fn ring(&self) -> Result<Option<KeyRing>, Failure> {
        Ok(KeyRing::configured(self.file(), ARCHIVE_KEY_VARIABLE)?)
    }

    fn file(&self) -> &str {
        self.archive_key_file.as_deref().unwrap_or_default()
    }
}

impl ArchiveArgs {
    /// Opens it for reading.
    pub fn open(&self) -> Result<Archive, Failure> {
        open(&self.archive, &self.keys)
    }
}

/// Opens an archive for reading.
pub fn open(url: &str, keys: &KeyArgs) -> Result<Archive, Failure> {
    let archive_key_file = keys.file().to_owned();
    let config = Config { archive: url.to_owned(), archive_key_file, ..Config::default() };
    let archive = open_archive(&config, Opening::Existing)?;
    archive.ok_or_else(|| {
        Failure::from(walferry::error::Error::Config {
            key: "archive".into(),
            detail: "is empty; name s3://bucket/prefix or file:///dir".into(),
        })
    })
}
