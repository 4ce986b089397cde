//! `walferry dump`: shows a chunk, op-log segment, memory image or manifest as text.

use crate::archive::KeyArgs;
use crate::exit::{Done, Failure};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use walferry::archive::crypt;
use walferry::archive::layout::ObjectName;
use walferry::chunk::Chunk;
use walferry::compacted_run::RunManifest;
use walferry::engine::batch::{Record, Records};
use walferry::engine::memory::ops::{ElementsChange, ListChange, StringChange, ValueChange, ZsetChange};
use walferry::engine::memory::{Op, Ops, Slot, Type};
use walferry::error::Result;
use walferry::io::StdIo;
use walferry::log::segment::{Segment, parse_name};
use walferry::record::CommitRecord;
use walferry::snapshot::image::read_image_file;
use walferry::snapshot::manifest::Manifest;

/// Shows a chunk, op-log segment, memory image or manifest
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Args {
    /// The file: *.chunk, *.oplog, *.image or manifest*.json
    file: PathBuf,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Shows the file. The extension of its name decides how it is read.
pub(crate) fn run(args: Args) -> Done {
    let path = &args.file;
    match path.extension().and_then(OsStr::to_str) {
        Some("chunk") => dump_chunk(path, clear(path, &args.keys)?)?,
        Some("oplog") => dump_segment(path)?,
        Some("image") => dump_image(path)?,
        Some("json") => dump_manifest(path, clear(path, &args.keys)?)?,
        _ => {
            let detail = "is not a file of the kinds *.chunk, *.oplog, *.image, *.json".to_owned();
            return Err(Failure::from(walferry::error::Error::Config { key: path.display().to_string(), detail }));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<bytes::Bytes> {
    std::fs::read(path).map(Into::into).map_err(walferry::error::Error::io("read", path))
}

/// Returns the file's content, decrypted if the file is an object of an encrypted archive.
fn clear(path: &Path, keys: &KeyArgs) -> Result<bytes::Bytes, Failure> {
    let (bytes, what) = (read(path)?, path.display().to_string());
    match keys.ring()? {
        Some(keys) if crypt::is_encrypted(&bytes) => {
            let name = object_name(path).ok_or_else(|| walferry::error::Error::Config {
                key: what.clone(),
                detail: "is encrypted under its name in the archive. Keep the file in directories with the same names \
                         as in the archive"
                    .into(),
            })?;
            Ok(crypt::decrypt(&bytes, &name, &keys, &what)?)
        }
        _ => {
            crypt::require_clear(&bytes, &what)?;
            Ok(bytes)
        }
    }
}

/// Returns the name that the file has, or had, in its archive: the longest end of its path that is an object name.
fn object_name(path: &Path) -> Option<ObjectName> {
    let path = path.canonicalize().ok()?;
    let parts: Vec<&str> = path.iter().filter_map(OsStr::to_str).collect();
    (0..parts.len()).find_map(|from| ObjectName::parse(&parts[from..].join("/")))
}

fn dump_chunk(path: &Path, bytes: bytes::Bytes) -> Result<()> {
    let chunk = Chunk::open(bytes, &path.display().to_string())?;
    println!("{:#?}", chunk.header());
    for commit in chunk.commits() {
        dump_commit(&commit?)?;
    }
    Ok(())
}

fn dump_segment(path: &Path) -> Result<()> {
    let what = path.display().to_string();
    let bytes = read(path)?;
    let named = path.file_name().and_then(parse_name);
    let id = match named {
        Some(id) => id,
        None => walferry::log::segment::SegmentHeader::decode(&bytes, &what)?.id,
    };
    let segment = Segment::parse(bytes, id, &what)?;
    println!("{:#?}", segment.header);
    let mut frames = segment.frames();
    for (offset, frame) in frames.by_ref() {
        println!("frame at {offset}, {} bytes, follows csn {}", frame.len, frame.previous);
        dump_commit(&frame.commit)?;
    }
    println!("the log ends at byte {} of {}", frames.offset(), segment.capacity());
    Ok(())
}

fn dump_image(path: &Path) -> Result<()> {
    let (memory, image) = read_image_file(&StdIo, path)?;
    println!("{image:#?}");
    for slot in memory.cut().iter() {
        let (name, key) = (slot.value_type().name(), slot.key().escape_ascii());
        println!("{name} {key} expires {} with {}", slot.expire_ms(), size(slot));
    }
    Ok(())
}

/// Returns the size of a value in the unit of its type.
fn size(slot: &Slot) -> String {
    let (count, unit) = match slot.value_type() {
        Type::String => (slot.as_string().map(|string| string.len()), "bytes"),
        Type::Hash => (slot.as_hash().map(|hash| hash.len()), "fields"),
        Type::Set => (slot.as_set().map(|set| set.len()), "members"),
        Type::List => (slot.as_list().map(|list| list.len()), "elements"),
        Type::Zset => (slot.as_zset().map(|zset| zset.len()), "members"),
    };
    format!("{} {unit}", count.expect("the value has its type"))
}

fn dump_manifest(path: &Path, bytes: bytes::Bytes) -> Result<()> {
    let what = path.display().to_string();
    match (Manifest::decode(&bytes, &what), RunManifest::decode(&bytes, &what)) {
        (Err(_), Ok(run)) => println!("{run:#?}"),
        (manifest, _) => println!("{:#?}", manifest?),
    }
    Ok(())
}

fn dump_commit(commit: &CommitRecord) -> Result<()> {
    println!("csn {} epoch {} at {}", commit.csn, commit.epoch, commit.time);
    for record in Records::new(&commit.disk) {
        match record? {
            Record::Put(family, key, value) => {
                println!("  {} put {} = {}", family.name(), key.escape_ascii(), value.escape_ascii())
            }
            Record::Delete(family, key) => println!("  {} delete {}", family.name(), key.escape_ascii()),
            Record::DeleteRange(family, from, to) => {
                println!("  {} delete {} .. {}", family.name(), from.escape_ascii(), to.escape_ascii())
            }
            Record::LogData(bytes) => println!("  log data, {} bytes", bytes.len()),
        }
    }
    for op in Ops::new(&commit.memory) {
        println!("  memory {}", show(&op?));
    }
    Ok(())
}

fn show(op: &Op<'_>) -> String {
    match *op {
        Op::Change { key, change } => format!("{} {}", key.escape_ascii(), show_change(change)),
        Op::Delete { key } => format!("{} delete", key.escape_ascii()),
        Op::Expire { key, at_ms } => format!("{} expire at {at_ms}", key.escape_ascii()),
        Op::Rename { from, to } => format!("{} rename to {}", from.escape_ascii(), to.escape_ascii()),
        Op::Clear => "clear".to_owned(),
    }
}

fn show_change(change: ValueChange<'_>) -> String {
    match change {
        ValueChange::String(change) => match change {
            StringChange::Set { expire_ms, bytes } => {
                format!("set string, expires {expire_ms}: {}", bytes.escape_ascii())
            }
            StringChange::Replace { bytes } => format!("replace string: {}", bytes.escape_ascii()),
            StringChange::Append { bytes } => format!("append: {}", bytes.escape_ascii()),
            StringChange::Write { position, bytes } => format!("write at {position}: {}", bytes.escape_ascii()),
        },
        ValueChange::Elements(change) => match change {
            ElementsChange::PutFields { pairs } => format!("put fields: {}", joined(pairs.iter().map(pair))),
            ElementsChange::RemoveFields { fields } => format!("remove fields: {}", names(fields.iter())),
            ElementsChange::AddMembers { members } => format!("add members: {}", names(members.iter())),
            ElementsChange::RemoveMembers { members } => format!("remove members: {}", names(members.iter())),
        },
        ValueChange::List(change) => match change {
            ListChange::PushFront { elements } => format!("push front: {}", names(elements.iter())),
            ListChange::PushBack { elements } => format!("push back: {}", names(elements.iter())),
            ListChange::PopFront { count } => format!("pop front {count}"),
            ListChange::PopBack { count } => format!("pop back {count}"),
            ListChange::Set { index, value } => format!("set element {index}: {}", value.escape_ascii()),
            ListChange::Insert { index, value } => format!("insert element at {index}: {}", value.escape_ascii()),
            ListChange::Remove { indexes } => {
                format!("remove elements: {}", joined(indexes.iter().map(|index| index.to_string())))
            }
            ListChange::Keep { start, stop } => format!("keep elements {start} .. {stop}"),
        },
        ValueChange::Zset(change) => match change {
            ZsetChange::Set { pairs } => {
                let score = |(member, score): (&[u8], f64)| format!("{} = {score}", member.escape_ascii());
                format!("set scores: {}", joined(pairs.iter().map(score)))
            }
            ZsetChange::Remove { members } => format!("remove scored: {}", names(members.iter())),
            ZsetChange::RemoveRanks { start, stop } => format!("remove ranks {start} .. {stop}"),
        },
    }
}

fn pair((field, value): (&[u8], &[u8])) -> String {
    format!("{} = {}", field.escape_ascii(), value.escape_ascii())
}

fn names<'a>(names: impl Iterator<Item = &'a [u8]>) -> String {
    joined(names.map(|name| name.escape_ascii().to_string()))
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(", ")
}
