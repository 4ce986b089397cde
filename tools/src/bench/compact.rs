//! `bench compact`: the savings of merged chunks and compacted runs: objects and requests of a quiet day, size and
//! restore time of a long log.
//!
//! The benchmark writes the archives itself, without servers, so that a log of hours is ready in minutes. Only the
//! clock of the quiet day is simulated.

use super::common::Common;
use super::report::{Chart, Kind, Point, Report, Rounds, Section};
use super::serve;
use crate::exit::Failure;
use crate::runtime::runtime;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use walferry::archive::epochs::{self, EpochRecord};
use walferry::archive::identity;
use walferry::archive::layout::{ChunkName, ObjectName, Section as Part};
use walferry::archive::listing::Listing;
use walferry::archive::store::Archive;
use walferry::chunk::{Chunk, ChunkLink, Encoder, Profile, RAW_BYTES_MAX};
use walferry::cluster::ClusterId;
use walferry::compact::merge::{Known, Merger, Rules};
use walferry::compact::runs;
use walferry::csn::{CommitTime, Csn, Epoch};
use walferry::engine::batch::{Family, push_put};
use walferry::engine::key;
use walferry::engine::memory::Encoder as OpEncoder;
use walferry::engine::meta::encode_string;
use walferry::grain::Grain;
use walferry::history::route::RouteCosts;
use walferry::history::target::Target;
use walferry::io::StdIo;
use walferry::record::{self, CommitRecord};
use walferry::restore::progress::silent;
use walferry::restore::{Options, restore};

/// Objects and requests of a quiet day; size and restore time of a log with and without runs
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Commits in the log: 3 of 5 set a string, 1 changes a sorted set, 1 a queue
    #[arg(long, default_value_t = 5_000_000)]
    commits: u64,
    /// Commits in a run [default: a tenth of them]
    #[arg(long)]
    run_commits: Option<u64>,
    /// Seconds of the quiet day, one commit each
    #[arg(long, default_value_t = 86_400)]
    day: u64,
}

/// Time of the first commit, in microseconds since the Unix epoch.
const BEGIN_MICROS: u64 = 1_790_000_000_000_000;
/// Seconds between two rounds of merging: the primary's default.
const MERGE_SECONDS: u64 = 600;
/// Number of sorted sets in the log.
const BOARDS: u64 = 100;
/// Number of possible members of each sorted set.
const PLAYERS: u64 = 1000;
/// Number of queues in the log.
const QUEUES: u64 = 50;

/// Runs both measurements and returns the report.
pub(super) fn run(args: &Args) -> Result<(Report, Common), Failure> {
    let common = &args.common;
    let mut report = common.report("compact");
    let runtime = runtime()?;
    report.add(runtime.block_on(quiet_day(args))?);
    report.add(runtime.block_on(long_log(args))?);
    Ok((report, common.clone()))
}

/// Measures a day with one small commit a second, merged as a primary merges.
async fn quiet_day(args: &Args) -> Result<Section, Failure> {
    let mut section = Section {
        title: format!("A quiet day: {} chunks of one commit", args.day),
        columns: ["", "objects", "bytes", "PUT", "GET", "HEAD", "LIST", "DELETE"].map(str::to_owned).to_vec(),
        notes: vec![format!(
            "Merged each {MERGE_SECONDS} s; parts stay for an hour. The day ends with the last hour's parts."
        )],
        ..Section::default()
    };
    for merges in [false, true] {
        let archive =
            new_archive(Archive::over(Arc::new(InMemory::new()), "memory:///day".into(), "day", None)).await?;
        let (mut log, mut encoder) = (Log::new(args), Encoder::new(Profile::default()));
        let mut link = ChunkLink { epoch: Epoch(1), ..ChunkLink::default() };
        let mut merger = Merger::new(archive.clone(), &Listing::default());
        for second in 1..=args.day {
            let mut commit = CommitRecord { time: CommitTime(BEGIN_MICROS + second * 1_000_000), ..log.next() };
            record::chain(link.hash_before, [&mut commit]);
            let chunk = encoder.encode(std::iter::once(&commit), link);
            link.hash_before = chunk.header().hash_after;
            let name = name_of(&chunk);
            archive.put_new(&ObjectName::Chunk(name), chunk.bytes().clone()).await?;
            let now_ms = commit.time.millis();
            let known = Known { bytes: chunk.bytes().len() as u64, since_ms: now_ms, is_closed: false };
            merger.note(name, known);
            if merges && second % MERGE_SECONDS == 0 {
                merger.round(Rules::default(), now_ms).await?;
            }
        }
        let traffic = archive.traffic();
        let counters = [&traffic.puts, &traffic.gets, &traffic.heads, &traffic.lists, &traffic.deletes];
        let counts = counters.map(|counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string());
        let found = archive.list(Part::Chunks(Epoch(1))).await?.objects;
        let bytes: u64 = found.iter().map(|object| object.size).sum();
        let what = if merges { "merged" } else { "as cut" }.to_owned();
        section.rows.push([what, found.len().to_string(), bytes.to_string()].into_iter().chain(counts).collect());
    }
    Ok(section)
}

/// Measures the restore of a log from its chunks and from runs.
async fn long_log(args: &Args) -> Result<Section, Failure> {
    let scratch = args.common.scratch()?;
    let dir = scratch.path().join("archive");
    std::fs::create_dir(&dir)?;
    let url = format!("file://{}", dir.display()).parse()?;
    let archive = Archive::open(&url, &Default::default(), walferry::archive::store::Opening::Existing)?;
    let archive = new_archive(archive).await?;
    let (chunks, chunk_bytes, raw_bytes) = write_log(args, &archive).await?;
    let by_chunks = restores(args, &archive, scratch.path()).await?;

    let started = Instant::now();
    let grain = Grain::Commits(args.run_commits.unwrap_or_else(|| args.commits.div_ceil(10)));
    let build = scratch.path().join("build");
    std::fs::create_dir(&build)?;
    let options = runs::Options {
        grain,
        until: Target::Latest,
        epoch: None,
        scratch: build,
        io: Arc::new(StdIo),
        progress: silent(),
    };
    let built = runs::build(&archive, options).await?;
    let build_seconds = started.elapsed();
    let by_runs = restores(args, &archive, scratch.path()).await?;
    let run_bytes: u64 = built.runs.iter().map(|run| run.bytes).sum();
    let files: u64 = built.runs.iter().map(|run| run.files).sum();

    let rate = |runs: &Rounds| format!("{:.0}", args.commits as f64 / runs.median().max(1e-9));
    let mut section = Section {
        title: format!("A log of {} commits over {} keys", args.commits, args.common.keys),
        columns: ["restored from", "objects", "bytes", "seconds", "commits/s"].map(str::to_owned).to_vec(),
        notes: vec![format!(
            "{raw_bytes} bytes of effects. {} runs of {grain} were built in {:.1} s. Checks included; the archive is a directory.",
            built.runs.len(),
            build_seconds.as_secs_f64()
        )],
        ..Section::default()
    };
    let mut series = Vec::new();
    for (what, objects, bytes, runs) in
        [("chunks", chunks, chunk_bytes, &by_chunks), ("runs", files + built.runs.len() as u64, run_bytes, &by_runs)]
    {
        section.rows.push(vec![what.into(), objects.to_string(), bytes.to_string(), runs.show(2), rate(runs)]);
        serve::add(&mut series, what, Point::bar("restore", runs));
    }
    section.charts.push(Chart { title: "Restore".into(), unit: "s".into(), kind: Kind::Bars, series });
    Ok(section)
}

async fn new_archive(archive: Archive) -> Result<Archive, Failure> {
    identity::establish(&archive, ClusterId([7; 16])).await?;
    let record = EpochRecord::first(Epoch(1), "bench".to_owned(), CommitTime(1));
    epochs::claim(&archive, &record).await?;
    Ok(archive)
}

fn name_of(chunk: &Chunk) -> ChunkName {
    ChunkName { epoch: Epoch(1), first: chunk.header().first, last: chunk.header().last }
}

/// Writes the log as full chunks; returns the number of chunks, their bytes, and the bytes of effects in them.
async fn write_log(args: &Args, archive: &Archive) -> Result<(u64, u64, u64), Failure> {
    let (mut log, mut encoder) = (Log::new(args), Encoder::new(Profile::default()));
    let (mut pending, mut bytes) = (Vec::new(), 0);
    let (mut chunks, mut stored, mut raw) = (0, 0, 0);
    let mut link = ChunkLink { epoch: Epoch(1), ..ChunkLink::default() };
    for csn in 1..=args.commits {
        let commit = log.next();
        bytes += commit.effect_bytes();
        pending.push(commit);
        if bytes >= RAW_BYTES_MAX || csn == args.commits {
            record::chain(link.hash_before, &mut pending);
            let chunk = encoder.encode(pending.iter(), link);
            link.hash_before = chunk.header().hash_after;
            archive.put_verified(&ObjectName::Chunk(name_of(&chunk)), chunk.bytes().clone()).await?;
            (chunks, stored, raw) = (chunks + 1, stored + chunk.bytes().len() as u64, raw + bytes as u64);
            pending.clear();
            bytes = 0;
        }
    }
    Ok((chunks, stored, raw))
}

async fn restores(args: &Args, archive: &Archive, scratch: &Path) -> Result<Rounds, Failure> {
    let mut seconds = Rounds::default();
    for _ in 0..args.common.alternations {
        let dir = scratch.join("restored");
        let (io, progress) = (Arc::new(StdIo), silent());
        let started = Instant::now();
        restore(
            archive,
            Options { dir: dir.clone(), target: Target::Latest, epoch: None, costs: RouteCosts::DEFAULT, io, progress },
        )
        .await?;
        let took: Duration = started.elapsed();
        seconds.0.push(took.as_secs_f64());
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(seconds)
}

/// Generator of the log's commits, which are the same in each run.
struct Log {
    random: StdRng,
    csn: Csn,
    keys: u64,
    value_bytes: usize,
    /// Number of elements in each queue.
    queues: Vec<u64>,
}

impl Log {
    fn new(args: &Args) -> Self {
        let (random, keys) = (StdRng::seed_from_u64(7), args.common.keys);
        let value_bytes = args.common.value_bytes as usize;
        Self { random, csn: Csn::ZERO, keys, value_bytes, queues: vec![0; QUEUES as usize] }
    }

    fn next(&mut self) -> CommitRecord {
        self.csn = self.csn.next();
        let time = CommitTime(BEGIN_MICROS + self.csn.0 * 100);
        let mut commit = CommitRecord { csn: self.csn, epoch: Epoch(1), time, ..CommitRecord::default() };
        let value = self.value();
        match self.csn.0 % 5 {
            0..3 => {
                let name = format!("key:{}", self.random.random_range(0..self.keys));
                let mut disk = Vec::new();
                push_put(&mut disk, Family::Default, &key::meta(name.as_bytes()), &encode_string(value.as_bytes(), 0));
                (commit.disk_ops, commit.disk) = (1, disk.into());
            }
            3 => {
                let board = format!("board:{}", self.random.random_range(0..BOARDS));
                let member = format!("player:{}", self.random.random_range(0..PLAYERS));
                let score = self.random.random_range(0..1_000_000) as f64;
                let mut ops = Vec::new();
                OpEncoder::new(&mut ops).set_scores(board.as_bytes(), [(member.as_bytes(), score)].into_iter());
                commit.memory = ops.into();
            }
            _ => {
                let number = self.random.random_range(0..QUEUES);
                let (queue, waiting) = (format!("queue:{number}"), &mut self.queues[number as usize]);
                let mut ops = Vec::new();
                if *waiting > 100 || (*waiting > 0 && self.random.random_bool(0.5)) {
                    OpEncoder::new(&mut ops).pop_front(queue.as_bytes(), 1);
                    *waiting -= 1;
                } else {
                    OpEncoder::new(&mut ops).push_back(queue.as_bytes(), [value.as_bytes()].into_iter());
                    *waiting += 1;
                }
                commit.memory = ops.into();
            }
        }
        commit
    }

    fn value(&mut self) -> String {
        let (id, score) = (self.random.random_range(0..100_000_u32), self.random.random_range(0..1000_u32));
        let mut value = format!("{{\"id\":{id},\"score\":{score},\"name\":\"user\"}}");
        value.truncate(self.value_bytes);
        value.extend(std::iter::repeat_n('x', self.value_bytes - value.len()));
        value
    }
}
