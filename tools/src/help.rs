//! `walferry help`: the help of the program, of a subcommand, or the vocabulary.

use crate::exit::Done;
use walferry::error::Error;

/// The name under which the vocabulary is printed.
const CONCEPTS: &str = "concepts";

/// The vocabulary, by subject.
const VOCABULARY: &[(&str, &[(&str, &str)])] = &[
    (
        "History",
        &[
            ("commit", "the atomic unit: the effects of one command or of one MULTI/EXEC"),
            ("csn", "commit sequence number: 1, 2, 3 and so on over both homes; a gap is corruption"),
            ("commit time", "microseconds since the Unix epoch; within an epoch it never decreases"),
            ("epoch", "generation of the writer; a promotion, or a recovery that lost commits, begins a new one"),
            ("history hash", "64 bits over the effects of all commits up to a csn; it tells two histories apart"),
            ("position", "csn, epoch and history hash of a commit"),
            ("line", "the path of epochs from the first to one epoch; `latest` means the end of the newest line"),
            ("abandoned", "said of commits in the archive that lie on no line which is followed"),
            ("mark", "a restore point with a name"),
        ],
    ),
    (
        "State",
        &[
            (
                "home",
                "where a key lives: streams on disk, lists and zsets in memory, strings, hashes and sets in either",
            ),
            ("WAL, op-log", "RocksDB's log, and the log of the keys in memory; its files are segments"),
            ("group", "commits that are written to the logs together"),
            ("purge", "to remove what a node's own logs no longer need"),
        ],
    ),
    (
        "Movement",
        &[
            ("chunk", "whole commits in csn order, at most 4 MiB before compression: the unit that is shipped"),
            ("feed, link", "the connection of a replica, seen from the node that feeds it, and from the replica"),
            ("spool", "chunks on local disk until the archive has them; bounded by spool-max-bytes"),
            ("resume, bootstrap", "how a replica begins: after its last commit, or from a base"),
            ("fenced", "said of a node that refuses writes because a newer epoch exists"),
            (
                "watermarks",
                "committed >= durable >= archived: the last commit that readers see, that is synced, that the archive has",
            ),
        ],
    ),
    (
        "Archive",
        &[
            ("archive", "the objects of one cluster below a prefix of a bucket, or in a directory"),
            ("base", "a RocksDB checkpoint and a memory image, from which a restore begins"),
            ("merge", "to replace small chunks by full ones that hold the same commits"),
            ("compacted run", "the net change of an hour, a day or a number of commits"),
            ("hybrid snapshot", "a base and the chunks up to a csn: one state of both homes"),
            ("pin", "what a reader holds for a time against the removal of objects"),
            ("prune", "to remove what the retention policy does not keep from the archive"),
        ],
    ),
];

/// Prints this help, the help of a subcommand, or the vocabulary (concepts)
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Args {
    /// A subcommand, or `concepts` for the words that the program and its documentation use
    topic: Option<String>,
}

/// Prints what was asked for. `command` describes the whole program.
pub(crate) fn run(args: &Args, mut command: clap::Command) -> Done {
    // So that the usage line names the program.
    command.build();
    let text = match args.topic.as_deref() {
        None => command.render_long_help().to_string(),
        Some(CONCEPTS) => vocabulary(),
        Some(name) => match command.find_subcommand_mut(name) {
            Some(subcommand) => subcommand.render_long_help().to_string(),
            None => {
                let detail = format!("subcommand {name:?} does not exist; walferry help lists the subcommands");
                return Err(Error::Config { key: "help".into(), detail }.into());
            }
        },
    };
    print!("{text}");
    Ok(())
}

fn vocabulary() -> String {
    let width = VOCABULARY.iter().flat_map(|(_, words)| words.iter()).map(|(word, _)| word.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (subject, words) in VOCABULARY {
        text.push_str(&format!("{subject}\n"));
        for (word, meaning) in *words {
            text.push_str(&format!("  {word:width$}  {meaning}\n"));
        }
    }
    text
}
