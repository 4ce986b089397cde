//! Expired keys and the expiry index.

use super::super::committer::tests::Rig;
use super::*;
use crate::config::AppendFsync;
use crate::csn::Csn;
use crate::engine::keyspace::Keyspace;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Runs a change as one commit.
fn change(rig: &Rig, now_ms: u64, change: impl FnOnce(&mut Keyspace<'_>)) {
    let mut guard = rig.committer.lock_writer();
    change(&mut guard.keyspace(now_ms));
    guard.commit();
    leave(&rig.committer, guard);
}

/// Lets the sweeper look until it finds no expired key.
fn sweep(sweeper: &mut Sweeper, now_ms: u64) {
    for _ in 0..100 {
        sweeper.look(now_ms).unwrap();
        if sweeper.sweep.is_none() {
            return;
        }
    }
    panic!("a sweep does not end");
}

fn index(rig: &Rig) -> Vec<(u64, String)> {
    let entries = expiry::entries(rig.committer.disk(), &(0..u64::MAX), None, usize::MAX).unwrap();
    entries.into_iter().map(|entry| (entry.at_ms, String::from_utf8(entry.key).unwrap())).collect()
}

fn last(rig: &Rig) -> Csn {
    rig.committer.lock_logs().position().csn
}

fn expire_ms(rig: &Rig, key: &str) -> Option<u64> {
    let mut turn = rig.committer.lock_logs();
    let found = turn.keyspace(0).find(key.as_bytes()).unwrap();
    (!found.is_absent()).then(|| found.expire_ms())
}

fn set(key: &str, expire_ms: u64) -> impl FnOnce(&mut Keyspace<'_>) {
    move |keys| keys.put_string(key.as_bytes(), b"value", expire_ms).unwrap()
}

fn expire(key: &str, at_ms: u64) -> impl FnOnce(&mut Keyspace<'_>) {
    move |keys| {
        let found = keys.find_to_change(key.as_bytes()).unwrap();
        keys.set_expire(key.as_bytes(), &found, at_ms).unwrap();
    }
}

fn delete(key: &str) -> impl FnOnce(&mut Keyspace<'_>) {
    move |keys| {
        let found = keys.find_to_change(key.as_bytes()).unwrap();
        keys.delete(key.as_bytes(), &found).unwrap();
    }
}

/// Goal: expired keys are deleted in all engines, each by a commit of its own; other keys stay.
#[test]
fn expired_keys_are_deleted_one_by_one() {
    let rig = Rig::new(AppendFsync::No);
    for key in ["a", "b", "later"] {
        change(&rig, 10, set(key, 100));
    }
    change(&rig, 10, set("stays", 0));
    change(&rig, 10, |keys| {
        keys.change_in_memory(b"list", |ops| ops.push_back(b"list", [&b"element"[..]].into_iter())).unwrap();
    });
    change(&rig, 10, expire("list", 90));
    change(&rig, 10, expire("later", 200));
    let mut sweeper = Sweeper::new(Arc::clone(&rig.committer));
    sweep(&mut sweeper, 89);
    let before = last(&rig);
    assert_eq!(before, Csn(7), "nothing was due");
    sweep(&mut sweeper, 100);
    assert_eq!(last(&rig), Csn(before.0 + 4), "three keys, and the entry of the one that expires later");
    let left = ["a", "b", "later", "stays", "list"].map(|key| expire_ms(&rig, key));
    assert_eq!(left, [None, None, Some(200), Some(0), None]);
    assert_eq!(index(&rig), [(200, "later".into())]);
    sweep(&mut sweeper, 100);
    assert_eq!(last(&rig), Csn(before.0 + 4), "once");
}

/// Goal: a key that is set or expired anew many times has one entry in the index, and is deleted when it finally
/// expires.
#[test]
fn a_key_that_is_set_anew_has_one_entry() {
    let rig = Rig::new(AppendFsync::No);
    let mut sweeper = Sweeper::new(Arc::clone(&rig.committer));
    for now_ms in 0..1000 {
        change(&rig, now_ms, set("set", now_ms + 100));
        change(&rig, now_ms, expire("set", now_ms + 150));
        change(&rig, now_ms, set("swept", now_ms + 100));
        if now_ms.is_multiple_of(300) {
            sweep(&mut sweeper, now_ms);
            assert!(index(&rig).len() <= 2);
        }
    }
    sweep(&mut sweeper, 1000);
    assert_eq!(index(&rig), [(1001, "set".into()), (1099, "swept".into())], "where it was to expire first is in time");
    change(&rig, 1000, delete("swept"));
    sweep(&mut sweeper, 1001);
    assert_eq!(index(&rig), [(1149, "set".into())]);
    change(&rig, 1002, expire("set", 1020));
    assert_eq!(index(&rig), [(1020, "set".into())]);
    sweep(&mut sweeper, 1020);
    assert_eq!((index(&rig), expire_ms(&rig, "set")), (Vec::new(), None));
}

/// Goal: neither a clock that is set back nor a restart, which forgets the known entries, leaves an expired key
/// behind.
#[test]
fn nothing_is_left_behind_by_a_clock_set_back_or_a_restart() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let rig = Rig::open(AppendFsync::No, Arc::default(), &dir).unwrap();
    let mut sweeper = Sweeper::new(Arc::clone(&rig.committer));
    sweep(&mut sweeper, 5000);
    change(&rig, 1000, set("early", 1100));
    sweep(&mut sweeper, 1200);
    assert_eq!(expire_ms(&rig, "early"), Some(1100), "hidden, and waits for the clock");
    change(&rig, 5100, set("again", 6000));
    sweep(&mut sweeper, 5200);
    assert_eq!((expire_ms(&rig, "early"), expire_ms(&rig, "again")), (None, Some(6000)));
    drop((sweeper, rig));
    let rig = Rig::open(AppendFsync::No, Arc::default(), &dir).unwrap();
    change(&rig, 5300, set("again", 7000));
    change(&rig, 5300, set("new", 5400));
    let mut sweeper = Sweeper::new(Arc::clone(&rig.committer));
    sweep(&mut sweeper, 6500);
    assert_eq!((expire_ms(&rig, "again"), expire_ms(&rig, "new")), (Some(7000), None));
    sweep(&mut sweeper, 7000);
    assert_eq!((expire_ms(&rig, "again"), index(&rig)), (None, Vec::new()));
}

/// A step of a client or of the node; keys are few.
#[derive(Clone, Debug)]
enum Step {
    Set(u8, u64),
    Expire(u8, u64),
    Delete(u8),
    /// Time passes, and the sweeper looks.
    Pass(u64),
    /// The known entries of the index are forgotten.
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..3u8;
    prop_oneof![
        4 => (key.clone(), prop::option::of(1..200u64)).prop_map(|(key, in_ms)| Step::Set(key, in_ms.unwrap_or(0))),
        4 => (key.clone(), prop::option::of(1..200u64)).prop_map(|(key, in_ms)| Step::Expire(key, in_ms.unwrap_or(0))),
        1 => key.prop_map(Step::Delete),
        4 => (0..80u64).prop_map(Step::Pass),
        1 => Just(Step::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Goal: whatever steps come before, all keys are deleted once they have expired, and then the index is empty.
    #[test]
    fn all_that_expires_goes(steps in prop::collection::vec(step(), 1..60)) {
        let rig = Rig::new(AppendFsync::No);
        let mut sweeper = Sweeper::new(Arc::clone(&rig.committer));
        let (mut now_ms, mut model) = (1000, BTreeMap::new());
        let deadline = |in_ms: u64, now_ms: u64| if in_ms == 0 { 0 } else { now_ms + in_ms };
        let name = |key: u8| key.to_string();
        for step in steps {
            model.retain(|_, &mut at_ms: &mut u64| at_ms == 0 || at_ms > now_ms);
            match step {
                Step::Set(key, in_ms) => {
                    change(&rig, now_ms, set(&name(key), deadline(in_ms, now_ms)));
                    model.insert(key, deadline(in_ms, now_ms));
                }
                Step::Expire(key, in_ms) => {
                    change(&rig, now_ms, expire(&name(key), deadline(in_ms, now_ms)));
                    model.entry(key).and_modify(|at_ms| *at_ms = deadline(in_ms, now_ms));
                }
                Step::Delete(key) => {
                    change(&rig, now_ms, delete(&name(key)));
                    model.remove(&key);
                }
                Step::Pass(ms) => {
                    now_ms += ms;
                    sweep(&mut sweeper, now_ms);
                    model.retain(|_, &mut at_ms: &mut u64| at_ms == 0 || at_ms > now_ms);
                    for key in 0..3 {
                        prop_assert_eq!(expire_ms(&rig, &name(key)), model.get(&key).copied());
                    }
                }
                Step::Forget => {
                    let mut guard = rig.committer.lock_writer();
                    guard.writer().expiries.clear();
                    let _ = guard.leave_open();
                }
            }
        }
        sweep(&mut sweeper, now_ms + 1000);
        model.retain(|_, at_ms| *at_ms == 0);
        for key in 0..3 {
            prop_assert_eq!(expire_ms(&rig, &name(key)), model.get(&key).copied());
        }
        prop_assert_eq!(index(&rig), Vec::new());
    }
}
