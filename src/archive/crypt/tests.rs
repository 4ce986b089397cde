//! The encrypting store compared with a plain one, and against attackers who alter its objects.

use super::format::{HEADER_BYTES, SEGMENT_BYTES, TAG_BYTES, plain_len, segments, stored_len};
use super::keys::{Key, KeyRing};
use super::{CryptStore, cipher};
use crate::archive::identity::{self, ClusterId};
use crate::archive::layout::ObjectName;
use crate::archive::part::PART_BYTES;
use crate::archive::put::SINGLE_PUT_BYTES_MAX;
use crate::archive::retry_policy::RetryPolicy;
use crate::archive::store::Archive;
use crate::archive::testing::faults::{Fault, FaultStore, QUICK};
use crate::error::{Error, Kind};
use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const SEGMENT: u64 = SEGMENT_BYTES as u64;

/// Returns keys that are the same in every run.
fn ring(names: &[&str]) -> KeyRing {
    let line = |name: &&str| format!("{name} {}", blake3::hash(name.as_bytes()).to_hex());
    KeyRing::parse(&names.iter().map(line).collect::<Vec<_>>().join("\n"), "test").expect("keys")
}

fn noise(len: u64) -> Bytes {
    let mut bytes = vec![0; len as usize];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn mark(name: &str) -> ObjectName {
    ObjectName::Mark(name.parse().expect("a plain name"))
}

fn clear(store: &Arc<InMemory>) -> Archive {
    let archive = Archive::over(Arc::clone(store) as _, "memory://".to_owned(), "p", None);
    archive.with_retry_policy(RetryPolicy { attempts: 1, deadline: Duration::from_secs(5), ..QUICK })
}

fn encrypted(store: &Arc<InMemory>, names: &[&str]) -> Archive {
    clear(store).with_keys(Some(ring(names)))
}

async fn raw(store: &InMemory, name: &ObjectName) -> Bytes {
    store.get(&Path::from(format!("p/{name}"))).await.expect("stored").bytes().await.expect("bytes")
}

async fn put_raw(store: &InMemory, name: &ObjectName, bytes: Bytes) {
    store.put(&Path::from(format!("p/{name}")), bytes.into()).await.expect("put");
}

/// Returns lengths around every segment border.
fn lengths() -> Vec<u64> {
    let around = |n: u64| [n.saturating_sub(1), n, n + 1];
    [around(1), around(SEGMENT), around(2 * SEGMENT), around(3 * SEGMENT + 7)].concat()
}

#[test]
fn lengths_follow_from_each_other() {
    for plain in lengths() {
        assert_eq!(plain_len(stored_len(plain)), Some(plain), "{plain}");
    }
    let possible: Vec<u64> = (0..4 * SEGMENT).map(stored_len).collect();
    for stored in 0..stored_len(4 * SEGMENT - 1) {
        assert_eq!(plain_len(stored).is_some(), possible.binary_search(&stored).is_ok(), "{stored}");
    }
    assert_eq!(plain_len(u64::MAX), None);
}

#[tokio::test]
async fn every_length_comes_back_and_no_plain_byte_is_stored() {
    let store = Arc::new(InMemory::new());
    let archive = encrypted(&store, &["k"]);
    for len in lengths() {
        let (name, body) = (mark(&format!("m{len}")), noise(len));
        archive.put_verified(&name, body.clone()).await.expect("put");
        assert_eq!(archive.get(&name).await.expect("get"), Some(body.clone()));
        assert_eq!(archive.head(&name).await.expect("head"), Some(len));
        let stored = raw(&store, &name).await;
        assert_eq!(stored.len() as u64, stored_len(len));
        if len >= 16 {
            assert!(!stored.windows(16).any(|window| window == &body[..16]), "length {len}");
        }
    }
}

#[tokio::test]
async fn the_same_object_twice_shares_no_byte_string() {
    let store = Arc::new(InMemory::new());
    let archive = encrypted(&store, &["k"]);
    let name = mark("m");
    let mut seen = Vec::new();
    for _ in 0..2 {
        archive.put_verified(&name, noise(100)).await.expect("put");
        seen.push(raw(&store, &name).await);
    }
    assert_ne!(seen[0][52..84], seen[1][52..84], "salts");
    assert_ne!(seen[0][HEADER_BYTES..], seen[1][HEADER_BYTES..], "segments");
}

/// Goal: every flipped bit of a small object is found, and in a large object every flipped bit around the borders of
/// its segments.
#[tokio::test]
async fn every_flipped_bit_is_found() {
    let keys = ring(&["k"]);
    for (len, name) in [(5, "marks/a.json"), (2 * SEGMENT + 9, "marks/b.json")] {
        let mut stored = Vec::new();
        let cipher = cipher::ObjectCipher::create(&keys, name).expect("cipher");
        let mut sealer = cipher::Sealer::begin(cipher, &mut stored);
        sealer.push(&noise(len), &mut stored);
        sealer.finish(&mut stored);
        cipher::open_whole(&stored, name, &keys, "o").expect("untouched");
        let border = HEADER_BYTES + SEGMENT_BYTES + TAG_BYTES;
        let near = |at: usize| at < HEADER_BYTES + 20 || at + 30 > stored.len() || at.abs_diff(border) < 20;
        for at in (0..stored.len()).filter(|at| near(*at)) {
            for bit in 0..8 {
                let mut flipped = stored.clone();
                flipped[at] ^= 1 << bit;
                let error = cipher::open_whole(&flipped, name, &keys, "o").expect_err("flipped");
                assert_eq!(error.kind(), Kind::Integrity, "byte {at} bit {bit}: {error}");
            }
        }
        for end in (0..stored.len()).filter(|at| near(*at)) {
            let error = cipher::open_whole(&stored[..end], name, &keys, "o").expect_err("cut off");
            assert_eq!(error.kind(), Kind::Integrity, "cut at {end}: {error}");
        }
        let longer = [&stored[..], &[0; TAG_BYTES + 1]].concat();
        assert!(cipher::open_whole(&longer, name, &keys, "o").is_err(), "extended");
    }
}

/// Goal: removed, doubled and exchanged segments are found, although each has a valid tag of its own.
#[tokio::test]
async fn segments_that_were_moved_are_found() {
    let store = Arc::new(InMemory::new());
    let archive = encrypted(&store, &["k"]);
    let name = mark("m");
    archive.put_verified(&name, noise(3 * SEGMENT)).await.expect("put");
    let stored = raw(&store, &name).await;
    let at = |nth: usize| HEADER_BYTES + nth * (SEGMENT_BYTES + TAG_BYTES);
    let header = &stored[..HEADER_BYTES];
    let part = |nth: usize| &stored[at(nth)..at(nth + 1)];
    let whole = [header, part(0), part(1), part(2)];
    assert_eq!(whole.concat(), stored);
    for meddled in [
        [header, part(0), part(1)].concat(),
        [header, part(1), part(2)].concat(),
        [header, part(1), part(0), part(2)].concat(),
        [header, part(0), part(0), part(2)].concat(),
        [header, part(0), part(1), part(2), part(2)].concat(),
        header.to_vec(),
    ] {
        put_raw(&store, &name, meddled.into()).await;
        let error = archive.get(&name).await.expect_err("meddled with");
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
    // Cutting the object at the end of a range is found, too: the last segment there is not marked as the last.
    put_raw(&store, &name, whole[..3].concat().into()).await;
    let last = archive.get_range(&name, SEGMENT + 1..2 * SEGMENT).await;
    assert!(matches!(last, Err(Error::Corrupt { .. })), "{last:?}");
}

#[tokio::test]
async fn objects_cannot_be_swapped() {
    let store = Arc::new(InMemory::new());
    let archive = encrypted(&store, &["k"]);
    let (a, b) = (mark("a"), mark("b"));
    for name in [&a, &b] {
        archive.put_verified(name, noise(70_000)).await.expect("put");
    }
    let (raw_a, raw_b) = (raw(&store, &a).await, raw(&store, &b).await);
    put_raw(&store, &a, raw_b).await;
    put_raw(&store, &b, raw_a).await;
    for name in [&a, &b] {
        assert!(matches!(archive.get(name).await, Err(Error::Corrupt { .. })));
        assert!(matches!(archive.get_range(name, 3..9).await, Err(Error::Corrupt { .. })));
        assert!(matches!(archive.get_range(name, 66_000..66_001).await, Err(Error::Corrupt { .. })));
    }
}

/// Goal: an archive can be moved to another prefix by copying its objects.
#[tokio::test]
async fn an_archive_can_be_moved_as_a_whole() {
    let store = Arc::new(InMemory::new());
    let name = mark("a");
    encrypted(&store, &["k"]).put_verified(&name, noise(9)).await.expect("put");
    store.copy(&Path::from(format!("p/{name}")), &Path::from(format!("q/r/{name}"))).await.expect("copy");
    let moved = Archive::over(store, "memory://".to_owned(), "q/r", None).with_keys(Some(ring(&["k"])));
    assert_eq!(moved.get(&name).await.expect("get"), Some(noise(9)));
}

#[tokio::test]
async fn keys_rotate_for_new_objects() {
    let store = Arc::new(InMemory::new());
    let (old, new) = (mark("old"), mark("new"));
    encrypted(&store, &["k1"]).put_verified(&old, noise(9)).await.expect("put");
    let both = encrypted(&store, &["k2", "k1"]);
    both.put_verified(&new, noise(9)).await.expect("put");
    for name in [&old, &new] {
        assert_eq!(both.get(name).await.expect("get"), Some(noise(9)));
    }
    let error = encrypted(&store, &["k1"]).get(&new).await.expect_err("the new key is missing");
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("`k2`") && error.to_string().contains("`k1`"), "{error}");
    assert!(encrypted(&store, &["k2"]).get(&new).await.is_ok());
    assert!(encrypted(&store, &["k2"]).get(&old).await.is_err());
}

#[tokio::test]
async fn a_wrong_key_of_the_right_name_is_told_from_damage() {
    let store = Arc::new(InMemory::new());
    encrypted(&store, &["k"]).put_verified(&mark("a"), noise(9)).await.expect("put");
    let other = KeyRing::parse(&format!("k {}", "11".repeat(32)), "test").expect("key");
    let error = clear(&store).with_keys(Some(other)).get(&mark("a")).await.expect_err("wrong key");
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("another key `k`"), "{error}");
}

#[tokio::test]
async fn clear_and_encrypted_are_never_mixed() {
    let cluster = ClusterId([1; 16]);
    let store = Arc::new(InMemory::new());
    identity::establish(&encrypted(&store, &["k"]), cluster).await.expect("establish");
    identity::establish(&encrypted(&store, &["k"]), cluster).await.expect("it is there");
    for refused in [identity::read(&clear(&store)).await.map(drop), identity::establish(&clear(&store), cluster).await]
    {
        let error = refused.expect_err("no key");
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains("key `k`") && error.to_string().contains("--archive-key-file"), "{error}");
    }

    let store = Arc::new(InMemory::new());
    identity::establish(&clear(&store), cluster).await.expect("establish");
    let keyed = encrypted(&store, &["k"]);
    for refused in [identity::read(&keyed).await.map(drop), identity::establish(&keyed, cluster).await] {
        let error = refused.expect_err("a clear archive");
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains("is not encrypted") && error.to_string().contains("`k`"), "{error}");
    }
    // A clear object in an encrypted archive was written without the key.
    put_raw(&store, &mark("a"), noise(200)).await;
    for read in [keyed.get(&mark("a")).await, keyed.get_range(&mark("a"), 1..7).await] {
        assert!(matches!(read, Err(Error::Corrupt { .. })), "{read:?}");
    }
}

#[tokio::test]
async fn a_body_that_was_cut_off_in_transfer_is_read_again() {
    let store = FaultStore::default();
    let archive =
        Archive::over(Arc::new(store.clone()), "faults://".to_owned(), "p", None).with_keys(Some(ring(&["k"])));
    let name = mark("m");
    archive.put_verified(&name, noise(2 * SEGMENT + 5)).await.expect("put");
    store.script_gets([Fault::Truncate]);
    assert_eq!(archive.get(&name).await.expect("get"), Some(noise(2 * SEGMENT + 5)));
    store.script_gets([Fault::Truncate, Fault::Truncate]);
    let part = archive.get_range(&name, SEGMENT..SEGMENT + 4).await.expect("get").expect("there");
    assert_eq!(part, noise(2 * SEGMENT)[SEGMENT_BYTES..SEGMENT_BYTES + 4]);
}

/// Goal: a cached header is used only for the object it came from, not for one that replaced this object.
#[tokio::test]
async fn an_object_replaced_between_two_reads_is_read_anew() {
    let store = Arc::new(InMemory::new());
    let archive = encrypted(&store, &["k2", "k1"]);
    let name = mark("m");
    for (keys, len) in [("k1", 3 * SEGMENT), ("k2", 3 * SEGMENT), ("k1", 2 * SEGMENT + 1)] {
        encrypted(&store, &[keys]).put_verified(&name, noise(len)).await.expect("put");
        for range in [2 * SEGMENT..2 * SEGMENT + 1, SEGMENT - 1..SEGMENT + 1, SEGMENT..SEGMENT + 2] {
            let expected = noise(len).slice(range.start as usize..range.end as usize);
            assert_eq!(archive.get_range(&name, range).await.expect("get"), Some(expected));
        }
    }
}

/// Goal: all parts but the last are equally long, as Cloudflare R2 demands, and at least 5 MiB, as S3 demands.
#[tokio::test]
async fn parts_are_encrypted_one_after_the_other() {
    let (store, keys) = (Arc::new(InMemory::new()), ring(&["k"]));
    let archive = encrypted(&store, &["k"]);
    for len in [SINGLE_PUT_BYTES_MAX + 1, 3 * PART_BYTES - 1, 3 * PART_BYTES, 3 * PART_BYTES + SEGMENT] {
        let (name, body) = (mark("m"), noise(len));
        archive.put_verified(&name, body.clone()).await.expect("put");
        let stored = raw(&store, &name).await;
        assert_eq!(stored.len() as u64, stored_len(len));
        assert_eq!(cipher::open_whole(&stored, &name.to_string(), &keys, "o").expect("open"), body);
    }
}

#[test]
fn key_files_are_read_as_documented() {
    let hex = "0123456789abcdefABCDEF0123456789abcdef0123456789abcdef0123456789";
    let text = format!("# the new one\nnew.1 {hex}\n\n  old_2\t{hex}  \n");
    let keys = KeyRing::parse(&text, "f").expect("keys");
    assert_eq!((keys.first().id.to_string(), keys.names()), ("new.1".to_owned(), "`new.1`, `old_2`".to_owned()));
    for wrong in [
        String::new(),
        "# only a comment".to_owned(),
        hex.to_owned(),
        format!("a {}", &hex[1..]),
        format!("a {hex}0"),
        format!("a {hex} more"),
        format!("a/b {hex}"),
        format!("{} {hex}", "x".repeat(33)),
        format!("a {}", hex.replace('0', "g")),
        format!("a {hex}\na {hex}"),
    ] {
        let error = KeyRing::parse(&wrong, "f").expect_err(&wrong);
        assert_eq!(error.kind(), Kind::Usage);
        assert!(!error.to_string().contains("456789"), "shows a secret: {error}");
    }
}

#[test]
fn a_generated_key_is_a_line_of_a_key_file_and_never_shown_otherwise() {
    let (a, b) = (Key::generate(None).expect("key"), Key::generate(None).expect("key"));
    assert_ne!(a.line(), b.line());
    let keys = KeyRing::parse(&format!("{}\n{}", a.line(), b.line()), "f").expect("keys");
    assert_eq!(keys.first().line(), a.line());
    let digits = a.line().split_once(' ').expect("two words").1.to_owned();
    assert!(!format!("{a:?}{keys:?}{}", keys.names()).contains(&digits[..8]));
    assert_eq!(Key::generate(Some("mine".parse().expect("id"))).expect("key").id.to_string(), "mine");
}

/// Goal: the fixture of version 1 can be read. If `WALFERRY_WRITE_FIXTURES` is set, the test writes the fixture first.
/// A released version's fixture is never rewritten.
#[test]
fn an_object_of_version_1_is_read_for_ever() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let (object, key) = (dir.join("encrypted-v1.object"), dir.join("encrypted-v1.key"));
    let (name, body) = ("marks/example.json", noise(SEGMENT + 100));
    if std::env::var_os("WALFERRY_WRITE_FIXTURES").is_some() {
        let keys = ring(&["example"]);
        let mut stored = Vec::new();
        let created = cipher::ObjectCipher::create(&keys, name).expect("cipher");
        let mut sealer = cipher::Sealer::begin(created, &mut stored);
        sealer.push(&body, &mut stored);
        sealer.finish(&mut stored);
        std::fs::write(&object, stored).expect("write");
        std::fs::write(&key, format!("{}\n", keys.first().line())).expect("write");
    }
    let keys = KeyRing::configured(key.to_str().expect("a UTF-8 path"), "unused").expect("keys").expect("a file");
    let stored = std::fs::read(&object).expect("the fixture");
    assert_eq!(cipher::open_whole(&stored, name, &keys, "fixture").expect("open"), body);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Goal: a range reads or fails as in a plain store, whether or not the object's header is cached.
    #[test]
    fn ranges_are_those_of_a_plain_store(
        len in prop_oneof![0..200_u64, SEGMENT - 2..SEGMENT + 3, 0..4 * SEGMENT],
        ranges in prop::collection::vec((0..4 * SEGMENT + 10, 0..3 * SEGMENT, 0..3_u8), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let plain = InMemory::new();
            let crypt = CryptStore::new(Arc::new(InMemory::new()), ring(&["k"]), "", "memory://");
            let path = Path::from("marks/x.json");
            plain.put(&path, noise(len).into()).await.expect("put");
            crypt.put(&path, noise(len).into()).await.expect("put");
            for (start, long, form) in ranges {
                let range = match form {
                    0 => GetRange::Bounded(start..start + long),
                    1 => GetRange::Offset(start),
                    _ => GetRange::Suffix(long),
                };
                let options = || GetOptions { range: Some(range.clone()), ..GetOptions::default() };
                let expected = read(&plain, &path, options()).await;
                let found = read(&crypt, &path, options()).await;
                assert_eq!(found, expected, "{len} bytes, {range:?}");
            }
        });
    }

    #[test]
    fn arbitrary_bytes_are_an_error(bytes: Vec<u8>, keyed: bool) {
        let bytes = if keyed { [&super::format::MAGIC[..], &bytes].concat() } else { bytes };
        prop_assert!(cipher::open_whole(&bytes, "n", &ring(&["k"]), "o").is_err());
    }

    /// Goal: the pieces in which an object arrives do not change its segments.
    #[test]
    fn pieces_do_not_matter(cuts in prop::collection::vec(0..3 * SEGMENT, 0..6), len in 0..3 * SEGMENT) {
        let (keys, body) = (ring(&["k"]), noise(len));
        let mut cuts: Vec<u64> = cuts.into_iter().filter(|cut| *cut < len).chain([0, len]).collect();
        cuts.sort_unstable();
        let mut stored = Vec::new();
        let cipher = cipher::ObjectCipher::create(&keys, "n").expect("cipher");
        let mut sealer = cipher::Sealer::begin(cipher, &mut stored);
        for pair in cuts.windows(2) {
            sealer.push(&body[pair[0] as usize..pair[1] as usize], &mut stored);
        }
        sealer.finish(&mut stored);
        prop_assert_eq!(stored.len() as u64, stored_len(len));
        prop_assert_eq!(segments(len), (len.div_ceil(SEGMENT)).max(1));
        prop_assert_eq!(cipher::open_whole(&stored, "n", &keys, "o").expect("open"), body);
    }
}

/// Reads an object; `None` for any error.
async fn read(store: &dyn ObjectStore, path: &Path, options: GetOptions) -> Option<(Bytes, std::ops::Range<u64>, u64)> {
    let answer = store.get_opts(path, options).await.ok()?;
    let (range, size) = (answer.range.clone(), answer.meta.size);
    Some((answer.bytes().await.ok()?, range, size))
}
