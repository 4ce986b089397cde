//! A bounded run of every fuzz target with the stable compiler: the committed corpus, and mutations of it with
//! repaired checksums. `tests/fuzz` contains the targets; cargo-fuzz runs the same targets without a bound.
//!
//! `WALFERRY_ROUNDS` sets the number of mutations per target, `WALFERRY_SEED` replays a run. An input that fails is
//! written to a file, whose name is printed; once added to the corpus, the input is tried first.
//! `WALFERRY_WRITE_CORPUS` writes the seeds of the corpus, which the encoders produce.

#[path = "fuzz/src/lib.rs"]
mod targets;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use targets::Target;

/// Number of mutations per target; `WALFERRY_ROUNDS` overrides it.
const ROUNDS: u64 = 20_000;
/// Longest generated input in bytes.
const INPUT_BYTES_MAX: usize = 16 << 10;
/// Bytes of memory that a decoder may hold per byte of input or of decompressed input. JSON needs most: a value of two
/// bytes becomes an object of 32 bytes, in a vector that has just doubled.
const HELD_PER_BYTE_MAX: usize = 64;
/// Bytes of memory that a decoder may hold for any input. The tables of the first keys of an image take a part of it.
const HELD_MAX: usize = 512 << 10;

/// Counts the allocated bytes, and their peak since the last reset.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator; counting does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the system allocator's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the system allocator's contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held by the running target, because allocations are counted for the whole process.
static ALONE: Mutex<()> = Mutex::new(());

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn corpus_dir(target: &Target) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name)
}

/// Returns the committed inputs, sorted by name.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let dir = corpus_dir(target);
    if std::env::var_os("WALFERRY_WRITE_CORPUS").is_some() {
        std::fs::create_dir_all(&dir).expect("the corpus can be written");
        for (nth, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{nth:02}")), seed).expect("the corpus can be written");
        }
    }
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("no corpus in {}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a listing").path()).collect();
    paths.sort();
    let inputs: Vec<_> = paths.iter().map(|path| std::fs::read(path).expect("a corpus file")).collect();
    assert!(!inputs.is_empty(), "no corpus in {}", dir.display());
    inputs
}

/// Goal: no input of the corpus, and no mutation of one, makes the decoder panic, hold memory that the input does not
/// justify, or accept what its encoder does not produce.
fn run(target: &Target) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let corpus = corpus(target);
    for input in &corpus {
        examine(target, input);
        target.check_both(input);
    }
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let seed = variable("WALFERRY_SEED").unwrap_or_else(|| clock().as_millis() as u64);
    let rounds = variable("WALFERRY_ROUNDS").unwrap_or(ROUNDS);
    eprintln!("{}: replay with WALFERRY_SEED={seed} WALFERRY_ROUNDS={rounds}", target.name);
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..rounds {
        let mut input = corpus.choose(&mut rng).expect("a corpus").clone();
        for _ in 0..rng.random_range(1..6) {
            mutate(&mut input, &corpus, &mut rng);
        }
        input.truncate(INPUT_BYTES_MAX);
        if rng.random_bool(0.8) {
            (target.repair)(&mut input);
        }
        examine(target, &input);
    }
}

fn examine(target: &Target, input: &[u8]) {
    let examined = catch_unwind(AssertUnwindSafe(|| {
        let before = NOW.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let justified = input.len() + (target.decode)(input);
        let held = MOST.load(Ordering::Relaxed) - before;
        let allowed = HELD_MAX + HELD_PER_BYTE_MAX * justified;
        assert!(held <= allowed, "{held} bytes held for an input of {}, which justifies {justified}", input.len());
        (target.check)(input);
    }));
    if let Err(panic) = examined {
        let name = format!("walferry-fuzz-{}-{:08x}", target.name, crc32fast::hash(input));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, input).expect("a failing input can be written");
        eprintln!("{} fails on {} bytes, which are in {}", target.name, input.len(), path.display());
        resume_unwind(panic);
    }
}

/// Returns a value at the edges of length fields.
fn edge(rng: &mut impl Rng, len: usize) -> u64 {
    let edges =
        [0, 1, 2, 0x7f, 0x80, 0xff, 0xffff, 1 << 20, (1 << 20) + 1, 1 << 30, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
    match rng.random_range(0..3) {
        0 => (len as u64).wrapping_add(rng.random_range(0..5)).wrapping_sub(2),
        1 => rng.random_range(0..=len as u64),
        _ => *edges.choose(rng).expect("there are some"),
    }
}

/// Changes a bit, a byte, a number or a range of bytes.
fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut impl Rng) {
    if input.is_empty() {
        input.push(rng.random());
    }
    let at = rng.random_range(0..input.len());
    let end = (at + rng.random_range(1..40)).min(input.len());
    match rng.random_range(0..9) {
        0 => input[at] ^= 1 << rng.random_range(0..8),
        1 => input[at] = rng.random(),
        2 => {
            let width = *[1, 2, 4, 8].choose(rng).expect("there are some");
            let value = edge(rng, input.len()).to_le_bytes();
            let end = (at + width).min(input.len());
            input[at..end].copy_from_slice(&value[..end - at]);
        }
        3 => input.truncate(at),
        4 => drop(input.drain(at..end)),
        5 => {
            let copied = input[at..end].to_vec();
            let to = rng.random_range(0..=input.len());
            input.splice(to..to, copied);
        }
        6 => {
            let other = corpus.choose(rng).expect("a corpus");
            let from = rng.random_range(0..=other.len());
            input.splice(at.., other[from..].iter().copied());
        }
        7 => {
            let inserted: Vec<u8> = (0..rng.random_range(1..9)).map(|_| rng.random()).collect();
            input.splice(at..at, inserted);
        }
        // Varints and decimal numbers become longer.
        _ => input.splice(at..at, if input[at].is_ascii_digit() { *b"9" } else { *b"\xff" }).for_each(drop),
    }
}

/// Goal: repairing the checksums follows the formats: what an encoder produced is not changed by a repair.
#[test]
fn what_encoders_make_needs_no_repair() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for target in targets::ALL {
        for (nth, seed) in (target.seeds)().into_iter().enumerate() {
            let mut repaired = seed.clone();
            (target.repair)(&mut repaired);
            // The digest of a manifest covers its content, not its JSON text.
            let is_same = if target.name == "manifest" { json(&repaired) == json(&seed) } else { repaired == seed };
            assert!(is_same, "seed {nth} of {} was changed", target.name);
        }
    }
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).expect("JSON")
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(&targets::$name::TARGET); })*

        #[test]
        fn every_target_runs() {
            assert_eq!([$(stringify!($name)),*], targets::ALL.map(|target| target.name));
        }
    };
}

targets! { chunk image manifest memory_ops object_name oplog resp wal_batch wire }
