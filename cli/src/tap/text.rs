//! Exchanges for people: one line each, in 100 columns.

use super::seen::{Record, Sum};
use crate::explain::table::WIDTH;
use crate::paint::Paint;

/// Columns of a workload, and of whom it speaks with.
const NAME: usize = 19;

/// What stands above the lines.
pub(super) fn head(paint: Paint) -> String {
    let line = format!(
        "{:<12} {:<3} {:<NAME$} {:<NAME$} {:<3} {:>7} {}",
        "TIME", "", "WORKLOAD", "FROM, TO", "", "TOOK", "REQUEST"
    );
    paint.strong(line.trim_end())
}

/// One exchange; what is out of the ordinary before the request, or in a line of its own where that is too
/// long; headers under it.
pub(super) fn line(record: &Record, paint: Paint) -> String {
    let (way, other) = match &*record.direction {
        "inbound" => ("in", &record.peer),
        _ => ("out", &record.service),
    };
    let place = format!(
        "{:<12} {way:<3} {} {} {:<3} {:>7} ",
        // 2026-01-02T03:04:05.678Z
        record.time.get(11..23).unwrap_or_default(),
        name(&record.workload),
        name(other),
        record.status,
        took(record.duration_seconds),
    );
    let request = format!("{} {}", record.method, record.path);
    let odd = odd(record);
    let all = match &*odd {
        "" => format!("{place}{request}"),
        odd => format!("{place}{odd}; {request}"),
    };
    let lines = if all.chars().count() <= WIDTH || odd.is_empty() {
        vec![all]
    } else {
        vec![format!("{place}{request}"), format!("    {odd}")]
    };
    let painted = lines.iter().map(|line| {
        let line = cut(&plain(line), WIDTH);
        if record.outcome != "ok" || record.status >= 500 {
            paint.bad(&line)
        } else if record.status >= 400 {
            paint.doubtful(&line)
        } else {
            line
        }
    });
    let headers = record.headers.iter().flatten().map(|(name, value)| {
        let header = cut(&plain(&format!("    {name}: {value}")), WIDTH);
        paint.faint(&header)
    });
    painted.chain(headers).map(|line| line + "\n").collect()
}

/// How it ended; `printed` of the records were.
pub(super) fn sum(sum: Sum, printed: u64) -> String {
    let dropped = sum.over_rate + sum.no_room;
    let mut parts = vec![
        format!(
            "{} of {}",
            many(sum.records, "record", "records"),
            many(sum.sidecars as u64, "sidecar", "sidecars"),
        ),
        match dropped {
            0 => "0 dropped".to_owned(),
            _ => format!(
                "{dropped} dropped ({} over the rate, {} for want of room)",
                sum.over_rate, sum.no_room
            ),
        },
    ];
    if printed < sum.records {
        parts.push(format!("{} not printed", sum.records - printed));
    }
    if sum.lost > 0 {
        parts.push(format!("{} lost on the way", sum.lost));
    }
    if sum.silent > 0 {
        let silent = many(sum.silent as u64, "sidecar", "sidecars");
        parts.push(format!("{silent} did not answer always"));
    }
    parts.join(", ") + ".\n"
}

/// What is out of the ordinary.
fn odd(record: &Record) -> String {
    let mut words = Vec::new();
    if record.outcome != "ok" {
        words.push(record.outcome.clone());
    }
    if let Some(code @ 1..) = record.grpc_status {
        words.push(format!("grpc {code}"));
    }
    if record.retries > 0 {
        words.push(many(record.retries.into(), "retry", "retries"));
    }
    if record.fallback {
        words.push("fallback".to_owned());
    }
    if record.copy {
        words.push("copy".to_owned());
    }
    words.join(", ")
}

/// Three digits and a unit.
fn took(seconds: f64) -> String {
    match seconds * 1e3 {
        ms @ ..10.0 => format!("{ms:.1}ms"),
        ms @ ..1_000.0 => format!("{ms:.0}ms"),
        ms @ ..100_000.0 => format!("{:.1}s", ms / 1e3),
        ms => format!("{:.0}s", ms / 1e3),
    }
}

/// In a column, without its middle where it is long: pods differ at the end.
fn name(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME {
        return format!("{name:<NAME$}");
    }
    let end = NAME / 2;
    let begin: String = name.chars().take(NAME - 1 - end).collect();
    let end: String = name.chars().skip(length - end).collect();
    format!("{begin}…{end}")
}

/// Without what could do something to a terminal: clients choose these texts.
fn plain(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .collect()
}

/// The begin of a line, with a sign where something is missing.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.trim_end().to_owned();
    }
    let begin: String = text.chars().take(width - 1).collect();
    begin + "…"
}

fn many(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}
