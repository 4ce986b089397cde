//! What a benchmark found: tables and charts, as text, JSON and HTML.

use super::server;
use serde::Serialize;
use std::path::Path;

/// Everything one run of `walferry bench` found.
#[derive(Serialize)]
pub struct Report {
    /// The subcommand.
    pub bench: &'static str,
    /// When it began, RFC 3339.
    pub started: String,
    /// The command line.
    pub command: Vec<String>,
    /// Machine, versions, configuration: name and value.
    pub environment: Vec<(String, String)>,
    /// The findings.
    pub sections: Vec<Section>,
}

/// Findings that belong together.
#[derive(Serialize, Default)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// What a reader must know about the figures.
    pub notes: Vec<String>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows of text, as many cells as columns.
    pub rows: Vec<Vec<String>>,
    /// The figures drawn.
    pub charts: Vec<Chart>,
}

/// A chart.
#[derive(Serialize)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// Unit of its values.
    pub unit: String,
    /// How it is drawn.
    pub kind: Kind,
    /// What is drawn.
    pub series: Vec<Series>,
}

/// How a chart is drawn.
#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A bar for each point, labelled.
    Bars,
    /// A line over x.
    Line,
}

/// Values of one thing measured.
#[derive(Serialize)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<Point>,
}

/// One value.
#[derive(Serialize, Clone)]
pub struct Point {
    /// Label of a bar; empty on a line.
    pub label: String,
    /// Place on a line's axis, in seconds; 0 for a bar.
    pub x: f64,
    /// The value: a median, where there are several runs.
    pub y: f64,
    /// The least of the runs.
    pub min: f64,
    /// The greatest of the runs.
    pub max: f64,
}

impl Point {
    /// A bar.
    pub fn bar(label: impl Into<String>, runs: &Runs) -> Self {
        Self { label: label.into(), x: 0.0, y: runs.median(), min: runs.min(), max: runs.max() }
    }

    /// A point of a line.
    pub fn at(x: f64, y: f64) -> Self {
        Self { label: String::new(), x, y, min: y, max: y }
    }
}

/// A figure measured several times.
#[derive(Clone, Default)]
pub struct Runs(pub Vec<f64>);

impl Runs {
    /// The middle one; 0 if there are none.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => 0.0,
            odd if odd % 2 == 1 => sorted[odd / 2],
            even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
        }
    }

    /// The least one.
    pub fn min(&self) -> f64 {
        self.0.iter().copied().reduce(f64::min).unwrap_or(0.0)
    }

    /// The greatest one.
    pub fn max(&self) -> f64 {
        self.0.iter().copied().reduce(f64::max).unwrap_or(0.0)
    }

    /// Median, least and greatest, with so many decimals.
    pub fn show(&self, decimals: usize) -> String {
        format!("{:.decimals$} ({:.decimals$}-{:.decimals$})", self.median(), self.min(), self.max())
    }

    /// Quotients of the runs made in turn.
    pub fn ratio(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| if *b == 0.0 { 0.0 } else { a / b }).collect())
    }
}

impl Report {
    /// A report without findings yet.
    pub fn new(bench: &'static str, configuration: Vec<(String, String)>) -> Self {
        let mut environment = machine();
        environment.extend(configuration);
        let started = walferry::csn::CommitTime(walferry::clock::now_millis() * 1000).to_string();
        Self { bench, started, command: std::env::args().collect(), environment, sections: Vec::new() }
    }

    /// Adds a section and prints it.
    pub fn add(&mut self, section: Section) {
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

    /// Writes `bench-NAME.json` and `bench-NAME.html` into a directory.
    pub fn write(&self, dir: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("cannot write the report into {}: {error}", dir.display());
        std::fs::create_dir_all(dir).map_err(failed)?;
        let json = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        let path = |extension: &str| dir.join(format!("bench-{}.{extension}", self.bench));
        std::fs::write(path("json"), json).map_err(failed)?;
        std::fs::write(path("html"), super::html::page(self)).map_err(failed)?;
        println!("\nwritten: {} and {}", path("json").display(), path("html").display());
        Ok(())
    }
}

/// Machine and versions.
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
