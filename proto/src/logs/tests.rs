use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::Value;

use super::limit::RateLimit;
use super::*;

/// A sink that can be read.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        let text = self.text();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(format: LogFormat, events: impl FnOnce(&LogControl)) -> Kept {
    let kept = Kept::default();
    let sink = Box::new(kept.clone());
    let (dispatch, control) = dispatch("weft-proxy", LogLevel::INFO, format, sink).unwrap();
    tracing::dispatcher::with_default(&dispatch, || events(&control));
    control.flush(Duration::from_secs(10));
    kept
}

#[test]
fn json_lines_are_flat() {
    let kept = logged(LogFormat::Json, |_| {
        tracing::info!(
            requestId = "r-1",
            status = 503_u16,
            ok = false,
            level = "mine",
            error = %"a \"quote\"\nand a line",
            "request {}",
            "done"
        );
    });
    let line = &kept.lines()[0];
    assert_eq!(line["level"], "info");
    assert_eq!(line["_level"], "mine");
    assert_eq!(line["service"], "weft-proxy");
    assert_eq!(line["message"], "request done");
    assert_eq!(line["target"], "weft_proto::logs::tests");
    assert_eq!(line["requestId"], "r-1");
    assert_eq!(line["status"], 503);
    assert_eq!(line["ok"], false);
    assert_eq!(line["error"], "a \"quote\"\nand a line");
    let timestamp = line["timestamp"].as_str().unwrap();
    assert_eq!((timestamp.len(), &timestamp[23..]), (24, "Z"));
    assert!(kept.text().starts_with("{\"timestamp\":\""));
}

#[test]
fn errors_tell_what_lies_behind() {
    let kept = logged(LogFormat::Json, |_| {
        #[derive(Debug, thiserror::Error)]
        #[error("no answer")]
        struct Failure(#[source] io::Error);
        let failure = Failure(io::Error::other("cable cut"));
        tracing::warn!(
            error = &failure as &(dyn std::error::Error + 'static),
            "failed"
        );
    });
    assert_eq!(kept.lines()[0]["error"], "no answer: cable cut");
}

#[test]
fn plain_lines_stay_one_line() {
    let kept = logged(LogFormat::Plain, |_| {
        tracing::warn!(peer = "a\nb", "two\nlines");
    });
    let text = kept.text();
    assert_eq!(text.lines().count(), 1);
    assert!(
        text.ends_with("Z warn  two\\nlines peer=\"a\\nb\"\n"),
        "{text}"
    );
}

#[test]
fn the_level_changes_while_running() {
    let kept = logged(LogFormat::Json, |control| {
        let events = || {
            tracing::debug!("detail");
            tracing::info!("news");
        };
        events();
        assert_eq!(control.set_level("debug"), Ok(LogLevel::INFO));
        events();
        assert_eq!(control.level().as_str(), "debug");
        assert_eq!(control.set_level(" WARN "), "debug".parse());
        events();
        assert_eq!(control.set_level("loud"), Err(UnknownLevel));
        assert_eq!(control.level().as_str(), "warn");
    });
    let lines = kept.lines();
    let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str()).collect();
    assert_eq!(messages, [Some("news"), Some("detail"), Some("news")]);
}

#[test]
fn repeated_warnings_are_limited_and_news_is_not() {
    let kept = logged(LogFormat::Json, |_| {
        for number in 0..100 {
            tracing::warn!(number, "again");
            tracing::info!(number, "news");
        }
        tracing::warn!("another place");
    });
    let count = |message: &str| {
        let lines = kept.lines();
        lines
            .iter()
            .filter(|line| line["message"] == message)
            .count()
    };
    assert_eq!(count("again"), MAX_PER_WINDOW as usize);
    assert_eq!(count("news"), 100);
    assert_eq!(count("another place"), 1);
}

#[test]
fn suppressed_lines_are_told_in_the_next_window() {
    let mut limit = RateLimit::default();
    let start = Instant::now();
    for _ in 0..MAX_PER_WINDOW {
        assert_eq!(limit.check(1, start), Verdict::Write { suppressed: 0 });
    }
    assert_eq!(limit.check(1, start), Verdict::Suppress);
    assert_eq!(
        limit.check(1, start + WINDOW.mul_f32(0.9)),
        Verdict::Suppress
    );
    assert_eq!(limit.check(2, start), Verdict::Write { suppressed: 0 });
    assert_eq!(
        limit.check(1, start + WINDOW),
        Verdict::Write { suppressed: 2 }
    );
    assert_eq!(
        limit.check(1, start + WINDOW),
        Verdict::Write { suppressed: 0 }
    );
}

#[test]
fn lines_about_requests_are_written_at_every_level() {
    for format in [LogFormat::Json, LogFormat::Plain] {
        let kept = logged(format, |control| {
            assert_eq!(control.set_level("error"), Ok(LogLevel::INFO));
            tracing::info!("news");
            let mut line = control.access().begin();
            line.text("path", "/a\n\u{7f}\u{9b}\u{202e}\"\\");
            line.number("status", 200);
            line.thousandths("durationMs", 12_007);
            line.flag("fallback", false);
            assert!(line.end());
        });
        let text = kept.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.trim_end().contains(char::is_control), "{text}");
        match format {
            LogFormat::Json => {
                let line = &kept.lines()[0];
                assert_eq!(line["level"], "info");
                assert_eq!(line["service"], "weft-proxy");
                assert_eq!(
                    (&line["message"], &line["target"]),
                    (&"request".into(), &"access".into())
                );
                assert_eq!(line["path"], "/a\n\u{7f}\u{9b}\u{202e}\"\\");
                assert_eq!(
                    (&line["status"], &line["durationMs"]),
                    (&200.into(), &12.007.into())
                );
                assert_eq!(line["fallback"], false);
            }
            LogFormat::Plain => {
                let wanted = r#"Z info  request path="/a\u000a\u007f\u009b\u202e\"\\" status=200 durationMs=12.007 fallback=false"#;
                assert_eq!(text.trim_end()[23..], *wanted);
            }
        }
    }
}

#[test]
fn long_texts_are_cut_between_letters() {
    let kept = logged(LogFormat::Json, |control| {
        let mut line = control.access().begin();
        line.text("path", &"ä".repeat(MAX_TEXT));
        line.text("query", &format!("a{}", "ä".repeat(MAX_TEXT)));
        assert!(line.end());
    });
    let line = &kept.lines()[0];
    let length = |name: &str| line[name].as_str().unwrap().len();
    assert_eq!((length("path"), length("query")), (MAX_TEXT, MAX_TEXT - 1));
}

/// A sink that takes nothing until it may.
struct Stuck(Arc<Mutex<()>>, Kept);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _may = self.0.lock();
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_sink_that_stands_still_stops_nobody_and_the_loss_is_told() {
    let (gate, kept) = (Arc::new(Mutex::new(())), Kept::default());
    let closed = gate.lock();
    let sink = Box::new(Stuck(Arc::clone(&gate), kept.clone()));
    let (dispatch, control) = dispatch("x", LogLevel::INFO, LogFormat::Json, sink).unwrap();
    let request = || {
        let mut line = control.access().begin();
        line.text("path", &"a".repeat(1_000));
        line.end()
    };
    let all = 3 * MAX_WAITING / 1_000;
    let taken = (0..all).filter(|_| request()).count();
    let lost = all - taken;
    // What else there is to say still has room.
    tracing::dispatcher::with_default(&dispatch, || tracing::warn!("still here"));
    assert!(kept.lines().is_empty());
    drop(closed);
    control.flush(Duration::from_secs(10));
    let lines = kept.lines();
    let count = |message: &str| lines.iter().filter(|it| it["message"] == message).count();
    assert_eq!(count("request"), taken);
    assert_eq!(count("still here"), 1);
    assert!(
        taken * 1_000 > MAX_WAITING / 2 && taken * 1_000 <= 2 * MAX_WAITING,
        "{taken}"
    );
    let told = lines.iter().filter_map(|it| it["lines"].as_u64());
    assert_eq!(told.sum::<u64>(), lost as u64);
    // It goes on.
    assert!(request());
    control.flush(Duration::from_secs(10));
    assert_eq!(kept.lines().len(), lines.len() + 1);
}

#[test]
fn timestamps_of_known_days() {
    let at = |seconds: u64, millis: u64| {
        let mut text = String::new();
        let since = Duration::from_secs(seconds) + Duration::from_millis(millis);
        write_rfc3339(&mut text, UNIX_EPOCH + since).unwrap();
        text
    };
    assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
    assert_eq!(at(951_782_400, 7), "2000-02-29T00:00:00.007Z");
    assert_eq!(at(951_868_799, 999), "2000-02-29T23:59:59.999Z");
    assert_eq!(at(1_709_164_800, 0), "2024-02-29T00:00:00.000Z");
    assert_eq!(at(1_709_251_200, 0), "2024-03-01T00:00:00.000Z");
    assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    assert_eq!(at(1_798_761_599, 0), "2026-12-31T23:59:59.000Z");
}

proptest! {
    /// Nothing is lost but what the verdicts say, and no window lets more through.
    #[test]
    fn limits_account_for_every_line(steps in prop::collection::vec(0u64..3_000, 1..300)) {
        let mut limit = RateLimit::default();
        let mut now = Instant::now();
        let (mut written, mut told, mut suppressed) = (0, 0, 0);
        for step in &steps {
            now += Duration::from_millis(*step);
            match limit.check((), now) {
                Verdict::Write { suppressed: before } => {
                    written += 1;
                    told += before;
                }
                Verdict::Suppress => suppressed += 1,
            }
        }
        prop_assert_eq!(written + suppressed, steps.len() as u64);
        prop_assert!(told <= suppressed);
        let total: u64 = steps.iter().sum();
        let windows = total / WINDOW.as_millis() as u64 + 1;
        prop_assert!(written <= windows * u64::from(MAX_PER_WINDOW));
    }

    /// Consecutive days follow each other: each date is new, later, and has a day of its month.
    #[test]
    fn days_follow_each_other(day in 0u64..80_000) {
        let of = |day: u64| {
            let mut text = String::new();
            write_rfc3339(&mut text, UNIX_EPOCH + Duration::from_secs(day * 86_400)).unwrap();
            text
        };
        let (today, tomorrow) = (of(day), of(day + 1));
        prop_assert!(today < tomorrow);
        prop_assert!(today.ends_with("T00:00:00.000Z"));
        let month_day: u32 = tomorrow[8..10].parse().unwrap();
        let today_day: u32 = today[8..10].parse().unwrap();
        prop_assert!(month_day == today_day + 1 || (month_day == 1 && today_day >= 28));
    }
}
