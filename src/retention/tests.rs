//! Tests policies and plans against a model that knows every commit ever made, and prunes against a store that fails.

mod clock;
mod crashes;
mod world;

use crate::csn::Csn;
use crate::keep::Keep;
use crate::retention::check;
use crate::retention::plan::plan;
use crate::retention::sweep::{Reason, Removal};
use crate::retention::timeline::Why;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;
use world::World;

const WORLDS: u64 = 250;
const STEPS: u64 = 14;
const GRACE: Duration = Duration::from_secs(3);

/// Goal: whatever happens, and however often the archive is pruned, everything the policy promises can be restored,
/// and no garbage stays.
#[test]
fn what_the_policy_promises_stays_and_nothing_else() {
    let base_seed: u64 = std::env::var("WALFERRY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut removed = 0;
    for seed in base_seed..base_seed + WORLDS {
        let mut random = StdRng::seed_from_u64(seed);
        let policy = ["10s fine, every 4s 60s", "5s fine, every 3s 30s, every 20s 200s", "0s fine", "8s fine", ""];
        let keep: Keep = policy[random.random_range(0..policy.len())].parse().unwrap();
        let mut world = World::new(seed);
        for step in 0..STEPS {
            world.live(&mut random);
            let material = world.material(&keep);
            let planned = plan(&material, &keep, GRACE);
            check::check(&material, &planned).unwrap_or_else(|lost| panic!("seed {seed} step {step}: {lost}"));
            removed += planned.removals.len();
            // After a crash behind any removal, too, the promises can be restored.
            let crash = random.random_range(0..=planned.removals.len());
            world.begin(&planned, crash);
            world.assert_promises(&keep, &format!("seed {seed} step {step} '{keep}' after {crash} removals"));
            world.remove(&planned.removals[crash..]);
            world.assert_promises(&keep, &format!("seed {seed} step {step} '{keep}'"));
            let again = plan(&world.material(&keep), &keep, GRACE);
            assert_eq!(again.removals, [], "seed {seed} step {step}: what goes, goes at once");
            if step % 3 == 2 {
                world.assert_no_garbage(&keep, GRACE, &format!("seed {seed} step {step} '{keep}'"));
            }
        }
    }
    assert!(removed > 1000, "the worlds were pruned: {removed}");
}

/// Goal: without a policy only garbage is removed.
#[test]
fn without_a_policy_every_commit_stays() {
    let mut world = World::new(7);
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..10 {
        world.live(&mut random);
    }
    let keep = Keep::default();
    let material = world.material(&keep);
    let planned = plan(&material, &keep, Duration::ZERO);
    let is_garbage = |removal: &Removal| matches!(removal.why, Reason::Replaced | Reason::Orphan);
    assert!(planned.removals.iter().all(is_garbage), "{:?}", planned.removals);
    assert!(planned.promises.iter().any(|promise| promise.why == Why::Everything));
    assert_eq!(planned.thinned.until.len(), 0);
}

/// Goal: the check refuses any plan that would lose something promised, whichever object the plan removes.
#[test]
fn the_check_finds_any_removal_too_many() {
    let keep: Keep = "10s fine, every 4s 60s".parse().unwrap();
    let mut found = 0;
    for seed in 500..540 {
        let mut world = World::new(seed);
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..6 {
            world.live(&mut random);
        }
        let material = world.material(&keep);
        let planned = plan(&material, &keep, GRACE);
        world.begin(&planned, planned.removals.len());
        found += world.removals_that_lose(&keep, GRACE);
    }
    assert!(found > 200, "{found}");
}

/// Goal: what a pin names stays, whatever the policy, until the pin expires.
#[test]
fn a_pin_keeps_what_it_names() {
    let keep: Keep = "0s fine".parse().unwrap();
    let mut world = World::new(3);
    let mut random = StdRng::seed_from_u64(3);
    for _ in 0..8 {
        world.live_quietly(&mut random);
    }
    world.publish_base();
    let (from, until) = world.pin(0, 9, Duration::from_secs(30));
    let planned = plan(&world.material(&keep), &keep, Duration::ZERO);
    world.begin(&planned, planned.removals.len());
    assert!(!planned.removals.is_empty());
    (from.0.max(1)..=until.0).for_each(|csn| assert!(world.is_restorable(Csn(csn)), "csn {csn}"));
    world.pass(Duration::from_secs(60));
    let planned = plan(&world.material(&keep), &keep, Duration::ZERO);
    assert!(planned.removals.iter().any(|removal| removal.why == Reason::PinOver));
    world.begin(&planned, planned.removals.len());
    assert!(!world.is_restorable(from.next()), "nothing holds it any more");
}

/// Goal: an SST is removed only when no remaining manifest names it, and no SST is removed if a manifest is
/// unreadable.
#[test]
fn ssts_outlive_the_bases_that_share_them() {
    let keep: Keep = "0s fine".parse().unwrap();
    let mut world = World::new(4);
    let mut random = StdRng::seed_from_u64(4);
    for _ in 0..12 {
        world.live_quietly(&mut random);
        world.publish_base();
    }
    world.pass(GRACE * 2);
    let material = world.material(&keep);
    let planned = plan(&material, &keep, GRACE);
    let gone = |removal: &Removal| removal.object.to_string().starts_with("sst/");
    assert!(planned.removals.iter().any(gone));
    world.begin(&planned, planned.removals.len());
    assert!(world.bases_are_whole());
    let mut unreadable = material;
    let first = *unreadable.facts.keys().next().unwrap();
    unreadable.facts.insert(first, Err("it is damaged".to_owned()));
    let planned = plan(&unreadable, &keep, GRACE);
    assert!(!planned.removals.iter().any(gone), "{:?}", planned.removals);
    assert!(planned.remarks.iter().any(|remark| remark.contains("damaged")), "{:?}", planned.remarks);
}
