//! The plan of a simulation, drawn from its seed: pure, so that a seed replays it.
//!
//! A simulation is a sequence of rounds. In each round writers put load on the primary, while disturbances begin and
//! end at planned moments. The round ends with its finale; then every fault is healed and everything is checked.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fmt;
use std::time::Duration;

/// The setting `appendfsync`: when replies are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fsync {
    /// After both logs were synced.
    Always,
    /// After both logs were written; they are synced each second.
    EverySec,
    /// After both logs were written.
    No,
}

impl Fsync {
    /// The setting's text.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::EverySec => "everysec",
            Self::No => "no",
        }
    }
}

/// A node, by its role at that moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    /// The primary.
    Primary,
    /// A replica, by number.
    Replica(usize),
}

/// A fault of the network between the primary and one replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LinkFault {
    /// Connections are closed and refused.
    Cut,
    /// Connections stay open and nothing passes.
    Silent,
    /// Bytes are delayed by this much.
    Delay(Duration),
    /// Sometimes a bit is flipped.
    Corrupt,
}

/// A fault of the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ArchiveFault {
    /// The archive does not answer.
    Down,
    /// Requests fail in bursts.
    Errors,
    /// The archive answers late.
    Slow,
    /// The archive reports success for failed requests and returns wrong bytes.
    Lies,
}

/// A wrong setting of a wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Jump {
    /// The clock is ahead by this much.
    Ahead(Duration),
    /// The clock is behind by this much.
    Behind(Duration),
}

/// One event under load.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Act {
    /// SIGKILL.
    Kill(Who),
    /// SIGTERM.
    Stop(Who),
    /// Starts a killed or stopped server, perhaps with another `appendfsync`.
    Start(Who),
    /// SIGSTOP.
    Freeze(Who),
    /// SIGCONT.
    Thaw(Who),
    /// Removes a replica's directory and starts the replica on an empty one.
    Replace(usize),
    /// CONFIG SET `appendfsync`.
    Fsync(Fsync),
    /// CONFIG SET `archive-interval`.
    Interval(Duration),
    /// CONFIG SET `spool-max-bytes` to the smallest value, so that writes are refused when the archive lags.
    SmallSpool,
    /// CONFIG SET `spool-max-bytes` to its normal value.
    LargeSpool,
    /// BGSAVE, on a replica or the primary.
    Save(Who),
    /// `WALFERRY SNAPSHOT STRICT`, without waiting for it.
    Snapshot,
    /// The network to a replica gets a fault.
    Link(usize, LinkFault),
    /// The network to a replica is healed.
    LinkHeals(usize),
    /// The archive gets a fault.
    Archive(ArchiveFault),
    /// The archive is healed.
    ArchiveHeals,
    /// The archive answers one node late.
    SlowArchiveOf(Who),
    /// The primary's wall clock is set ahead or behind.
    Clock(Jump),
    /// The primary's wall clock is set right.
    ClockHeals,
    /// The commits up to the archived watermark are restored at once.
    RestoreArchived,
    /// The primary's disk is filled.
    FillDisk,
    /// The ballast that fills the disk is removed.
    FreeDisk,
}

/// The fate of the old primary when a replica is promoted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Old {
    /// It is killed before the promotion.
    Killed,
    /// It is stopped by SIGSTOP during the promotion and continued afterwards.
    Frozen,
    /// It keeps running, with its clients.
    Running,
}

/// How a round's load ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finale {
    /// The writers stop.
    Calm,
    /// The primary and all replicas are killed at once.
    KillAll,
    /// A replica becomes the primary; the old primary's machine becomes an empty replica.
    Promote(Old),
    /// All replicas are promoted at once; the last one to begin an epoch is the primary.
    PromoteAll(Old),
    /// A replica is promoted, and then a second one that was down since the load began and knows of no promotion.
    PromoteInTurn,
    /// The primary is stopped and started, and then a copy of its directory is started too.
    Clone,
    /// The primary is killed, and a copy of its directory that was made under load takes its place.
    OlderCopy,
    /// The power of the primary's machine is cut.
    PowerCut,
}

/// A restore at the end of a round.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Restore {
    /// To a csn, given as a fraction of all csns.
    At(f64),
    /// To the time at the end of an earlier round, given as a fraction of all rounds.
    Time(f64),
    /// To the last commit.
    Latest,
}

/// An event and its time in a round's load.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Moment {
    /// Time since the load began.
    pub at: Duration,
    /// The event.
    pub act: Act,
}

/// One round.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Round {
    /// Number of the round, from 0 on.
    pub number: usize,
    /// The `appendfsync` with which the round begins.
    pub fsync: Fsync,
    /// Whether replies wait for the archive.
    pub archive_ack: bool,
    /// Duration of the load.
    pub load: Duration,
    /// The events under load, by time.
    pub moments: Vec<Moment>,
    /// How the load ends.
    pub finale: Finale,
    /// The restores after all faults are healed.
    pub restores: Vec<Restore>,
    /// Whether the whole archive is verified after all faults are healed.
    pub verify: bool,
}

impl Round {
    /// Reports whether a client's connection may end in this round.
    pub(crate) fn disconnects(&self) -> bool {
        let ends = |moment: &Moment| matches!(moment.act, Act::Kill(Who::Primary) | Act::Stop(Who::Primary));
        self.finale != Finale::Calm || self.fills_disk() || self.moments.iter().any(ends)
    }

    /// Reports whether writes may be refused for a while in this round.
    pub(crate) fn refuses(&self) -> bool {
        self.fills_disk() || self.moments.iter().any(|moment| moment.act == Act::SmallSpool)
    }

    /// Reports whether the primary's disk is filled in this round.
    pub(crate) fn fills_disk(&self) -> bool {
        self.moments.iter().any(|moment| moment.act == Act::FillDisk)
    }
}

/// The plan of a simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The seed from which everything is drawn.
    pub seed: u64,
    /// Number of replicas.
    pub replicas: usize,
    /// Whether the archive is on S3; otherwise it is a directory.
    pub on_s3: bool,
}

/// Range of a round's load in milliseconds.
const LOAD_MS: std::ops::Range<u64> = 1_500..5_000;

impl Plan {
    /// Draws the plan of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        Self { seed, replicas: rng.random_range(1..=2), on_s3: rng.random_bool(0.5) }
    }

    /// Draws one of its rounds.
    pub(crate) fn round(&self, number: usize) -> Round {
        let seed = self.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = Draw { rng: StdRng::seed_from_u64(seed), plan: *self };
        let load = Duration::from_millis(draw.rng.random_range(LOAD_MS));
        let finale = draw.finale();
        let fsync = draw.fsync();
        let mut moments = Vec::new();
        for _ in 0..draw.rng.random_range(1..=4) {
            let from = load.mul_f64(draw.rng.random_range(0.05..0.8));
            let until = from + load.mul_f64(draw.rng.random_range(0.05..0.5));
            let (begin, end) = draw.disturbance();
            // A promise about power cuts holds for one mode, so the mode must not change in the round.
            if finale == Finale::PowerCut && matches!(begin, Act::Fsync(_)) {
                continue;
            }
            moments.push(Moment { at: from, act: begin });
            moments.extend(end.map(|act| Moment { at: until, act }));
        }
        let is_steady = |moment: &Moment| !matches!(moment.act, Act::Start(Who::Primary) | Act::FillDisk);
        // A primary that starts with a wrong clock makes commits that a start with the right clock refuses to
        // continue.
        if finale == Finale::Calm && moments.iter().all(is_steady) && draw.rng.random_bool(0.3) {
            moments.push(Moment { at: load.mul_f64(0.2), act: Act::Clock(draw.jump()) });
            moments.push(Moment { at: load.mul_f64(0.7), act: Act::ClockHeals });
        }
        moments.sort_by_key(|moment| moment.at);
        moments.retain(|moment| moment.at < load);
        let restores = (0..draw.rng.random_range(1..=2)).map(|_| draw.restore()).collect();
        Round {
            number,
            fsync,
            archive_ack: draw.rng.random_bool(0.15),
            load,
            moments,
            finale,
            restores,
            verify: draw.rng.random_bool(0.2),
        }
    }
}

struct Draw {
    rng: StdRng,
    plan: Plan,
}

impl Draw {
    fn fsync(&mut self) -> Fsync {
        [Fsync::Always, Fsync::EverySec, Fsync::No][self.rng.random_range(0..3)]
    }

    fn finale(&mut self) -> Finale {
        match self.rng.random_range(0..100) {
            0..26 => Finale::Calm,
            26..36 => Finale::KillAll,
            36..42 => Finale::Promote(Old::Killed),
            42..47 => Finale::Promote(Old::Frozen),
            47..53 => Finale::Promote(Old::Running),
            53..56 => Finale::PromoteAll(Old::Killed),
            56..58 => Finale::PromoteAll(Old::Frozen),
            58..62 => Finale::PromoteAll(Old::Running),
            62..69 => Finale::PromoteInTurn,
            69..76 => Finale::Clone,
            76..83 => Finale::OlderCopy,
            _ => Finale::PowerCut,
        }
    }

    fn who(&mut self) -> Who {
        if self.rng.random_bool(0.6) { Who::Primary } else { Who::Replica(self.replica()) }
    }

    fn replica(&mut self) -> usize {
        self.rng.random_range(0..self.plan.replicas)
    }

    /// Draws an event and, if it lasts, the event that ends it.
    fn disturbance(&mut self) -> (Act, Option<Act>) {
        let who = self.who();
        match self.rng.random_range(0..100) {
            0..16 => (Act::Kill(who), Some(Act::Start(who))),
            16..24 => (Act::Stop(who), Some(Act::Start(who))),
            24..32 => (Act::Freeze(who), Some(Act::Thaw(who))),
            32..37 => (Act::Replace(self.replica()), None),
            37..44 => (Act::Fsync(self.fsync()), None),
            44..49 => (Act::Interval(Duration::from_millis(self.rng.random_range(20..1_000))), None),
            49..53 => (Act::SmallSpool, Some(Act::LargeSpool)),
            53..58 => (Act::Save(who), None),
            58..65 => (Act::Snapshot, None),
            65..79 => {
                let replica = self.replica();
                (Act::Link(replica, self.link_fault()), Some(Act::LinkHeals(replica)))
            }
            79..85 => (Act::Archive(self.archive_fault()), Some(Act::ArchiveHeals)),
            85..88 => (Act::SlowArchiveOf(who), Some(Act::ArchiveHeals)),
            88..94 => (Act::RestoreArchived, None),
            _ => (Act::FillDisk, Some(Act::FreeDisk)),
        }
    }

    /// Draws a clock setting. A clock is ahead by a few seconds only, because keys whose expiry is set meanwhile live
    /// longer by the same amount.
    fn jump(&mut self) -> Jump {
        let behind = [20, 3_600, 86_400, 10 * 365 * 86_400][self.rng.random_range(0..4)];
        let (ahead, behind) = (Duration::from_secs(10), Duration::from_secs(behind));
        if self.rng.random_bool(0.3) { Jump::Ahead(ahead) } else { Jump::Behind(behind) }
    }

    fn link_fault(&mut self) -> LinkFault {
        match self.rng.random_range(0..4) {
            0 => LinkFault::Cut,
            1 => LinkFault::Silent,
            2 => LinkFault::Delay(Duration::from_millis(self.rng.random_range(5..300))),
            _ => LinkFault::Corrupt,
        }
    }

    fn archive_fault(&mut self) -> ArchiveFault {
        [ArchiveFault::Down, ArchiveFault::Errors, ArchiveFault::Slow, ArchiveFault::Lies][self.rng.random_range(0..4)]
    }

    fn restore(&mut self) -> Restore {
        match self.rng.random_range(0..10) {
            0..6 => Restore::At(self.rng.random()),
            6..8 => Restore::Time(self.rng.random()),
            _ => Restore::Latest,
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ack = if self.archive_ack { " archive-ack" } else { "" };
        write!(f, "round {}: {}{ack}, {} ms:", self.number, self.fsync.text(), self.load.as_millis())?;
        for Moment { at, act } in &self.moments {
            write!(f, " {}ms {act:?},", at.as_millis())?;
        }
        write!(f, " then {:?}; restores {:?}", self.finale, self.restores)?;
        if self.verify { write!(f, ", verify") } else { Ok(()) }
    }
}
