//! All machines of a simulation, the network between them and their archive, and the actions on them.
//!
//! An action on a machine never waits for its server to answer; [`Cluster::heal`] does.

use super::super::client::{Client, cmd};
use super::super::clock::Clock;
use super::super::device::{Mounted, forget_boot, scratch};
use super::super::process::{Launch, SETTLED_WITHIN, wait_until};
use super::super::tool::{Finished, walferry};
use super::machine::{Machine, Start};
use super::network::Network;
use super::plan::{Act, Fsync, Jump, Plan, Who};
use super::store::Store;
use std::io::Write;
use std::path::Path;
use std::process::Command as Program;
use std::time::Duration;
use tempfile::TempDir;

/// Size of a machine's device in bytes.
const DEVICE_BYTES: u64 = 512 << 20;
/// The small and the large value of `spool-max-bytes`.
const SPOOL_BYTES: (&str, &str) = ("64kb", "64mb");

/// Settings of every node: small limits, so that every limit is reached, and frequent chores, so that each runs often.
const SETTINGS: [(&str, &str); 9] = [
    ("oplog-segment-bytes", "1mb"),
    ("image-log-bytes", "8mb"),
    ("ring-bytes", "1mb"),
    ("row-cache-bytes", "16mb"),
    ("block-cache-bytes", "16mb"),
    ("fence-check-interval", "300"),
    ("archive-interval", "200"),
    ("spool-max-bytes", SPOOL_BYTES.1),
    ("snapshot-max-log-bytes", "48mb"),
];

/// All machines of a simulation with their archive.
pub(super) struct Cluster {
    /// The archive.
    pub store: Store,
    /// The machines, by number.
    pub machines: Vec<Machine>,
    /// Number of the machine with the primary.
    pub primary: usize,
    /// Number of the machine of a replica that is down until it is promoted.
    pub left_out: Option<usize>,
    /// The clock of each machine.
    clocks: Vec<Clock>,
    /// Connections that wait for a reply that no check needs.
    waiting: Vec<Client>,
    // The last field, so that the machines are unmounted before the directory is removed.
    root: TempDir,
}

impl Cluster {
    /// Starts a primary and its replicas, all of them empty and ready.
    pub(super) fn start(plan: &Plan) -> Self {
        let root = scratch();
        let store = Store::new(plan, &root);
        let clocks = (0..=plan.replicas).map(|_| Clock::new()).collect();
        let mut cluster =
            Self { store, machines: Vec::new(), primary: 0, left_out: None, clocks, waiting: Vec::new(), root };
        for number in 0..=plan.replicas {
            let home = cluster.root.path().join(format!("machine{number}"));
            std::fs::create_dir_all(&home).expect("a directory");
            let device = Mounted::new(&cluster.root.path().join(format!("device{number}")), DEVICE_BYTES, &home);
            let repl_port = cluster.machines.first().map_or(0, |primary| primary.node.launch.repl_port);
            let network = Network::to(repl_port, plan.seed ^ number as u64);
            let launch = match number {
                0 => Launch::primary(&home.join("data")),
                _ => replica_launch(&home, network.port),
            };
            let mut node = cluster.equipped(launch, number).begin();
            node.await_ready();
            cluster.machines.push(Machine::new(number, node, network, home, device));
        }
        if cluster.machines[0].device.is_none() {
            eprintln!(
                "SKIPPED: no loop device can be mounted here (it takes root): power cuts and full disks are not simulated"
            );
        }
        cluster
    }

    /// Adds the settings with which all nodes are started.
    fn equipped(&self, launch: Launch, number: usize) -> Launch {
        let log = self.root.path().join(format!("machine{number}.log"));
        let launch = launch.archive(&self.store.of_node(number)).log_to(&log).clock(&self.clocks[number]);
        SETTINGS.iter().fold(launch, |launch, (key, value)| launch.set(key, value))
    }

    /// Returns the machine with the primary.
    pub(super) fn primary(&mut self) -> &mut Machine {
        &mut self.machines[self.primary]
    }

    /// Returns the numbers of the machines with replicas.
    pub(super) fn replicas(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|number| *number != self.primary).collect()
    }

    /// Connects to the primary, which is expected to answer.
    #[track_caller]
    pub(super) fn client(&mut self) -> Client {
        self.primary().node.client()
    }

    fn number(&self, who: Who) -> usize {
        match who {
            Who::Primary => self.primary,
            Who::Replica(nth) => self.replicas()[nth],
        }
    }

    /// Reports whether the primary's machine has a device, so that its power can be cut and its disk filled.
    pub(super) fn has_devices(&self) -> bool {
        self.machines[self.primary].device.is_some()
    }

    /// Carries out one action of a plan.
    pub(super) fn act(&mut self, act: Act) {
        let target = match act {
            Act::Start(who) => Some(self.number(who)),
            Act::Replace(replica) => Some(self.number(Who::Replica(replica))),
            _ => None,
        };
        if target.is_some() && target == self.left_out {
            return;
        }
        match act {
            Act::Kill(who) => self.at(who).kill(),
            Act::Stop(who) => self.at(who).stop(),
            Act::Start(who) => {
                let is_bad = self.store.is_bad;
                let machine = self.at(who);
                machine.is_excused |= is_bad;
                machine.start();
            }
            Act::Freeze(who) => self.at(who).freeze(),
            Act::Thaw(who) => self.at(who).thaw(),
            Act::Replace(replica) => {
                let machine = self.at(Who::Replica(replica));
                machine.wipe();
                machine.start();
            }
            Act::Fsync(mode) => self.configure("appendfsync", mode.text()),
            Act::Interval(interval) => self.configure("archive-interval", &interval.as_millis().to_string()),
            Act::SmallSpool => self.configure("spool-max-bytes", SPOOL_BYTES.0),
            Act::LargeSpool => self.configure("spool-max-bytes", SPOOL_BYTES.1),
            Act::Save(who) => drop(self.at(who).tell(&cmd!("BGSAVE"))),
            Act::Snapshot => {
                let client = self.primary().client();
                let sent = client.and_then(|mut client| {
                    client.send(&[cmd!("WALFERRY", "SNAPSHOT", "STRICT")]).ok().map(|()| client)
                });
                self.waiting.extend(sent);
            }
            Act::Link(replica, fault) => self.at(Who::Replica(replica)).network.set(Some(fault)),
            Act::LinkHeals(replica) => self.at(Who::Replica(replica)).network.set(None),
            Act::Archive(fault) => self.store.set(Some(fault)),
            Act::ArchiveHeals => self.store.set(None),
            Act::SlowArchiveOf(who) => self.store.slow_down_for(self.number(who)),
            Act::Clock(Jump::Ahead(by)) => self.clocks[self.primary].set_ahead(by),
            Act::Clock(Jump::Behind(by)) => self.clocks[self.primary].set_behind(by),
            Act::ClockHeals => self.clocks[self.primary].set_ahead(Duration::ZERO),
            Act::FillDisk => self.fill_disk(),
            Act::FreeDisk => self.free_disk(),
            Act::RestoreArchived => unreachable!("a check, not a disturbance"),
        }
    }

    fn at(&mut self, who: Who) -> &mut Machine {
        let number = self.number(who);
        &mut self.machines[number]
    }

    /// Changes a setting of the primary, at once and for its next starts.
    fn configure(&mut self, key: &str, value: &str) {
        let primary = self.primary();
        primary.set(key, value);
        let _ = primary.tell(&cmd!("CONFIG", "SET", key, value));
    }

    /// Applies the settings with which a round begins.
    pub(super) fn prepare(&mut self, fsync: Fsync, archive_ack: bool) {
        let archive_ack = if archive_ack { "yes" } else { "no" };
        let settings =
            [("appendfsync", fsync.text()), ("archive-ack", archive_ack), ("spool-max-bytes", SPOOL_BYTES.1)];
        for (key, value) in settings {
            self.primary().set(key, value);
            self.client().ok(&cmd!("CONFIG", "SET", key, value));
        }
    }

    /// Fills the primary's disk to the last block.
    fn fill_disk(&mut self) {
        let primary = self.primary();
        if primary.device.is_none() {
            return;
        }
        let mut ballast = std::fs::File::create(primary.ballast()).expect("a file for the ballast");
        for block in [1 << 20, 4 << 10] {
            while ballast.write_all(&vec![0; block]).is_ok() {}
        }
    }

    fn free_disk(&mut self) {
        for machine in &self.machines {
            let _ = std::fs::remove_file(machine.ballast());
        }
    }

    /// Ends all disturbances and waits until every server answers, except for the outcasts' servers. Restarts a
    /// primary that needs a restart. Returns the replicas that refuse to start because their history diverged.
    pub(super) fn heal(&mut self, outcasts: &[usize]) -> Vec<usize> {
        self.store.set(None);
        self.free_disk();
        self.waiting.clear();
        for machine in &mut self.machines {
            machine.thaw();
            machine.network.set(None);
        }
        self.primary().bring_up();
        if self.primary().needs_restart() {
            self.primary().kill();
            self.primary().bring_up();
        }
        let replicas = self.replicas().into_iter().filter(|number| !outcasts.contains(number));
        replicas.filter(|number| self.machines[*number].bring_up() == Start::Diverged).collect()
    }

    /// Cuts the power of the primary's machine and starts it: only data that had reached the device remains.
    pub(super) fn cut_power(&mut self) {
        let (number, root) = (self.primary, self.root.path().to_owned());
        let machine = &mut self.machines[number];
        machine.freeze();
        let image = root.join(format!("device{number}"));
        let copy = root.join("cut");
        let device = machine.device.take().expect("only a machine with a device loses its power");
        device.cut(&copy);
        machine.kill();
        drop(device);
        std::fs::rename(&copy, &image).expect("the copy takes the place of the device");
        machine.device = Mounted::mount(&image, &machine.home);
        assert!(machine.device.is_some(), "the copy is a file system after its journal ran");
        forget_boot(&machine.data());
        machine.start();
    }

    /// Copies the primary's directory at this moment.
    pub(super) fn copy_primary(&mut self) {
        let to = self.root.path().join("copy");
        let machine = self.primary();
        let was_frozen = machine.is_frozen;
        machine.freeze();
        let _ = std::fs::remove_dir_all(&to);
        copy(&machine.data(), &to);
        if !was_frozen {
            machine.thaw();
        }
    }

    /// Kills the primary and puts the copy of [`Cluster::copy_primary`] in its place.
    pub(super) fn put_copy_in_place(&mut self) {
        let from = self.root.path().join("copy");
        self.free_disk();
        let machine = self.primary();
        machine.wipe();
        machine.is_new = false;
        copy(&from, &machine.data());
        machine.start();
    }

    /// Stops and starts the primary, then starts a copy of its directory in its place. The copy becomes the primary,
    /// and the original must be kept from writing.
    pub(super) fn start_a_clone(&mut self) {
        let number = self.primary;
        let original = self.machines[number].home.join("original");
        self.store.set(None);
        self.free_disk();
        let machine = self.primary();
        machine.stop();
        machine.await_orderly_end();
        machine.kill();
        std::fs::rename(machine.data(), &original).expect("a directory can be renamed");
        copy(&original, &machine.data());
        let mut first = self.equipped(Launch::primary(&original), number).start();
        self.machines[number].bring_up();
        wait_until("the original is fenced", SETTLED_WITHIN, || {
            let info = first.client().info();
            info["writes_refused"].starts_with("FENCED").then_some(())
        });
        first.kill();
        std::fs::remove_dir_all(&original).expect("a directory can be removed");
    }

    /// Promotes the replica on machine `number`. Leaves the old primary unchanged.
    pub(super) fn promote(&mut self, number: usize) {
        promote_at(self.machines[number].node.launch.port).expect(0);
        self.lead(number);
    }

    /// Promotes all replicas at once. The last one to begin an epoch becomes the primary; returns the machines of the
    /// replicas that began an earlier epoch.
    pub(super) fn promote_all(&mut self) -> Vec<usize> {
        let (was, replicas) = (self.primary, self.replicas());
        let ports: Vec<u16> = replicas.iter().map(|number| self.machines[*number].node.launch.port).collect();
        let outcomes: Vec<Finished> = std::thread::scope(|scope| {
            let promotions: Vec<_> = ports.into_iter().map(|port| scope.spawn(move || promote_at(port))).collect();
            promotions.into_iter().map(|promotion| promotion.join().expect("it ends")).collect()
        });
        let is_master = |number: &usize| self.machines[*number].info().is_some_and(|info| info["role"] == "master");
        let epoch = |number: &usize| self.machines[*number].node.client().watermarks().epoch;
        let mut masters: Vec<usize> = replicas.into_iter().filter(is_master).collect();
        masters.sort_by_key(epoch);
        let primary = masters.pop().unwrap_or_else(|| panic!("no promotion succeeded: {outcomes:?}"));
        wait_until("whoever was promoted before is fenced", SETTLED_WITHIN, || {
            masters.iter().all(|number| self.machines[*number].is_fenced()).then_some(())
        });
        self.primary = was;
        self.lead(primary);
        masters
    }

    /// Makes a promoted replica the primary of the simulation.
    fn lead(&mut self, number: usize) {
        self.primary = number;
        let repl_port = self.client().info()["repl_port"].parse().expect("a port");
        for machine in &self.machines {
            machine.network.lead_to(repl_port);
        }
        // Later starts launch this machine as a primary.
        let machine = &self.machines[number];
        let launch = Launch::primary_on(&machine.data(), machine.node.launch.port, repl_port);
        self.machines[number].node.launch = self.equipped(launch, number);
    }

    /// Makes an empty replica on a machine whose data left the newest line.
    pub(super) fn rejoin(&mut self, number: usize) {
        self.machines[number].wipe();
        let machine = &self.machines[number];
        let launch = replica_launch(&machine.home, machine.network.port);
        let launch = self.equipped(launch, number);
        self.machines[number].node.launch = launch;
        self.machines[number].bring_up();
    }
}

fn promote_at(port: u16) -> Finished {
    walferry(&["promote", "--port", &port.to_string()], &Vec::new())
}

/// Copies a directory as `cp -a` does.
fn copy(from: &Path, to: &Path) {
    let copied = Program::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} is copied to {}", from.display(), to.display());
}

fn replica_launch(home: &Path, network_port: u16) -> Launch {
    let launch = Launch::replica(&home.join("data"), network_port);
    let repl_port = launch.repl_port.to_string();
    launch.flag("--repl-port", &repl_port)
}
