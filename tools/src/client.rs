//! A small blocking RESP client for the tools, on the `redis` crate's codec.

use crate::exit::Failure;
use redis::{Parser, Value};
use std::io::Write;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;
use walferry::error::{Error, Kind};
use walferry::server::address;

/// Longest time for connecting to one address.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for a reply.
const REPLY_MAX: Duration = Duration::from_secs(600);
/// Address of the nodes that benchmarks and the demo start.
pub(crate) const LOOPBACK: &str = "127.0.0.1";
/// Environment variable with a node's password.
const PASSWORD_VARIABLE: &str = "WALFERRY_PASSWORD";

/// Options that say how to reach a node, except its port.
#[derive(clap::Args)]
pub(crate) struct ReachArgs {
    /// The node's host name or address, such as 10.0.0.1 or ::1
    #[arg(long, default_value = LOOPBACK)]
    host: String,
    /// The node's password (its requirepass). Other users of this machine can see it: --password-file and
    /// WALFERRY_PASSWORD are safer [default: that in WALFERRY_PASSWORD, else none]
    #[arg(long, conflicts_with = "password_file")]
    password: Option<String>,
    /// File with the node's password on its first line
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl ReachArgs {
    /// Connects to the node's port for clients, and sends the password if there is one.
    pub(crate) fn connect(&self, port: u16) -> Result<Client, Failure> {
        let password = self.password()?;
        let mut client = Client::connect(&self.host, port)?;
        match client.authenticate(password.as_deref())? {
            None => Ok(client),
            Some(refusal) => Err(wrong_password(&client.peer, &refusal)),
        }
    }

    fn password(&self) -> Result<Option<String>, Failure> {
        if let Some(path) = &self.password_file {
            let unusable = |detail: String| Error::Config { key: format!("password file {}", path.display()), detail };
            let text = std::fs::read_to_string(path).map_err(|error| unusable(format!("cannot be read: {error}")))?;
            let password = text.lines().next().unwrap_or_default().to_owned();
            if password.is_empty() {
                return Err(unusable("has no password on its first line".to_owned()).into());
            }
            return Ok(Some(password));
        }
        let password = self.password.clone().or_else(|| std::env::var(PASSWORD_VARIABLE).ok());
        Ok(password.filter(|password| !password.is_empty()))
    }
}

fn wrong_password(peer: &str, detail: &str) -> Failure {
    let detail = format!(
        "{peer} refuses the connection: {detail} Give the node's password (its requirepass) with --password-file, \
         in {PASSWORD_VARIABLE}, or with --password"
    );
    Error::Config { key: "password".to_owned(), detail }.into()
}

/// A connection to a node.
pub(crate) struct Client {
    stream: TcpStream,
    parser: Parser,
    /// Address of the node, for messages.
    peer: String,
}

/// A result whose error is a text.
pub(crate) type Answer<T> = Result<T, String>;

impl Client {
    /// Connects to a node's port for clients.
    pub(crate) fn connect(host: &str, port: u16) -> Answer<Self> {
        let peer = address::with_port(host, port);
        let failed = |error: std::io::Error| format!("cannot connect to {peer}: {error}");
        let addresses = (address::bare_host(host), port).to_socket_addrs().map_err(failed)?;
        let mut connected = Err(std::io::ErrorKind::AddrNotAvailable.into());
        for address in addresses {
            connected = TcpStream::connect_timeout(&address, CONNECT_MAX);
            if connected.is_ok() {
                break;
            }
        }
        let stream = connected.map_err(failed)?;
        stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(REPLY_MAX))).map_err(failed)?;
        Ok(Self { stream, parser: Parser::new(), peer })
    }

    /// Sends the password, or finds out whether the node demands one. Returns the node's refusal if the node does not
    /// accept this connection.
    fn authenticate(&mut self, password: Option<&str>) -> Answer<Option<String>> {
        let words = password.map_or(vec!["PING"], |password| vec!["AUTH", password]);
        let command = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        Ok(match self.pipeline(&[command])?.pop() {
            // A password for a node that has none does no harm: any other reply counts as accepted.
            Some(Value::ServerError(error)) if matches!(error.code(), "NOAUTH" | "WRONGPASS") => {
                Some(error.details().unwrap_or("It is not the right password.").to_owned())
            }
            _ => None,
        })
    }

    /// Sends all commands at once and waits for all replies.
    pub(crate) fn pipeline(&mut self, commands: &[Vec<Vec<u8>>]) -> Answer<Vec<Value>> {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| redis::pack_command(command)).collect();
        self.stream.write_all(&bytes).map_err(|error| format!("cannot send to {}: {error}", self.peer))?;
        commands.iter().map(|_| self.receive()).collect()
    }

    /// Sends one command and waits for its reply; an error reply is an error.
    pub(crate) fn call(&mut self, command: &[&str]) -> Answer<Value> {
        self.request(command)?.map_err(|(_, message)| message)
    }

    /// Sends an operator's command and waits for its reply. The process then ends with the exit code of the node's
    /// error.
    pub(crate) fn order(&mut self, command: &[&str]) -> Result<Value, Failure> {
        self.request(command)?.map_err(|(kind, message)| Failure::Node(kind, message))
    }

    /// The inner error is an error reply: its kind and its text.
    fn request(&mut self, command: &[&str]) -> Answer<Result<Value, (Kind, String)>> {
        let owned = command.iter().map(|argument| argument.as_bytes().to_vec()).collect();
        Ok(match self.pipeline(&[owned])?.pop().ok_or("the node sent no reply")? {
            Value::ServerError(error) => {
                let details = error.details().unwrap_or_default();
                let message = format!("{}: {} {details}", command.join(" "), error.code());
                Err((Kind::of_reply_code(error.code()), message))
            }
            reply => Ok(reply),
        })
    }

    fn receive(&mut self) -> Answer<Value> {
        let reply = self.parser.parse_value(&mut self.stream);
        reply.map_err(|error| {
            let why = error.to_string().lines().next().unwrap_or_default().to_owned();
            format!("no reply from {}: {why}. Is that a node's port for clients?", self.peer)
        })
    }
}

/// Returns a reply as text; meant for strings and integers.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Okay => "OK".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Returns the fields of an INFO reply, in order.
pub(crate) fn info_fields(info: &str) -> Vec<(String, String)> {
    let pairs = info.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.trim_end().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
