//! Goal: a replay on any number of threads has the outcome of applying the ops one by one.

use super::super::Encoder;
use super::super::testing::{self, content};
use super::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;

type Batch = Arc<[CommitRecord]>;

fn batches(commits: &[CommitRecord], size: usize) -> impl Iterator<Item = Batch> {
    commits.chunks(size).map(Batch::from)
}

fn commit(csn: u64, encode: impl FnOnce(Encoder<'_>)) -> CommitRecord {
    let mut ops = Vec::new();
    encode(Encoder::new(&mut ops));
    CommitRecord { csn: Csn(csn), memory: ops.into(), ..CommitRecord::default() }
}

#[test]
fn the_outcome_is_that_of_one_op_after_another() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let expected = Memory::new();
        let commits: Vec<_> = (1..=300)
            .map(|csn| CommitRecord {
                csn: Csn(csn),
                memory: testing::ops(&mut random, &expected).into(),
                ..CommitRecord::default()
            })
            .collect();
        for threads in [1, 2, 3, PARTS] {
            // The second replay begins with the state that the first one left.
            let (memory, (first, second)) = (Memory::new(), commits.split_at(seed as usize));
            replay_on(threads, &memory, batches(first, 7)).unwrap();
            replay_on(threads, &memory, batches(second, 100)).unwrap();
            assert_eq!(content(&memory), content(&expected), "seed {seed}, {threads} threads");
        }
    }
}

#[test]
fn an_op_that_does_not_fit_ends_all_threads_and_is_told() {
    let key = |number: u64| format!("key {}", number % 20).into_bytes();
    let mut commits: Vec<_> =
        (0..20).map(|csn| commit(csn, |mut ops| ops.push_back(&key(csn), [&b"e"[..]].into_iter()))).collect();
    commits.extend((20..40).map(|csn| commit(csn, |mut ops| ops.rename(&key(csn), b"other"))));
    // All keys are gone: a thread must not wait for the thread that had the first key.
    commits.extend((40..1000).map(|csn| commit(csn, |mut ops| ops.rename(&key(csn), &key(csn + 1)))));
    for threads in 1..=PARTS {
        let misfit = replay_on(threads, &Memory::new(), batches(&commits, 3)).unwrap_err();
        assert_eq!((misfit.csn, misfit.batch[0].csn), (Csn(40), Csn(39)), "{threads} threads");
        assert!(misfit.error.to_string().contains("key 0"), "{}", misfit.error);
    }
}
