mod live;

use std::collections::BTreeMap;

use clap::Parser;
use proptest::prelude::*;
use serde_json::json;
use weft_proxy::telemetry::traffic::{Count, Latency, Place, Row, Summary, Tcp};

use super::ask::{Answers, Sidecar};
use super::sums::Line;
use super::*;
use crate::order::{Answer, Missing, Told};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    which: Which,
}

fn which(args: &[&str]) -> Which {
    let args = ["test"].iter().chain(args);
    Cli::try_parse_from(args)
        .expect("a good command line")
        .which
}

fn row(peer: &str, tls: &'static str, counts: &[(&'static str, &'static str, u64, u64)]) -> Row {
    let counts = counts.iter();
    Row {
        peer: peer.to_owned(),
        tls: tls.into(),
        counts: counts
            .map(|it| Count(it.0.into(), it.1.into(), it.2, it.3))
            .collect(),
    }
}

/// With all durations in the bucket of 0.5 to 1 ms.
fn place(direction: &'static str, service: &str, route: &str, rows: Vec<Row>) -> Place {
    let mut place = Place {
        direction: direction.into(),
        service: service.to_owned(),
        route: route.to_owned(),
        backend: service.to_owned(),
        rows,
        ..Place::default()
    };
    let mut latency = Latency::default();
    latency.buckets[1] = place.requests();
    place.latency = Some(latency);
    place
}

fn sidecar(workload: &str, identity: &str, seconds: f64, places: Vec<Place>) -> Sidecar {
    let summary = Summary {
        run: 7,
        identity: identity.to_owned(),
        up_seconds: seconds,
        seconds,
        places,
        tcp: Vec::new(),
    };
    Sidecar {
        workload: workload.to_owned(),
        summary,
    }
}

fn answers(sidecars: Vec<Sidecar>) -> Answers {
    let told = sidecars.iter().filter_map(|it| {
        let (namespace, name) = it.workload.split_once('/')?;
        Some(Answer {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Answer::default()
        })
    });
    let told = Told {
        answers: told.collect(),
        ..Told::default()
    };
    Answers { told, sidecars }
}

/// web (of one account, two pods) and a job call cart; somebody without a sidecar calls web; cart's own
/// sidecar has both of its callers.
fn shop() -> Answers {
    let ok = |count| ("ok", "2xx", count, 0);
    let failed = |count| ("circuit_open", "5xx", count, count);
    let to_cart = |counts: &[_]| {
        let mut place = place(
            "outbound",
            "shop/cart:80",
            "default",
            vec![row("shop/cart", "mutual", counts)],
        );
        place.retries = 2;
        place
    };
    let to_web = |count| {
        vec![place(
            "inbound",
            "shop/web:80",
            "all",
            vec![row("unknown", "none", &[ok(count)])],
        )]
    };
    let mut web_1 = to_web(30);
    web_1.push(to_cart(&[ok(90), failed(10)]));
    let mut web_2 = to_web(10);
    web_2.push(to_cart(&[ok(40)]));
    let at_cart = vec![
        row("shop/web", "mutual", &[ok(130)]),
        row("shop/job", "mutual", &[ok(20)]),
    ];
    answers(vec![
        sidecar("shop/web-1", "shop/web", 10.0, web_1),
        sidecar("shop/web-2", "shop/web", 20.0, web_2),
        sidecar("shop/job-1", "shop/job", 10.0, vec![to_cart(&[ok(20)])]),
        sidecar(
            "shop/cart-1",
            "shop/cart",
            10.0,
            vec![place("inbound", "shop/cart:80", "all", at_cart)],
        ),
    ])
}

/// Name, side, requests, failed, whether durations are known.
fn lines(stat: &Stat) -> Vec<(String, &'static str, u64, u64, bool)> {
    let name = |line: &Line| {
        let about = &line.about;
        let names = [
            &about.from,
            &about.service,
            &about.route,
            &about.backend,
            &about.workload,
        ];
        let names = names.into_iter().flatten().cloned();
        names.collect::<Vec<_>>().join(" ")
    };
    let lines = stat.requests.iter();
    lines
        .map(|it| (name(it), it.side, it.requests, it.failed, it.p50.is_some()))
        .collect()
}

fn stat(view: View, args: &[&str]) -> Vec<(String, &'static str, u64, u64, bool)> {
    lines(&Stat::of(view, &which(args), &shop()))
}

#[test]
fn of_each_service_one_side_counts() {
    let cart = ("shop/cart:80".to_owned(), "client", 160, 10, true);
    let web = ("shop/web:80".to_owned(), "server", 40, 0, true);
    assert_eq!(stat(View::Services, &[]), [cart.clone(), web.clone()]);
    assert_eq!(stat(View::Services, &["--side", "client"]), [cart]);
    let at_cart = ("shop/cart:80".to_owned(), "server", 150, 0, true);
    assert_eq!(stat(View::Services, &["--side", "server"]), [at_cart, web]);

    let whole = Stat::of(View::Services, &which(&[]), &shop());
    let cart = &whole.requests[0];
    // 100 in 10 s, 40 in 20 s and 20 in 10 s.
    assert!((cart.per_second - 14.0).abs() < 1e-9);
    assert_eq!(cart.success_percent, Some(93.75));
    assert_eq!(
        (cart.mtls_percent, whole.requests[1].mtls_percent),
        (Some(100.0), Some(0.0))
    );
    assert_eq!(cart.retries, 6);
    assert_eq!(
        cart.outcomes,
        BTreeMap::from([("ok".to_owned(), 150), ("circuit_open".to_owned(), 10)])
    );
    assert_eq!(
        cart.statuses,
        BTreeMap::from([("2xx".to_owned(), 150), ("5xx".to_owned(), 10)])
    );
    assert_eq!((whole.seconds, whole.sidecars), (20.0, 4));
}

#[test]
fn what_was_never_sent_is_not_plaintext() {
    let counts = [("ok", "2xx", 3, 0), ("no_endpoints", "5xx", 5, 5)];
    let rows = vec![
        row("unknown", "none", &counts[1..]),
        row("shop/cart", "mutual", &counts[..1]),
    ];
    let cart = place("outbound", "shop/cart:80", "r", rows);
    let rows = vec![row("unknown", "none", &counts[1..])];
    let none = place("outbound", "shop/none:80", "r", rows);
    let answers = answers(vec![sidecar(
        "shop/web-1",
        "shop/web",
        1.0,
        vec![cart, none],
    )]);
    let stat = Stat::of(View::Services, &which(&[]), &answers);
    let shares: Vec<_> = stat.requests.iter().map(|it| it.mtls_percent).collect();
    assert_eq!(shares, [Some(100.0), None]);
}

#[test]
fn workloads_are_told_by_what_they_serve() {
    let wanted = [
        ("shop/cart-1", "server", 150, 0),
        ("shop/web-1", "server", 30, 0),
        ("shop/job-1", "client", 20, 0),
        ("shop/web-2", "server", 10, 0),
    ];
    let wanted = wanted.map(|it| (it.0.to_owned(), it.1, it.2, it.3, true));
    assert_eq!(stat(View::Workloads, &[]), wanted);
}

#[test]
fn routes_of_a_service_are_one_sides() {
    let wanted = [
        ("shop/cart:80 default", "client", 160, 10),
        ("shop/web:80 all", "server", 40, 0),
    ];
    let wanted = wanted.map(|it| (it.0.to_owned(), it.1, it.2, it.3, true));
    assert_eq!(stat(View::Routes, &[]), wanted);
}

/// A split sends to a backend what clients call by the service's name; its servers count it by the
/// backend's.
#[test]
fn what_a_split_sends_is_counted_once() {
    let rows = |peer| vec![row(peer, "mutual", &[("ok", "2xx", 10, 0)])];
    let mut canary = place("outbound", "shop/cart:80", "r", rows("shop/cart"));
    canary.backend = "shop/cart-v2:80".to_owned();
    let stable = place("outbound", "shop/cart:80", "r", rows("shop/cart"));
    let at_canary = place("inbound", "shop/cart-v2:80", "", rows("shop/web"));
    let answers = answers(vec![
        sidecar("shop/web-1", "shop/web", 1.0, vec![canary, stable]),
        sidecar("shop/cart-2", "shop/cart", 1.0, vec![at_canary]),
    ]);
    let of = |view| {
        let stat = Stat::of(view, &which(&[]), &answers);
        let mut lines: Vec<_> = lines(&stat)
            .into_iter()
            .map(|it| (it.0, it.1, it.2))
            .collect();
        lines.sort();
        lines
    };
    let all = ("shop/cart:80".to_owned(), "client", 20);
    assert_eq!(of(View::Services), [all]);
    assert_eq!(
        of(View::Routes),
        [("shop/cart:80 r".to_owned(), "client", 20)]
    );
    assert_eq!(
        of(View::Pairs),
        [("shop/web shop/cart:80".to_owned(), "client", 20)]
    );
    let backends = ["shop/cart:80 shop/cart-v2:80", "shop/cart:80 shop/cart:80"];
    assert_eq!(
        of(View::Backends),
        backends.map(|it| (it.to_owned(), "client", 10))
    );
    let workloads = [("shop/cart-2", "server", 10), ("shop/web-1", "client", 20)];
    assert_eq!(
        of(View::Workloads),
        workloads.map(|it| (it.0.to_owned(), it.1, it.2))
    );
}

#[test]
fn pairs_are_by_account() {
    let client = [
        ("shop/web shop/cart:80", "client", 140, 10, true),
        ("unknown shop/web:80", "server", 40, 0, true),
        ("shop/job shop/cart:80", "client", 20, 0, true),
    ];
    let named =
        |it: &(&str, &'static str, u64, u64, bool)| (it.0.to_owned(), it.1, it.2, it.3, it.4);
    assert_eq!(
        stat(View::Pairs, &[]),
        client.iter().map(named).collect::<Vec<_>>()
    );
    // Durations at the server are of both callers together.
    let server = [
        ("shop/web shop/cart:80", "server", 130, 0, false),
        ("unknown shop/web:80", "server", 40, 0, true),
        ("shop/job shop/cart:80", "server", 20, 0, false),
    ];
    assert_eq!(
        stat(View::Pairs, &["--side", "server"]),
        server.iter().map(named).collect::<Vec<_>>()
    );
    assert_eq!(
        stat(View::Services, &["--from", "shop/job"]),
        [("shop/cart:80".to_owned(), "client", 20, 0, true)]
    );
    let at_cart = stat(View::Services, &["--from", "shop/job", "--side", "server"]);
    assert_eq!(
        at_cart,
        [("shop/cart:80".to_owned(), "server", 20, 0, false)]
    );
    assert!(stat(View::Services, &["--from", "shop/nobody"]).is_empty());
}

fn db(open: u64, ended: &[(&'static str, u64)]) -> Tcp {
    Tcp {
        direction: "outbound".into(),
        service: "shop/db:5432".to_owned(),
        backend: "shop/db:5432".to_owned(),
        peer: "shop/db".to_owned(),
        tls: "mutual".into(),
        open,
        read: 1_500,
        written: 2_000_000,
        ended: ended.iter().map(|it| (it.0.into(), it.1)).collect(),
    }
}

#[test]
fn tables_read_well() {
    let mut answers = shop();
    answers.sidecars[0].summary.tcp = vec![db(1, &[("ok", 2), ("reset", 1)])];
    answers.told.not_connected = vec![Missing {
        namespace: "shop".to_owned(),
        name: "late-1".to_owned(),
        known: true,
    }];
    let stat = Stat::of(View::Services, &which(&[]), &answers);
    let text = text::of(&stat, &answers, Paint::plain());
    let wanted = "\
SERVICE       REQUESTS  SUCCESS  RPS   P50     P95     P99     RETRIES  MTLS
shop/cart:80  160       93.75%   14.0  0.75ms  0.97ms  0.99ms  6        100%
shop/web:80*  40        100%     3.50  0.75ms  0.97ms  0.99ms  0        0.00%

SERVICE       OPEN  ENDED  NOT OK  FROM CLIENTS  TO CLIENTS  MTLS
shop/db:5432  1     3      1       1.5 kB        2.0 MB      100%

* told by the server's side.
What 4 sidecars counted in the last 20s.
shop/late-1: its sidecar is not connected
";
    assert_eq!(text, wanted);
}

#[test]
fn nothing_is_said_so() {
    let answers = answers(vec![sidecar("shop/web-1", "shop/web", 61.0, Vec::new())]);
    let stat = Stat::of(View::Services, &which(&[]), &answers);
    let text = text::of(&stat, &answers, Paint::plain());
    assert_eq!(text, "1 sidecar counted nothing in the last 1m1s.\n");
}

#[test]
fn an_answer_that_is_not_understood_is_a_failure_of_its_sidecar() {
    let told = |payload| {
        let answer = Answer {
            namespace: "shop".to_owned(),
            name: "web-1".to_owned(),
            payload,
            ..Answer::default()
        };
        Told {
            answers: vec![answer],
            ..Told::default()
        }
    };
    let good = Answers::of(told(
        serde_json::to_value(Summary::default()).expect("plain values"),
    ));
    assert!(good.is_whole());
    assert_eq!((good.sidecars.len(), good.failed().len()), (1, 0));
    let bad = Answers::of(told(json!({"places": "none"})));
    assert!(!bad.is_whole());
    let stat = Stat::of(View::Services, &which(&[]), &bad);
    assert_eq!(
        (stat.sidecars, &*stat.failed[0].workload),
        (0, "shop/web-1")
    );
    assert!(
        stat.failed[0]
            .error
            .contains("not of a sidecar that we know")
    );
}

#[test]
fn machines_get_every_count() {
    let stat = Stat::of(View::Services, &which(&[]), &shop());
    let value = serde_json::to_value(&stat).expect("plain values");
    let cart = &value["requests"][0];
    assert_eq!(cart["service"], "shop/cart:80");
    assert!(cart.get("workload").is_none());
    assert_eq!(cart["outcomes"]["circuit_open"], 10);
    assert_eq!(
        cart["latency"]["buckets"][1],
        json!({"upToMillis": 1.0, "count": 160})
    );
    assert_eq!(cart["latency"]["buckets"][16]["upToMillis"], json!(null));
    assert_eq!(
        (&cart["p99"]["overMillis"], &cart["p99"]["upToMillis"]),
        (&json!(0.5), &json!(1.0))
    );
    assert!(
        serde_saphyr::to_string(&stat)
            .expect("plain values")
            .contains("circuit_open: 10")
    );
}

#[test]
fn times_and_names_are_read() {
    for (text, seconds) in [
        ("10s", Some(10)),
        ("1m", Some(60)),
        ("60s", Some(60)),
        ("9s", None),
        ("2m", None),
        ("s", None),
        ("1h", None),
    ] {
        let read = text.parse::<Span>().ok();
        assert_eq!(
            read,
            seconds.map(|it| Span(Duration::from_secs(it))),
            "{text}"
        );
    }
    for good in ["shop/cart", "shop/cart:80"] {
        which(&["--to", good]);
    }
    for bad in ["cart", "shop/cart:0", "shop/cart:x", "a/b/c", "/cart"] {
        assert!(Cli::try_parse_from(["test", "--to", bad]).is_err(), "{bad}");
    }
}

proptest! {
    /// Whatever names are like, no line is too long.
    #[test]
    fn every_table_fits(
        names in prop::collection::vec("[a-z]{1,60}/[a-z-]{1,60}:80", 1..5),
        count in 0..100_000_000_u64,
        view in prop::sample::select(vec![View::Services, View::Workloads, View::Routes, View::Backends, View::Pairs]),
    ) {
        let places = names.iter().map(|name| {
            let counts = [("ok", "2xx", count, 0), ("ok", "5xx", 3, 3)];
            let mut place = place("outbound", name, "a-long-name-of-a-route", vec![row("shop/cart", "mutual", &counts)]);
            place.retries = count;
            place
        });
        let mut answers = answers(vec![sidecar(&names[0], &names[0], 1.0, places.collect())]);
        answers.sidecars[0].summary.tcp = vec![db(count, &[("reset", count)])];
        let stat = Stat::of(view, &which(&[]), &answers);
        for line in text::of(&stat, &answers, Paint::plain()).lines() {
            prop_assert!(line.chars().count() <= 100, "{line}");
        }
    }
}
