//! What can go wrong with a request, and which request it happens to.

use crate::support::http::Message;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Random wrong bits lie below: anywhere in what a test stores.
const BITS_MAX: usize = 1 << 24;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
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
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Put, Self::Part, Self::Multipart, Self::Get, Self::Head, Self::List, Self::Delete];
    /// Requests that store something.
    pub const WRITES: [Self; 3] = [Self::Put, Self::Part, Self::Multipart];
    /// Requests that tell what is stored.
    pub const READS: [Self; 3] = [Self::Get, Self::Head, Self::List];

    /// What this request is.
    pub fn of(request: &Message) -> Self {
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

/// What goes wrong with one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// The connection ends; the store never hears of the request.
    DropRequest,
    /// The store carries it out; the connection ends before the answer.
    LoseReply,
    /// The store never hears of it; this status is answered.
    Status(u16),
    /// As 503 SlowDown, with the header Retry-After.
    SlowDown {
        /// Its value.
        retry_after_s: u32,
    },
    /// Nothing happens for so long, then the connection ends. [`FaultyS3::heal`](super::FaultyS3::heal) ends it earlier.
    Hang(Duration),
    /// It is carried out after a pause.
    Slow(Duration),
    /// The answer trickles.
    Throttle {
        /// How fast.
        bytes_per_second: u32,
    },
    /// An upload: the connection to the store ends in the middle of the body, then the client's.
    CutUpload,
    /// An upload: half of the body is stored, and success is reported for it.
    StoreHalf,
    /// An upload: half of the body is stored, and the answer is lost.
    StoreHalfLoseReply,
    /// An upload: success is reported, nothing is stored.
    Pretend,
    /// A read: what is there is said not to be there.
    Deny,
    /// GET: one bit of the body is wrong: this one, counted from the first, and again from there after the last.
    FlipBit(usize),
    /// GET or LIST: 200, and the page of a proxy instead of the body.
    Page,
    /// GET or LIST: 200, and no body.
    Empty,
    /// GET or LIST: the connection ends in the middle of the body.
    CutBody,
    /// LIST: the objects stored last through this proxy are left out.
    Stale {
        /// How many of them.
        newest: usize,
    },
}

impl Fault {
    /// Whether it can happen to a request of this kind.
    pub fn fits(self, kind: Kind) -> bool {
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

/// Random faults: each request of a kind meets one with a chance.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Request `n` of a kind meets the same fault for the same seed, whatever requests of other kinds come between.
    pub seed: u64,
    /// Of a hundred requests, so many meet a fault.
    pub percent: u32,
    /// The faults; of those that fit a kind, each is as likely as the others. Which bit is wrong is random, too.
    pub faults: Vec<Fault>,
}

/// Decides what happens to each request.
#[derive(Default)]
pub struct Schedule {
    /// Comes before everything else.
    pub is_down: bool,
    scripts: BTreeMap<Kind, VecDeque<Fault>>,
    standing: BTreeMap<Kind, Fault>,
    mix: Option<(Mix, BTreeMap<Kind, StdRng>)>,
}

impl Schedule {
    /// The fault of the next request of a kind: the script's, else the standing one, else a random one.
    pub fn next(&mut self, kind: Kind) -> Fault {
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

    /// Appends to the script of a kind.
    pub fn script(&mut self, kind: Kind, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().inspect(|fault| assert!(fault.fits(kind), "{fault:?} cannot meet a {kind:?}"));
        self.scripts.entry(kind).or_default().extend(faults);
    }

    /// What happens to every request of a kind that no script is for.
    pub fn stand(&mut self, kind: Kind, fault: Fault) {
        assert!(fault.fits(kind), "{fault:?} cannot meet a {kind:?}");
        self.standing.insert(kind, fault);
    }

    /// Random faults where neither script nor standing fault says otherwise.
    pub fn set_mix(&mut self, mix: Mix) {
        self.mix = Some((mix, BTreeMap::new()));
    }
}
