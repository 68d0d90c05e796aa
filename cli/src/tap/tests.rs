use clap::Parser;
use serde_json::{Value, json};

use super::seen::{Record, Sum, Tally};
use super::{Options, Share, Status, text};
use crate::order::Told;
use crate::paint::Paint;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

fn command(args: &[&str]) -> Value {
    let args = std::iter::once(&"tap").chain(args);
    let line = Line::try_parse_from(args).expect("a good command line");
    line.options.command("s", 3, true)
}

fn record(time: &str, path: &str) -> Value {
    json!({
        "time": time, "direction": "outbound", "httpVersion": "1.1", "method": "GET",
        "authority": "cart", "path": path, "userAgent": null, "requestId": "r", "traceId": null,
        "service": "shop/cart:80", "route": "", "backend": "shop/cart:80",
        "endpoint": "10.0.0.1:80", "peer": "shop/cart", "tls": "mutual", "status": 200,
        "grpcStatus": null, "outcome": "ok", "durationSeconds": 0.0123, "retries": 0,
        "responseBytes": 5, "fallback": false, "copy": false,
    })
}

fn read(record: &Value) -> Record {
    serde_json::from_value(record.clone()).expect("a record")
}

fn answer(name: &str, opened: u64, handed: u64, records: &[Value]) -> Value {
    json!({
        "replica": "a", "namespace": "shop", "name": name, "error": null,
        "payload": {
            "opened": opened, "handed": handed, "overRate": 2, "noRoom": 1, "records": records,
        },
    })
}

fn told(answers: &[Value]) -> Told {
    let replica = json!({"name": "a", "address": null, "error": null});
    let all = json!({"replicas": [replica], "answers": answers, "notConnected": []});
    serde_json::from_value(all).expect("answers")
}

#[test]
fn words_become_a_command() {
    let asked = command(&[
        "shop/web",
        "--to",
        "shop/cart",
        "--method",
        "PUT",
        "--path",
        "/api",
        "--authority",
        "cart",
        "--outcome",
        "circuit_open",
        "--status",
        "5xx",
        "--route",
        "main",
        "--direction",
        "outbound",
        "--rate",
        "7",
        "--sample",
        "2.5%",
        "--headers",
        "--show-query",
    ]);
    assert_eq!(
        asked,
        json!({
            "kind": "tap", "session": "s", "number": 3, "last": true, "rate": 7, "share": 250,
            "headers": true, "showQuery": true,
            "filter": {
                "direction": "outbound", "method": "PUT", "path": "/api", "authority": "cart",
                "service": "shop/cart", "route": "main", "peer": "", "outcome": "circuit_open",
                "statusFrom": 500, "statusTo": 599,
            },
        })
    );
    let filter = &command(&["--from", "shop/web"])["filter"];
    assert_eq!(
        (&filter["peer"], &filter["direction"]),
        (&json!("shop/web"), &json!("inbound"))
    );
    let plain = command(&[]);
    assert_eq!(
        (&plain["rate"], &plain["share"]),
        (&json!(100), &json!(10_000))
    );
    assert_eq!(
        (&plain["headers"], &plain["showQuery"]),
        (&json!(false), &json!(false))
    );
}

#[test]
fn statuses_and_shares_are_read() {
    let status = |text: &str| text.parse::<Status>();
    assert_eq!(status("503"), Ok(Status { from: 503, to: 503 }));
    assert_eq!(status("4xx"), Ok(Status { from: 400, to: 499 }));
    for wrong in ["", "xx", "0xx", "6xx", "04xx", "99", "1000", "5x", "ok"] {
        assert!(status(wrong).is_err(), "{wrong}");
    }
    let share = |text: &str| text.parse::<Share>();
    assert_eq!(share("100"), Ok(Share(10_000)));
    assert_eq!(share("0.01%"), Ok(Share(1)));
    for wrong in ["", "0", "0.001", "101", "-1", "NaN", "all"] {
        assert!(share(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_missing_is_counted() {
    let mut tally = Tally::default();
    assert!(!tally.is_whole(), "nobody answered");
    let [first, second] = ["2026-01-02T03:04:05.001Z", "2026-01-02T03:04:05.002Z"];
    let records = tally.take(&told(&[
        answer("api", 1, 1, &[record(second, "/b")]),
        answer("web", 1, 1, &[record(first, "/a")]),
    ]));
    let seen: Vec<_> = records
        .iter()
        .map(|it| (&*it.workload, &*it.path))
        .collect();
    assert_eq!(
        seen,
        [("shop/web", "/a"), ("shop/api", "/b")],
        "in the order of time"
    );
    assert!(tally.is_whole());

    // Three were told since, two of them in an answer that did not come; then it starts anew.
    tally.take(&told(&[answer("web", 1, 4, &[record(first, "/a")])]));
    let late = json!({
        "replica": "a", "namespace": "shop", "name": "api", "error": "late", "payload": null,
    });
    tally.take(&told(&[late, answer("web", 2, 1, &[record(first, "/a")])]));
    assert_eq!(tally.problems(), ["shop/api: late"]);
    assert!(!tally.is_whole());
    tally.take(&told(&[answer("api", 1, 1, &[])]));
    assert!(tally.problems().is_empty());
    assert!(!tally.is_whole(), "somebody was silent once");
    let sum = tally.sum();
    let wanted = Sum {
        sidecars: 2,
        silent: 1,
        records: 4,
        over_rate: 6,
        no_room: 3,
        lost: 2,
    };
    assert_eq!(sum, wanted);
    assert_eq!(
        text::sum(sum, 3),
        "4 records of 2 sidecars, 9 dropped (6 over the rate, 3 for want of room), 1 not printed, \
         2 lost on the way, 1 sidecar did not answer always.\n"
    );
    let plain = Sum {
        sidecars: 1,
        records: 1,
        ..Sum::default()
    };
    assert_eq!(text::sum(plain, 1), "1 record of 1 sidecar, 0 dropped.\n");
}

#[test]
fn an_answer_of_another_version_is_a_problem() {
    let mut tally = Tally::default();
    let odd = json!({
        "replica": "a", "namespace": "shop", "name": "api", "error": null, "payload": {"n": 1},
    });
    assert!(tally.take(&told(&[odd])).is_empty());
    assert!(
        tally.problems()[0].starts_with("shop/api: the answer is not of a sidecar that we know")
    );
    assert!(!tally.is_whole());
}

#[test]
fn an_exchange_is_a_line() {
    let mut one = read(&record(
        "2026-01-02T03:04:05.678Z",
        "/api/items?x=<redacted>",
    ));
    one.workload = "shop/web".to_owned();
    assert_eq!(
        text::line(&one, Paint::plain()),
        "03:04:05.678 out shop/web            shop/cart:80        200    12ms \
         GET /api/items?x=<redacted>\n"
    );
    one.direction = "inbound".to_owned();
    one.workload = "shop/checkout-7d9fc6b5d4-x2x4z".to_owned();
    one.status = 503;
    one.outcome = "reset".to_owned();
    one.grpc_status = Some(14);
    one.retries = 2;
    one.fallback = true;
    one.duration_seconds = 2.345;
    one.path = "/".to_owned();
    assert_eq!(
        text::line(&one, Paint::plain()),
        "03:04:05.678 in  shop/chec…5d4-x2x4z shop/cart           503    2.3s GET /\n    \
         reset, grpc 14, 2 retries, fallback\n"
    );
    (one.grpc_status, one.retries, one.fallback) = (None, 1, false);
    assert_eq!(
        text::line(&one, Paint::plain()),
        "03:04:05.678 in  shop/chec…5d4-x2x4z shop/cart           503    2.3s \
         reset, 1 retry; GET /\n"
    );
}

/// Clients choose paths and headers: they do nothing to the terminal, and lines stay short.
#[test]
fn lines_are_plain_and_fit() {
    let mut one = read(&record(
        "2026-01-02T03:04:05.678Z",
        &"/\u{1b}[2J\u{9b}31m\r\n".repeat(50),
    ));
    one.workload = format!("{}/web", "n".repeat(80));
    one.headers = Some(vec![
        ("x-long".to_owned(), "é".repeat(300)),
        ("x-odd".to_owned(), "\u{1b}]0;title\u{7}".to_owned()),
    ]);
    let text = text::line(&one, Paint::plain());
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
    assert!(
        text.chars().all(|it| it == '\n' || !it.is_control()),
        "{text:?}"
    );
    assert!(text::head(Paint::plain()).chars().count() <= 100);
}

/// Machines read what they are told, with the workload.
#[test]
fn records_survive() {
    let mut told = record("2026-01-02T03:04:05.678Z", "/a");
    told["headers"] = json!([["accept", "*/*"]]);
    let written = serde_json::to_value(read(&told)).expect("plain values");
    told["workload"] = json!("");
    assert_eq!(written, told);
}
