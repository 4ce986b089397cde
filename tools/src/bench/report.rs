//! The findings of a benchmark: tables and charts, as text, JSON and HTML.

use super::server;
use serde::Serialize;
use std::path::Path;

/// The findings of one run of `walferry bench`.
#[derive(Serialize)]
pub(super) struct Report {
    /// Name of the subcommand.
    pub bench: &'static str,
    /// Time at which the benchmark began, RFC 3339.
    pub started: String,
    /// The command line.
    pub command: Vec<String>,
    /// Machine, versions and configuration, as name and value.
    pub environment: Vec<(String, String)>,
    /// The findings, in the order of the page.
    pub sections: Vec<Section>,
}

/// A table with its notes and charts.
#[derive(Serialize, Default)]
pub(super) struct Section {
    /// Heading of the section.
    pub title: String,
    /// Notes that a reader needs to understand the figures.
    pub notes: Vec<String>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows of cells; each row has as many cells as there are columns.
    pub rows: Vec<Vec<String>>,
    /// Charts of the figures.
    pub charts: Vec<Chart>,
}

/// A chart.
#[derive(Serialize)]
pub(super) struct Chart {
    /// Title of the chart.
    pub title: String,
    /// Unit of the values.
    pub unit: String,
    /// Form of the chart.
    pub kind: Kind,
    /// The series drawn.
    pub series: Vec<Series>,
}

/// Form of a chart.
#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// A bar for each point, labelled.
    Bars,
    /// A line over x.
    Line,
}

/// The values of one measured quantity.
#[derive(Serialize)]
pub(super) struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points of the series, in order.
    pub points: Vec<Point>,
}

/// One value of a chart.
#[derive(Serialize, Clone)]
pub(super) struct Point {
    /// Label of a bar; empty on a line.
    pub label: String,
    /// Position on a line's axis, in seconds; 0 for a bar.
    pub x: f64,
    /// The value; the median if there are several rounds.
    pub y: f64,
    /// The smallest value of the rounds.
    pub min: f64,
    /// The largest value of the rounds.
    pub max: f64,
}

impl Point {
    /// Makes a bar from the values of several rounds.
    pub(super) fn bar(label: impl Into<String>, rounds: &Rounds) -> Self {
        Self { label: label.into(), x: 0.0, y: rounds.median(), min: rounds.min(), max: rounds.max() }
    }

    /// Makes a point of a line.
    pub(super) fn at(x: f64, y: f64) -> Self {
        Self { label: String::new(), x, y, min: y, max: y }
    }
}

/// A figure measured several times, in the order of the rounds.
#[derive(Clone, Default)]
pub(super) struct Rounds(pub Vec<f64>);

impl Rounds {
    /// Returns the median; 0 without any round.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => 0.0,
            odd if odd % 2 == 1 => sorted[odd / 2],
            even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
        }
    }

    /// Returns the smallest value; 0 without any round.
    pub(super) fn min(&self) -> f64 {
        self.0.iter().copied().reduce(f64::min).unwrap_or(0.0)
    }

    /// Returns the largest value; 0 without any round.
    pub(super) fn max(&self) -> f64 {
        self.0.iter().copied().reduce(f64::max).unwrap_or(0.0)
    }

    /// Formats median, smallest and largest value with so many decimals.
    pub(super) fn show(&self, decimals: usize) -> String {
        format!("{:.decimals$} ({:.decimals$}-{:.decimals$})", self.median(), self.min(), self.max())
    }

    /// Returns the quotients of the rounds with the same number; 0 for a divisor of 0.
    pub(super) fn ratio(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| if *b == 0.0 { 0.0 } else { a / b }).collect())
    }
}

impl Report {
    /// Creates a report without findings.
    pub(super) fn new(bench: &'static str, configuration: Vec<(String, String)>) -> Self {
        let mut environment = machine();
        environment.extend(configuration);
        let started = walferry::csn::CommitTime(walferry::clock::now_millis() * 1000).to_string();
        Self { bench, started, command: std::env::args().collect(), environment, sections: Vec::new() }
    }

    /// Adds a section and prints it.
    pub(super) fn add(&mut self, section: Section) {
        println!("\n{}", section.title);
        let widths: Vec<usize> = (0..section.columns.len())
            .map(|nth| {
                let cells = section.rows.iter().map(|row| row[nth].chars().count());
                cells.chain([section.columns[nth].chars().count()]).max().unwrap_or(0)
            })
            .collect();
        for row in std::iter::once(&section.columns).chain(&section.rows) {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            println!("  {}", cells.join("  ").trim_end());
        }
        section.notes.iter().for_each(|note| println!("  {note}"));
        self.sections.push(section);
    }

    /// Writes `bench-NAME.json` and, with this HTML page, `bench-NAME.html` into a directory.
    pub(super) fn write(&self, dir: &Path, page: &str) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("cannot write the report into {}: {error}", dir.display());
        std::fs::create_dir_all(dir).map_err(failed)?;
        let json = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        let path = |extension: &str| dir.join(format!("bench-{}.{extension}", self.bench));
        std::fs::write(path("json"), json).map_err(failed)?;
        std::fs::write(path("html"), page).map_err(failed)?;
        println!("\nwritten: {} and {}", path("json").display(), path("html").display());
        Ok(())
    }
}

/// Describes the machine and the versions.
fn machine() -> Vec<(String, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let output = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output();
        output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let redis = if server::has_redis() { output("redis-server", &["--version"]) } else { "not installed".to_owned() };
    let pairs = [
        ("cpu", field(&read("/proc/cpuinfo"), "model name")),
        ("cores", std::thread::available_parallelism().map_or(0, usize::from).to_string()),
        ("memory", field(&read("/proc/meminfo"), "MemTotal")),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("load average at start", read("/proc/loadavg").trim().to_owned()),
        ("walferry", env!("CARGO_PKG_VERSION").to_owned()),
        ("commit", output("git", &["rev-parse", "--short", "HEAD"])),
        ("redis-server", redis),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
}
