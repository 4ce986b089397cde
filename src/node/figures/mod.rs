//! The figures of a node. Each figure is declared once: its name in INFO, its name and help text as a Prometheus metric,
//! its unit, and how it is read. INFO, `walferry status` (which reads INFO) and the metrics show them.
//!
//! ```text
//! names    the fields of INFO that `walferry status` puts into words
//! commits  how far commits are safe, and which of them can be restored
//! archive  uploads, requests, merging, the second archive, bases, compacted runs, prunes
//! serving  clients, memory, logs, replication
//! ```
//!
//! Guarantees: the figures stay true when nothing happens. A metric whose value is unknown is omitted; its field in INFO
//! is empty or 0.

pub mod archive;
pub mod commits;
pub mod names;
pub mod serving;

use crate::csn::CommitTime;
use crate::metrics::{Exposition, Kind};
use std::time::Duration;

/// Fields of INFO: names and values, in order.
pub type Fields = Vec<(String, String)>;

/// The description of a Prometheus metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    kind: Kind,
    name: &'static str,
    help: &'static str,
}

/// Describes a metric that goes up and down.
#[must_use]
pub const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { kind: Kind::Gauge, name, help }
}

/// Describes a metric that only grows while the process lives.
#[must_use]
pub const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { kind: Kind::Counter, name, help }
}

/// The value of a figure, in the unit of INFO and in the unit of Prometheus.
#[derive(Clone, Debug)]
pub struct Value {
    info: String,
    /// `None` if the value is unknown.
    metric: Option<String>,
}

impl Value {
    /// A number with the same text in both outputs: a count, a csn, an epoch, bytes.
    pub fn number(number: impl ToString) -> Self {
        let text = number.to_string();
        Self { info: text.clone(), metric: Some(text) }
    }

    /// A number that may be unknown; INFO shows an unknown number as an empty text.
    pub fn known<N: ToString>(number: Option<N>) -> Self {
        number.map_or_else(|| Self { info: String::new(), metric: None }, Self::number)
    }

    /// A number that may be unknown; INFO shows an unknown number as 0.
    pub fn known_or_0<N: ToString>(number: Option<N>) -> Self {
        number.map_or_else(|| Self { info: "0".to_owned(), metric: None }, Self::number)
    }

    /// A commit time: RFC 3339 in INFO, Unix seconds as a metric.
    pub fn time(time: Option<CommitTime>) -> Self {
        let info = time.map_or_else(String::new, |time| time.to_string());
        Self { info, metric: time.map(|time| (time.0 as f64 / 1e6).to_string()) }
    }

    /// A lag: milliseconds in INFO, rounded up, so that only a zero lag is shown as 0; seconds as a metric.
    pub fn lag(lag: Duration) -> Self {
        Self { info: rounded_up_ms(lag), metric: Some(lag.as_secs_f64().to_string()) }
    }

    /// A duration: whole milliseconds in INFO, 0 if it is unknown; seconds as a metric.
    pub fn took_ms(took: Option<Duration>) -> Self {
        let info = took.map_or(0, |took| took.as_millis()).to_string();
        Self { info, metric: took.map(|took| took.as_secs_f64().to_string()) }
    }

    /// A duration: whole microseconds in INFO, 0 if it is unknown; seconds as a metric.
    pub fn took_us(took: Option<Duration>) -> Self {
        let info = took.map_or(0, |took| took.as_micros()).to_string();
        Self { info, metric: took.map(|took| took.as_secs_f64().to_string()) }
    }

    /// A difference in microseconds: milliseconds in INFO, seconds as a metric.
    pub fn difference_us(difference: i64) -> Self {
        Self { info: (difference / 1000).to_string(), metric: Some((difference as f64 / 1e6).to_string()) }
    }

    /// A number of milliseconds: the same in INFO, seconds as a metric.
    pub fn millis(millis: u64) -> Self {
        Self { info: millis.to_string(), metric: Some((millis as f64 / 1e3).to_string()) }
    }

    /// A failure: its text in INFO, 1 as a metric; empty and 0 if there is none.
    pub fn failure(error: Option<String>) -> Self {
        let metric = Some(u8::from(error.is_some()).to_string());
        Self { info: error.unwrap_or_default(), metric }
    }

    /// A condition: one of two words in INFO, 1 or 0 as a metric.
    pub fn condition(holds: bool, [yes, no]: [&str; 2]) -> Self {
        Self { info: if holds { yes } else { no }.to_owned(), metric: Some(u8::from(holds).to_string()) }
    }

    /// Omits the metric unless a condition holds.
    #[must_use]
    pub fn metric_if(self, holds: bool) -> Self {
        Self { metric: self.metric.filter(|_| holds), ..self }
    }
}

/// Rounds up to whole milliseconds, so that only a zero lag yields 0.
pub fn rounded_up_ms(lag: Duration) -> String {
    lag.as_micros().div_ceil(1000).to_string()
}

/// A sample of a metric with a label.
pub struct Sample {
    /// Field in INFO; empty if INFO does not show the sample.
    pub field: &'static str,
    /// The label's value.
    pub label: String,
    /// The value.
    pub value: Value,
}

/// Receives figures and keeps what one of the two outputs shows.
#[derive(Debug)]
pub enum Figures {
    /// The fields of a section of INFO.
    Info(Fields),
    /// The metrics.
    Metrics(Exposition),
}

impl Figures {
    /// Takes a figure that both outputs show.
    pub fn both(&mut self, field: &str, metric: Metric, value: Value) {
        match self {
            Self::Info(fields) => fields.push((field.to_owned(), value.info)),
            Self::Metrics(_) => self.metric(metric, value),
        }
    }

    /// Takes a text that only INFO shows; `read` is called only for INFO.
    pub fn text<T: ToString>(&mut self, field: &str, read: impl FnOnce() -> T) {
        if let Self::Info(fields) = self {
            fields.push((field.to_owned(), read().to_string()));
        }
    }

    /// Takes a figure that only the metrics show.
    pub fn metric(&mut self, Metric { kind, name, help }: Metric, value: Value) {
        if let (Self::Metrics(out), Some(value)) = (self, value.metric) {
            out.family(kind, name, help).sample(&[], value);
        }
    }

    /// Takes a figure that the metrics show as one metric with a label.
    pub fn labelled(&mut self, Metric { kind, name, help }: Metric, label: &str, samples: Vec<Sample>) {
        match self {
            Self::Info(fields) => {
                let shown = samples.into_iter().filter(|sample| !sample.field.is_empty());
                fields.extend(shown.map(|Sample { field, value, .. }| (field.to_owned(), value.info)));
            }
            Self::Metrics(out) => {
                let mut family = out.family(kind, name, help);
                for sample in samples {
                    family.sample(&[(label, &sample.label)], sample.value.metric.unwrap_or_default());
                }
            }
        }
    }

    /// Returns the fields of INFO.
    #[must_use]
    pub fn into_fields(self) -> Fields {
        match self {
            Self::Info(fields) => fields,
            Self::Metrics(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: each output shows a figure in its own unit, and an unknown value stays visible in INFO only.
    #[test]
    fn a_figure_is_shown_in_the_unit_of_each_output() {
        let take = |out: &mut Figures| {
            out.both("lag_ms", gauge("lag_seconds", "Lag."), Value::lag(Duration::from_micros(1250)));
            out.both("took_us", gauge("took_seconds", "Took."), Value::took_us(None));
            out.both("time", gauge("time_seconds", "Time."), Value::time(Some(CommitTime(1_500_000))));
            out.both("error", gauge("failed", "Failed."), Value::failure(Some("why".to_owned())));
            out.both("csn", gauge("csn", "Csn."), Value::known(None::<u64>));
            out.both("ahead_ms", gauge("ahead_seconds", "Ahead."), Value::difference_us(-1500));
            out.both("hidden", gauge("hidden", "Hidden."), Value::number(1).metric_if(false));
            out.text("text", || "only in INFO");
            out.metric(counter("only_total", "Only a metric."), Value::number(7));
            let sample = |field, label: &str| Sample { field, label: label.to_owned(), value: Value::number(3) };
            out.labelled(counter("requests_total", "R."), "op", vec![sample("puts", "put"), sample("", "get")]);
        };
        let (mut info, mut metrics) = (Figures::Info(Fields::new()), Figures::Metrics(Exposition::default()));
        take(&mut info);
        take(&mut metrics);
        let fields: Vec<String> =
            info.into_fields().into_iter().map(|(name, value)| format!("{name}:{value}")).collect();
        let expected = [
            "lag_ms:2",
            "took_us:0",
            "time:1970-01-01T00:00:01.500000Z",
            "error:why",
            "csn:",
            "ahead_ms:-1",
            "hidden:1",
            "text:only in INFO",
            "puts:3",
        ];
        assert_eq!(fields, expected);
        let Figures::Metrics(exposition) = metrics else { unreachable!("made as metrics") };
        let text = exposition.finish();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "lag_seconds 0.00125",
            "time_seconds 1.5",
            "failed 1",
            "ahead_seconds -0.0015",
            "only_total 7",
            "requests_total{op=\"put\"} 3",
            "requests_total{op=\"get\"} 3",
        ];
        assert_eq!(samples, expected);
    }
}
