//! The location of the archive and the way to reach it: the archive URL and the S3 settings.
//!
//! Guarantees: explicit settings win over those that [`super::aws`] finds; an unusable value is refused with its name;
//! secrets appear in no message and in no `Debug` output.

use super::aws::{self, Environment, RoleCredentials, Source};
use crate::error::{Error, Result};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, Checksum};
use object_store::path::Path as ObjectPath;
use object_store::{ClientConfigKey, RetryConfig, StaticCredentialProvider};
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Longest time for opening a connection to the object store.
const CONNECT_TIMEOUT: &str = "5 seconds";

/// Backstop only: the calls of the store have their own deadlines, which grow with the body.
const REQUEST_TIMEOUT: &str = "1 hour";

const ACCEPTED: &str = "accepted are s3://bucket/prefix and file:///absolute/directory";

/// Location of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveUrl {
    /// A prefix in an S3 bucket.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// Prefix of every object, without slashes at either end; empty for the whole bucket.
        prefix: String,
    },
    /// A local directory, for tests and for network file systems.
    File {
        /// Absolute path of the directory.
        dir: PathBuf,
    },
}

impl FromStr for ArchiveUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            return Ok(Self::S3 { bucket: checked_bucket(bucket)?, prefix: checked_prefix(prefix)? });
        }
        if let Some(rest) = text.strip_prefix("file://") {
            if !rest.starts_with('/') {
                return Err(wrong(format!("`{text}` does not name an absolute directory; {ACCEPTED}")));
            }
            return Ok(Self::File { dir: PathBuf::from(rest) });
        }
        Err(wrong(format!("`{text}` does not begin with a known scheme; {ACCEPTED}")))
    }
}

impl fmt::Display for ArchiveUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::File { dir } => write!(f, "file://{}", dir.display()),
        }
    }
}

impl ArchiveUrl {
    /// Refuses a directory that lies in the archive's directory or contains it: each side would take the other's files
    /// for its own or for foreign files. `what` names the directory, `name` the archive's setting.
    pub fn require_apart(&self, name: &str, dir: &Path, what: &str) -> Result<()> {
        let Self::File { dir: own } = self else { return Ok(()) };
        let (archive, other) = (real_path(own), real_path(dir));
        let how = match (archive == other, archive.starts_with(&other), other.starts_with(&archive)) {
            (true, ..) => "is the same directory as",
            (_, true, _) => "lies in",
            (_, _, true) => "holds",
            _ => return Ok(()),
        };
        let (own, dir) = (own.display(), dir.display());
        let detail = format!("{own} {how} {what} {dir}: give each a directory of its own, beside the other");
        Err(Error::Config { key: name.to_owned(), detail })
    }

    /// Refuses another archive whose directory lies in this archive's directory or contains it.
    pub fn require_apart_from(&self, name: &str, other: &Self, other_name: &str) -> Result<()> {
        match other {
            Self::File { dir } => self.require_apart(name, dir, other_name),
            Self::S3 { .. } => Ok(()),
        }
    }
}

/// Returns the path without symbolic links, as far as the path exists.
fn real_path(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing = Vec::new();
    let mut at = path.as_path();
    loop {
        if let Ok(real) = at.canonicalize() {
            return missing.iter().rev().fold(real, |path, name| path.join(name));
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                at = parent;
            }
            _ => return path,
        }
    }
}

fn wrong(detail: String) -> Error {
    Error::Config { key: "archive".to_owned(), detail }
}

/// Checks a bucket name. The message does not repeat the name: in `s3://key:secret@bucket` it contains a secret.
fn checked_bucket(bucket: &str) -> Result<String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if bucket.is_empty() || !bucket.bytes().all(plain) {
        return Err(wrong(format!(
            "the bucket must consist of lower-case letters, digits, '.', '-', '_'; {ACCEPTED}. Set credentials by \
             AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )));
    }
    Ok(bucket.to_owned())
}

fn checked_prefix(prefix: &str) -> Result<String> {
    let prefix = prefix.trim_end_matches('/');
    if prefix.starts_with('/') {
        return Err(wrong(format!("the prefix begins with an empty part; {ACCEPTED}")));
    }
    ObjectPath::parse(prefix)
        .map(|path| path.to_string())
        .map_err(|source| wrong(format!("the prefix is not usable: {source}; {ACCEPTED}")))
}

/// A secret that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// Settings of S3. A value that is `None` comes from the standard AWS_* environment, then from a profile of the shared
/// AWS files, then from the role of the container or of the instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Settings {
    /// URL of an S3-compatible server, addressed path-style (AWS_ENDPOINT_URL). `None`: AWS.
    pub endpoint: Option<String>,
    /// Region (AWS_REGION, AWS_DEFAULT_REGION; `us-east-1` if none is given).
    pub region: Option<String>,
    /// Key id (AWS_ACCESS_KEY_ID).
    pub access_key_id: Option<String>,
    /// Secret key (AWS_SECRET_ACCESS_KEY).
    pub secret_access_key: Option<Secret>,
    /// Token of temporary credentials (AWS_SESSION_TOKEN).
    pub session_token: Option<Secret>,
    /// Whether an `http://` endpoint is allowed (AWS_ALLOW_HTTP).
    pub allow_http: Option<bool>,
    /// Whether each upload carries a SHA-256 checksum for the server to verify. Default: yes.
    pub checksum: Option<bool>,
}

impl S3Settings {
    /// Returns the client for one bucket. The client does not retry: [`super::store`] retries and counts the retries.
    pub(super) fn client(&self, bucket: &str) -> Result<AmazonS3> {
        self.client_in(&Environment::of_process(), bucket)
    }

    fn client_in(&self, environment: &Environment, bucket: &str) -> Result<AmazonS3> {
        let (builder, source) = self.builder(environment, bucket)?;
        let unusable = |error: object_store::Error| match environment.culprit() {
            Some(name) => Error::Config { key: name.to_owned(), detail: format!("is not usable: {error}") },
            None => wrong(format!("S3 settings are not usable: {error}")),
        };
        let client = builder.clone().build().map_err(unusable)?;
        let Some(looked_at) = source.looked_at else { return Ok(client) };
        let role = RoleCredentials { inner: Arc::clone(client.credentials()), looked_at };
        builder.with_credentials(Arc::new(role)).build().map_err(unusable)
    }

    /// Returns a builder with the environment's settings, overridden by the explicit ones, and the source of
    /// credentials.
    fn builder(&self, environment: &Environment, bucket: &str) -> Result<(AmazonS3Builder, Source)> {
        let mut builder = environment.builder()?;
        if let Some(endpoint) = &self.endpoint {
            aws::require_url("s3-endpoint", endpoint)?;
            builder = builder
                .with_config(AmazonS3ConfigKey::Endpoint, endpoint)
                .with_config(AmazonS3ConfigKey::S3Endpoint, endpoint)
                .with_virtual_hosted_style_request(false);
        }
        if let Some(region) = &self.region {
            aws::require_plain("s3-region", region)?;
            builder = builder.with_region(region);
        }
        let explicit = self.credentials()?;
        let (mut builder, mut source) = aws::complete(builder, environment, explicit.is_some())?;
        let explicit = explicit.map(|credentials| Arc::new(StaticCredentialProvider::new(credentials)) as _);
        if let Some(provider) = explicit.or(source.provider.take()) {
            builder = builder.with_credentials(provider);
        }
        builder = allow_http(builder, self.allow_http)?;
        if self.checksum.unwrap_or(true) {
            builder = builder.with_checksum_algorithm(Checksum::SHA256);
        }
        let client = |key| AmazonS3ConfigKey::Client(key);
        let builder = builder
            .with_config(client(ClientConfigKey::ConnectTimeout), CONNECT_TIMEOUT)
            .with_config(client(ClientConfigKey::Timeout), REQUEST_TIMEOUT)
            .with_bucket_name(bucket)
            // Objects are deleted one at a time, because not every S3-compatible server has the bulk call.
            .with_disable_bulk_delete(true)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
        Ok((builder, source))
    }

    /// Returns the explicit credentials as a whole: an explicit key is never paired with the environment's secret or
    /// token.
    fn credentials(&self) -> Result<Option<AwsCredential>> {
        match (&self.access_key_id, &self.secret_access_key) {
            (Some(id), Some(key)) => {
                aws::require_plain("s3-access-key-id", id)?;
                aws::require_plain("s3-secret-access-key", &key.0)?;
                Ok(Some(AwsCredential {
                    key_id: id.clone(),
                    secret_key: key.0.clone(),
                    token: self.session_token.as_ref().map(|token| token.0.clone()),
                }))
            }
            (None, None) => Ok(None),
            _ => Err(wrong("S3 access key id and secret access key must be set together, or neither".to_owned())),
        }
    }
}

/// Decides whether plain HTTP is allowed, and refuses a plain HTTP endpoint if it is not.
fn allow_http(builder: AmazonS3Builder, explicit: Option<bool>) -> Result<AmazonS3Builder> {
    let key = AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp);
    let allowed = explicit.unwrap_or_else(|| {
        builder.get_config_value(&key).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
    });
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
        .iter()
        .find_map(|key| builder.get_config_value(key))
        .unwrap_or_default();
    if endpoint.starts_with("http://") && !allowed {
        return Err(wrong(
            "the S3 endpoint is plain http://; allow it with AWS_ALLOW_HTTP=true or use https".to_owned(),
        ));
    }
    Ok(builder.with_config(key, if allowed { "true" } else { "false" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed_and_printed() {
        for (text, shown) in [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://my-bucket.x/a/b/", "s3://my-bucket.x/a/b"),
            ("file:///var/lib/archive", "file:///var/lib/archive"),
        ] {
            assert_eq!(text.parse::<ArchiveUrl>().expect(text).to_string(), shown);
        }
    }

    #[test]
    fn other_urls_are_refused_and_say_what_is_accepted() {
        for text in ["", "bucket", "gs://b/p", "file://dir", "s3://", "s3:///x", "s3://b//x", "/dir", "s3://B/x"] {
            let message = text.parse::<ArchiveUrl>().expect_err(text).to_string();
            assert!(message.contains("s3://bucket/prefix"), "{text}: {message}");
        }
    }

    #[test]
    fn a_directory_in_another_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("real")).expect("create");
        std::os::unix::fs::symlink(at("real"), at("link")).expect("link");
        let url = |name: &str| ArchiveUrl::File { dir: at(name) };
        for (archive, other, how) in [
            ("real", "real", "is the same"),
            ("real/", "link", "is the same"),
            ("real/a/b", "link/a", "lies in"),
            ("link", "real/a/b", "holds"),
            ("new/archive", "new", "lies in"),
        ] {
            let refused = url(archive).require_apart("archive", &at(other), "the data directory").expect_err(how);
            let text = refused.to_string();
            assert!(text.contains(how) && text.contains("archive") && text.contains("data directory"), "{text}");
            url(archive).require_apart_from("archive-2", &url(other), "archive").expect_err(how);
        }
        url("real").require_apart("archive", &at("real-2"), "the data directory").expect("beside it");
        let s3: ArchiveUrl = "s3://bucket/p".parse().expect("url");
        s3.require_apart("archive", &at("real"), "the data directory").expect("elsewhere");
    }

    #[test]
    fn secrets_are_never_shown() {
        let settings = S3Settings {
            access_key_id: Some("id".into()),
            secret_access_key: Some(Secret::new("sesame")),
            session_token: Some(Secret::new("sesame")),
            ..S3Settings::default()
        };
        assert!(!format!("{settings:?}").contains("sesame"));
        let client = settings.client("bucket").expect("client");
        assert!(!client.to_string().contains("sesame"));
        let message = "s3://id:sesame@bucket/p".parse::<ArchiveUrl>().expect_err("refused").to_string();
        assert!(!message.contains("sesame"), "{message}");
    }

    #[test]
    fn explicit_settings_win_over_the_environment() {
        let environment = Environment::of(
            [
                ("AWS_ENDPOINT_URL", "https://env.example"),
                ("AWS_ENDPOINT_URL_S3", "https://env-s3.example"),
                ("AWS_REGION", "env-region"),
                ("AWS_SESSION_TOKEN", "env-token"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let settings = S3Settings {
            endpoint: Some("https://set.example".into()),
            region: Some("set-region".into()),
            access_key_id: Some("id".into()),
            secret_access_key: Some(Secret::new("key")),
            ..S3Settings::default()
        };
        let (builder, _) = settings.builder(&environment, "bucket").expect("builder");
        let value = |key| builder.get_config_value(&key);
        assert_eq!(settings.credentials().expect("credentials").expect("explicit").token, None);
        assert_eq!(value(AmazonS3ConfigKey::Endpoint).as_deref(), Some("https://set.example"));
        assert_eq!(value(AmazonS3ConfigKey::S3Endpoint).as_deref(), Some("https://set.example"));
        assert_eq!(value(AmazonS3ConfigKey::Region).as_deref(), Some("set-region"));
    }

    #[test]
    fn half_a_credential_is_refused() {
        let settings = S3Settings { access_key_id: Some("id".into()), ..S3Settings::default() };
        assert!(settings.builder(&Environment::default(), "b").is_err());
    }

    #[test]
    fn plain_http_must_be_allowed() {
        let mut settings = S3Settings { endpoint: Some("http://localhost:1".into()), ..S3Settings::default() };
        let refused = settings.builder(&Environment::default(), "b").err().expect("refused").to_string();
        assert!(refused.contains("AWS_ALLOW_HTTP"), "{refused}");
        settings.allow_http = Some(true);
        assert!(settings.builder(&Environment::default(), "b").is_ok());
    }
}
