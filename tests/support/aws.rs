//! A server on the loopback interface in place of AWS: an empty S3 bucket, the metadata of an instance, and the
//! credentials of a container. It reports which key signed the S3 requests.

use super::http::{Message, read_request};
use super::process::{Environment, wait_until};
use std::io::BufReader;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Key id of the instance's role.
pub(crate) const INSTANCE_KEY: &str = "INSTANCEKEY";
/// Key id of the container's role.
pub(crate) const CONTAINER_KEY: &str = "CONTAINERKEY";

/// Environment variables that would lead a process to other servers.
const UNSET: [&str; 9] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// The server; it ends with the test binary.
pub(crate) struct Aws {
    /// Port on the loopback interface.
    pub port: u16,
    signed_by: Arc<Mutex<Vec<String>>>,
}

impl Aws {
    /// Starts the server.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free loopback port");
        let port = listener.local_addr().expect("an address").port();
        let signed_by: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&signed_by);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || drop(serve(&client, &seen)));
            }
        });
        Self { port, signed_by }
    }

    /// Returns environment variables that lead a process to this server only, without keys; `home` contains the shared
    /// files.
    pub(crate) fn environment(&self, home: &str, more: &[(&str, &str)]) -> Environment {
        let url = format!("http://127.0.0.1:{}", self.port);
        let own =
            [("AWS_ENDPOINT_URL", &*url), ("AWS_METADATA_ENDPOINT", &url), ("AWS_ALLOW_HTTP", "true"), ("HOME", home)];
        // An empty variable counts as not set, whatever the machine's environment has.
        let unset = UNSET.map(|name| (name, ""));
        let all = unset.iter().chain(&own).chain(more);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Returns the key id of the next S3 request, and forgets earlier requests.
    pub(crate) fn signed_by(&self) -> String {
        wait_until("an S3 request came", Duration::from_secs(10), || {
            let mut seen = self.signed_by.lock().unwrap();
            let last = seen.last().cloned();
            seen.clear();
            last
        })
    }
}

fn serve(client: &TcpStream, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut requests = BufReader::new(client.try_clone()?);
    while let Some(request) = read_request(&mut requests)? {
        if let Some(credential) = request.header("authorization").and_then(|line| line.split_once("Credential=")) {
            let key = credential.1.split('/').next().unwrap_or_default();
            seen.lock().unwrap().push(key.to_owned());
        }
        let mut to: &TcpStream = client;
        answer(&request).send(&mut to)?;
    }
    Ok(())
}

fn answer(request: &Message) -> Message {
    let credentials = |key: &str| {
        serde_json::json!({
            "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z",
            "AccessKeyId": key, "SecretAccessKey": "secret", "Token": "token", "Expiration": "2099-01-01T00:00:00Z",
        })
    };
    let (status, body) = match request.word(1).trim_end_matches('/') {
        "/latest/api/token" => ("200 OK", "token".to_owned()),
        "/latest/meta-data/iam/security-credentials" => ("200 OK", "role".to_owned()),
        "/latest/meta-data/iam/security-credentials/role" => ("200 OK", credentials(INSTANCE_KEY).to_string()),
        "/container" => ("200 OK", credentials(CONTAINER_KEY).to_string()),
        _ => ("404 Not Found", "<Error><Code>NoSuchKey</Code><Message>empty</Message></Error>".to_owned()),
    };
    let mut response = Message { lines: vec![format!("HTTP/1.1 {status}")], body: Vec::new() };
    response.set_body(body.into_bytes());
    response
}
