//! Compares the model that the other end-to-end tests use with a real redis-server.

mod support;

use support::dump::{assert_same, dump, now_ms};
use support::model::{Effect, Model, Step};
use support::oracle::Oracle;
use support::workload::{Choice, Workload, seed};

const STEPS: usize = 20_000;

/// Goal: after any sequence of workload steps the model equals redis-server, and refuses what redis-server refuses.
#[test]
fn model_agrees_with_redis() {
    let seed = seed();
    let oracle = Oracle::start();
    let mut client = oracle.client();
    let mut workload = Workload::new(seed);
    let mut model = Model::default();
    let mut changes = 0;
    for number in 0..STEPS {
        let step = workload.next(Choice::Open);
        let now_ms = now_ms();
        let reply = match &step {
            Step::Single(command) => client.call(command),
            Step::Group(commands) => client.transaction(commands),
        };
        changes += usize::from(model.apply_step(&step, now_ms, Some(&reply)) == Effect::Changed);
        if number % 50 == 0 {
            assert_same(&model.dump(), &dump(&mut client), &format!("after step {number}"));
        }
    }
    assert_same(&model.dump(), &dump(&mut client), "at the end");
    assert!(changes > STEPS / 4, "only {changes} of {STEPS} steps changed anything");
}

/// Goal: the model reports an effect exactly where redis-server counts a change, so that csns can be predicted.
#[test]
fn effects_are_what_redis_counts_as_changes() {
    let seed = seed();
    let oracle = Oracle::start();
    let mut client = oracle.client();
    let mut workload = Workload::new(seed);
    let mut model = Model::default();
    let changes = |client: &mut support::client::Client| client.info()["rdb_changes_since_last_save"].clone();
    let mut before = changes(&mut client);
    for _ in 0..STEPS / 10 {
        let step = workload.next(Choice::Open);
        let now_ms = now_ms();
        let reply = match &step {
            Step::Single(command) => client.call(command),
            Step::Group(commands) => client.transaction(commands),
        };
        let effect = model.apply_step(&step, now_ms, Some(&reply));
        let after = changes(&mut client);
        match effect {
            Effect::Changed => assert_ne!(before, after, "redis counts no change in {step:?}"),
            Effect::Nothing | Effect::Refused => assert_eq!(before, after, "redis counts a change in {step:?}"),
            Effect::Rewrote => {}
        }
        before = after;
    }
}
