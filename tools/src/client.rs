//! A small blocking RESP client for the tools, on the `redis` crate's codec.

use redis::{Parser, Value};
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

/// How long a reply may take.
const REPLY_MAX: Duration = Duration::from_secs(600);

/// One connection.
pub struct Client {
    stream: TcpStream,
    parser: Parser,
}

/// Anything that went wrong, as text.
pub type Answer<T> = Result<T, String>;

impl Client {
    /// Connects to a node on this machine.
    pub fn connect(port: u16) -> Answer<Self> {
        let failed = |error: std::io::Error| format!("cannot connect to 127.0.0.1:{port}: {error}");
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(failed)?;
        stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(REPLY_MAX))).map_err(failed)?;
        Ok(Self { stream, parser: Parser::new() })
    }

    /// Sends all commands at once and waits for all replies.
    pub fn pipeline(&mut self, commands: &[Vec<Vec<u8>>]) -> Answer<Vec<Value>> {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| redis::pack_command(command)).collect();
        self.stream.write_all(&bytes).map_err(|error| format!("cannot send: {error}"))?;
        commands.iter().map(|_| self.receive()).collect()
    }

    /// Sends one command and waits for its reply; an error reply is an error.
    pub fn call(&mut self, command: &[&str]) -> Answer<Value> {
        let owned = command.iter().map(|argument| argument.as_bytes().to_vec()).collect();
        let reply = self.pipeline(&[owned])?.pop().ok_or("no reply")?;
        match reply {
            Value::ServerError(error) => {
                Err(format!("{}: {} {}", command.join(" "), error.code(), error.details().unwrap_or_default()))
            }
            reply => Ok(reply),
        }
    }

    fn receive(&mut self) -> Answer<Value> {
        self.parser.parse_value(&mut self.stream).map_err(|error| format!("no reply: {error}"))
    }
}

/// A reply as text, for those that are strings or integers.
pub fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Okay => "OK".to_owned(),
        other => format!("{other:?}"),
    }
}

/// The fields of an INFO reply, in order.
pub fn info_fields(info: &str) -> Vec<(String, String)> {
    let pairs = info.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.trim_end().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
