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

mod profile;

use crate::error::{Error, Result};
use object_store::CredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use parking_lot::Mutex;
use profile::SharedFiles;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use url::Url;

/// Age at which the keys of a profile are read from the file again, because tools replace temporary keys there.
const KEYS_READ_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Variables that hold the URL of a server.
const URL_VARIABLES: [&str; 6] = [
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_METADATA_ENDPOINT",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];
/// Variables whose value is sent unchanged in each request.
const PLAIN_VARIABLES: [&str; 5] =
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"];

/// The environment variables that matter for S3. No value is empty.
#[derive(Clone, Default)]
pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Returns the variables of this process.
    pub(super) fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::of(std::env::vars_os().filter_map(text))
    }

    /// Keeps the relevant ones of `variables`.
    pub(super) fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let counts = |name: &str, value: &str| (name.starts_with("AWS_") || name == "HOME") && !value.trim().is_empty();
        Self(variables.into_iter().filter(|(name, value)| counts(name, value)).collect())
    }

    /// Returns the value of a variable, if it is set.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns a builder with all variables that `object_store` knows; refuses an unusable value.
    pub(super) fn builder(&self) -> Result<AmazonS3Builder> {
        for name in URL_VARIABLES {
            self.get(name).map_or(Ok(()), |value| require_url(name, value))?;
        }
        for name in PLAIN_VARIABLES {
            self.get(name).map_or(Ok(()), |value| require_plain(name, value))?;
        }
        let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        if let [Some(_), None] | [None, Some(_)] = keys.map(|name| self.get(name)) {
            let (set, missing) = if self.get(keys[0]).is_some() { (keys[0], keys[1]) } else { (keys[1], keys[0]) };
            return Err(wrong(missing, format!("is not set, but {set} is. Set both or neither")));
        }
        let known = |(name, value): (&String, &String)| {
            let key: AmazonS3ConfigKey = name.to_ascii_lowercase().parse().ok()?;
            Some((key, value.clone()))
        };
        let settings = self.0.iter().filter_map(known);
        Ok(settings.fold(AmazonS3Builder::new(), |builder, (key, value)| builder.with_config(key, value)))
    }

    /// Returns the variable that alone makes the S3 settings unusable, if there is one.
    pub(super) fn culprit(&self) -> Option<&str> {
        let is_unusable = |name: &str, value: &str| {
            let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() else { return false };
            let sound = AmazonS3Builder::new().with_access_key_id("id").with_secret_access_key("key");
            sound.with_config(key, value).with_bucket_name("bucket").build().is_err()
        };
        self.0.iter().find(|(name, value)| is_unusable(name, value)).map(|(name, _)| name.as_str())
    }
}

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

fn wrong(name: &str, detail: String) -> Error {
    Error::Config { key: name.to_owned(), detail }
}

/// Refuses a text that is not the http or https URL of a server.
pub(super) fn require_url(name: &str, text: &str) -> Result<()> {
    let example = "write it as http://host:9000 or https://host";
    // Text before an `@` may be a secret, and the message below would show it.
    if text.contains('@') {
        return Err(wrong(
            name,
            format!("the URL of a server must not contain `@`: {example}. Credentials have settings of their own"),
        ));
    }
    let fault = match Url::parse(text) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => "it has no scheme".to_owned(),
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            "it has a query or a fragment after its path".to_owned()
        }
        Ok(url) if url.host_str().is_none_or(str::is_empty) => "it names no host".to_owned(),
        Ok(_) if !is_plain(text) => "it contains a blank or another character that a URL cannot contain".to_owned(),
        Ok(_) => return Ok(()),
        Err(url::ParseError::RelativeUrlWithoutBase) => "it has no scheme".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(wrong(name, format!("`{}` is not the URL of a server: {fault}; {example}", text.escape_debug())))
}

/// Refuses a value that cannot be part of a request. The message does not show the value, because it may be a secret.
pub(super) fn require_plain(name: &str, value: &str) -> Result<()> {
    if is_plain(value) {
        return Ok(());
    }
    let detail =
        "contains a blank, a line feed or another character that its value cannot contain. Check how the value was set"
            .to_owned();
    Err(wrong(name, detail))
}

fn is_plain(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_graphic())
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
