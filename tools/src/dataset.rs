//! The whole data set of a node, read through its public commands, for comparing nodes.

use crate::client::{Answer, Client, text};
use redis::Value;
use std::collections::BTreeMap;

/// Number of keys requested at a time.
const SCAN_COUNT: &str = "1000";

/// All keys, each with its type and content in a canonical form.
pub(crate) type Dataset = BTreeMap<Vec<u8>, String>;

/// Reads the type and content of every key.
pub(crate) fn read(client: &mut Client) -> Answer<Dataset> {
    let mut dataset = Dataset::new();
    let mut cursor = "0".to_owned();
    loop {
        let Value::Array(mut reply) = client.call(&["SCAN", &cursor, "COUNT", SCAN_COUNT])? else {
            return Err("the reply to SCAN is not an array".into());
        };
        let (keys, next) = (reply.pop(), reply.pop());
        let Some(Value::Array(keys)) = keys else { return Err("the reply to SCAN contains no keys".into()) };
        let keys: Vec<Vec<u8>> = keys.into_iter().map(bytes).collect();
        for (key, content) in keys.iter().zip(read_keys(client, &keys)?) {
            dataset.insert(key.clone(), content);
        }
        cursor = next.as_ref().map(text).unwrap_or_default();
        if cursor == "0" {
            return Ok(dataset);
        }
    }
}

fn read_keys(client: &mut Client, keys: &[Vec<u8>]) -> Answer<Vec<String>> {
    let ask = |name: &str, key: &Vec<u8>| vec![name.as_bytes().to_vec(), key.clone()];
    let types = client.pipeline(&keys.iter().map(|key| ask("TYPE", key)).collect::<Vec<_>>())?;
    let commands: Vec<Vec<Vec<u8>>> =
        keys.iter().zip(&types).map(|(key, kind)| content_command(&text(kind), key)).collect();
    let contents = client.pipeline(&commands)?;
    Ok(types.iter().zip(contents).map(|(kind, content)| canonical(&text(kind), content)).collect())
}

fn content_command(kind: &str, key: &[u8]) -> Vec<Vec<u8>> {
    let (name, options): (&str, &[&str]) = match kind {
        "string" => ("GET", &[]),
        "hash" => ("HGETALL", &[]),
        "set" => ("SMEMBERS", &[]),
        "list" => ("LRANGE", &["0", "-1"]),
        "zset" => ("ZRANGE", &["0", "-1", "WITHSCORES"]),
        "stream" => ("XRANGE", &["-", "+"]),
        _ => ("EXISTS", &[]),
    };
    let mut command = vec![name.as_bytes().to_vec(), key.to_vec()];
    command.extend(options.iter().map(|option| option.as_bytes().to_vec()));
    command
}

/// Returns the content in a canonical form. Hashes and sets are sorted, because they have no order.
fn canonical(kind: &str, content: Value) -> String {
    match (kind, content) {
        ("set", Value::Array(members)) => {
            let mut members: Vec<_> = members.into_iter().map(bytes).collect();
            members.sort();
            format!("set {members:?}")
        }
        ("hash", Value::Array(items)) => {
            let flat: Vec<_> = items.into_iter().map(bytes).collect();
            let mut pairs: Vec<_> = flat.chunks(2).collect();
            pairs.sort();
            format!("hash {pairs:?}")
        }
        (kind, content) => format!("{kind} {content:?}"),
    }
}

fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        other => text(&other).into_bytes(),
    }
}

/// Returns the first key on which two data sets differ; `None` if they are equal.
#[must_use]
pub(crate) fn first_difference(a: &Dataset, b: &Dataset) -> Option<String> {
    let keys = a.keys().chain(b.keys());
    let differing = keys.into_iter().find(|key| a.get(*key) != b.get(*key))?;
    Some(differing.escape_ascii().to_string())
}
