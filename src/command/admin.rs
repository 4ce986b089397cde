//! Commands for operators: settings, INFO, saving, role, shutdown.

use super::args::Args;
use super::definition::{Ctx, Done, Fail};
use super::host::{Insistence, Role, Task};
use super::reply::Out;
use super::{errors, glob};
use crate::config::Config;
use crate::error::Error;

/// Redis settings that walferry does not have but clients and benchmarks ask for, with the value that describes
/// walferry.
const REDIS_SETTINGS: [(&str, &str); 4] =
    [("appendonly", "yes"), ("databases", "1"), ("save", ""), ("cluster-enabled", "no")];

/// CONFIG GET pattern [pattern ...] | SET key value [key value ...]
pub(super) fn config(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let sub = args[1].to_ascii_lowercase();
    match &sub[..] {
        b"get" if args.len() >= 3 => config_get(ctx, args.from(2), out),
        b"set" if args.len() >= 4 && args.len().is_multiple_of(2) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let pairs: Vec<_> = (2..args.len())
                .step_by(2)
                .map(|at| (text(&args[at]).to_ascii_lowercase(), text(&args[at + 1])))
                .collect();
            reconfigure(ctx, &pairs)?;
            out.ok();
        }
        b"get" | b"set" => return Err(errors::wrong_arity(&format!("config|{}", String::from_utf8_lossy(&sub))).into()),
        _ => return Err(errors::unknown_subcommand("CONFIG", &args[1]).into()),
    }
    Ok(())
}

fn reconfigure(ctx: &Ctx<'_>, pairs: &[(String, String)]) -> Result<(), Fail> {
    if let Some((key, _)) = pairs.iter().find(|(key, _)| Config::KEYS.iter().all(|doc| doc.name != key)) {
        return Err(format!("ERR Unknown option or number of arguments for CONFIG SET - '{key}'").into());
    }
    ctx.host.reconfigure(pairs).map_err(|error| match error {
        Error::Config { key, detail } => {
            format!("ERR CONFIG SET failed (possibly related to argument '{key}') - {detail}").into()
        }
        error => format!("ERR CONFIG SET failed - {error}").into(),
    })
}

fn config_get(ctx: &Ctx<'_>, patterns: Args<'_>, out: &mut Out) {
    let config = ctx.host.config();
    let own = Config::KEYS.iter().map(|doc| (doc.name, config.get(doc.name).unwrap_or_default()));
    let redis = REDIS_SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned()));
    let is_wanted =
        |name: &str| patterns.iter().any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()));
    let found: Vec<_> = own.chain(redis).filter(|(name, _)| is_wanted(name)).collect();
    out.map(found.len());
    for (name, value) in found {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
}

/// INFO [section ...]
pub(super) fn info(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let wanted: Vec<String> =
        args.from(1).iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let is_all = wanted.is_empty() || wanted.iter().any(|name| ["all", "default", "everything"].contains(&&**name));
    let mut text = String::new();
    for (title, fields) in ctx.host.info() {
        if !is_all && !wanted.contains(&title.to_ascii_lowercase()) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        text.push_str(&format!("# {title}\r\n"));
        for (name, value) in fields {
            text.push_str(&format!("{name}:{value}\r\n"));
        }
    }
    out.verbatim(text.as_bytes());
    Ok(())
}

/// ROLE
pub(super) fn role(ctx: &mut Ctx<'_>, _: Args<'_>, out: &mut Out) -> Done {
    match ctx.host.role() {
        Role::Primary { committed, replicas } => {
            out.array(3);
            out.bulk(b"master");
            out.count(committed.0);
            out.array(replicas.len());
            for (address, port, acknowledged) in replicas {
                out.array(3);
                out.bulk(address.as_bytes());
                out.bulk_fmt(port);
                out.bulk_fmt(acknowledged);
            }
        }
        Role::Replica { host, port, state, applied } => {
            out.array(5);
            out.bulk(b"slave");
            out.bulk(host.as_bytes());
            out.int(port.into());
            out.bulk(state.as_bytes());
            out.count(applied.0);
        }
    }
    Ok(())
}

/// LASTSAVE
pub(super) fn lastsave(ctx: &mut Ctx<'_>, _: Args<'_>, out: &mut Out) -> Done {
    out.count(ctx.host.last_save());
    Ok(())
}

/// BGSAVE [SCHEDULE]
pub(super) fn bgsave(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    if args.len() > 2 || (args.len() == 2 && !args[1].eq_ignore_ascii_case(b"SCHEDULE")) {
        return Err(errors::SYNTAX.into());
    }
    ctx.host.start_snapshot().map_err(|error| format!("ERR {error}"))?;
    out.simple("Background saving started");
    Ok(())
}

/// SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE]. The logs are synced with every option.
pub(super) fn shutdown(ctx: &mut Ctx<'_>, args: Args<'_>, _: &mut Out) -> Done {
    let known = [&b"nosave"[..], b"save", b"now", b"force"];
    if args.from(1).iter().any(|option| !known.contains(&&option.to_ascii_lowercase()[..])) {
        return Err(errors::SYNTAX.into());
    }
    ctx.client.task = Some(Task::Shutdown);
    Ok(())
}

/// REPLICAOF NO ONE. Other forms are refused, because a replica's primary is chosen when the replica starts.
pub(super) fn replicaof(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    if !args[1].eq_ignore_ascii_case(b"NO") || !args[2].eq_ignore_ascii_case(b"ONE") {
        return Err("ERR only REPLICAOF NO ONE is possible while running; a replica is started with: walferry replica --primary HOST:REPLPORT".into());
    }
    match ctx.host.role() {
        Role::Primary { .. } => out.ok(),
        Role::Replica { .. } => ctx.client.task = Some(Task::Promote(Insistence::default())),
    }
    Ok(())
}
