//! A primary, and a replica that reaches it through an intercepting proxy.

use super::client::{Client, cmd};
use super::dump::{assert_same, dump};
use super::process::{Launch, Node, SETTLED_WITHIN, wait_until};
use super::proxy::{Proxy, Rule, Sent, Tamper};
use super::wire::Frame;
use tempfile::TempDir;

/// A primary, a replica, and the intercepting proxy between them.
pub(crate) struct Pair {
    /// The primary; without archive and without secret unless the test configures them.
    pub primary: Node,
    /// The proxy between the two nodes.
    pub proxy: Proxy,
    /// The replica.
    pub replica: Node,
    /// Temporary directory with the data directories `primary` and `replica`.
    pub root: TempDir,
}

impl Pair {
    /// Starts both nodes, with one commit.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::configured(|launch| launch)
    }

    /// Starts both nodes as [`Self::start`] does, with `configure` applied to both.
    #[track_caller]
    pub(crate) fn configured(configure: impl Fn(Launch) -> Launch) -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        let primary = configure(Launch::primary(&root.path().join("primary"))).start();
        primary.client().ok(&cmd!("SET", "first", 1));
        let proxy = Proxy::start(primary.launch.repl_port);
        let replica = configure(Launch::replica(&root.path().join("replica"), proxy.port)).start();
        let pair = Self { primary, proxy, replica, root };
        pair.await_equal();
        pair
    }

    /// Waits until the replica is at the primary's position, and compares their data.
    #[track_caller]
    pub(crate) fn await_equal(&self) {
        await_equal(&self.primary, &self.replica);
    }

    /// Waits until the replica reports why its link is down.
    #[track_caller]
    pub(crate) fn await_failure(&self, words: &str) {
        let mut client = self.replica.client();
        let mut last = String::new();
        wait_until(&format!("the replica says {words:?}"), SETTLED_WITHIN, || {
            let found = client.info()["link_last_error"].clone();
            if found != last {
                eprintln!("the replica says: {found}");
                last.clone_from(&found);
            }
            found.contains(words).then_some(())
        });
    }
}

/// Waits until a replica is at its primary's position and reports so, and compares their data.
#[track_caller]
pub(crate) fn await_equal(primary: &Node, replica: &Node) {
    let (mut one, mut other) = (primary.client(), replica.client());
    let csn = one.watermarks().committed;
    wait_until("the replica holds what its primary does", SETTLED_WITHIN, || {
        (other.watermarks().committed == csn).then_some(())
    });
    assert_same(&dump(&mut one), &dump(&mut other), "replica");
    wait_until("the replica says that it lags nothing", SETTLED_WITHIN, || {
        let info = other.info();
        (info["lag_commits"] == "0" && info["lag_ms"] == "0" && info["master_link_status"] == "up").then_some(())
    });
}

/// Fails the test unless the primary accepts writes.
#[track_caller]
pub(crate) fn assert_writes(primary: &mut Client) {
    primary.ok(&cmd!("INCR", "alive"));
    primary.ok(&cmd!("RPUSH", "alive:list", 1));
}

/// Returns a rule that tampers with messages.
pub(crate) fn tampered(tamper: impl FnMut(Frame) -> Vec<Sent> + Send + 'static) -> Rule {
    Rule::Tamper(Box::new(tamper))
}

/// Changes one kind of message and forwards all others.
pub(crate) fn changed(kind: u8, change: impl Fn(Frame) -> Frame + Send + 'static) -> Tamper {
    Box::new(move |frame| vec![Sent::Frame(if frame.kind == kind { change(frame) } else { frame })])
}
