//! WALFERRY: subcommands for functions that Redis has no command for.

use super::args::Args;
use super::definition::{Ctx, Done, Fail};
use super::errors;
use super::host::{Insistence, MarkCard, Task};
use super::number::parse_i64;
use super::reply::Out;
use crate::config::Consistency;
use crate::csn::Epoch;
use crate::engine::meta::Home;
use crate::error::Error;
use crate::plain_name::PlainName;
use std::time::Duration;

const HELP: [&str; 24] = [
    "WALFERRY <subcommand>. Subcommands are:",
    "CSN",
    "    Returns the epoch and the committed, durable and archived watermarks.",
    "ARCHIVE FLUSH",
    "    Returns the archived csn once everything committed before is in the archive.",
    "SNAPSHOT STRICT",
    "    Publishes a base with every engine at one csn; returns that csn.",
    "SNAPSHOT BOUNDED <ms>",
    "    Publishes a base with the engines at most <ms> of commit time apart, or returns an error.",
    "SNAPSHOT EVENTUAL",
    "    Publishes a base with the engines any time apart; it is completed in the background.",
    "MARK name",
    "    Names the present state for a later restore (--to mark:name); returns the csn of the mark.",
    "MARKS",
    "    Returns name, csn, epoch and time of each mark, and whether the archive has the mark.",
    "UNMARK name",
    "    Removes a mark from this node and from the archive.",
    "ROUTE key",
    "    Returns the home, the type, the bytes and the recent accesses of a key.",
    "MOVE key MEMORY|DISK",
    "    Moves a key to a home; returns 1 if it moved. The move is a commit.",
    "PROMOTE [ABANDON-EPOCH n] [WITHOUT-ARCHIVE]",
    "    Makes this replica a primary. ABANDON-EPOCH: even if this abandons archived commits of that epoch;",
    "    WITHOUT-ARCHIVE: even if its primary has an archive and this replica has none.",
];

/// WALFERRY CSN | ARCHIVE FLUSH | SNAPSHOT STRICT | SNAPSHOT BOUNDED ms | SNAPSHOT EVENTUAL | MARK name | MARKS |
/// UNMARK name | ROUTE key | MOVE key MEMORY|DISK | PROMOTE [ABANDON-EPOCH n] [WITHOUT-ARCHIVE] | HELP
pub(super) fn walferry(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let word = |at: usize| args.try_get(at).map(<[u8]>::to_ascii_lowercase).unwrap_or_default();
    match (&word(1)[..], &word(2)[..], args.len()) {
        (b"csn", _, 2) => {
            let watermarks = ctx.host.watermarks();
            let fields = [
                ("epoch", u64::from(watermarks.epoch.0)),
                ("committed", watermarks.committed.0),
                ("durable", watermarks.durable.0),
                ("archived", watermarks.archived.0),
            ];
            out.map(fields.len());
            for (name, value) in fields {
                out.bulk(name.as_bytes());
                out.count(value);
            }
        }
        (b"archive", b"flush", 3) => ctx.client.task = Some(Task::ArchiveFlush),
        (b"snapshot", b"strict", 3) => ctx.client.task = Some(Task::Snapshot(Consistency::Strict)),
        (b"snapshot", b"eventual", 3) => ctx.client.task = Some(Task::Snapshot(Consistency::Eventual)),
        (b"snapshot", b"bounded", 4) => {
            let bound = parse_i64(&args[3]).and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
            let bound = bound.ok_or(errors::NOT_AN_INTEGER)?;
            ctx.client.task = Some(Task::Snapshot(Consistency::Bounded(bound)));
        }
        (b"mark", _, 3) => ctx.client.task = Some(Task::Mark(mark_name(&args[2])?)),
        (b"unmark", _, 3) => ctx.client.task = Some(Task::Unmark(mark_name(&args[2])?)),
        (b"route", _, 3) => route(ctx, &args[2], out)?,
        (b"move", _, 4) => {
            let to = [Home::Memory, Home::Disk].into_iter().find(|home| home.name().as_bytes() == &word(3)[..]);
            ctx.client.task = Some(Task::Move(args[2].to_vec(), to.ok_or(errors::SYNTAX)?));
        }
        (b"promote", ..) => ctx.client.task = Some(Task::Promote(insistence(args)?)),
        (b"marks", _, 2) => write_marks(&ctx.host.marks()?, out),
        (b"help", _, 2) => {
            out.array(HELP.len());
            HELP.iter().for_each(|line| out.simple(line));
        }
        (b"csn" | b"archive" | b"snapshot" | b"mark" | b"marks" | b"unmark" | b"route" | b"move" | b"help", ..) => {
            return Err(errors::SYNTAX.into());
        }
        _ => return Err(errors::unknown_subcommand("WALFERRY", &args[1]).into()),
    }
    Ok(())
}

/// Writes where a key lives and how often it was accessed lately; null if there is no such key.
fn route(ctx: &Ctx<'_>, key: &[u8], out: &mut Out) -> Done {
    let memory = ctx.keys.memory();
    let in_memory = memory.get(key).map(|slot| (slot.memory_bytes(), memory.tracker().count_in_memory(slot.touch())));
    let found = ctx.keys.peek(key)?;
    let Some(home) = found.home() else {
        out.null();
        return Ok(());
    };
    let (bytes, accesses) = in_memory.unwrap_or_else(|| (0, memory.tracker().count_on_disk(key)));
    out.map(if home == Home::Memory { 4 } else { 3 });
    out.bulk(b"home");
    out.bulk(home.name().as_bytes());
    out.bulk(b"type");
    out.bulk(found.type_name().as_bytes());
    if home == Home::Memory {
        out.bulk(b"bytes");
        out.count(bytes as u64);
    }
    out.bulk(b"accesses");
    out.count(accesses.into());
    Ok(())
}

/// Reads the options of WALFERRY PROMOTE.
fn insistence(args: Args<'_>) -> Result<Insistence, Fail> {
    let mut insistence = Insistence::default();
    let mut at = 2;
    while let Some(option) = args.try_get(at) {
        match &option.to_ascii_lowercase()[..] {
            b"without-archive" => insistence.without_archive = true,
            b"abandon-epoch" => {
                at += 1;
                let number = args.try_get(at).and_then(parse_i64).and_then(|number| u32::try_from(number).ok());
                insistence.abandon_epoch = Some(Epoch(number.ok_or(errors::NOT_AN_INTEGER)?));
            }
            _ => return Err(errors::SYNTAX.into()),
        }
        at += 1;
    }
    Ok(insistence)
}

fn mark_name(text: &[u8]) -> Result<PlainName, Fail> {
    String::from_utf8_lossy(text).parse().map_err(|error| match error {
        Error::Config { detail, .. } => format!("ERR {detail}").into(),
        error => Fail::Failed(error),
    })
}

fn write_marks(marks: &[MarkCard], out: &mut Out) {
    out.array(marks.len());
    for MarkCard { name, at, archived } in marks {
        out.map(5);
        out.bulk(b"name");
        out.bulk(name.as_str().as_bytes());
        out.bulk(b"csn");
        out.count(at.csn.0);
        out.bulk(b"epoch");
        out.count(at.epoch.0.into());
        out.bulk(b"time");
        out.bulk_fmt(at.time);
        out.bulk(b"archived");
        out.bulk(archived.as_bytes());
    }
}
