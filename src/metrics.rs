//! Writes Prometheus' text format, version 0.0.4.
//!
//! Guarantees: the help and the type of each family precede its samples; label values are escaped. Names and units are
//! up to the caller. Source of the format: prometheus.io, "Exposition formats".

use std::fmt::{self, Write};

/// Content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The kind of measurement of a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A value that only grows while the process lives; the name ends in `_total`.
    Counter,
    /// A value that goes up and down.
    Gauge,
}

/// A metrics text while it is written.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

/// A family whose samples are being written.
pub struct Family<'e> {
    text: &'e mut String,
    name: &'static str,
}

impl Exposition {
    /// Begins a family.
    pub fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> Family<'_> {
        debug_assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
        let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: &mut self.text, name }
    }

    /// Writes a family of one gauge.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: impl fmt::Display) {
        self.family(Kind::Gauge, name, help).sample(&[], value);
    }

    /// Writes a family of one gauge, or nothing if the value is unknown.
    pub fn gauge_if_known(&mut self, name: &'static str, help: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.gauge(name, help, value);
        }
    }

    /// Writes a family of one counter.
    pub fn counter(&mut self, name: &'static str, help: &str, value: impl fmt::Display) {
        self.family(Kind::Counter, name, help).sample(&[], value);
    }

    /// Returns the text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// Adds a sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.text.push_str(self.name);
        for (nth, (label, content)) in labels.iter().enumerate() {
            let before = if nth == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escaped(content));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        let mut exposition = Exposition::default();
        exposition.gauge("walferry_epoch", "Generation of the writer.", 3);
        let mut family = exposition.family(Kind::Counter, "walferry_requests_total", "Requests.");
        family.sample(&[("op", "put"), ("to", "a\"b\\c\nd")], 7);
        family.sample(&[("op", "get")], 0.5);
        exposition.gauge_if_known("walferry_unknown", "Never shown.", None::<u64>);
        let expected = "# HELP walferry_epoch Generation of the writer.\n# TYPE walferry_epoch gauge\nwalferry_epoch 3\n\
                        # HELP walferry_requests_total Requests.\n# TYPE walferry_requests_total counter\n\
                        walferry_requests_total{op=\"put\",to=\"a\\\"b\\\\c\\nd\"} 7\nwalferry_requests_total{op=\"get\"} 0.5\n";
        assert_eq!(exposition.finish(), expected);
    }
}
