//! Iterations over keys and elements.

use super::{Node, WRONG_TYPE};

fn items(reply: &str) -> (String, Vec<String>) {
    let mut bulks =
        reply.split('|').filter(|part| !part.starts_with(['*', '$']) && !part.is_empty()).map(str::to_owned);
    (bulks.next().unwrap(), bulks.collect())
}

/// Goes through a whole iteration; what it returned, sorted.
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
                keys.change_list(key, |ops| ops.push_back(key, [&b"x"[..]].into_iter())).unwrap();
            }),
            _ => node.change(1, |keys| {
                let key = name.as_bytes();
                keys.change_zset(key, |ops| ops.set(key, [(&b"m"[..], 1.0)].into_iter())).unwrap();
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
    assert_eq!(items(&node.run("SCAN 18446744073709551615")), ("0".into(), vec![]));
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
