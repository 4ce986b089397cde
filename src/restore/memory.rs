//! Builds the keys in memory at a commit without the disk engines; building compacted runs begins with this state.
//!
//! Guarantees: everything that is read is verified. Memory is bounded by the size of the state and of the chunks in
//! flight.

use super::base::{Compare, open_memory};
use super::progress::Meter;
use super::runs::apply_part;
use crate::archive::layout::ObjectName;
use crate::archive::store::Archive;
use crate::compacted_run::RunManifest;
use crate::csn::Csn;
use crate::engine::memory::Memory;
use crate::error::Result;
use crate::history::fetch::{ChunkFetch, check_hash, pieces};
use crate::history::line::{History, full_name};
use crate::history::step::{ChunkStep, Step, take_chunks};
use crate::history::target::Target;
use crate::history::unpack::Unpacker;
use crate::position::Position;
use crate::snapshot::manifest::{FileRef, Manifest};
use crate::threads::blocking;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Returns the keys in memory after commit `csn` and the position there; for csn 0 they are empty. Reports the bytes
/// that were read to `meter`.
pub(crate) async fn memory_at(history: &History, csn: Csn, meter: &Arc<Meter>) -> Result<(Memory, Position)> {
    if csn == Csn::ZERO {
        return Ok((Memory::new(), Position::default()));
    }
    let planned = history.plan(&Target::At(csn)).await?;
    let (mut memory, mut at) = (Memory::new(), Position::default());
    let mut steps: VecDeque<Step> = planned.plan.steps.into();
    while let Some(step) = steps.front().copied() {
        (memory, at) = match step {
            Step::Base(_) => {
                steps.pop_front();
                let manifest = planned.manifest.as_ref().expect("the manifest of the plan's base was read");
                let at = manifest.start_position(history.lineage.epoch_at(manifest.start().after));
                (base_memory(&history.archive, manifest, meter, Compare::Counts).await?, at)
            }
            Step::Run(step) => {
                steps.pop_front();
                let manifest = &planned.runs[&step.run];
                (take_run(history, manifest, memory, meter).await?, manifest.position())
            }
            Step::Chunk(_) => take_commits(history, take_chunks(&mut steps), (memory, at), meter).await?,
        };
    }
    Ok((memory, at))
}

/// Applies the commits of successive chunks to the keys in memory, which are at the given position.
async fn take_commits(
    history: &History,
    steps: Vec<ChunkStep>,
    mut state: (Memory, Position),
    meter: &Meter,
) -> Result<(Memory, Position)> {
    let mut unpacker = Unpacker::new(history.lineage.clone(), state.1);
    let mut fetch = ChunkFetch::new(&history.archive, steps);
    while let Some((step, fetched)) = fetch.next().await {
        let (bytes, what) = (fetched?, full_name(&history.archive, &ObjectName::Chunk(step.chunk)));
        meter.add(bytes.len() as u64);
        let (memory, _) = state;
        (unpacker, state) = blocking(move || {
            let unpacked = unpacker.unpack(step, bytes, &what)?;
            for commit in unpacked.commits.iter() {
                memory.apply_commit(commit)?;
            }
            let last = unpacked.commits.last().expect("a step has commits");
            let at = Position::of(last);
            Ok((unpacker, (memory, at)))
        })
        .await?;
    }
    Ok(state)
}

async fn take_run(history: &History, manifest: &RunManifest, mut memory: Memory, meter: &Arc<Meter>) -> Result<Memory> {
    for (object, bytes, blake3) in manifest.objects().skip(manifest.disk.len()) {
        let what = full_name(&history.archive, &object);
        let found = pieces(&history.archive, &object, bytes).collect::<Vec<_>>().await;
        let content = found.into_iter().collect::<Result<Vec<Bytes>>>()?.concat();
        check_hash(&what, blake3::hash(&content), blake3)?;
        meter.add(bytes);
        let manifest = manifest.clone();
        memory = blocking(move || apply_part(&manifest, content.into(), &what, &memory).map(|()| memory)).await?;
    }
    Ok(memory)
}

/// Builds the keys in memory of a base from its images and its completion; those of a strict base are brought to the
/// base's csn.
pub(super) async fn base_memory(
    archive: &Archive,
    manifest: &Manifest,
    meter: &Arc<Meter>,
    compare: Compare,
) -> Result<Memory> {
    let base = manifest.base();
    let (archive, manifest, meter, runtime) = (archive.clone(), manifest.clone(), Arc::clone(meter), Handle::current());
    blocking(move || {
        let parts = |file: &FileRef| HashedParts {
            what: full_name(&archive, &file.object(base)),
            pieces: pieces(&archive, &file.object(base), file.bytes).boxed(),
            runtime: runtime.clone(),
            meter: Arc::clone(&meter),
            hasher: Some(blake3::Hasher::new()),
            expected: file.blake3,
        };
        open_memory(&manifest, &archive, parts, compare)
    })
    .await
}

/// The bytes of an object for a blocking reader. If the hash is wrong, the item after the last piece is an error.
struct HashedParts {
    /// The object's name, for messages.
    what: String,
    pieces: BoxStream<'static, Result<Bytes>>,
    runtime: Handle,
    meter: Arc<Meter>,
    /// `None` after the end was reached.
    hasher: Option<blake3::Hasher>,
    expected: blake3::Hash,
}

impl Iterator for HashedParts {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Result<Bytes>> {
        let hasher = self.hasher.as_mut()?;
        match self.runtime.block_on(self.pieces.next()) {
            Some(piece) => Some(piece.inspect(|bytes| {
                hasher.update(bytes);
                self.meter.add(bytes.len() as u64);
            })),
            None => {
                let found = self.hasher.take()?.finalize();
                check_hash(&self.what, found, self.expected).err().map(Err)
            }
        }
    }
}
