//! The order of the sources, and the refusal of unusable values by name.

use super::environment::{PLAIN_VARIABLES, URL_VARIABLES};
use super::*;
use std::path::Path;

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::of(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn refusal(variables: &[(&str, &str)]) -> String {
    let builder = environment(variables).builder();
    builder.map(drop).expect_err("refused").to_string()
}

#[test]
fn an_endpoint_is_a_url_with_a_scheme_and_a_host() {
    for sound in ["http://127.0.0.1:9000", "https://s3.example", "http://[::1]:9000/", "http://minio:9000/path"] {
        require_url("AWS_ENDPOINT_URL", sound).expect(sound);
    }
    for unsound in [
        "minio:9000",
        "127.0.0.1:9000",
        "minio",
        "http://",
        "ftp://x",
        "http://a b",
        "http://a:b",
        "http://a?x",
        "http://user:sesame@host",
        "http://host\n",
    ] {
        for name in URL_VARIABLES {
            let refused = refusal(&[(name, unsound)]);
            assert!(refused.contains(name) && refused.contains("http://host:9000"), "{unsound}: {refused}");
            assert!(!refused.contains("sesame"), "{refused}");
        }
    }
}

#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let all =
        URL_VARIABLES.into_iter().chain(PLAIN_VARIABLES).chain(["AWS_ALLOW_HTTP", "AWS_PROFILE", "AWS_SKIP_SIGNATURE"]);
    for empty in ["", " "] {
        let all: Vec<(&str, &str)> = all.clone().map(|name| (name, empty)).collect();
        let (builder, source) = complete(environment(&all).builder().unwrap(), &environment(&all), false).unwrap();
        assert_eq!(builder.get_config_value(&AmazonS3ConfigKey::Endpoint), None);
        assert!(source.looked_at.is_some() && builder.with_bucket_name("b").build().is_ok());
    }
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let both = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "sesame")];
    assert!(refusal(&both[..1]).contains("AWS_SECRET_ACCESS_KEY"));
    assert!(refusal(&both[1..]).contains("AWS_ACCESS_KEY_ID"));
    for name in PLAIN_VARIABLES {
        let refused = refusal(&[(name, "sesame\n")]);
        assert!(refused.contains(name) && !refused.contains("sesame"), "{refused}");
    }
    assert_eq!(
        environment(&[("AWS_SKIP_SIGNATURE", "perhaps"), both[0], both[1]]).culprit(),
        Some("AWS_SKIP_SIGNATURE")
    );
    assert_eq!(environment(&both).culprit(), None);
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(dir.join(".aws")).unwrap();
    std::fs::write(dir.join(".aws").join(name), text).unwrap();
}

#[tokio::test]
async fn a_profile_gives_keys_region_and_endpoint_that_nothing_else_gives() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "credentials", "[p]\naws_access_key_id = AK\naws_secret_access_key = SK\n");
    write(dir.path(), "config", "[profile p]\nregion = eu-central-1\nendpoint_url = https://p.example\n");
    let home = dir.path().to_str().unwrap();
    let found = |more: &[(&str, &str)]| {
        let variables = environment(&[&[("HOME", home), ("AWS_PROFILE", "p")], more].concat());
        complete(variables.builder().unwrap(), &variables, false).unwrap()
    };
    let value = |builder: &AmazonS3Builder, key| builder.get_config_value(&key).unwrap_or_default();
    let (builder, source) = found(&[]);
    assert_eq!(value(&builder, AmazonS3ConfigKey::Region), "eu-central-1");
    assert_eq!(value(&builder, AmazonS3ConfigKey::Endpoint), "https://p.example");
    let credential = source.provider.unwrap().get_credential().await.unwrap();
    assert_eq!((&*credential.key_id, &*credential.secret_key, &credential.token), ("AK", "SK", &None));
    let (builder, source) = found(&[("AWS_REGION", "us-east-2"), ("AWS_ENDPOINT_URL", "https://e.example")]);
    assert_eq!(value(&builder, AmazonS3ConfigKey::Region), "us-east-2");
    assert_eq!(value(&builder, AmazonS3ConfigKey::Endpoint), "https://e.example");
    assert!(source.provider.is_some());
    let (builder, source) = found(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "key")]);
    assert!(source.provider.is_none() && source.looked_at.is_none(), "the environment's keys come first");
    assert_eq!(value(&builder, AmazonS3ConfigKey::Region), "eu-central-1");
}

#[test]
fn a_profile_that_was_named_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "config", "[profile p]\ncredential_process = /bin/x\n");
    let home = dir.path().to_str().unwrap();
    for (name, words) in [("none", "`none`"), ("p", "credential_process")] {
        let variables = environment(&[("HOME", home), ("AWS_PROFILE", name)]);
        let refused = complete(AmazonS3Builder::new(), &variables, false).err().expect("refused").to_string();
        assert!(refused.contains(words) && refused.contains(".aws/config"), "{refused}");
    }
}

/// Goal: without any credentials the error names every source that was tried.
#[tokio::test]
async fn no_credentials_is_an_error_that_names_the_places() {
    #[derive(Debug)]
    struct Nobody;
    impl CredentialProvider for Nobody {
        type Credential = AwsCredential;
        fn get_credential<'s, 'a>(&'s self) -> Answer<'a>
        where
            's: 'a,
            Self: 'a,
        {
            Box::pin(async { Err(failed("connection refused".to_owned())) })
        }
    }
    let dir = tempfile::tempdir().unwrap();
    for (more, asked) in [
        (("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1"), "http://127.0.0.1:1"),
        (("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/creds"), "/creds"),
    ] {
        let variables = environment(&[("HOME", dir.path().to_str().unwrap()), more]);
        let (_, source) = complete(variables.builder().unwrap(), &variables, false).unwrap();
        let role = RoleCredentials { inner: Arc::new(Nobody), looked_at: source.looked_at.unwrap() };
        let error = role.get_credential().await.unwrap_err().to_string();
        for place in
            ["s3-access-key-id", "AWS_ACCESS_KEY_ID", ".aws/credentials", ".aws/config", asked, "connection refused"]
        {
            assert!(error.contains(place), "{place}: {error}");
        }
    }
}
