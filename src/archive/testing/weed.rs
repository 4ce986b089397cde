//! Test support: a real S3 server, SeaweedFS' `weed`, if it is installed.

use super::super::config::{S3Settings, Secret};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KEY_ID: &str = "walferrytest";
const SECRET: &str = "walferrysecret";
const START_MAX: Duration = Duration::from_secs(60);

/// A running server. Dropping it ends the process.
pub(super) struct Weed {
    child: Child,
    port: u16,
    /// Directory with the server's data, removed on drop.
    _dir: tempfile::TempDir,
}

impl Weed {
    /// Starts a server on free ports and waits until it answers; `None` if `weed` is not installed.
    pub(super) fn start() -> Option<Self> {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::create_dir(path("data")).expect("create data directory");
        let identity = format!(
            r#"{{"identities":[{{"name":"walferry","credentials":[{{"accessKey":"{KEY_ID}","secretKey":"{SECRET}"}}],
            "actions":["Admin","Read","Write","List"]}}]}}"#
        );
        std::fs::write(path("s3.json"), identity).expect("write identity");
        let ports = free_ports();
        let roles = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port"];
        let roles = roles.iter().chain(&["filer.port.grpc", "s3.port", "s3.port.grpc"]);
        let child = Command::new("weed")
            .args(["server", "-filer", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
            .args(roles.zip(ports).map(|(role, port)| format!("-{role}={port}")))
            // These services would use fixed ports, on which two servers collide.
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-master.telemetry=false"])
            .args(["-master.volumeSizeLimitMB=64", "-volume.max=100", "-volume.minFreeSpace=1"])
            .args(["-master.electionTimeout=1s", &format!("-dir={}", path("data"))])
            .args([format!("-s3.config={}", path("s3.json")), format!("-filer.localSocket={}", path("f.sock"))])
            .arg(format!("-s3.localSocket={}", path("s.sock")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("no `weed` in PATH: the suite does not run over a real S3 server");
                return None;
            }
            Err(error) => panic!("cannot start weed: {error}"),
        };
        let weed = Self { child, port: ports[6], _dir: dir };
        weed.wait_until_healthy();
        Some(weed)
    }

    /// Returns settings that reach the server.
    pub(super) fn settings(&self) -> S3Settings {
        S3Settings {
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some(KEY_ID.to_owned()),
            secret_access_key: Some(Secret::new(SECRET)),
            allow_http: Some(true),
            ..S3Settings::default()
        }
    }

    fn wait_until_healthy(&self) {
        let start = Instant::now();
        while self.status_of("/healthz") != Some(200) {
            assert!(start.elapsed() < START_MAX, "weed did not become healthy within {START_MAX:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn status_of(&self, path: &str) -> Option<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns eight ports that are free at this moment.
fn free_ports() -> [u16; 8] {
    let listeners = [(); 8].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("a bound port").port())
}
