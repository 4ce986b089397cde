//! Commands about the connection and the server itself.

use super::args::Args;
use super::definition::{Command, Ctx, Done, Fail, Flag};
use super::errors;
use super::host::Role;
use super::number::parse_i64;
use super::reply::{Out, Protocol};

/// The Redis version whose behaviour clients may expect.
pub const REDIS_VERSION: &str = "7.0.15";

/// PING [message]
pub fn ping(_: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    match args.len() {
        1 => out.simple("PONG"),
        2 => out.bulk(&args[1]),
        _ => return Err(errors::wrong_arity("ping").into()),
    }
    Ok(())
}

/// ECHO message
pub fn echo(_: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.bulk(&args[1]);
    Ok(())
}

/// QUIT
pub fn quit(ctx: &mut Ctx<'_>, _: Args<'_>, out: &mut Out) -> Done {
    ctx.client.closes = true;
    out.ok();
    Ok(())
}

/// RESET
pub fn reset(ctx: &mut Ctx<'_>, _: Args<'_>, out: &mut Out) -> Done {
    let client = &mut *ctx.client;
    client.queue = None;
    client.watched = None;
    client.name.clear();
    client.protocol = Protocol::Resp2;
    client.is_authenticated = ctx.host.config().requirepass.is_empty();
    out.set_protocol(Protocol::Resp2);
    out.simple("RESET");
    Ok(())
}

/// SELECT index. There is only the database 0.
pub fn select(_: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    match parse_i64(&args[1]) {
        Some(0) => out.ok(),
        Some(_) => return Err(errors::DB_OUT_OF_RANGE.into()),
        None => return Err(errors::NOT_AN_INTEGER.into()),
    }
    Ok(())
}

/// TIME
pub fn time(_: &mut Ctx<'_>, _: Args<'_>, out: &mut Out) -> Done {
    let now = crate::clock::now_micros();
    out.array(2);
    out.bulk_fmt(now / 1_000_000);
    out.bulk_fmt(now % 1_000_000);
    Ok(())
}

/// AUTH [username] password
pub fn auth(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (user, password) = match args.len() {
        2 => (&b"default"[..], args.get(1)),
        3 => (args.get(1), args.get(2)),
        _ => return Err(errors::SYNTAX.into()),
    };
    if ctx.host.config().requirepass.is_empty() && args.len() == 2 {
        return Err(errors::NO_PASSWORD_SET.into());
    }
    authenticate(ctx, user, password)?;
    out.ok();
    Ok(())
}

fn authenticate(ctx: &mut Ctx<'_>, user: &[u8], password: &[u8]) -> Result<(), Fail> {
    let config = ctx.host.config();
    // Hashes of equal length are compared, so that the time taken tells nothing about the password.
    let is_right = blake3::hash(config.requirepass.as_bytes()) == blake3::hash(password);
    if user != b"default" || !(is_right || config.requirepass.is_empty()) {
        return Err(errors::WRONG_PASS.into());
    }
    ctx.client.is_authenticated = true;
    Ok(())
}

/// HELLO [protover [AUTH username password] [SETNAME clientname]]
pub fn hello(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let protocol = match args.try_get(1) {
        None => ctx.client.protocol,
        Some(version) => match parse_i64(version) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return Err(errors::NO_PROTO.into()),
            None => return Err(errors::PROTO_NOT_AN_INTEGER.into()),
        },
    };
    let mut name = None;
    let mut at = 2;
    while let Some(option) = args.try_get(at) {
        if option.eq_ignore_ascii_case(b"AUTH") && args.len() > at + 2 {
            authenticate(ctx, args.get(at + 1), args.get(at + 2))?;
            at += 3;
        } else if option.eq_ignore_ascii_case(b"SETNAME") && args.len() > at + 1 {
            name = Some(checked_name(args.get(at + 1))?);
            at += 2;
        } else {
            return Err(format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(option)).into());
        }
    }
    if !ctx.client.is_authenticated {
        return Err(errors::NO_AUTH_HELLO.into());
    }
    if let Some(name) = name {
        ctx.client.name = name;
    }
    ctx.client.protocol = protocol;
    out.set_protocol(protocol);
    let is_primary = matches!(ctx.host.role(), Role::Primary { .. });
    out.map(7);
    for (field, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        out.bulk(field.as_bytes());
        out.bulk(value.as_bytes());
    }
    out.bulk(b"proto");
    out.int(if protocol == Protocol::Resp3 { 3 } else { 2 });
    out.bulk(b"id");
    out.count(ctx.client.id);
    for (field, value) in [("mode", "standalone"), ("role", if is_primary { "master" } else { "replica" })] {
        out.bulk(field.as_bytes());
        out.bulk(value.as_bytes());
    }
    out.bulk(b"modules");
    out.array(0);
    Ok(())
}

fn checked_name(name: &[u8]) -> Result<String, Fail> {
    if name.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
        return Err("ERR Client names cannot contain spaces, newlines or special characters.".into());
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// CLIENT ID | INFO | LIST | SETNAME name | GETNAME
pub fn client(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let sub = args[1].to_ascii_lowercase();
    match (&sub[..], args.len()) {
        (b"id", 2) => out.count(ctx.client.id),
        (b"info", 2) => out.verbatim(format!("{}\n", ctx.client.card().line()).as_bytes()),
        (b"list", 2) => {
            let lines: String = ctx.host.clients().iter().map(|card| format!("{}\n", card.line())).collect();
            out.verbatim(lines.as_bytes());
        }
        (b"setname", 3) => {
            ctx.client.name = checked_name(&args[2])?;
            out.ok();
        }
        (b"getname", 2) if ctx.client.name.is_empty() => out.null(),
        (b"getname", 2) => out.bulk(ctx.client.name.as_bytes()),
        (b"id" | b"info" | b"list" | b"setname" | b"getname", _) => {
            return Err(errors::wrong_arity(&format!("client|{}", String::from_utf8_lossy(&sub))).into());
        }
        _ => return Err(errors::unknown_subcommand("CLIENT", &args[1]).into()),
    }
    Ok(())
}

/// COMMAND [COUNT | DOCS [name ...] | INFO [name ...] | LIST]
pub fn command(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let known = ctx.table.commands;
    let Some(sub) = args.try_get(1).map(<[u8]>::to_ascii_lowercase) else {
        out.array(known.len());
        known.iter().for_each(|command| write_info(command, out));
        return Ok(());
    };
    let named: Vec<Option<&Command>> = args.from(2).iter().map(|name| ctx.table.find(name)).collect();
    let all = || known.iter().map(Some).collect();
    match &sub[..] {
        b"count" | b"list" if args.len() > 2 => {
            return Err(errors::wrong_arity(&format!("command|{}", String::from_utf8_lossy(&sub))).into());
        }
        b"count" => out.count(known.len() as u64),
        b"list" => {
            out.array(known.len());
            known.iter().for_each(|command| out.bulk(command.name.as_bytes()));
        }
        b"info" => {
            let commands: Vec<_> = if named.is_empty() { all() } else { named };
            out.array(commands.len());
            for command in commands {
                match command {
                    Some(command) => write_info(command, out),
                    None => out.null(),
                }
            }
        }
        b"docs" => {
            let commands: Vec<_> = if named.is_empty() { all() } else { named };
            let described: Vec<&Command> = commands.into_iter().flatten().collect();
            out.map(described.len());
            for command in described {
                out.bulk(command.name.as_bytes());
                out.map(2);
                for (field, value) in [("summary", command.summary), ("group", command.group)] {
                    out.bulk(field.as_bytes());
                    out.bulk(value.as_bytes());
                }
            }
        }
        _ => return Err(errors::unknown_subcommand("COMMAND", &args[1]).into()),
    }
    Ok(())
}

fn write_info(command: &Command, out: &mut Out) {
    let names = [
        (Flag::Write, "write"),
        (Flag::ReadOnly, "readonly"),
        (Flag::DenyOom, "denyoom"),
        (Flag::Admin, "admin"),
        (Flag::NoAuth, "no_auth"),
        (Flag::Fast, "fast"),
    ];
    let flags: Vec<_> = names.into_iter().filter(|(flag, _)| command.has(*flag)).map(|(_, name)| name).collect();
    let (first, last, step) = command.keys;
    out.array(10);
    out.bulk(command.name.as_bytes());
    out.int(command.arity.into());
    out.set(flags.len());
    flags.iter().for_each(|flag| out.simple(flag));
    [first, last, step].into_iter().for_each(|position| out.int(position.into()));
    // The last four fields are ACL categories, tips, key specifications and subcommands, which walferry does not keep.
    out.set(0);
    (0..3).for_each(|_| out.array(0));
}
