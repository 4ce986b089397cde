//! The report as one HTML file: tables, and charts drawn as SVG. The file loads nothing else.

use super::report::{Chart, Kind, Point, Report, Section, Series};
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;\
color:#1b1f24;background:#fff}table{border-collapse:collapse;margin:1em 0;font-size:13px}td,th{border:1px solid #c8ccd1;\
padding:3px 8px;text-align:left}figure{margin:1.5em 0}figcaption{font-weight:600}svg{width:100%;height:auto}\
svg text{fill:currentColor;font:12px system-ui,sans-serif}.s0{fill:#0b6bcb;stroke:#0b6bcb}.s1{fill:#c2410c;stroke:#c2410c}\
.s2{fill:#15803d;stroke:#15803d}.s3{fill:#7e22ce;stroke:#7e22ce}.axis{stroke:currentColor;opacity:.35}\
@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#14171a}td,th{border-color:#3a3f45}}";

const WIDTH: f64 = 960.0;
const LABELS: f64 = 170.0;
const VALUES: f64 = 190.0;
const BAR: f64 = 16.0;
const LINE_HEIGHT: f64 = 260.0;

/// Returns the HTML page of a report.
pub(super) fn page(report: &Report) -> String {
    let title = format!("walferry bench {}", report.bench);
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head>\
         <body><h1>{title}</h1><p>{} · <code>{}</code></p>",
        escape(&report.started),
        escape(&report.command.join(" "))
    );
    let rows: Vec<Vec<String>> =
        report.environment.iter().map(|(name, value)| vec![name.clone(), value.clone()]).collect();
    table(&mut out, &["setting".into(), "value".into()], &rows);
    report.sections.iter().for_each(|section| push_section(&mut out, section));
    out.push_str("</body></html>\n");
    out
}

fn push_section(out: &mut String, section: &Section) {
    put(out, format_args!("<h2>{}</h2>", escape(&section.title)));
    for note in &section.notes {
        put(out, format_args!("<p>{}</p>", escape(note)));
    }
    table(out, &section.columns, &section.rows);
    for chart in &section.charts {
        put(out, format_args!("<figure><figcaption>{} ({})</figcaption>", escape(&chart.title), escape(&chart.unit)));
        match chart.kind {
            Kind::Bars => bars(out, chart),
            Kind::Line => lines(out, chart),
        }
        out.push_str("</figure>");
    }
}

fn table(out: &mut String, columns: &[String], rows: &[Vec<String>]) {
    let mut line = |cells: &[String], tag: &str| {
        out.push_str(if tag == "th" { "<table><tr>" } else { "<tr>" });
        cells.iter().for_each(|cell| put(out, format_args!("<{tag}>{}</{tag}>", escape(cell))));
        out.push_str("</tr>");
    };
    line(columns, "th");
    rows.iter().for_each(|row| line(row, "td"));
    out.push_str("</table>");
}

fn values(chart: &Chart) -> impl Iterator<Item = &Point> {
    chart.series.iter().flat_map(|series: &Series| &series.points)
}

fn legend(out: &mut String, chart: &Chart, y: f64) {
    for (nth, series) in chart.series.iter().enumerate() {
        let x = LABELS + 150.0 * nth as f64;
        put(out, format_args!("<rect class=\"s{}\" x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\"/>", nth % 4, y - 9.0));
        put(out, format_args!("<text x=\"{}\" y=\"{y}\">{}</text>", x + 15.0, escape(&series.name)));
    }
}

/// Draws a group of bars for each label; a thin line spans the smallest and the largest run.
fn bars(out: &mut String, chart: &Chart) {
    let scale = (WIDTH - LABELS - VALUES) / values(chart).map(|point| point.max).fold(f64::MIN_POSITIVE, f64::max);
    let groups = chart.series.iter().map(|series| series.points.len()).max().unwrap_or(0);
    let group = BAR * chart.series.len() as f64 + 8.0;
    put(out, format_args!("<svg viewBox=\"0 0 {WIDTH} {}\">", 24.0 + group * groups as f64));
    legend(out, chart, 14.0);
    for (nth, series) in chart.series.iter().enumerate() {
        for (at, point) in series.points.iter().enumerate() {
            let y = 24.0 + group * at as f64 + BAR * nth as f64;
            if nth == 0 {
                put(out, format_args!("<text x=\"0\" y=\"{}\">{}</text>", y + 12.0, escape(&point.label)));
            }
            let (width, middle) = (point.y * scale, y + BAR / 2.0 - 1.0);
            let (low, high) = (LABELS + point.min * scale, LABELS + point.max * scale);
            put(
                out,
                format_args!(
                    "<rect class=\"s{}\" x=\"{LABELS}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\"/>\
                     <line class=\"axis\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
                     <text x=\"{:.1}\" y=\"{}\">{}</text>",
                    nth % 4,
                    BAR - 3.0,
                    high.max(LABELS + width) + 6.0,
                    y + 12.0,
                    number(point.y)
                ),
            );
        }
    }
    out.push_str("</svg>");
}

fn lines(out: &mut String, chart: &Chart) {
    let x_max = values(chart).map(|point| point.x).fold(f64::MIN_POSITIVE, f64::max);
    let y_max = values(chart).map(|point| point.y).fold(f64::MIN_POSITIVE, f64::max);
    let (left, bottom, top) = (70.0, LINE_HEIGHT - 30.0, 30.0);
    let place = |point: &Point| {
        let (x, y) = (point.x / x_max, point.y / y_max);
        format!("{:.1},{:.1}", left + x * (WIDTH - left - 10.0), bottom - y * (bottom - top))
    };
    put(out, format_args!("<svg viewBox=\"0 0 {WIDTH} {LINE_HEIGHT}\">"));
    legend(out, chart, 14.0);
    for part in [0.0, 0.5, 1.0] {
        let y = bottom - part * (bottom - top);
        put(out, format_args!("<line class=\"axis\" x1=\"{left}\" x2=\"{WIDTH}\" y1=\"{y}\" y2=\"{y}\"/>"));
        put(out, format_args!("<text x=\"0\" y=\"{}\">{}</text>", y + 4.0, number(part * y_max)));
        let x = left + part * (WIDTH - left - 50.0);
        put(out, format_args!("<text x=\"{x}\" y=\"{}\">{} s</text>", LINE_HEIGHT - 8.0, number(part * x_max)));
    }
    for (nth, series) in chart.series.iter().enumerate() {
        let points: Vec<String> = series.points.iter().map(place).collect();
        put(
            out,
            format_args!(
                "<polyline class=\"s{}\" style=\"fill:none\" stroke-width=\"1.5\" points=\"{}\"/>",
                nth % 4,
                points.join(" ")
            ),
        );
    }
    out.push_str("</svg>");
}

fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        large if large >= 10_000_000.0 => format!("{:.1} M", value / 1e6),
        large if large >= 10_000.0 => format!("{:.0} k", value / 1e3),
        large if large >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes everything");
}
