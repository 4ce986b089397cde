//! `bench serve --steady`: tests whether a server is as fast at the end of a long run as at its beginning. Removed
//! elements must not slow down later commands.

use super::common::Common;
use super::html;
use super::load::{self, Outcome, Shape, Until};
use super::report::{Report, Section};
use super::server::{Launch, Program, Server};
use super::workload::Workload;
use crate::exit::Failure;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Seconds at the beginning and at the end that are compared, if the run is long enough.
const WINDOW_SECONDS: usize = 60;
/// In a shorter run, the windows are the run's length divided by this number.
const WINDOW_PART: usize = 4;
/// Lowest accepted ratio of the last window's rate to the first window's.
const RATIO_MIN: f64 = 0.9;

/// Runs each test on a server of its own; fails if one is not steady.
pub(super) fn run(common: &Common, tests: &[Workload], pipelines: &[u64]) -> Result<Report, Failure> {
    let window = WINDOW_SECONDS.min(common.seconds as usize / WINDOW_PART).max(1);
    let mut report = common.report("serve");
    let mut slower = Vec::new();
    for &pipeline in pipelines {
        let mut section = Section {
            title: format!("Pipeline {pipeline}"),
            notes: vec![format!(
                "Operations a second, and the server's CPU time for each, in the first and the last {window} of {} s. Where the \
                 rate falls and the CPU time does not, the machine had other things to do.",
                common.seconds
            )],
            columns: ["test", "first", "last", "ratio", "cpu us/op", "cpu us/op last", "p99 ms", "max ms"]
                .map(str::to_owned)
                .to_vec(),
            ..Section::default()
        };
        for test in tests {
            let scratch = common.scratch()?;
            let launch = Launch::primary(Program::Walferry, &scratch.path().join(test.name), &common.appendfsync)?;
            let server = launch.start()?.0;
            let shape = common.shape(pipeline as usize);
            let (outcome, cpu) = measure(&server, test, shape, common.until())?;
            // Replies after the last whole second are left out.
            let whole = &outcome.by_second[..outcome.by_second.len().min(common.seconds as usize)];
            let rate = |seconds: &[u64]| seconds.iter().sum::<u64>() as f64 / seconds.len().max(1) as f64;
            let (begin, end) = (0..window.min(whole.len()), whole.len().saturating_sub(window)..whole.len());
            let [first, last] = [&begin, &end].map(|seconds| rate(&whole[seconds.clone()]));
            let ratio = last / first;
            let cpu_us = |seconds: &Range<usize>| {
                let used = cpu.get(seconds.end).zip(cpu.get(seconds.start)).map_or(0.0, |(end, start)| end - start);
                used * 1e6 / whole[seconds.clone()].iter().sum::<u64>() as f64
            };
            let row = [
                test.name.to_owned(),
                format!("{first:.0}"),
                format!("{last:.0}"),
                format!("{ratio:.2}"),
                format!("{:.1}", cpu_us(&begin)),
                format!("{:.1}", cpu_us(&end)),
                format!("{:.2}", outcome.latency_ms(0.99)),
                format!("{:.1}", outcome.latency_ms(1.0)),
            ];
            println!("pipeline {pipeline}: {}", row.join("  "));
            if ratio < RATIO_MIN {
                slower.push(format!("{} at pipeline {pipeline} fell to {ratio:.2} of its first rate", row[0]));
            }
            section.rows.push(row.to_vec());
        }
        report.add(section);
    }
    if slower.is_empty() {
        return Ok(report);
    }
    report.write(&common.out, &html::page(&report))?;
    Err(Failure::Other(format!("not steady: {}", slower.join("; "))))
}

/// Runs a test; also returns the server's CPU seconds at the start of each second.
fn measure(server: &Server, test: &Workload, shape: Shape, until: Until) -> Result<(Outcome, Vec<f64>), Failure> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let (started, mut samples) = (Instant::now(), Vec::new());
            while !is_over.load(Ordering::Relaxed) {
                samples.push(server.cpu_seconds());
                let next = Duration::from_secs(samples.len() as u64);
                while started.elapsed() < next && !is_over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            samples.push(server.cpu_seconds());
            samples
        });
        let outcome = load::run(server.launch.port, test, shape, until, 1);
        is_over.store(true, Ordering::Relaxed);
        let samples = sampler.join().expect("reading a file of /proc does not panic");
        Ok((outcome?, samples))
    })
}
