//! The archive as the tools open it.

use crate::exit::Failure;
use walferry::archive::store::{Archive, Opening};
use walferry::config::Config;
use walferry::primary::shipping::open_archive;

/// Which archive.
#[derive(clap::Args)]
pub struct ArchiveArgs {
    /// Archive: s3://bucket/prefix or file:///dir. S3 settings come from the AWS_* environment
    #[arg(long, value_name = "URL")]
    pub archive: String,
}

impl ArchiveArgs {
    /// Opens it for reading.
    pub fn open(&self) -> Result<Archive, Failure> {
        open(&self.archive)
    }
}

/// Opens an archive for reading.
pub fn open(url: &str) -> Result<Archive, Failure> {
    let config = Config { archive: url.to_owned(), ..Config::default() };
    let archive = open_archive(&config, Opening::Existing)?;
    archive.ok_or_else(|| {
        Failure::from(walferry::error::Error::Config {
            key: "archive".into(),
            detail: "is empty; name s3://bucket/prefix or file:///dir".into(),
        })
    })
}
