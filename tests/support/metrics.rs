//! The Prometheus metrics of a node.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

/// Returns the samples of `GET /metrics` by name with labels.
#[track_caller]
pub(crate) fn metrics(port: u16) -> BTreeMap<String, f64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the metrics port is open");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a request is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer comes");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| line.rsplit_once(' ').expect("a name and a value"));
    samples.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
}

/// Returns the only sample with this name, whatever its labels.
#[track_caller]
pub(crate) fn sample(metrics: &BTreeMap<String, f64>, name: &str) -> f64 {
    let with_labels = format!("{name}{{");
    let mut found = metrics.iter().filter(|(found, _)| **found == name || found.starts_with(&with_labels));
    let (_, value) = found.next().unwrap_or_else(|| panic!("{name} is not among the metrics"));
    assert!(found.next().is_none(), "{name} is there more than once");
    *value
}
