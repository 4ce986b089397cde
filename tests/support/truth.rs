//! The true content of an archive: read from the S3 server itself, without the binary under test and without a
//! signature.

use super::archive::Archive;
use super::http::{Message, read_response};
use super::weed::Weed;
use std::io::BufReader;
use std::net::TcpStream;
use std::time::Duration;

/// Time limit for a reply of the server.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// One archive, as the server stores it.
#[derive(Clone)]
pub(crate) struct Truth {
    s3_port: u16,
    bucket: String,
    prefix: String,
}

/// An object and its length.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Object {
    /// Name below the archive's prefix.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
}

impl Truth {
    /// Gives access to an archive on the S3 server of this test binary.
    pub(crate) fn of(archive: &Archive) -> Self {
        let path = archive.url.strip_prefix("s3://").expect("an archive on the S3 server");
        let (bucket, prefix) = path.split_once('/').expect("an archive with a prefix");
        Self { s3_port: Weed::shared().s3_port(), bucket: bucket.to_owned(), prefix: prefix.to_owned() }
    }

    /// Lists everything below a directory of the archive, in name order.
    #[track_caller]
    pub(crate) fn list(&self, directory: &str) -> Vec<Object> {
        let mut objects: Vec<Object> = Vec::new();
        loop {
            let after = objects.last().map_or(String::new(), |last| format!("{}/{}", self.prefix, last.name));
            let query = format!("list-type=2&prefix={}/{directory}&start-after={after}", self.prefix);
            let page = self.ask("GET", &format!("/{}?{query}", self.bucket));
            assert_eq!(page.word(1), "200", "the real server lists");
            let page = String::from_utf8(page.body).expect("a listing is text");
            let found = page.split("<Contents>").skip(1).map(|entry| self.object(entry));
            let before = objects.len();
            objects.extend(found);
            if objects.len() == before {
                return objects;
            }
        }
    }

    /// Returns the last commit of an epoch that chunks reach without a gap, from the commit after `from`.
    ///
    /// Judged by the names, which state ranges of commits; restores check that the chunks are whole.
    #[track_caller]
    pub(crate) fn reaches(&self, epoch: u64, from: u64) -> u64 {
        let chunks = self.list(&format!("chunks/{epoch:08}/"));
        // Fixed-width names in name order are sorted by first commit.
        chunks
            .iter()
            .map(|chunk| range_of(&chunk.name))
            .fold(from, |reached, (first, last)| if first <= reached + 1 { reached.max(last) } else { reached })
    }

    fn object(&self, entry: &str) -> Object {
        let text = |tag: &str| {
            let rest = entry.split_once(&format!("<{tag}>")).map(|(_, rest)| rest);
            rest.and_then(|rest| rest.split('<').next()).unwrap_or_else(|| panic!("no {tag} in {entry}"))
        };
        let name = text("Key").strip_prefix(&self.prefix).expect("only what has the prefix is listed");
        Object { name: name.trim_start_matches('/').to_owned(), bytes: text("Size").parse().expect("a size") }
    }

    #[track_caller]
    fn ask(&self, method: &str, target: &str) -> Message {
        let lines = vec![format!("{method} {target} HTTP/1.1"), "Host: 127.0.0.1".to_owned()];
        let mut server = TcpStream::connect(("127.0.0.1", self.s3_port)).expect("the real server is there");
        server.set_read_timeout(Some(ANSWER_WITHIN)).expect("a deadline can be set");
        Message { lines, body: Vec::new() }.send(&mut server).expect("the real server takes a request");
        read_response(&mut BufReader::new(server), method).expect("the real server answers")
    }
}

/// Parses the range of commits in a chunk's name.
fn range_of(name: &str) -> (u64, u64) {
    let range = name.rsplit('/').next().and_then(|file| file.strip_suffix(".chunk")?.split_once('-'));
    let (first, last) = range.unwrap_or_else(|| panic!("{name} is no chunk"));
    (first.parse().expect("a csn"), last.parse().expect("a csn"))
}
