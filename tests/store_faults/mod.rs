//! Shared by the tests: a primary that reaches its archive through the faulty proxy, and direct access to the archive.

mod reader;
mod schedule;
mod takeover;
mod writer;

use crate::support::archive::Archive;
use crate::support::client::{Client, cmd, integer};
use crate::support::dump::{assert_same, dump};
use crate::support::faulty_s3::FaultyS3;
use crate::support::history::History;
use crate::support::process::{Launch, Node, SETTLED_WITHIN, wait_until};
use crate::support::truth::Truth;
use crate::support::workload::{Choice, Workload};
use std::path::PathBuf;
use tempfile::TempDir;

/// A primary, the proxy through which it archives, and the archive's true content.
struct Rig {
    /// The first field, so that the primary ends before the proxy.
    primary: Node,
    proxy: FaultyS3,
    /// The archive through the proxy.
    faulty: Archive,
    /// The archive without the proxy.
    direct: Archive,
    truth: Truth,
    root: TempDir,
}

impl Rig {
    /// Starts on an empty directory and a new archive, without faults.
    #[track_caller]
    fn start(configure: impl FnOnce(Launch) -> Launch) -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        let (direct, proxy) = (Archive::s3(), FaultyS3::start());
        let faulty = proxy.to(&direct);
        let launch = Launch::primary(&root.path().join("primary")).archive(&faulty).set("archive-interval", "20");
        let primary = configure(launch).start();
        Self { primary, proxy, truth: Truth::of(&direct), faulty, direct, root }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Fails the test if the archived watermark is above what the store holds; returns the watermark.
    ///
    /// The watermark is read first, because the commits up to it must be in the store at that moment already.
    #[track_caller]
    fn watermark_holds(&self, client: &mut Client) -> u64 {
        let told = client.watermarks();
        let reaches = self.truth.reaches(told.epoch, 0);
        assert!(told.archived <= reaches, "archived is csn {}, the store holds up to csn {reaches}", told.archived);
        told.archived
    }

    /// Waits until everything committed is archived, and checks the watermark all the time.
    #[track_caller]
    fn drains(&self, client: &mut Client) {
        let committed = client.watermarks().committed;
        wait_until("everything is archived", SETTLED_WITHIN, || {
            (self.watermark_holds(client) >= committed).then_some(())
        });
    }

    /// Archives everything; returns the last archived csn.
    #[track_caller]
    fn flush(&self, client: &mut Client) -> u64 {
        integer(&client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"))) as u64
    }

    /// Restores commits without the proxy and compares them with the model.
    #[track_caller]
    fn restores(&self, history: &History, csns: impl IntoIterator<Item = u64>) {
        for csn in csns {
            let (watermarks, found) = self.direct.restored(&["--to", &format!("csn:{csn}")]).state();
            assert_eq!(watermarks.committed, csn);
            assert_same(&history.model_at(csn).dump(), &found, &format!("restored to csn {csn}"));
        }
    }
}

/// Runs random steps one by one; none may be refused.
#[track_caller]
fn write(history: &mut History, workload: &mut Workload, client: &mut Client, steps: usize) {
    (0..steps).for_each(|_| history.run(client, workload.next(Choice::Open)));
}

/// Fails the test unless the server's data equals the model.
#[track_caller]
fn holds(client: &mut Client, history: &History, what: &str) {
    assert_same(&history.model.dump(), &dump(client), what);
}
