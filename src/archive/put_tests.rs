//! Multipart uploads over HTTP, against a server that fails the requests it is told to fail.

use super::*;
use crate::archive::config::{ArchiveUrl, S3Settings, Secret};
use crate::archive::store::Opening;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;

/// Requests that the server received. The server speaks as much of S3 as a multipart upload needs.
#[derive(Default)]
struct Asked {
    begun: u32,
    /// Requests for each part.
    parts: BTreeMap<u32, u32>,
    /// Content of each part that was accepted.
    stored: BTreeMap<u32, Vec<u8>>,
    completed: u32,
}

/// Starts a server that runs until the process ends. The first `failures` requests for part `part` get 503.
fn serve(part: u32, failures: u32) -> (String, Arc<Mutex<Asked>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = Arc::new(Mutex::new(Asked::default()));
    let shared = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let asked = Arc::clone(&shared);
            std::thread::spawn(move || answer(stream, &asked, part, failures));
        }
    });
    (url, asked)
}

fn answer(stream: TcpStream, asked: &Mutex<Asked>, failing: u32, failures: u32) {
    let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
    let mut request = String::new();
    reader.read_line(&mut request).expect("a request");
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).expect("a header");
        if let Some((_, value)) = header.to_ascii_lowercase().split_once("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if header.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let number = |name: &str| {
        let (_, rest) = request.split_once(&format!("{name}="))?;
        rest.split(['&', ' ']).next()?.parse::<u32>().ok()
    };
    let mut asked = asked.lock();
    let ok = |text: &str| {
        format!("HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
    };
    let reply = if request.starts_with("POST") && request.contains("uploads") {
        asked.begun += 1;
        ok("<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
    } else if request.starts_with("POST") {
        asked.completed += 1;
        ok("<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>")
    } else if request.starts_with("HEAD") {
        let length: usize = asked.stored.values().map(Vec::len).sum();
        format!(
            "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nLast-Modified: Wed, 25 Nov 2026 10:00:00 GMT\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        )
    } else {
        let part = number("partNumber").expect("a part");
        let times = asked.parts.entry(part).or_default();
        *times += 1;
        if part == failing && *times <= failures {
            "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
        } else {
            asked.stored.insert(part, body);
            ok("")
        }
    };
    let mut stream = stream;
    // The client may have closed the connection.
    let _ = stream.write_all(reply.as_bytes());
}

fn archive_at(endpoint: String) -> Archive {
    let url: ArchiveUrl = "s3://bucket/p".parse().expect("a URL");
    let settings = S3Settings {
        endpoint: Some(endpoint),
        region: Some("r".to_owned()),
        access_key_id: Some("id".to_owned()),
        secret_access_key: Some(Secret::new("key")),
        allow_http: Some(true),
        ..S3Settings::default()
    };
    Archive::open(&url, &settings, Opening::Existing).expect("an archive")
}

/// Goal: a failed part is sent again by itself; the other parts are sent once.
#[tokio::test]
async fn a_failed_part_is_repeated_and_nothing_else() {
    let (endpoint, asked) = serve(2, 2);
    let archive = archive_at(endpoint);
    let mut body = vec![0; 3 * PART_BYTES as usize + 7];
    blake3::Hasher::new().finalize_xof().fill(&mut body);
    let body = Bytes::from(body);
    let name = ObjectName::Sst(blake3::hash(&body));
    archive.put_verified(&name, body.clone()).await.expect("stored");
    let asked = asked.lock();
    assert_eq!((asked.begun, asked.completed), (1, 1));
    assert_eq!(asked.parts, BTreeMap::from([(1, 1), (2, 3), (3, 1), (4, 1)]));
    assert!(asked.stored.values().flatten().eq(body.iter()), "the parts make up the body");
    assert_eq!(archive.traffic().retries.load(Ordering::Relaxed), 2);
}

/// Goal: two clients that store the same content under one name at the same time see each other's e_tag, and this does
/// not count as a wrong answer of the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_content_stored_by_two_at_once_counts() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let url: ArchiveUrl = format!("file://{}", root.path().display()).parse().expect("a URL");
    let archive = Archive::open(&url, &S3Settings::default(), Opening::Create).expect("an archive");
    let name = ObjectName::Sst(blake3::hash(b"content"));
    let store = |archive: Archive, name: ObjectName| async move {
        for _ in 0..200 {
            archive.put_verified(&name, Bytes::from(vec![7; 20_000])).await?;
        }
        Ok::<_, Error>(())
    };
    let both = [tokio::spawn(store(archive.clone(), name.clone())), tokio::spawn(store(archive, name))];
    for outcome in futures::future::join_all(both).await {
        outcome.expect("no panic").expect("stored");
    }
}
