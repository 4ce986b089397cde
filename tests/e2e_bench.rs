//! Goal: every benchmark runs to its end on small sizes and writes readable reports: JSON with the fields a script
//! needs, and one HTML page that loads nothing else. The tests judge no figures.

mod support;

use std::path::Path;
use support::archive::Archive;
use support::process::{Environment, SETTLED_WITHIN, wait_until};
use support::tool::{walferry, walferry_stopped};

/// Runs a benchmark and checks its reports.
#[track_caller]
fn bench(name: &str, arguments: &[&str]) -> serde_json::Value {
    bench_with(name, arguments, &Vec::new())
}

/// Runs a benchmark with environment variables for its processes, and checks its reports.
#[track_caller]
fn bench_with(name: &str, arguments: &[&str], environment: &Environment) -> serde_json::Value {
    let out = tempfile::tempdir().expect("a temporary directory");
    let text = |path: &Path| path.to_str().expect("a UTF-8 path").to_owned();
    let data = text(&out.path().join("data"));
    std::fs::create_dir(&data).expect("a directory");
    let dir = text(out.path());
    let common = ["bench", name, "--alternations", "1", "--keys", "200", "--clients", "4", "--seconds", "1"];
    let all = [&common[..], &["--out", &dir, "--data", &data], arguments].concat();
    walferry(&all, environment).expect(0).says("written:");
    let read = |extension: &str| std::fs::read_to_string(out.path().join(format!("bench-{name}.{extension}")));
    let html = read("html").expect("an HTML report");
    assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"), "{html}");
    for fetching in ["http://", "https://", "<script", "<link", "@import", "url("] {
        assert!(!html.contains(fetching), "the page has {fetching}");
    }
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
    assert_nothing_left(&data);
    let report: serde_json::Value = serde_json::from_str(&read("json").expect("a JSON report")).expect("JSON");
    assert_eq!(report["bench"], name);
    let sections = report["sections"].as_array().expect("sections");
    for section in sections {
        let columns = section["columns"].as_array().expect("columns").len();
        let rows = section["rows"].as_array().expect("rows");
        assert!(rows.iter().all(|row| row.as_array().is_some_and(|row| row.len() == columns)), "{section}");
        assert!(!rows.is_empty(), "{section}");
    }
    report
}

/// Asserts that the benchmark left no files and no servers.
#[track_caller]
fn assert_nothing_left(data: &str) {
    let files: Vec<_> = std::fs::read_dir(data).expect("it can be listed").collect();
    assert!(files.is_empty(), "left behind: {files:?}");
    wait_until("its servers end", SETTLED_WITHIN, || {
        let processes = std::fs::read_dir("/proc").expect("processes can be listed").flatten();
        let mut commands = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
        (!commands.any(|command| command.contains(&format!("{data}/")))).then_some(())
    });
}

/// Goal: a benchmark that is stopped by a signal stops its servers and removes their data.
#[test]
fn stopped() {
    let out = tempfile::tempdir().expect("a temporary directory");
    let data = out.path().to_str().expect("a UTF-8 path");
    let has_replica = || {
        let scratches = out.path().read_dir().expect("it can be listed").flatten();
        scratches.into_iter().any(|scratch| scratch.path().join("replica.log").exists())
    };
    for (signal, number) in [("TERM", 15), ("INT", 2)] {
        let arguments = ["bench", "ship", "--seconds", "1", "--data", data, "--out", data];
        let (_, status) = walferry_stopped(&arguments, &Vec::new(), signal, has_replica);
        assert_eq!(status.code(), Some(128 + number), "{signal}");
        assert_nothing_left(data);
    }
}

#[test]
fn tiers() {
    let report = bench("tiers", &["--budget-percent", "20"]);
    let rows = report["sections"][0]["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 12, "four loads with each of three settings");
}

#[test]
fn serve() {
    let report = bench("serve", &["--pipeline", "4", "--tests", "SET,ZRANK,EXEC,queue", "--distribution", "zipfian"]);
    let tests: Vec<_> = report["sections"][0]["rows"].as_array().expect("rows").iter().map(|row| &row[0]).collect();
    assert_eq!(tests, ["SET", "SET", "ZRANK", "ZRANK", "EXEC", "EXEC", "queue", "queue"]);
    let report = bench("serve", &["--pipeline", "4", "--steady"]);
    let patterns = report["sections"][0]["rows"].as_array().expect("rows").iter().map(|row| row[0].as_str());
    assert!(patterns.flatten().any(|name| name == "set-delete-scan"));
    walferry(&["bench", "serve", "--tests", "NOSUCH"], &Vec::new()).expect(1).says("test 'NOSUCH' does not exist");
}

#[test]
fn ship() {
    let archive = Archive::s3();
    let report = bench_with("ship", &["--s3", &archive.url], &archive.environment);
    let attached = report["sections"][0]["rows"].as_array().expect("rows").iter().map(|row| row[0].as_str());
    assert_eq!(attached.filter(|name| name.is_some_and(|name| name.contains("S3"))).count(), 2);
}

#[test]
fn snapshot() {
    bench("snapshot", &["--fill", "600", "--rate", "500"]);
    bench("snapshot", &["--zset-members", "2000", "--rate", "500"]);
}

#[test]
fn restore() {
    bench("restore", &["--operations", "1000", "--threads", "1"]);
}

#[test]
fn recover() {
    bench("recover", &["--operations", "1000", "--tests", "SET,EXEC"]);
}

#[test]
fn compact() {
    let report = bench("compact", &["--commits", "3000", "--day", "1300"]);
    let rows = report["sections"][0]["rows"].as_array().expect("rows");
    let objects = |row: usize| rows[row][1].as_str().expect("text").parse::<u64>().expect("a number");
    // Each of the two rounds adds one chunk; all smaller chunks are within the grace period.
    assert_eq!((objects(0), objects(1)), (1300, 1302));
}
