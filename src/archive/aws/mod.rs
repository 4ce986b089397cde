//! Finds S3 credentials, region and endpoint if no setting gives them.
//!
//! ```text
//! AWS_* environment; an empty variable counts as not set
//! a profile of the shared AWS files        profile
//! a web identity (AWS_WEB_IDENTITY_TOKEN_FILE), the container's role, the instance's role: object_store
//! ```
//!
//! Guarantees: the first of these sources that has a value provides it; an unusable value is refused with its name
//! before any request is sent; if no credentials are found, the error names every source that was tried.

mod environment;
mod profile;

pub(super) use environment::{Environment, require_plain, require_url};

use crate::error::Result;
use environment::wrong;
use object_store::CredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use parking_lot::Mutex;
use profile::SharedFiles;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Age at which the keys of a profile are read from the file again, because tools replace temporary keys there.
const KEYS_READ_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Source of credentials for a client that has no explicit ones.
#[derive(Default)]
pub(super) struct Source {
    /// A provider that reads the shared files. `None`: `object_store` looks for a role.
    pub provider: Option<AwsCredentialProvider>,
    /// Every source, in order, for the message if none has credentials.
    pub looked_at: Option<String>,
}

/// Fills what `builder` lacks from a profile of the shared files, and returns the source of credentials. `has_keys` is
/// true if settings give the credentials.
pub(super) fn complete(
    mut builder: AmazonS3Builder,
    environment: &Environment,
    has_keys: bool,
) -> Result<(AmazonS3Builder, Source)> {
    let files = SharedFiles::of(environment);
    let has_keys = has_keys || environment.get("AWS_ACCESS_KEY_ID").is_some() || skips_signature(&builder);
    let has = |builder: &AmazonS3Builder, key| builder.get_config_value(&key).is_some();
    if has_keys && has(&builder, AmazonS3ConfigKey::Region) {
        return Ok((builder, Source::default()));
    }
    let refused = |detail: String| wrong("AWS credentials", detail);
    let profile = match files.read() {
        Ok(profile) => profile,
        // The keys are given, and the region has a default.
        Err(_) if has_keys => return Ok((builder, Source::default())),
        Err(detail) => return Err(refused(detail)),
    };
    if let Some(region) = profile.get("region").filter(|_| !has(&builder, AmazonS3ConfigKey::Region)) {
        require_plain(&format!("region of {files}"), region)?;
        builder = builder.with_region(region);
    }
    if has_keys {
        return Ok((builder, Source::default()));
    }
    let has_endpoint = has(&builder, AmazonS3ConfigKey::Endpoint) || has(&builder, AmazonS3ConfigKey::S3Endpoint);
    if let Some(endpoint) = profile.get("endpoint_url").filter(|_| !has_endpoint) {
        require_url(&format!("endpoint_url of {files}"), endpoint)?;
        builder = builder.with_endpoint(endpoint);
    }
    let keys = profile.keys().map_err(|detail| refused(format!("{files}: {detail}")))?;
    if keys.is_some() {
        let provider = ProfileCredentials { files, read: Mutex::default() };
        return Ok((builder, Source { provider: Some(Arc::new(provider)), looked_at: None }));
    }
    for (key, name) in [
        (AmazonS3ConfigKey::WebIdentityTokenFile, "web_identity_token_file"),
        (AmazonS3ConfigKey::RoleArn, "role_arn"),
        (AmazonS3ConfigKey::RoleSessionName, "role_session_name"),
    ] {
        if let Some(value) = profile.get(name).filter(|_| !has(&builder, key)) {
            builder = builder.with_config(key, value);
        }
    }
    let looked_at = looked_at(&builder, environment, &files);
    Ok((builder, Source { provider: None, looked_at: Some(looked_at) }))
}

fn skips_signature(builder: &AmazonS3Builder) -> bool {
    builder.get_config_value(&AmazonS3ConfigKey::SkipSignature).is_some_and(|value| value == "true")
}

/// Returns the sources that are tried for credentials if neither a setting nor a profile has any. The order is that of
/// [`AmazonS3Builder::build`].
fn looked_at(builder: &AmazonS3Builder, environment: &Environment, files: &SharedFiles) -> String {
    let value = |key| builder.get_config_value(&key);
    let has_web_identity =
        value(AmazonS3ConfigKey::WebIdentityTokenFile).is_some() && value(AmazonS3ConfigKey::RoleArn).is_some();
    let container = environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").or_else(|| {
        environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")?;
        environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    });
    let asked = if has_web_identity {
        "the role of a web identity was asked for (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN)".to_owned()
    } else if let Some(uri) = container {
        format!("the container's role was asked for at {uri} (AWS_CONTAINER_CREDENTIALS_*)")
    } else {
        let at = value(AmazonS3ConfigKey::MetadataEndpoint);
        format!(
            "AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN, AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, and \
             AWS_CONTAINER_CREDENTIALS_FULL_URI with AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE (not set); the instance's role \
             was asked for at {}",
            at.as_deref().unwrap_or("http://169.254.169.254")
        )
    };
    format!(
        "s3-access-key-id with s3-secret-access-key, AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY (not set); {files} (no \
         keys there); {asked}"
    )
}

type Answer<'a> = Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'a>>;

fn failed(detail: String) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: detail.into() }
}

/// Credentials of a profile, read again after [`KEYS_READ_AGAIN_AFTER`].
#[derive(Debug)]
struct ProfileCredentials {
    files: SharedFiles,
    read: Mutex<Option<(Instant, Arc<AwsCredential>)>>,
}

impl ProfileCredentials {
    fn current(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut read = self.read.lock();
        if let Some((when, credential)) = &*read
            && when.elapsed() < KEYS_READ_AGAIN_AFTER
        {
            return Ok(Arc::clone(credential));
        }
        let keys = self.files.read().and_then(|profile| profile.keys());
        let credential = match (keys, &*read) {
            (Ok(Some(keys)), _) => {
                Arc::new(AwsCredential { key_id: keys.id, secret_key: keys.secret, token: keys.token })
            }
            // Another process may be writing the file, so the keys read before are kept.
            (_, Some((_, before))) => Arc::clone(before),
            (Ok(None), None) => {
                return Err(failed(format!(
                    "{} contains no keys, although it contained keys at the start",
                    self.files
                )));
            }
            (Err(detail), None) => return Err(failed(format!("{}: {detail}", self.files))),
        };
        *read = Some((Instant::now(), Arc::clone(&credential)));
        Ok(credential)
    }
}

impl CredentialProvider for ProfileCredentials {
    type Credential = AwsCredential;

    fn get_credential<'s, 'a>(&'s self) -> Answer<'a>
    where
        's: 'a,
        Self: 'a,
    {
        Box::pin(async move { self.current() })
    }
}

/// Credentials of a role. If there are none, the error names every source that was tried.
#[derive(Debug)]
pub(super) struct RoleCredentials {
    /// Provider that requests the credentials.
    pub inner: AwsCredentialProvider,
    /// The sources that were tried, for the message.
    pub looked_at: String,
}

impl CredentialProvider for RoleCredentials {
    type Credential = AwsCredential;

    fn get_credential<'s, 'a>(&'s self) -> Answer<'a>
    where
        's: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let got = self.inner.get_credential().await;
            got.map_err(|error| failed(format!("no credentials were found. Looked at: {}: {error}", self.looked_at)))
        })
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
