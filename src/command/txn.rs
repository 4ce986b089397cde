//! Transactions: MULTI queues commands, EXEC runs the queue as one commit, WATCH makes the commit conditional.

use super::args::{Args, OwnedArgs};
use super::client::{Client, QUEUE_BYTES_MAX, Queue};
use super::definition::{Command, Ctx, Done, Fail, Flag};
use super::reply::Out;
use super::{demand, errors};

/// Commands that do more than make effects, and therefore cannot wait in a queue.
const NOT_QUEUED: [&str; 5] = ["walferry", "shutdown", "replicaof", "slaveof", "hello"];

/// Queues a command inside MULTI.
pub(super) fn enqueue(client: &mut Client, command: &Command, args: Args<'_>, out: &mut Out) -> Done {
    if NOT_QUEUED.contains(&command.name) {
        return Err("ERR Command not allowed inside a transaction".into());
    }
    let queue = client.queue.as_mut().expect("the caller found one");
    let queued = OwnedArgs::from(args);
    queue.bytes += queued.byte_len();
    if queue.bytes > QUEUE_BYTES_MAX {
        return Err("ERR the transaction is too large".into());
    }
    if command.has(Flag::Write) {
        queue.has_writes = true;
        queue.grows |= !command.has(Flag::Frees);
        queue.row_bytes = queue.row_bytes.saturating_add(demand::row_bytes(args));
    }
    queue.requests.push(queued);
    out.simple("QUEUED");
    Ok(())
}

/// MULTI.
pub(super) fn multi(ctx: &mut Ctx<'_>, _: Args<'_>, out: &mut Out) -> Done {
    if ctx.client.queue.is_some() {
        return Err(errors::NESTED_MULTI.into());
    }
    ctx.client.queue = Some(Queue::default());
    out.ok();
    Ok(())
}

/// DISCARD.
pub(super) fn discard(ctx: &mut Ctx<'_>, _: Args<'_>, out: &mut Out) -> Done {
    if ctx.client.queue.take().is_none() {
        return Err(errors::DISCARD_WITHOUT_MULTI.into());
    }
    ctx.client.watched = None;
    out.ok();
    Ok(())
}

/// WATCH key [key ...]
pub(super) fn watch(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    if ctx.client.queue.is_some() {
        return Err(errors::WATCH_IN_MULTI.into());
    }
    let flag = ctx.client.watch_flag();
    for key in args.from(1).iter() {
        ctx.keys.watch(key, &flag)?;
    }
    out.ok();
    Ok(())
}

/// UNWATCH.
pub(super) fn unwatch(ctx: &mut Ctx<'_>, _: Args<'_>, out: &mut Out) -> Done {
    ctx.client.watched = None;
    out.ok();
    Ok(())
}

/// EXEC.
pub(super) fn exec(ctx: &mut Ctx<'_>, _: Args<'_>, out: &mut Out) -> Done {
    let Some(queue) = ctx.client.queue.take() else { return Err(errors::EXEC_WITHOUT_MULTI.into()) };
    let is_dirty = ctx.client.is_dirty();
    ctx.client.watched = None;
    if queue.is_broken {
        return Err(errors::EXEC_ABORT.into());
    }
    if is_dirty {
        out.null_array();
        return Ok(());
    }
    out.array(queue.requests.len());
    ctx.client.is_in_exec = true;
    let done = run_queue(ctx, &queue, out);
    ctx.client.is_in_exec = false;
    done
}

fn run_queue(ctx: &mut Ctx<'_>, queue: &Queue, out: &mut Out) -> Done {
    let calls: Vec<_> = ctx.table.queued(queue).collect();
    for (command, args) in calls {
        let start = out.next_start();
        match (command.run)(ctx, args, out) {
            Ok(()) if !ctx.keys.is_over_bound() => {}
            Ok(()) => return Err(Fail::TooLarge),
            Err(Fail::Reply(message)) => {
                out.truncate(start);
                out.error(&message);
            }
            // The session takes back the effects of the earlier commands.
            Err(fail) => return Err(fail),
        }
    }
    Ok(())
}
