//! Iterations over keys and elements.

use super::super::all_keys::{count_on_disk, list};
use super::super::host::Task;
use super::{Node, WRONG_TYPE};
use crate::engine::key::{SLOTS, slot};

fn items(reply: &str) -> (String, Vec<String>) {
    let mut bulks =
        reply.split('|').filter(|part| !part.starts_with(['*', '$']) && !part.is_empty()).map(str::to_owned);
    (bulks.next().unwrap(), bulks.collect())
}

/// Runs a whole iteration. Returns the number of its steps and the sorted items.
fn iterate(node: &mut Node, command: impl Fn(&str) -> String) -> (usize, Vec<String>) {
    let (mut cursor, mut steps, mut all) = ("0".to_owned(), 0, Vec::new());
    loop {
        let (next, found) = items(&node.run(&command(&cursor)));
        all.extend(found);
        steps += 1;
        if next == "0" {
            all.sort();
            return (steps, all);
        }
        cursor = next;
    }
}

#[test]
fn scan_returns_every_key_of_every_engine_once() {
    let mut node = Node::new();
    let mut names: Vec<String> = (0..300).map(|name| format!("key:{name:03}")).collect();
    for (nth, name) in names.iter().enumerate() {
        match nth % 4 {
            0 => drop(node.run(&format!("SET {name} v"))),
            1 => drop(node.run(&format!("SADD {name} v"))),
            2 => node.change(1, |keys| {
                let key = name.as_bytes();
                keys.change_in_memory(key, |ops| ops.push_back(key, [&b"x"[..]].into_iter())).unwrap();
            }),
            _ => node.change(1, |keys| {
                let key = name.as_bytes();
                keys.change_in_memory(key, |ops| ops.set_scores(key, [(&b"m"[..], 1.0)].into_iter())).unwrap();
            }),
        }
    }
    for count in [1, 7, 1000] {
        let (steps, all) = iterate(&mut node, |cursor| format!("SCAN {cursor} COUNT {count}"));
        assert_eq!(all, names);
        assert_eq!(steps == 1, count == 1000, "{steps} steps of {count}");
    }
    let (_, sets) = iterate(&mut node, |cursor| format!("SCAN {cursor} TYPE SET MATCH key:*1"));
    let expected: Vec<String> = (0..300).filter(|n| n % 4 == 1 && n % 10 == 1).map(|n| format!("key:{n:03}")).collect();
    assert_eq!(sets, expected);
    let (_, lists) = iterate(&mut node, |cursor| format!("SCAN {cursor} TYPE list"));
    assert_eq!(lists.len(), 75);
    names.truncate(10);
    let (_, found) = items(&format!("0|{}", node.run("KEYS key:00?")));
    assert_eq!(found.len(), names.len());
    node.check(&[
        ("SCAN x", "-ERR invalid cursor|"),
        ("SCAN 0 COUNT 0", "-ERR syntax error|"),
        ("SCAN 0 COUNT x", "-ERR value is not an integer or out of range|"),
        ("SCAN 0 MATCH", "-ERR syntax error|"),
    ]);
    assert_eq!(node.run("SCAN 18446744073709551615"), "-ERR invalid cursor|", "no cursor that is known");
}

#[test]
fn elements_are_scanned_in_steps() {
    let mut node = Node::new();
    node.check(&[
        ("SADD small c a b", ":3|"),
        ("SSCAN small 0 COUNT 1", "*2|$1|0|*3|$1|a|$1|b|$1|c|"),
        ("SSCAN small 0 MATCH [ab]", "*2|$1|0|*2|$1|a|$1|b|"),
        ("SSCAN missing 0 nonsense", "*2|$1|0|*0|"),
        ("SSCAN small 0 nonsense", "-ERR syntax error|"),
        ("SSCAN small 0 TYPE x", "-ERR syntax error|"),
        ("HSCAN small 0", WRONG_TYPE),
        ("HSCAN missing x", "-ERR invalid cursor|"),
        ("HSET h f v", ":1|"),
        ("HSCAN h 0", "*2|$1|0|*2|$1|f|$1|v|"),
        ("HSCAN h 12345", "-ERR invalid cursor|"),
    ]);
    let members: Vec<String> = (0..2000).map(|member| format!("m{member:04}")).collect();
    node.run(&format!("SADD large {}", members.join(" ")));
    let (steps, all) = iterate(&mut node, |cursor| format!("SSCAN large {cursor} COUNT 150"));
    assert_eq!((steps, all), (14, members));
}

/// Goal: SCAN returns a slot of very many keys in steps, each key once, although the slot has one number.
#[test]
fn a_slot_of_many_keys_is_scanned_in_steps() {
    let mut node = Node::new();
    let names: Vec<String> = (0..4900).map(|name| format!("{{tag}}:{name:04}")).collect();
    node.change(0, |keys| names.iter().for_each(|name| keys.put_string(name.as_bytes(), b"", 0).unwrap()));
    node.run("SET other x");
    let (steps, mut all) = iterate(&mut node, |cursor| format!("SCAN {cursor} COUNT 100000"));
    all.retain(|name| name != "other");
    assert_eq!((steps, all.len()), (3, names.len()));
    assert_eq!(all, names);
}

/// Goal: slots without keys are skipped after a walk saw that they are empty, and are not skipped after a key came into
/// them, however it came.
#[test]
fn slots_without_keys_are_known() {
    let mut node = Node::new();
    let slots = |node: &Node| {
        let known = node.committer().disk().rows().slots();
        (0..SLOTS).filter(|&slot| known.may_have_keys(slot)).collect::<Vec<_>>()
    };
    node.check(&[("SET a 1", "+OK|"), ("SET b 1", "+OK|"), ("HSET c f v", ":1|"), ("DEL b", ":1|")]);
    assert_eq!(iterate(&mut node, |cursor| format!("SCAN {cursor}")).1, ["a", "c"]);
    let mut used = vec![slot(b"a"), slot(b"c")];
    used.sort_unstable();
    assert_eq!(slots(&node), used);
    node.check(&[("DEL a c", ":2|"), ("KEYS *", "*0|"), ("DBSIZE", ":0|")]);
    assert_eq!(slots(&node), Vec::<u16>::new());
    let before = node.last();
    assert_eq!(node.run("FLUSHALL"), "+OK|");
    assert_eq!(node.last(), before, "nothing is there to delete");
    // In one pipeline SCAN sees effects that are not written yet.
    let requests = ["SET b 1", "SCAN 0", "DEL b", "SCAN 0"].map(super::rig::words);
    assert_eq!(node.pipeline(&requests), "+OK|*2|$1|0|*1|$1|b|:1|*2|$1|0|*0|");
    node.check(&[("SADD b m", ":1|"), ("KEYS *", "*1|$1|b|"), ("FLUSHALL", "+OK|"), ("SCAN 0", "*2|$1|0|*0|")]);
    node.check(&[("XADD b 1-1 f v", "$3|1-1|"), ("DBSIZE", ":1|"), ("SCAN 0", "*2|$1|0|*1|$1|b|")]);
    assert_eq!(slots(&node), [slot(b"b")]);
}

/// Goal: where keys are many, DBSIZE and KEYS become a task; inside EXEC they cannot.
#[test]
fn commands_over_many_keys_are_tasks() {
    let mut node = Node::new();
    let fill = |node: &Node, from: u32, to: u32| {
        node.change(0, |keys| (from..to).for_each(|name| keys.put_string(&name.to_be_bytes(), b"", 0).unwrap()));
    };
    fill(&node, 0, 1000);
    node.check(&[("DBSIZE", ":1000|"), ("KEYS none", "*0|")]);
    fill(&node, 1000, 1001);
    for (request, task) in [("DBSIZE", Task::CountKeys), ("KEYS a*", Task::ListKeys(b"a*".to_vec()))] {
        assert_eq!(node.run(request), "");
        assert_eq!(node.client.task.take(), Some(task));
    }
    let reply = node.transaction(&["DBSIZE", "KEYS *"]);
    assert!(reply.starts_with("*2|:1000000|-ERR KEYS inside MULTI would hold up other clients"), "{reply}");
    node.run("RPUSH list x");
    assert_eq!(list(node.committer(), b"lis?").unwrap().as_ref(), b"*1\r\n$4\r\nlist\r\n");
    assert_eq!(count_on_disk(node.committer().disk()).unwrap(), 1001);
}
