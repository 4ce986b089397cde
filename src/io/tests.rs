//! One test suite over both backends, and the effect of single failing steps.

use super::testing::{FAULTS, Step, each_step};
use super::*;
use crate::error::{Error, Result};
use bytes::{Bytes, BytesMut};
use std::os::unix::fs::FileExt;

/// Runs a test with each backend. Prints a message if the ring is refused on this machine.
fn with_both(test: impl Fn(&dyn Io, &Path)) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    test(&StdIo, dir.path());
    let dir = tempfile::tempdir().expect("a temporary directory");
    match Uring::start(dir.path()) {
        Ok(ring) => test(&ring, dir.path()),
        Err(refusal) => eprintln!("skipped: uring: {refusal}"),
    }
}

/// Returns bytes that differ from piece to piece.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 251 + i % 251) as u8).collect()
}

fn names(io: &dyn Io, dir: &Path) -> Vec<String> {
    io.list_all(dir).expect("list").into_iter().map(|name| name.to_string_lossy().into_owned()).collect()
}

fn once(bytes: impl Into<Bytes>) -> impl Iterator<Item = Result<Bytes>> {
    std::iter::once(Ok(bytes.into()))
}

#[test]
fn a_zeroed_segment_takes_appends_and_reads_them_back() {
    with_both(|io, dir| {
        let path = dir.join("segment");
        let len = (BULK_PIECE_BYTES * 3 + 17) as u64;
        let segment = io.create_zeroed(&path, len).expect("create");
        assert_eq!(io.len(&segment).expect("len"), len);
        assert!(io.read_file(&path).expect("read").iter().all(|&b| b == 0));

        let first = pattern(4096);
        let second = pattern(100);
        io.write_at(&segment, 0, first.clone().into()).expect("append");
        io.write_at(&segment, 4096, second.clone().into()).expect("append");
        io.sync_data(&segment).expect("sync");
        assert_eq!(io.read_at(&segment, 4096, 100).expect("read"), second);

        let again = io.open(&path).expect("open");
        assert_eq!(again.path(), path);
        assert_eq!(io.read_at(&again, 0, 4096).expect("read"), first);
        assert_eq!(names(io, dir), ["segment"]);
    });
}

#[test]
fn blocks_of_a_zeroed_segment_are_allocated() {
    use std::os::unix::fs::MetadataExt;
    with_both(|io, dir| {
        let segment = io.create_zeroed(&dir.join("segment"), 1 << 20).expect("create");
        assert!(segment.file().metadata().expect("stat").blocks() * 512 >= 1 << 20, "the segment has holes");
    });
}

#[test]
fn an_existing_file_is_not_zeroed() {
    with_both(|io, dir| {
        let path = dir.join("segment");
        io.write_file(&path, &mut once(&b"kept"[..])).expect("write");
        let error = io.create_zeroed(&path, 10).expect_err("it exists");
        assert!(matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists));
        assert_eq!(io.read_file(&path).expect("read"), &b"kept"[..]);
    });
}

#[test]
fn files_of_many_sizes_and_parts_come_back() {
    with_both(|io, dir| {
        let window = BULK_PIECE_BYTES * BULK_IN_FLIGHT;
        for len in [0, 1, BULK_PIECE_BYTES - 1, BULK_PIECE_BYTES, BULK_PIECE_BYTES + 1, window * 2 + 4097] {
            let content = pattern(len);
            for part in [1000, BULK_PIECE_BYTES, BULK_PIECE_BYTES * 3 + 5] {
                let path = dir.join("image");
                let mut parts = content.chunks(part).map(|p| Ok(Bytes::copy_from_slice(p)));
                assert_eq!(io.write_file(&path, &mut parts).expect("write"), len as u64);
                assert!(io.read_file(&path).expect("read") == content, "{len} bytes in parts of {part}");
            }
        }
        assert_eq!(names(io, dir), ["image"]);
    });
}

#[test]
fn transfers_under_way_at_once_do_not_mix() {
    with_both(|io, dir| {
        let file = io.create(&dir.join("many")).expect("create");
        let block = |i: u64| Bytes::from(vec![i as u8; 1000]);
        let writes: Vec<_> = (0..200).map(|i| io.start_write(&file, i * 1000, block(i))).collect();
        for write in writes {
            write.wait().expect("write");
        }
        let reads: Vec<_> = (0..200).map(|i| io.start_read(&file, i * 1000, BytesMut::zeroed(1000))).collect();
        for (i, read) in reads.into_iter().enumerate() {
            assert_eq!(read.wait().expect("read"), block(i as u64));
        }
    });
}

#[test]
fn threads_share_a_backend() {
    with_both(|io, dir| {
        std::thread::scope(|scope| {
            for i in 0..4 {
                scope.spawn(move || {
                    let path = dir.join(format!("file-{i}"));
                    let content = vec![i as u8; BULK_PIECE_BYTES * 5 + i];
                    io.write_file(&path, &mut once(content.clone())).expect("write");
                    assert!(io.read_file(&path).expect("read") == content);
                });
            }
        });
        assert_eq!(names(io, dir).len(), 4);
    });
}

#[test]
fn a_dropped_transfer_leaves_the_backend_usable() {
    with_both(|io, dir| {
        let file = io.create(&dir.join("file")).expect("create");
        for i in 0..100 {
            drop(io.start_write(&file, i * 4096, Bytes::from(vec![1; 4096])));
            drop(io.start_read(&file, 0, BytesMut::zeroed(4096)));
        }
        io.write_at(&file, 1 << 20, Bytes::from_static(b"after")).expect("write");
        assert_eq!(io.read_at(&file, 1 << 20, 5).expect("read"), &b"after"[..]);
    });
}

#[test]
fn a_read_beyond_the_end_is_an_error() {
    with_both(|io, dir| {
        let path = dir.join("short");
        io.write_file(&path, &mut once(pattern(100))).expect("write");
        let file = io.open_read(&path).expect("open");
        let error = io.read_at(&file, 50, 51).expect_err("one byte too many");
        assert!(matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof));
        assert!(error.to_string().starts_with(&format!("cannot read {}: ", path.display())), "{error}");
        assert_eq!(io.read_at(&file, 50, 50).expect("read").len(), 50);
        assert_eq!(io.read_at(&file, 100, 0).expect("read").len(), 0);
    });
}

#[test]
fn a_refused_write_is_an_error() {
    with_both(|io, dir| {
        let path = dir.join("read-only");
        io.write_file(&path, &mut once(pattern(10))).expect("write");
        let file = io.open_read(&path).expect("open");
        let error = io.write_at(&file, 0, Bytes::from_static(b"x")).expect_err("opened for reading");
        assert!(matches!(&error, Error::Io { source, .. } if source.raw_os_error() == Some(9)), "{error}");
        assert!(error.to_string().contains("cannot write") && error.to_string().contains("read-only"), "{error}");
    });
}

#[test]
fn a_full_device_is_an_error_of_the_write() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        eprintln!("skipped: no /dev/full");
        return;
    }
    with_both(|io, _| {
        let file = LogFile::new(OpenOptions::new().write(true).open(full).expect("open"), full);
        let error = io.write_at(&file, 0, Bytes::from(pattern(4096))).expect_err("no space");
        assert!(matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull));
        let error = io.sync_data(&file).expect_err("a device that cannot sync");
        assert!(error.to_string().starts_with("cannot sync /dev/full: "), "{error}");
    });
}

#[test]
fn directory_operations_name_their_path() {
    with_both(|io, dir| {
        let missing = dir.join("missing");
        let there = dir.join("there");
        let errors = [
            ("open", io.open(&missing).expect_err("missing")),
            ("open", io.read_file(&missing).expect_err("missing")),
            ("rename", io.rename(&missing, &there).expect_err("missing")),
            ("remove", io.remove(&missing).expect_err("missing")),
            ("list", io.list(&missing).expect_err("missing")),
            ("sync directory", io.sync_dir(&missing).expect_err("missing")),
            ("create", io.create(&missing.join("x")).expect_err("no directory")),
        ];
        for (action, error) in errors {
            let text = error.to_string();
            assert!(text.starts_with(&format!("cannot {action} {}", missing.display())), "{text}");
        }
    });
}

#[test]
fn names_change() {
    with_both(|io, dir| {
        let sub = dir.join("a/b");
        io.create_dir(&sub).expect("create directory");
        let (old, new) = (sub.join("old"), sub.join("new"));
        io.write_file(&old, &mut once(pattern(100))).expect("write");
        io.write_file(&new, &mut once(pattern(5))).expect("write");
        io.rename(&old, &new).expect("rename");
        io.sync_dir(&sub).expect("sync");
        assert_eq!(names(io, &sub), ["new"]);
        assert_eq!(io.read_file(&new).expect("read"), pattern(100));
        io.remove(&new).expect("remove");
        assert!(names(io, &sub).is_empty());
    });
}

#[test]
fn a_failing_source_keeps_the_old_file() {
    with_both(|io, dir| {
        let path = dir.join("image");
        io.write_file(&path, &mut once(&b"old"[..])).expect("write");
        let mut parts = (0..40).map(|i| match i {
            39 => Err(Error::NotNow { reason: "the source failed".into() }),
            _ => Ok(Bytes::from(vec![7; BULK_PIECE_BYTES])),
        });
        let error = io.write_file(&path, &mut parts).expect_err("the source failed");
        assert_eq!(error.to_string(), "the source failed");
        assert_eq!(io.read_file(&path).expect("read"), &b"old"[..]);
        assert_eq!(names(io, dir), ["image"]);
    });
}

#[test]
fn unfinished_files_are_not_listed_and_can_be_removed() {
    with_both(|io, dir| {
        io.write_file(&dir.join("whole"), &mut once(&b"x"[..])).expect("write");
        drop(io.create(&unfinished_name(&dir.join("torn"))).expect("create"));
        assert_eq!(io.list(dir).expect("list"), ["whole"]);
        assert_eq!(io.remove_unfinished(dir).expect("remove"), 1);
        assert_eq!(names(io, dir), ["whole"]);
    });
}

/// Goal: every step of an atomic write is reached through the trait. Whichever step fails, the write fails, and the
/// name shows the whole old or the whole new content. No unfinished file stays, unless it cannot be removed.
#[test]
fn every_step_of_an_atomic_write_can_fail() {
    let content = pattern(BULK_PIECE_BYTES * 2 + 10);
    each_step(&FAULTS, |case| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("image");
        StdIo.write_file(&path, &mut once(&b"old"[..])).expect("write");
        let written = case.io.write_file(&path, &mut once(content.clone()));
        let struck = case.io.struck();
        assert_eq!(written.is_err(), struck.is_some(), "{written:?}");
        let shown = StdIo.read_file(&path).expect("read");
        let may_be_new = matches!(struck, None | Some(Step::Rename | Step::SyncDir));
        assert!(shown == b"old"[..] || (may_be_new && shown == content));
        assert!(written.is_err() || shown == content);
        if !case.is_over() {
            assert_eq!(names(&StdIo, dir.path()), ["image"]);
        }
        StdIo.remove_unfinished(dir.path()).expect("remove");
        assert_eq!(names(&StdIo, dir.path()), ["image"]);
    });
}

/// Goal: a segment whose creation failed does not exist, or it is whole, so that a start can use the directory.
#[test]
fn a_failed_segment_is_whole_or_not_there() {
    each_step(&FAULTS, |case| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("segment");
        let made = case.io.create_zeroed(&path, 100);
        assert_eq!(made.is_err(), case.io.has_struck());
        StdIo.remove_unfinished(dir.path()).expect("remove");
        if path.exists() {
            assert_eq!(StdIo.read_file(&path).expect("read"), vec![0; 100]);
        } else {
            StdIo.create_zeroed(&path, 100).expect("create");
        }
    });
}

#[test]
fn a_full_queue_and_a_full_ring_make_callers_wait() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ring = match Uring::start(dir.path()) {
        Ok(ring) => ring,
        Err(refusal) => return eprintln!("skipped: uring: {refusal}"),
    };
    let file = ring.create(&dir.path().join("file")).expect("create");
    let writes: Vec<_> = (0..2000u64).map(|i| ring.start_write(&file, i, Bytes::from(vec![i as u8]))).collect();
    for write in writes {
        write.wait().expect("write");
    }
    let mut back = vec![0; 2000];
    file.file().read_exact_at(&mut back, 0).expect("read");
    assert!(back.iter().enumerate().all(|(i, &b)| b == i as u8));
}

#[test]
fn each_choice_gives_working_backends() {
    for choice in [Choice::Auto, Choice::Uring, Choice::Std] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let backends = Backends::select(dir.path(), choice).expect("select");
        eprintln!("{choice}: {} ({})", backends.description, backends.reason);
        assert_eq!(backends.description, format!("log={} bulk={}", backends.log.name(), backends.bulk.name()));
        assert!(!backends.reason.is_empty());
        assert!(names(&*backends.log, dir.path()).is_empty(), "calibration left files behind");
        for io in [&backends.log, &backends.bulk] {
            let path = dir.path().join("file");
            io.write_file(&path, &mut once(pattern(1000))).expect("write");
            assert_eq!(io.read_file(&path).expect("read"), pattern(1000));
        }
        if choice == Choice::Std {
            assert_eq!(backends.description, "log=std bulk=std");
        }
    }
}

#[test]
fn a_ring_that_cannot_write_in_the_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    assert!(Uring::start(&dir.path().join("missing")).is_err());
}

#[test]
fn the_configuration_key_is_parsed() {
    for choice in [Choice::Auto, Choice::Uring, Choice::Std] {
        assert_eq!(choice.to_string().parse::<Choice>().expect("own text"), choice);
    }
    let error = "fast".parse::<Choice>().expect_err("unknown");
    assert_eq!(error.to_string(), "configuration: io-backend: expected auto, uring or std, found \"fast\"");
}
