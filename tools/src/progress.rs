//! Progress bars for work that can take more than a second; only on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use walferry::restore::progress::{Phase, Progress, ProgressSink, silent};

/// Returns a sink that draws one bar on stderr, or draws nothing if stderr is no terminal.
pub(crate) fn bar() -> ProgressSink {
    if !std::io::stderr().is_terminal() {
        return silent();
    }
    let style = "{msg:>8} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(style).expect("the template is a constant"));
    let phase = Mutex::new(None);
    Arc::new(move |progress: Progress| {
        let mut current = phase.lock().expect("the sink does not panic");
        if *current != Some(progress.phase) {
            *current = Some(progress.phase);
            bar.reset();
            bar.set_message(name(progress.phase));
            bar.set_length(progress.total);
        }
        bar.set_position(progress.done);
        if progress.phase == Phase::Finish {
            bar.finish_and_clear();
        }
    })
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Plan => "plan",
        Phase::Base => "base",
        Phase::Log => "log",
        Phase::Finish => "finish",
        Phase::Chunks => "chunks",
        Phase::Bases => "bases",
        Phase::Runs => "runs",
    }
}
