//! A primary, its replicas and their archive under load for a long time, with every fault that the simulation has.
//!
//! The plan is drawn from a seed: `WALFERRY_SEED` replays it. `WALFERRY_SECONDS` sets the duration; a round always
//! runs to its end.

mod support;

use redis::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use support::client::error_text;
use support::dump::dump;
use support::model::{Model, Step};
use support::oracle::Oracle;
use support::simulation::line::{Kind, Line, apply};
use support::simulation::plan::{Finale, Plan};
use support::simulation::run::simulate;
use support::workload::seed;

/// Seconds during which new rounds begin.
const SECONDS: u64 = 60;
/// Number of rounds in which every possible event is expected to be drawn.
const MANY_ROUNDS: usize = 1_000;
/// Number of steps of a line that are compared with redis-server.
const STEPS: u64 = 1_500;

/// Goal: nothing promised is lost, nothing is torn, every commit can be restored exactly, and replicas equal their
/// primary. This holds through kills, freezes, power cuts, full disks, a faulty archive, a faulty network, replaced
/// replicas, wrong clocks, promotions at once and in turn, cloned directories, and older copies of directories.
#[test]
fn everything_goes_wrong_and_nothing_promised_is_lost() {
    let seconds =
        std::env::var("WALFERRY_SECONDS").map_or(SECONDS, |text| text.parse().expect("WALFERRY_SECONDS is a number"));
    simulate(seed(), Duration::from_secs(seconds));
}

/// Goal: a seed always draws the same plan, different seeds draw different plans, and plans contain every event.
#[test]
fn a_plan_is_drawn_from_its_seed_and_leaves_nothing_out() {
    let rounds = |seed| (0..MANY_ROUNDS).map(|number| Plan::new(seed).round(number)).collect::<Vec<_>>();
    let (one, again, other) = (rounds(1), rounds(1), rounds(2));
    assert_eq!(one, again);
    assert_ne!(one, other);
    let name = |text: String| text.split(['(', ' ']).next().unwrap_or_default().to_owned();
    let acts: BTreeSet<String> =
        one.iter().flat_map(|round| &round.moments).map(|moment| name(format!("{:?}", moment.act))).collect();
    assert_eq!(acts.len(), 22, "{acts:?}");
    let finales: BTreeSet<String> = one.iter().map(|round| format!("{:?}", round.finale)).collect();
    assert_eq!(finales.len(), 12, "{finales:?}");
    let is_whole =
        |round: &&support::simulation::plan::Round| round.finale != Finale::Calm || !round.moments.is_empty();
    assert!(one.iter().filter(is_whole).count() > MANY_ROUNDS / 2);
}

/// Goal: the state that a line predicts after each of its steps equals that of redis-server. A line finds its own
/// position in this state, and finds none in a state that lacks a single step.
#[test]
fn a_line_tells_what_redis_holds() {
    let oracle = Oracle::start();
    let mut client = oracle.client();
    let mut line = Line::new(3, Kind::Mixed, seed());
    let mut model = Model::default();
    for position in 1..=STEPS {
        let step = line.step(position);
        let reply: Value = match &step {
            Step::Single(command) => client.call(command),
            Step::Group(commands) => client.transaction(commands),
        };
        assert!(error_text(&reply).is_none(), "step {position}: {step:?} was refused: {reply:?}");
        apply(&mut model, &step, Some(&reply));
        line.keep(position, &model);
        if position % 100 == 0 {
            assert_eq!(line.find_in(&dump(&mut client)), Ok(position));
        }
    }
    let is_group = |position: &u64| matches!(line.step(*position), Step::Group(_));
    let left_out = (0..STEPS - 100).rev().find(is_group).expect("most steps have several commands");
    let mut lacking = line.model_at(left_out - 1);
    (left_out + 1..=STEPS).for_each(|position| apply(&mut lacking, &line.step(position), None));
    assert!(line.find_in(&lacking.dump()).is_err(), "that step {left_out} is missing shows for ever");
    let fork = line.fork(STEPS - 10, 7);
    assert_eq!(fork.model_at(STEPS - 10), line.model_at(STEPS - 10));
    assert_ne!(fork.step(STEPS), line.step(STEPS), "what is written after a fork differs");
}
