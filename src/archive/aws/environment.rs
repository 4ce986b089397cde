//! The environment variables that matter for S3, and what their values must look like.

use crate::error::{Error, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use std::collections::BTreeMap;
use url::Url;

/// Variables that hold the URL of a server.
pub(super) const URL_VARIABLES: [&str; 6] = [
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_METADATA_ENDPOINT",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];
/// Variables whose value is sent unchanged in each request.
pub(super) const PLAIN_VARIABLES: [&str; 5] =
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"];

/// The environment variables that matter for S3. No value is empty.
#[derive(Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Returns the variables of this process.
    pub(crate) fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::of(std::env::vars_os().filter_map(text))
    }

    /// Keeps the relevant ones of `variables`.
    pub(crate) fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let counts = |name: &str, value: &str| (name.starts_with("AWS_") || name == "HOME") && !value.trim().is_empty();
        Self(variables.into_iter().filter(|(name, value)| counts(name, value)).collect())
    }

    /// Returns the value of a variable, if it is set.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns a builder with all variables that `object_store` knows; refuses an unusable value.
    pub(crate) fn builder(&self) -> Result<AmazonS3Builder> {
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
    pub(crate) fn culprit(&self) -> Option<&str> {
        let is_unusable = |name: &str, value: &str| {
            let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() else { return false };
            let sound = AmazonS3Builder::new().with_access_key_id("id").with_secret_access_key("key");
            sound.with_config(key, value).with_bucket_name("bucket").build().is_err()
        };
        self.0.iter().find(|(name, value)| is_unusable(name, value)).map(|(name, _)| name.as_str())
    }
}

/// Returns the error for an unusable variable or setting.
pub(super) fn wrong(name: &str, detail: String) -> Error {
    Error::Config { key: name.to_owned(), detail }
}

/// Refuses a text that is not the http or https URL of a server.
pub(crate) fn require_url(name: &str, text: &str) -> Result<()> {
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
pub(crate) fn require_plain(name: &str, value: &str) -> Result<()> {
    if is_plain(value) {
        return Ok(());
    }
    let detail =
        "contains a blank, a line feed or another character that its value cannot contain. Check how the value was set"
            .to_owned();
    Err(wrong(name, detail))
}

/// Reports whether a value has only visible ASCII characters, so that a request can carry it unchanged.
pub(super) fn is_plain(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_graphic())
}
