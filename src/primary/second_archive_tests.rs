//! How a start treats a second archive, and the requirements on its epoch records.

use super::*;
use crate::archive::retry_policy::RetryPolicy;
use crate::archive::testing::faults::{Fault, FaultStore};
use crate::cluster::ClusterId;
use crate::config::Config;
use crate::csn::{CommitTime, Epoch, HistoryHash};
use crate::error::Kind;
use crate::node::places::{LOOK, require_own_second};
use std::path::Path;

const OWN: ClusterId = ClusterId([1; 16]);

fn key_file(dir: &Path, id: &str) -> String {
    let path = dir.join(id);
    std::fs::write(&path, format!("{id} {}", blake3::hash(id.as_bytes()).to_hex())).expect("write");
    path.display().to_string()
}

/// Settings with two archives in `dir`; the second has a key of its own.
fn settings(dir: &Path) -> Config {
    let url = |name: &str| format!("file://{}", dir.join(name).display());
    let archive_2_key_file = key_file(dir, "k2");
    Config { archive: url("first"), archive_2: url("second"), archive_2_key_file, ..Config::default() }
}

async fn refused(config: &Config, cluster: Option<ClusterId>, words: &str) {
    let error = require_own_second(config, cluster).await.expect_err("refused");
    assert_eq!(error.kind(), Kind::Usage, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test]
async fn a_start_refuses_what_can_never_work() {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = settings(dir.path());
    require_own_second(&Config::default(), None).await.expect("no second archive");
    require_own_second(&config, Some(OWN)).await.expect("a new one");
    refused(&Config { archive: String::new(), ..config.clone() }, Some(OWN), "set archive").await;
    refused(&Config { archive: format!("{}/", config.archive_2), ..config.clone() }, Some(OWN), "same as archive")
        .await;
    refused(&Config { archive_2: "ftp://x".to_owned(), ..config.clone() }, Some(OWN), "s3://bucket/prefix").await;
    refused(&Config { archive_2_key_file: "/none".to_owned(), ..config.clone() }, Some(OWN), "/none").await;

    let archive = open_second(&config).expect("open").expect("configured");
    identity::establish(&archive, OWN).await.expect("establish");
    require_own_second(&config, Some(OWN)).await.expect("its own");
    for other in [None, Some(ClusterId([2; 16]))] {
        refused(&config, other, "belongs to cluster 0101").await;
    }
    let wrong_key = Config { archive_2_key_file: key_file(dir.path(), "k3"), ..config.clone() };
    refused(&wrong_key, Some(OWN), "`k2`").await;
    let no_key = Config { archive_2_key_file: String::new(), ..config.clone() };
    refused(&no_key, Some(OWN), "`k2`").await;
    // Without its own keys, the second archive uses the keys of the first.
    let first_key = Config { archive_key_file: key_file(dir.path(), "k2"), ..no_key };
    require_own_second(&first_key, Some(OWN)).await.expect("the first archive's keys");
}

#[tokio::test]
async fn a_start_does_not_wait_for_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("second"), "in the way").expect("write");
    require_own_second(&settings(dir.path()), Some(OWN)).await.expect("it may be there later");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let config = Config {
        archive_2: "s3://bucket/second".to_owned(),
        archive_2_s3_endpoint: format!("http://127.0.0.1:{nobody}"),
        archive_2_s3_access_key_id: "id".to_owned(),
        archive_2_s3_secret_access_key: "secret".to_owned(),
        s3_allow_http: true,
        ..settings(dir.path())
    };
    require_own_second(&config, Some(OWN)).await.expect("it may be there later");
}

/// Goal: however often writing the records is interrupted, each record is written once, root first; another node's
/// record is not changed.
#[tokio::test]
async fn epochs_are_those_of_the_first_archive() {
    let time = CommitTime(1);
    let line = [
        EpochRecord::first(Epoch(1), "a".to_owned(), time),
        EpochRecord::forked(Epoch(3), Epoch(1), (Csn(9), HistoryHash(9)), "b".to_owned(), time),
    ];
    for step in 0..5 {
        let store = FaultStore::default();
        let archive = Archive::over(Arc::new(store.clone()), "faults://".to_owned(), "", None);
        let hasty = archive.with_retry_policy(RetryPolicy { attempts: 1, ..LOOK });
        store.script_puts(std::iter::repeat_n(Fault::None, step).chain([Fault::Fail]));
        assert_eq!(write_epochs(&hasty, &line).await.is_ok(), step == 4, "step {step}");
        epochs::EpochTree::read(&archive).await.expect("no record without its parent");
        store.heal();
        write_epochs(&archive, &line).await.expect("the rest");
        assert_eq!(epochs::line(&archive, Epoch(3)).await.expect("read"), line);
    }
    let archive = Archive::over(Arc::new(FaultStore::default()), "faults://".to_owned(), "", None);
    epochs::claim(&archive, &EpochRecord::first(Epoch(1), "c".to_owned(), time)).await.expect("claim");
    let error = write_epochs(&archive, &line).await.expect_err("taken");
    assert!(matches!(&error, Error::Identity { .. }) && error.to_string().contains("node c,"), "{error}");
    assert!(!passes(&error));
    assert_eq!(epochs::read_record(&archive, Epoch(3)).await.expect("read"), None);
}
