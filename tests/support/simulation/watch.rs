//! Reads from one server all the time, whatever happens to it: no transaction is ever torn, neither the durable nor the
//! archived watermark exceeds the committed one, and nothing that one connection saw is ever taken back.

use super::super::client::{Client, Watermarks, elements, framed};
use super::line;
use redis::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Time between two reads, and between two attempts to connect.
const LOOK: Duration = Duration::from_millis(20);
/// Time without a reply after which a new connection is made.
const PATIENCE: Duration = Duration::from_secs(1);

/// Watches the server on a port until told to stop.
pub(super) fn watch(name: &str, port: u16, writers: usize, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(client) = Client::connect_within(port, PATIENCE) {
            watch_connection(name, client, writers, stop);
        }
        std::thread::sleep(LOOK);
    }
}

/// Watches over one connection; returns when the server does not answer.
fn watch_connection(name: &str, mut client: Client, writers: usize, stop: &AtomicBool) {
    let mut last: Option<(Watermarks, Vec<u64>)> = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(watermarks) = client.try_watermarks() else { return };
        let Some(replies) = read_all(&mut client, writers) else { return };
        let Watermarks { committed, durable, archived, .. } = watermarks;
        assert!(durable <= committed, "{name}: durable beyond committed: {watermarks:?}");
        assert!(archived <= committed, "{name}: archived beyond committed: {watermarks:?}");
        let read = replies.chunks(line::reads(0).len()).map(line::position_read).collect::<Result<Vec<_>, _>>();
        let positions = read.unwrap_or_else(|torn| panic!("{name}: {torn}"));
        if let Some((before, seen)) = &last {
            let goes_on = committed >= before.committed && archived >= before.archived && durable >= before.durable;
            assert!(goes_on, "{name}: a watermark went back: {before:?}, then {watermarks:?}");
            let has_all = positions.iter().zip(seen).all(|(now, before)| now >= before);
            assert!(has_all, "{name}: commits that were seen are gone: {seen:?}, then {positions:?}");
        }
        last = Some((watermarks, positions));
        std::thread::sleep(LOOK);
    }
}

/// Reads every writer's position and pair in one transaction; `None` if the server does not reply, or replies with an
/// error, as it does while it starts.
fn read_all(client: &mut Client, writers: usize) -> Option<Vec<Value>> {
    let commands = framed(&(0..writers).flat_map(line::reads).collect::<Vec<_>>());
    client.send(&commands).ok()?;
    let mut last = Value::Nil;
    for _ in &commands {
        last = client.receive().ok()?;
    }
    if matches!(last, Value::ServerError(_)) { None } else { Some(elements(&last).to_vec()) }
}
