//! The configuration files that AWS tools share: `~/.aws/credentials` and `~/.aws/config`.
//!
//! Guarantees: a profile's values are those of its section in the config file, overridden by those in the credentials
//! file; a missing file is no error; keys are never shown.

use super::environment::{Environment, is_plain};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The profile that is used if none is named.
const DEFAULT_PROFILE: &str = "default";

/// Settings of a profile that lead to credentials in ways that are not supported: through a further request, another
/// program, or a person.
const OTHER_WAYS: [&str; 5] =
    ["credential_process", "source_profile", "credential_source", "sso_session", "sso_start_url"];

/// The profile and the files in which it is searched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SharedFiles {
    credentials: Option<PathBuf>,
    config: Option<PathBuf>,
    profile: String,
    /// Whether the profile was named by AWS_PROFILE.
    is_named: bool,
}

/// The values found for a profile.
#[derive(Default)]
pub(super) struct Profile {
    values: BTreeMap<String, String>,
    /// Whether one of the files has a section for the profile.
    is_there: bool,
}

/// Keys of a profile as they are in the files.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ProfileKeys {
    /// Key id.
    pub id: String,
    /// Secret key.
    pub secret: String,
    /// Token of temporary credentials.
    pub token: Option<String>,
}

impl fmt::Debug for ProfileKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProfileKeys({}, <hidden>)", self.id)
    }
}

impl SharedFiles {
    /// Returns the locations of the files according to this environment.
    pub(super) fn of(environment: &Environment) -> Self {
        let home = environment.get("HOME").map(PathBuf::from);
        let path = |variable: &str, name: &str| match environment.get(variable) {
            Some(path) => match (path.strip_prefix("~/"), &home) {
                (Some(below), Some(home)) => Some(home.join(below)),
                _ => Some(PathBuf::from(path)),
            },
            None => home.as_ref().map(|home| home.join(".aws").join(name)),
        };
        let named = environment.get("AWS_PROFILE");
        Self {
            credentials: path("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            config: path("AWS_CONFIG_FILE", "config"),
            profile: named.unwrap_or(DEFAULT_PROFILE).to_owned(),
            is_named: named.is_some(),
        }
    }

    /// Reads the profile. Returns an error text if the profile was named and does not exist, or if a file cannot be
    /// read.
    pub(super) fn read(&self) -> Result<Profile, String> {
        let mut profile = Profile::default();
        // In the config file, the section of every profile but the default one has the word `profile` before the name.
        for (path, prefix) in [(&self.config, "profile "), (&self.credentials, "")] {
            let Some(text) = path.as_deref().map(text_of).transpose()?.flatten() else { continue };
            let is_it = |section: &str| {
                section == self.profile && (prefix.is_empty() || section == DEFAULT_PROFILE)
                    || !prefix.is_empty() && section.strip_prefix(prefix).map(str::trim) == Some(&self.profile)
            };
            for (section, key, value) in entries(&text) {
                if is_it(&section) {
                    profile.is_there = true;
                    if let Some(key) = key {
                        profile.values.insert(key, value);
                    }
                }
            }
        }
        if self.is_named && !profile.is_there {
            return Err(format!("AWS_PROFILE names {self}, but these files do not contain the profile"));
        }
        Ok(profile)
    }
}

/// Shows the profile and the files, for messages.
impl fmt::Display for SharedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |path: &Option<PathBuf>| match path {
            Some(path) if path.exists() => path.display().to_string(),
            Some(path) => format!("{} (no such file)", path.display()),
            None => "no file, because HOME is not set".to_owned(),
        };
        write!(f, "profile `{}` in {} and {}", self.profile, name(&self.credentials), name(&self.config))
    }
}

impl Profile {
    /// Returns a value of the profile, if it is set and not empty.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the keys of the profile; `None` if it has none. Returns an error text if the keys are unusable, or if
    /// the profile names only an unsupported way to credentials.
    pub(super) fn keys(&self) -> Result<Option<ProfileKeys>, String> {
        let keys = (self.get("aws_access_key_id"), self.get("aws_secret_access_key"));
        let token = self.get("aws_session_token");
        match keys {
            (Some(id), Some(secret)) => {
                if ![Some(id), Some(secret), token].into_iter().flatten().all(is_plain) {
                    return Err(
                        "one of its keys contains a blank or another character that a key cannot contain".to_owned()
                    );
                }
                let token = token.map(str::to_owned);
                Ok(Some(ProfileKeys { id: id.to_owned(), secret: secret.to_owned(), token }))
            }
            (None, None) => match OTHER_WAYS.into_iter().find(|way| self.get(way).is_some()) {
                Some(way) => Err(format!(
                    "it gets its credentials by {way}, which walferry does not support. Put keys into the profile, \
                     or have the AWS command line put them into the environment: aws configure export-credentials \
                     --format env"
                )),
                None => Ok(None),
            },
            _ => Err("it has only one of aws_access_key_id and aws_secret_access_key, and needs both".to_owned()),
        }
    }
}

/// Returns the text of a file; `None` if there is no such file.
fn text_of(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

/// Returns section, key and value of every line; a line that begins a section has neither key nor value. Indented
/// lines belong to a setting of several lines and are skipped.
fn entries(text: &str) -> impl Iterator<Item = (String, Option<String>, String)> + '_ {
    let mut section = String::new();
    text.lines().filter_map(move |line| {
        let is_indented = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || is_indented || line.starts_with(['#', ';']) {
            return None;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            name.0.trim().clone_into(&mut section);
            return Some((section.clone(), None, String::new()));
        }
        let (key, value) = line.split_once('=')?;
        let value = value.split(" #").next().unwrap_or_default().trim();
        Some((section.clone(), Some(key.trim().to_ascii_lowercase()), value.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path, profile: Option<&str>) -> SharedFiles {
        let home = ("HOME".to_owned(), dir.display().to_string());
        let named = profile.map(|name| ("AWS_PROFILE".to_owned(), name.to_owned()));
        SharedFiles::of(&Environment::of([home].into_iter().chain(named)))
    }

    #[test]
    fn a_profile_is_read_from_both_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".aws")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(".aws").join(name), text).unwrap();
        assert!(files(dir.path(), None).read().unwrap().keys().unwrap().is_none(), "no files");
        write(
            "credentials",
            "# ours\n[default]\naws_access_key_id = AK\naws_secret_access_key=SK\n\n[ other ]\nAWS_ACCESS_KEY_ID=AK2\n\
             aws_secret_access_key = SK/2+=\naws_session_token = T=\n[half]\naws_access_key_id = x\n",
        );
        write(
            "config",
            "[default]\nregion = eu-central-1 # near\ns3 =\n  region = nested\n[profile other]\nregion=us-west-2\n\
             [profile sso]\nsso_session = corp\n[other]\nregion = not-a-profile\n",
        );
        let keys = |id: &str, secret: &str, token: Option<&str>| {
            Some(ProfileKeys { id: id.into(), secret: secret.into(), token: token.map(str::to_owned) })
        };
        let read = |profile| files(dir.path(), profile).read().unwrap();
        assert_eq!(read(None).keys().unwrap(), keys("AK", "SK", None));
        assert_eq!(read(None).get("region"), Some("eu-central-1"));
        assert_eq!(read(Some("other")).keys().unwrap(), keys("AK2", "SK/2+=", Some("T=")));
        assert_eq!(read(Some("other")).get("region"), Some("us-west-2"));
        assert!(read(Some("sso")).keys().unwrap_err().contains("sso_session"));
        assert!(read(Some("half")).keys().unwrap_err().contains("needs both"));
        let Err(missing) = files(dir.path(), Some("none")).read() else { panic!("found") };
        assert!(missing.contains("`none`") && missing.contains(".aws/credentials") && missing.contains(".aws/config"));
        assert!(!format!("{:?}", read(None).keys()).contains("SK"));
    }
}
