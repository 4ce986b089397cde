//! A primary, its replicas and their archive, for a long time, under load, while everything goes wrong that can.
//!
//! What happens is drawn from a seed: `WALFERRY_SEED` replays it. `WALFERRY_SECONDS` sets the time; a round is always
//! played to its end.

mod support;

use std::time::Duration;
use support::simulation::run::simulate;
use support::workload::seed;

/// How long new rounds begin.
const SECONDS: u64 = 60;

/// Goal: through kills, freezes, power cuts, full disks, a faulty archive, a faulty network, replaced replicas and
/// promotions, nothing that was promised is lost, nothing is torn, every commit can be restored exactly, and replicas
/// equal their primary.
#[test]
fn everything_goes_wrong_and_nothing_promised_is_lost() {
    let seconds =
        std::env::var("WALFERRY_SECONDS").map_or(SECONDS, |text| text.parse().expect("WALFERRY_SECONDS is a number"));
    simulate(seed(), Duration::from_secs(seconds));
}
