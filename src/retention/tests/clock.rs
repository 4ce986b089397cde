//! Commits whose times come from a clock that was years ahead: they are not kept for ever.

use crate::archive::layout::{ChunkName, ObjectName};
use crate::clock::now_micros;
use crate::csn::{CommitTime, Csn, Epoch};
use crate::log::testing::chained;
use crate::restore::tests::support::{Archived, base, go_on, history};
use crate::retention::check;
use crate::retention::material::Material;
use crate::retention::plan::plan;
use crate::retention::sweep::Reason;
use std::time::Duration;

/// How far the clock was ahead, in microseconds: ten years.
const AHEAD: u64 = 10 * 365 * 86_400_000_000;

/// Goal: commits with times in the future are removed when correctly timed commits uploaded at the same time would be.
#[tokio::test]
async fn commits_of_the_future_are_as_old_as_their_upload() {
    let mut first = history(7, 12, Epoch(1));
    first[8..].iter_mut().for_each(|commit| commit.time.0 += AHEAD);
    let first = chained(first);
    let mut second = go_on(&first, 8, 8, Epoch(2));
    second[12..].iter_mut().for_each(|commit| commit.time.0 -= AHEAD);
    let second = chained(second);
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.epoch(2, Some((1, &first[11]))).await;
    archived.chunks(1, &first, &[8, 4]).await;
    archived.base(&first, 1, 12, 12).await;
    archived.chunks(2, &second[12..], &[4, 4]).await;
    archived.base(&second, 2, 18, 18).await;
    let keep = "60s fine".parse().unwrap();
    let going = async |passed: Duration| {
        let now = CommitTime(now_micros() + passed.as_micros() as u64);
        let material = Material::read(&archived.archive, &keep, now).await.unwrap();
        let plan = plan(&material, &keep, Duration::ZERO);
        check::check(&material, &plan).unwrap();
        plan.removals.iter().map(|removal| (removal.object.clone(), removal.why)).collect::<Vec<_>>()
    };
    let of_future = [
        ObjectName::Chunk(ChunkName { epoch: Epoch(1), first: Csn(9), last: Csn(12) }),
        ObjectName::BaseManifest(base(12, 1)),
    ];
    let young = going(Duration::ZERO).await;
    let old = going(Duration::from_secs(90)).await;
    for object in of_future {
        assert!(young.iter().all(|(going, _)| *going != object), "{object} is younger than 60 s");
        assert!(old.contains(&(object.clone(), Reason::BeyondPolicy)), "{object} is older than 60 s");
    }
}
