//! The faults of requests, and the choice of the request that meets each fault.

use crate::support::http::Message;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Upper bound of random bit positions, larger than any object that a test stores.
const BITS_MAX: usize = 1 << 24;

/// The kind of a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    /// PUT of a whole object.
    Put,
    /// PUT of one part of an upload.
    Part,
    /// POST: an upload in parts begins or is completed.
    Multipart,
    /// GET of an object or of a range of it.
    Get,
    /// HEAD of an object.
    Head,
    /// GET of a listing.
    List,
    /// DELETE of an object or of an upload.
    Delete,
}

impl Kind {
    /// All kinds.
    pub(crate) const ALL: [Self; 7] =
        [Self::Put, Self::Part, Self::Multipart, Self::Get, Self::Head, Self::List, Self::Delete];
    /// Requests that store something.
    pub(crate) const WRITES: [Self; 3] = [Self::Put, Self::Part, Self::Multipart];
    /// Requests that read what is stored.
    pub(crate) const READS: [Self; 3] = [Self::Get, Self::Head, Self::List];

    /// Returns the kind of a request.
    pub(crate) fn of(request: &Message) -> Self {
        let (path, query) = request.word(1).split_once('?').unwrap_or((request.word(1), ""));
        let is_bucket = path.trim_matches('/').split('/').count() == 1;
        match request.word(0) {
            "PUT" if query.contains("partNumber=") => Self::Part,
            "PUT" => Self::Put,
            "POST" => Self::Multipart,
            "HEAD" => Self::Head,
            "DELETE" => Self::Delete,
            _ if is_bucket || query.contains("list-type=") => Self::List,
            _ => Self::Get,
        }
    }
}

/// A fault that a request meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// No fault.
    None,
    /// The connection is closed; the store does not receive the request.
    DropRequest,
    /// The store carries the request out; the connection is closed before the reply.
    LoseReply,
    /// The store does not receive the request; the reply has this status.
    Status(u16),
    /// Replies 503 SlowDown with the header Retry-After.
    SlowDown {
        /// Value of Retry-After in seconds.
        retry_after_s: u32,
    },
    /// No reply for this long, then the connection is closed. [`FaultyS3::heal`](super::FaultyS3::heal) closes it
    /// earlier.
    Hang(Duration),
    /// The request is carried out after a pause.
    Slow(Duration),
    /// The reply arrives slowly.
    Throttle {
        /// Speed of the reply.
        bytes_per_second: u32,
    },
    /// Upload: the connection to the store is closed in the middle of the body, then the client's connection.
    CutUpload,
    /// Upload: half of the body is stored, and success is reported.
    StoreHalf,
    /// Upload: half of the body is stored, and the reply is lost.
    StoreHalfLoseReply,
    /// Upload: success is reported, and nothing is stored.
    Pretend,
    /// Read: an existing object is reported as not found.
    Deny,
    /// GET: one bit of the body is flipped: the bit at this position, modulo the number of bits.
    FlipBit(usize),
    /// GET or LIST: status 200, with the page of a proxy as body.
    Page,
    /// GET or LIST: status 200 without a body.
    Empty,
    /// GET or LIST: the connection is closed in the middle of the body.
    CutBody,
    /// LIST: the last objects stored through this proxy are left out.
    Stale {
        /// Number of objects left out.
        newest: usize,
    },
}

impl Fault {
    /// Reports whether the fault can meet a request of this kind.
    pub(crate) fn fits(self, kind: Kind) -> bool {
        match self {
            Self::CutUpload | Self::StoreHalf | Self::StoreHalfLoseReply => matches!(kind, Kind::Put | Kind::Part),
            Self::Pretend => Kind::WRITES.contains(&kind),
            Self::Deny => matches!(kind, Kind::Get | Kind::Head),
            Self::FlipBit(_) => kind == Kind::Get,
            Self::Page | Self::Empty | Self::CutBody => matches!(kind, Kind::Get | Kind::List),
            Self::Stale { .. } => kind == Kind::List,
            _ => true,
        }
    }
}

/// Random faults: each request meets a fault with a given probability.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    /// Seed. Request `n` of a kind meets the same fault for the same seed, whatever requests of other kinds come
    /// between.
    pub seed: u64,
    /// Percentage of requests that meet a fault.
    pub percent: u32,
    /// The faults; those that fit a kind are equally likely. The position of a flipped bit is random too.
    pub faults: Vec<Fault>,
}

/// Chooses the fault of each request.
#[derive(Default)]
pub(super) struct Schedule {
    /// Whether the store is down, which takes precedence over everything else.
    pub is_down: bool,
    scripts: BTreeMap<Kind, VecDeque<Fault>>,
    standing: BTreeMap<Kind, Fault>,
    mix: Option<(Mix, BTreeMap<Kind, StdRng>)>,
}

impl Schedule {
    /// Returns the fault of the next request of a kind: from the script, else the standing fault, else a random one.
    pub(super) fn next(&mut self, kind: Kind) -> Fault {
        if self.is_down {
            return Fault::DropRequest;
        }
        if let Some(fault) = self.scripts.get_mut(&kind).and_then(VecDeque::pop_front) {
            return fault;
        }
        if let Some(fault) = self.standing.get(&kind) {
            return *fault;
        }
        let Some((mix, generators)) = &mut self.mix else { return Fault::None };
        let seed = mix.seed ^ (kind as u64) << 56;
        let rng = generators.entry(kind).or_insert_with(|| StdRng::seed_from_u64(seed));
        let fitting: Vec<Fault> = mix.faults.iter().copied().filter(|fault| fault.fits(kind)).collect();
        let (is_hit, choice) = (rng.random_range(0..100) < mix.percent, rng.random_range(0..fitting.len().max(1)));
        let bit = rng.random_range(0..BITS_MAX);
        match fitting.get(choice).copied().filter(|_| is_hit) {
            None => Fault::None,
            Some(Fault::FlipBit(_)) => Fault::FlipBit(bit),
            Some(fault) => fault,
        }
    }

    /// Appends faults to the script of a kind.
    pub(super) fn script(&mut self, kind: Kind, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().inspect(|fault| assert!(fault.fits(kind), "{fault:?} cannot meet a {kind:?}"));
        self.scripts.entry(kind).or_default().extend(faults);
    }

    /// Sets the fault of every request of a kind that no script covers.
    pub(super) fn stand(&mut self, kind: Kind, fault: Fault) {
        assert!(fault.fits(kind), "{fault:?} cannot meet a {kind:?}");
        self.standing.insert(kind, fault);
    }

    /// Sets random faults for requests without a script and without a standing fault.
    pub(super) fn set_mix(&mut self, mix: Mix) {
        self.mix = Some((mix, BTreeMap::new()));
    }
}
