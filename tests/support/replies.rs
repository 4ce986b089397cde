//! The reply table: scripts in a text form, run against two servers, and compared reply by reply.
//!
//! A table consists of lines of commands; a blank line ends a case, and each case starts on empty servers with a new
//! connection. A word ends at a blank; `''` is the empty word; `\n`, `\r`, `\t`, `\s` (blank), `\\` and `\xNN` are
//! escapes. The first character of a line may say how its replies are compared:
//!
//! | mark | the replies must |
//! |---|---|
//! | none | be the same bytes |
//! | `~` | have the same elements in any order (also inside a SCAN reply) |
//! | `%` | have the same pairs in any order (HGETALL, also inside an HSCAN reply) |
//! | `=` | be integers at most 1500 apart (PTTL) |
//! | `?` | be of the same kind: both errors, both integers, both arrays ... |
//! | `#` | (a comment) |

use super::client::{Client, Command, cmd, elements, error_text, show};
use super::dump::{difference, dump};
use redis::Value;

/// How two replies are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Compare {
    /// The bytes on the wire.
    Bytes,
    /// Elements as a set.
    Elements,
    /// Pairs as a set.
    Pairs,
    /// Numbers that may differ a little.
    Near,
    /// The kind only.
    Kind,
}

/// One command of a script and how its replies are compared.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The command.
    pub command: Command,
    /// The comparison.
    pub compare: Compare,
}

/// A script on empty servers.
pub(crate) type Case = Vec<Line>;

/// Largest difference of numbers marked as near, in milliseconds: the two servers are asked one after the other.
const NEAR: u64 = 1500;

/// Parses a table.
pub(crate) fn parse(table: &str) -> Vec<Case> {
    let mut cases = vec![Case::new()];
    for line in table.lines().map(str::trim) {
        if line.is_empty() {
            cases.push(Case::new());
        } else if !line.starts_with('#') {
            cases.last_mut().expect("never empty").push(parse_line(line));
        }
    }
    cases.retain(|case| !case.is_empty());
    cases
}

fn parse_line(line: &str) -> Line {
    let (compare, words) = match line.as_bytes()[0] {
        b'~' => (Compare::Elements, &line[1..]),
        b'%' => (Compare::Pairs, &line[1..]),
        b'=' => (Compare::Near, &line[1..]),
        b'?' => (Compare::Kind, &line[1..]),
        _ => (Compare::Bytes, line),
    };
    Line { command: words.split_ascii_whitespace().map(unescape).collect(), compare }
}

fn unescape(word: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = if word == "''" { &[] } else { word.as_bytes() };
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let (escape, tail) = rest.split_first().expect("an escape has a letter");
        rest = tail;
        bytes.push(match escape {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b's' => b' ',
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).expect("two hexadecimal digits");
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).expect("two hexadecimal digits")
            }
            other => *other,
        });
    }
    bytes
}

/// Runs a case on both servers and returns descriptions of the differences; empty if there are none. `greeting` is
/// sent first on each connection (`HELLO 3`, or nothing).
#[track_caller]
pub(crate) fn run_case(case: &Case, oracle_port: u16, subject_port: u16, greeting: Option<&Command>) -> Vec<String> {
    let mut sides = [oracle_port, subject_port].map(|port| Client::connect(port).expect("the server accepts"));
    for side in &mut sides {
        side.ok(&cmd!("FLUSHALL"));
        if let Some(greeting) = greeting {
            side.ok(greeting);
        }
    }
    let mut differences = Vec::new();
    for (number, line) in case.iter().enumerate() {
        let [expected, found] = sides.each_mut().map(|side| side.try_call(&line.command));
        let (Ok(expected), Ok(found)) = (&expected, &found) else {
            if expected.is_ok() != found.is_ok() {
                differences.push(describe(case, number, &format!("{expected:?}"), &format!("{found:?}")));
            }
            return differences;
        };
        if !matches(line.compare, expected, found, &sides) {
            let [expected, found] = sides.each_ref().map(|side| side.last_bytes().escape_ascii().to_string());
            differences.push(describe(case, number, &expected, &found));
        }
    }
    differences.extend(final_states_differ(case, oracle_port, subject_port));
    differences
}

/// Compares all data of both servers after a case, over new connections.
fn final_states_differ(case: &Case, oracle_port: u16, subject_port: u16) -> Option<String> {
    let [expected, found] =
        [oracle_port, subject_port].map(|port| dump(&mut Client::connect(port).expect("the server accepts")));
    let report = difference(&expected, &found)?;
    Some(format!("{}\n  and then the data: {report}", script(case, case.len() - 1)))
}

fn matches(compare: Compare, expected: &Value, found: &Value, sides: &[Client; 2]) -> bool {
    match compare {
        Compare::Bytes => sides[0].last_bytes() == sides[1].last_bytes(),
        Compare::Elements => kind(expected) == kind(found) && sorted(expected, 1) == sorted(found, 1),
        Compare::Pairs => kind(expected) == kind(found) && sorted(expected, 2) == sorted(found, 2),
        Compare::Near => match (expected, found) {
            (Value::Int(expected), Value::Int(found)) => expected.abs_diff(*found) <= NEAR,
            _ => false,
        },
        Compare::Kind => kind(expected) == kind(found),
    }
}

/// Returns the elements in groups of `width`, sorted by their text; of a SCAN reply, the elements that it contains.
fn sorted(reply: &Value, width: usize) -> Vec<String> {
    let mut groups: Vec<String> = match reply {
        Value::Map(pairs) => pairs.iter().map(|pair| format!("{pair:?}")).collect(),
        Value::Array(parts) if parts.len() == 2 && matches!(parts[1], Value::Array(_)) => {
            return [vec![format!("{:?}", parts[0])], sorted(&parts[1], width)].concat();
        }
        Value::Array(_) | Value::Set(_) => elements(reply).chunks(width).map(|group| format!("{group:?}")).collect(),
        other => vec![format!("{other:?}")],
    };
    groups.sort();
    groups
}

fn kind(reply: &Value) -> String {
    if let Some(error) = error_text(reply) {
        return format!("error {}", error.split(' ').next().unwrap_or_default());
    }
    match reply {
        Value::Okay | Value::SimpleString(_) => "status",
        Value::Nil => "nil",
        Value::Int(_) => "integer",
        Value::BulkString(_) | Value::VerbatimString { .. } => "string",
        Value::Array(_) => "array",
        Value::Map(_) => "map",
        Value::Set(_) => "set",
        Value::Double(_) => "double",
        Value::Boolean(_) => "boolean",
        _ => "another kind",
    }
    .to_owned()
}

fn describe(case: &Case, number: usize, expected: &str, found: &str) -> String {
    format!("{}\n  expected {expected}\n  found    {found}", script(case, number))
}

fn script(case: &Case, last: usize) -> String {
    let lines: Vec<String> = case[..=last].iter().map(|line| show(&line.command)).collect();
    format!("> {}", lines.join("\n> "))
}

/// Fails the test if there are differences, and shows up to 40 of them.
#[track_caller]
pub(crate) fn assert_none(differences: &[String], compared: usize) {
    assert!(compared > 0, "nothing was compared");
    let shown = differences[..differences.len().min(40)].join("\n\n");
    assert!(differences.is_empty(), "{} differences in {compared} replies\n\n{shown}", differences.len());
}
