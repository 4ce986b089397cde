//! Many keys: commands that read all keys do not delay other clients, and expired keys are deleted in every situation.

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use support::client::{Client, Command, bytes, cmd, elements, error_text, integer};
use support::process::{Launch, Node, SETTLED_WITHIN, wait_until};

const KEYS: usize = 200_000;
/// Least number of other requests answered while all keys are read, which takes as long as hundreds of requests.
const ANSWERED_MIN: usize = 10;

fn fill(client: &mut Client) {
    for start in (0..KEYS).step_by(10_000) {
        let sets: Vec<Command> =
            (start..start + 10_000).map(|key| cmd!("SET", format!("key:{key}"), "value")).collect();
        client.pipeline(&sets);
    }
}

/// Returns how many writes and reads of another client are answered before `command` is, and the reply to `command`.
fn answered_during(node: &Node, command: &Command) -> (usize, redis::Value) {
    let mut asking = node.client();
    let mut other = node.client();
    other.ok(&cmd!("GET", "key:1"));
    let is_answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        asking.send(std::slice::from_ref(command)).expect("it is sent");
        let waiting = scope.spawn(|| {
            let reply = asking.receive().expect("it is answered");
            is_answered.store(true, Ordering::SeqCst);
            reply
        });
        let mut answered = 0;
        while !is_answered.load(Ordering::SeqCst) {
            other.ok(&cmd!("SET", "key:1", "value"));
            other.ok(&cmd!("GET", "key:2"));
            answered += 2;
        }
        (answered, waiting.join().expect("it does not panic"))
    })
}

/// Goal: KEYS and DBSIZE over very many keys give right replies, and other clients' writes and reads are answered
/// meanwhile. SCAN does not read all keys at once, whatever its COUNT is.
#[test]
fn commands_that_read_all_keys_hold_nobody_up() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let primary = Launch::primary(&root.path().join("primary")).set("routing", "type").start();
    let mut client = primary.client();
    fill(&mut client);
    client.ok(&cmd!("RPUSH", "list", "in memory"));

    let (answered, found) = answered_during(&primary, &cmd!("KEYS", "key:19999[1-3]"));
    let found: BTreeSet<Vec<u8>> = elements(&found).iter().map(bytes).collect();
    assert_eq!(found, [199_991, 199_992, 199_993].map(|key| format!("key:{key}").into_bytes()).into());
    assert!(answered >= ANSWERED_MIN, "{answered} requests were answered during KEYS");
    let (answered, count) = answered_during(&primary, &cmd!("DBSIZE"));
    assert_eq!(integer(&count), KEYS as i64 + 1);
    assert!(answered >= ANSWERED_MIN, "{answered} requests were answered during DBSIZE");

    let step = client.ok(&cmd!("SCAN", 0, "COUNT", 1_000_000));
    assert!(elements(&elements(&step)[1]).len() < 5_000, "a step of SCAN is bounded");
    let replies = client.pipeline(&[cmd!("MULTI"), cmd!("KEYS", "*"), cmd!("DBSIZE"), cmd!("EXEC")]);
    let [keys, count] = elements(&replies[3]) else { panic!("EXEC answered {:?}", replies[3]) };
    assert!(error_text(keys).is_some_and(|error| error.contains("use SCAN")), "{keys:?}");
    assert_eq!(integer(count), KEYS as i64 + 1);
    let replies =
        client.pipeline(&[cmd!("SET", "one more", 1), cmd!("DBSIZE"), cmd!("DEL", "one more"), cmd!("DBSIZE")]);
    assert_eq!([1, 3].map(|nth| integer(&replies[nth])), [KEYS as i64 + 2, KEYS as i64 + 1], "in order");
}

/// Goal: keys are deleted when they expire and not before, on the primary and its replica, also if the expiry was
/// changed or removed, and across a crash of the primary and a promotion of the replica.
#[test]
fn what_expires_goes_and_the_rest_stays_across_a_crash_and_a_promotion() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let mut primary = Launch::primary(&root.path().join("primary")).start();
    let replica = Launch::replica(&root.path().join("replica"), primary.launch.repl_port).start();
    let (mut on_primary, mut on_replica) = (primary.client(), replica.client());
    let each = |make: &dyn Fn(usize) -> Command| -> Vec<Command> { (0..1000).map(make).collect() };
    on_primary.pipeline(&each(&|n| cmd!("SET", format!("gone:{n}"), n, "PX", 300)));
    on_primary.pipeline(&each(&|n| cmd!("SET", format!("anew:{n}"), n, "PX", 300)));
    on_primary.pipeline(&each(&|n| cmd!("SET", format!("anew:{n}"), n, "PX", 600)));
    on_primary.pipeline(&each(&|n| cmd!("HSET", format!("kept:{n}"), "field", n)));
    on_primary.pipeline(&each(&|n| cmd!("PEXPIRE", format!("kept:{n}"), 400)));
    on_primary.pipeline(&each(&|n| cmd!("PERSIST", format!("kept:{n}"))));
    on_primary.pipeline(&each(&|n| cmd!("SET", format!("late:{n}"), n, "PX", 400)));
    on_primary.pipeline(&each(&|n| cmd!("EXPIRE", format!("late:{n}"), 8)));
    primary.kill();
    primary.restart();
    let mut on_primary = primary.client();
    let keys_are = |client: &mut Client, expected: i64| {
        wait_until(&format!("{expected} keys are left"), SETTLED_WITHIN, || {
            let count = integer(&client.ok(&cmd!("DBSIZE")));
            assert!(count >= expected, "{count} keys are left of {expected}");
            (count == expected).then_some(())
        });
    };
    keys_are(&mut on_primary, 2000);
    keys_are(&mut on_replica, 2000);
    primary.kill();
    on_replica.ok(&cmd!("REPLICAOF", "NO", "ONE"));
    on_replica.ok(&cmd!("SET", "mine", 1, "PX", 100));
    keys_are(&mut on_replica, 1000);
    assert_eq!(integer(&on_replica.ok(&cmd!("EXISTS", "kept:7"))), 1);
}
