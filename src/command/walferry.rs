//! WALFERRY: what Redis has no command for.

use super::args::Args;
use super::host::Task;
use super::number::parse_i64;
use super::reply::Out;
use super::{Ctx, Done, errors};
use crate::config::Consistency;
use std::time::Duration;

const HELP: [&str; 11] = [
    "WALFERRY <subcommand>. Subcommands are:",
    "CSN",
    "    Epoch and the committed, durable and archived watermarks.",
    "ARCHIVE FLUSH",
    "    Returns the archived csn once everything committed before is in the archive.",
    "SNAPSHOT STRICT",
    "    Publishes a base with every engine at one csn; returns that csn.",
    "SNAPSHOT BOUNDED <ms>",
    "    As STRICT, with the engines at most <ms> of commit time apart, else an error and no base.",
    "SNAPSHOT EVENTUAL",
    "    As STRICT, with the engines any time apart; it is completed in the background.",
];

/// WALFERRY CSN | ARCHIVE FLUSH | SNAPSHOT STRICT | SNAPSHOT BOUNDED ms | SNAPSHOT EVENTUAL | HELP
pub fn walferry(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let word = |at: usize| args.try_get(at).map(<[u8]>::to_ascii_lowercase).unwrap_or_default();
    match (&word(1)[..], &word(2)[..], args.len()) {
        (b"csn", _, 2) => {
            let progress = ctx.host.progress();
            let fields = [
                ("epoch", u64::from(progress.epoch.0)),
                ("committed", progress.committed.0),
                ("durable", progress.durable.0),
                ("archived", progress.archived.0),
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
        (b"help", _, 2) => {
            out.array(HELP.len());
            HELP.iter().for_each(|line| out.simple(line));
        }
        (b"csn" | b"archive" | b"snapshot" | b"help", ..) => return Err(errors::SYNTAX.into()),
        _ => return Err(errors::unknown_subcommand("WALFERRY", &args[1]).into()),
    }
    Ok(())
}
