//! A thin synchronous RESP client: sends commands and returns every reply unchanged, errors included.
//!
//! The client does not retry, reconnect, or interpret. It keeps the bytes of the last reply, so that the wire formats
//! of two servers can be compared (a nil array and a nil string parse to the same value).

use redis::{Parser, RedisResult, Value};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The name and the arguments of one command.
pub(crate) type Command = Vec<Vec<u8>>;

/// Time without a reply after which the test fails: longer than any stall that a test provokes on purpose.
const REPLY_WITHIN: Duration = Duration::from_secs(60);

/// Builds a [`Command`] from anything that has a text form: `cmd!("SET", key, 1)`.
macro_rules! cmd {
    ($($argument:expr),+ $(,)?) => {{
        let mut command: $crate::support::client::Command = Vec::new();
        $(command.extend(redis::ToRedisArgs::to_redis_args(&$argument));)+
        command
    }};
}
pub(crate) use cmd;

/// The reply to `WALFERRY CSN`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Watermarks {
    /// Epoch of the writer.
    pub epoch: u64,
    /// Last commit visible to clients; on a replica the last applied commit.
    pub committed: u64,
    /// Last commit that a power cut cannot lose.
    pub durable: u64,
    /// Last commit the archive holds.
    pub archived: u64,
}

impl Watermarks {
    /// Parses a reply to `WALFERRY CSN`.
    #[track_caller]
    pub(crate) fn of(reply: &Value) -> Self {
        let fields = fields(reply);
        let number = |name: &str| match fields.get(name) {
            Some(Value::Int(number)) => u64::try_from(*number).expect("a watermark is not negative"),
            other => panic!("WALFERRY CSN: field {name} is {other:?} in {fields:?}"),
        };
        let (epoch, committed) = (number("epoch"), number("committed"));
        Self { epoch, committed, durable: number("durable"), archived: number("archived") }
    }
}

/// One connection.
pub(crate) struct Client {
    stream: Recording,
    parser: Parser,
}

/// A socket that records the bytes read.
struct Recording {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Read for Recording {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Stopping and continuing this process interrupts a read that has a deadline.
        let length = loop {
            match self.socket.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.read.extend_from_slice(&buffer[..length]);
        Ok(length)
    }
}

impl Client {
    /// Connects to a server on the loopback interface.
    pub(crate) fn connect(port: u16) -> io::Result<Self> {
        Self::connect_within(port, REPLY_WITHIN)
    }

    /// Connects to a server that may be stopped or starting; `patience` limits the connecting and each reply.
    pub(crate) fn connect_within(port: u16, patience: Duration) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), patience)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(patience))?;
        Ok(Self { stream: Recording { socket, read: Vec::new() }, parser: Parser::new() })
    }

    /// Writes commands without waiting for replies.
    pub(crate) fn send(&mut self, commands: &[Command]) -> io::Result<()> {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| redis::pack_command(command)).collect();
        self.send_bytes(&bytes)
    }

    /// Sends bytes that need not be a command.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.socket.write_all(bytes)
    }

    /// Waits for one reply. An error reply is a value; `Err` means that the connection was closed.
    pub(crate) fn receive(&mut self) -> RedisResult<Value> {
        self.stream.read.clear();
        self.parser.parse_value(&mut self.stream)
    }

    /// Reads until the server closes the connection or the deadline passes; returns the bytes read.
    pub(crate) fn read_to_end(&mut self, within: Duration) -> Vec<u8> {
        let mut all = Vec::new();
        let _ = self.stream.socket.set_read_timeout(Some(within));
        let _ = self.stream.socket.read_to_end(&mut all);
        all
    }

    /// Sends one command and waits for its reply.
    pub(crate) fn try_call(&mut self, command: &Command) -> RedisResult<Value> {
        self.send(std::slice::from_ref(command))?;
        self.receive()
    }

    /// Does [`Self::try_call`], and fails the test if the connection was closed.
    #[track_caller]
    pub(crate) fn call(&mut self, command: &Command) -> Value {
        self.try_call(command).unwrap_or_else(|error| panic!("{} got no reply: {error}", show(command)))
    }

    /// Does [`Self::call`], and fails the test if the reply is an error.
    #[track_caller]
    pub(crate) fn ok(&mut self, command: &Command) -> Value {
        let reply = self.call(command);
        assert!(error_text(&reply).is_none(), "{} was refused: {}", show(command), error_text(&reply).unwrap());
        reply
    }

    /// Sends all commands at once and waits for as many replies.
    #[track_caller]
    pub(crate) fn pipeline(&mut self, commands: &[Command]) -> Vec<Value> {
        self.send(commands).unwrap_or_else(|error| panic!("cannot send a pipeline: {error}"));
        let lost = |command: &Command, error| panic!("{} got no reply: {error}", show(command));
        commands.iter().map(|command| self.receive().unwrap_or_else(|error| lost(command, error))).collect()
    }

    /// Runs commands inside MULTI/EXEC, sent in one packet, and returns EXEC's reply.
    #[track_caller]
    pub(crate) fn transaction(&mut self, commands: &[Command]) -> Value {
        let replies = self.pipeline(&framed(commands));
        replies.into_iter().next_back().expect("EXEC has a reply")
    }

    /// Returns the bytes read for the last reply; exact as long as replies are awaited one by one.
    pub(crate) fn last_bytes(&self) -> &[u8] {
        &self.stream.read
    }

    /// Returns the server's watermarks.
    #[track_caller]
    pub(crate) fn watermarks(&mut self) -> Watermarks {
        Watermarks::of(&self.ok(&cmd!("WALFERRY", "CSN")))
    }

    /// Returns the server's watermarks, or `None` if the server does not reply or replies with an error.
    pub(crate) fn try_watermarks(&mut self) -> Option<Watermarks> {
        let reply = self.try_call(&cmd!("WALFERRY", "CSN")).ok()?;
        error_text(&reply).is_none().then(|| Watermarks::of(&reply))
    }

    /// Returns the fields of all sections of INFO.
    #[track_caller]
    pub(crate) fn info(&mut self) -> BTreeMap<String, String> {
        info_fields(&self.ok(&cmd!("INFO")))
    }
}

/// Parses the fields of a reply to INFO.
#[track_caller]
pub(crate) fn info_fields(reply: &Value) -> BTreeMap<String, String> {
    let text = text(reply);
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Returns the commands between MULTI and EXEC.
pub(crate) fn framed(commands: &[Command]) -> Vec<Command> {
    let mut all = vec![cmd!("MULTI")];
    all.extend_from_slice(commands);
    all.push(cmd!("EXEC"));
    all
}

/// Returns the text of an error reply, code first; `None` for any other reply.
pub(crate) fn error_text(reply: &Value) -> Option<String> {
    match reply {
        Value::ServerError(error) => match error.details() {
            Some(details) => Some(format!("{} {details}", error.code())),
            None => Some(error.code().to_owned()),
        },
        _ => None,
    }
}

/// Returns the bytes of a string reply.
#[track_caller]
pub(crate) fn bytes(reply: &Value) -> Vec<u8> {
    match reply {
        Value::BulkString(bytes) => bytes.clone(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone().into_bytes(),
        Value::Okay => b"OK".to_vec(),
        other => panic!("expected a string reply, found {other:?}"),
    }
}

/// Returns a string reply as text.
#[track_caller]
pub(crate) fn text(reply: &Value) -> String {
    String::from_utf8_lossy(&bytes(reply)).into_owned()
}

/// Returns the number in an integer reply.
#[track_caller]
pub(crate) fn integer(reply: &Value) -> i64 {
    match reply {
        Value::Int(number) => *number,
        other => panic!("expected an integer reply, found {other:?}"),
    }
}

/// Returns the elements of an array or set reply; none for nil.
#[track_caller]
pub(crate) fn elements(reply: &Value) -> &[Value] {
    match reply {
        Value::Array(elements) | Value::Set(elements) => elements,
        Value::Nil => &[],
        other => panic!("expected an array reply, found {other:?}"),
    }
}

/// Returns the fields of a map, or of a flat array of names and values, by name.
#[track_caller]
pub(crate) fn fields(reply: &Value) -> BTreeMap<String, Value> {
    match reply {
        Value::Map(pairs) => pairs.iter().map(|(name, value)| (text(name), value.clone())).collect(),
        other => elements(other).chunks(2).map(|pair| (text(&pair[0]), pair[1].clone())).collect(),
    }
}

/// Formats a command as typed, with long arguments shortened.
pub(crate) fn show(command: &[Vec<u8>]) -> String {
    let words: Vec<String> = command
        .iter()
        .map(|argument| {
            let shown = argument[..argument.len().min(60)].escape_ascii().to_string();
            if argument.len() > 60 { format!("{shown}...({} bytes)", argument.len()) } else { format!("'{shown}'") }
        })
        .collect();
    words.join(" ")
}
