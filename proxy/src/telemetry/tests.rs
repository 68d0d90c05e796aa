#![expect(
    clippy::float_cmp,
    reason = "the samples compared are whole numbers, which f64 holds exactly"
)]

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use http::Method;
use proptest::prelude::*;

use super::exposition::{label_text, write_histogram};
use super::table::Table;
use super::*;
use crate::outcome::Outcome;

fn telemetry() -> Arc<Telemetry> {
    Telemetry::new(ProcessLabels {
        workload: "web-1".into(),
        namespace: "shop".into(),
    })
}

fn labels(peer: &str) -> ScopeLabels {
    ScopeLabels {
        direction: Origin::Outbound,
        service: "shop/cart:80".into(),
        route: "default".into(),
        backend: "shop/cart-v1:80".into(),
        peer: peer.into(),
        tls: Tls::Mutual,
    }
}

/// Samples by family and labels, after checking the text's form.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    let mut current = String::new();
    let mut help = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').expect("a help text").0.to_owned();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert_eq!(help, name, "HELP stands before TYPE");
            assert!(
                kinds.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{name} twice"
            );
            current = name.to_owned();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let name = series.split('{').next().expect("a name");
        let base = match kinds[&current].as_str() {
            "histogram" => name.rsplit_once('_').expect("a suffix").0,
            _ => name,
        };
        assert_eq!(base, current, "a sample stands in its family");
        let value = value.parse().expect("a number");
        assert!(
            samples.insert(series.to_owned(), value).is_none(),
            "{series} twice"
        );
    }
    samples
}

fn sum(samples: &BTreeMap<String, f64>, prefix: &str) -> f64 {
    let matching = samples
        .iter()
        .filter(|(series, _)| series.starts_with(prefix));
    matching.map(|(_, value)| value).sum()
}

#[test]
fn exposition_is_golden() {
    let telemetry = telemetry();
    let scope = telemetry.request_scope(labels("shop/web"));
    for millis in [1, 2, 700] {
        let duration = Duration::from_millis(millis);
        scope.record(&Method::GET, 200, None, Outcome::Ok, duration);
    }
    scope.record(
        &Method::POST,
        200,
        Some(14),
        Outcome::Reset,
        Duration::from_secs(31),
    );
    telemetry
        .retry_counters(
            &"shop/cart:80".into(),
            &"default".into(),
            &"shop/cart-v1:80".into(),
        )
        .record(RetryResult::Sent);
    telemetry.tls_handshake_failed(Origin::Inbound, HandshakeFault::WrongIdentity);
    telemetry.register_collector(Arc::new(|exposition| {
        for (state, value) in [("open", 1.0), ("closed", 0.0)] {
            let labels = [
                ("backend", "b\"\\\n"),
                ("endpoint", "10.0.0.1:80"),
                ("state", state),
            ];
            exposition.gauge(&families::BREAKER_STATE, &labels, value);
        }
    }));
    let text = telemetry.render();
    parse(&text);

    let mut blocks: Vec<String> = text
        .split("\n\n")
        .filter(|block| !block.contains(" process_") && !block.contains("weft_config_age"))
        .filter(|block| !block.contains(" weft_conntrack_"))
        .filter(|block| !block.trim().is_empty())
        .map(|block| {
            let (mut head, mut samples): (Vec<&str>, Vec<&str>) =
                block.trim().lines().partition(|line| line.starts_with('#'));
            if !block.contains(" histogram") {
                samples.sort_unstable();
            }
            head.append(&mut samples);
            head.join("\n")
        })
        .collect();
    blocks.sort();
    assert_eq!(
        blocks.join("\n\n") + "\n",
        include_str!("golden.txt").replace("VERSION", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn process_metrics_are_plausible() {
    let samples = parse(&telemetry().render());
    assert!(samples["process_resident_memory_bytes"] > 1e6);
    assert!(samples["process_open_fds"] >= 1.0);
    let start = samples["process_start_time_seconds"];
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    assert!(
        start <= now + 1.0 && start > now - 86_400.0,
        "{start} {now}"
    );
    assert!(samples.contains_key("process_cpu_seconds_total"));
}

#[test]
fn totals_are_exact_under_concurrency() {
    const THREADS: u16 = 8;
    const ROUNDS: u16 = 2_000;
    let telemetry = telemetry();
    let scopes = Arc::new(PeerScopes::new(
        Arc::clone(&telemetry),
        Origin::Inbound,
        "shop/cart:80".into(),
        "default".into(),
        "shop/cart:80".into(),
    ));
    thread::scope(|threads| {
        for number in 0..THREADS {
            let scopes = Arc::clone(&scopes);
            threads.spawn(move || {
                let peers: Vec<Arc<str>> = (0..4).map(|peer| format!("ns/{peer}").into()).collect();
                for round in 0..ROUNDS {
                    let peer = &peers[usize::from((round + number) % 4)];
                    scopes.with(peer, Tls::Mutual, |scope| {
                        let status = 200 + (round / 4 * 7 + number) % 20;
                        let duration = Duration::from_millis(u64::from(round % 40));
                        scope.record(&Method::GET, status, None, Outcome::Ok, duration);
                    });
                }
            });
        }
    });
    let samples = parse(&telemetry.render());
    let total = f64::from(THREADS) * f64::from(ROUNDS);
    assert_eq!(sum(&samples, "weft_requests_total{"), total);
    assert_eq!(sum(&samples, "weft_request_duration_seconds_count"), total);
    assert_eq!(
        samples
            .keys()
            .filter(|series| series.starts_with("weft_requests_total{"))
            .count(),
        80
    );
}

#[test]
fn cells_overflow_and_lose_nothing() {
    let telemetry = telemetry();
    let scope = telemetry.request_scope(labels("shop/web"));
    for status in 200..400 {
        scope.record(&Method::GET, status, None, Outcome::Ok, Duration::ZERO);
    }
    let samples = parse(&telemetry.render());
    let series = samples
        .keys()
        .filter(|series| series.starts_with("weft_requests_total{"));
    assert_eq!(series.count(), MAX_CELLS + 1);
    assert_eq!(sum(&samples, "weft_requests_total{"), 200.0);
    let overflow = samples
        .iter()
        .find(|(series, _)| series.contains("status=\"overflow\""))
        .expect("an overflow series");
    assert_eq!(*overflow.1, (200 - MAX_CELLS) as f64);
    assert_eq!(
        samples["weft_limit_hits_total{limit=\"request_cells\"}"],
        1.0
    );
}

#[test]
fn unknown_methods_share_one_label() {
    let telemetry = telemetry();
    let scope = telemetry.request_scope(labels("shop/web"));
    for method in ["BREW", "PROPFIND", "get"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        scope.record(&method, 200, None, Outcome::Ok, Duration::ZERO);
    }
    let text = telemetry.render();
    let line = text
        .lines()
        .find(|line| line.contains("method=\"OTHER\""))
        .unwrap();
    assert!(line.ends_with(" 3"), "{line}");
    assert!(!text.contains("BREW"));
}

#[test]
fn peers_are_bounded_and_keep_their_tls() {
    let telemetry = telemetry();
    let scopes = PeerScopes::new(
        Arc::clone(&telemetry),
        Origin::Inbound,
        "shop/cart:80".into(),
        "default".into(),
        "shop/cart:80".into(),
    );
    for tls in [Tls::None, Tls::Mutual] {
        for peer in 0..MAX_PEERS + 50 {
            scopes.with(&format!("ns/{peer}").into(), tls, |scope| {
                assert_eq!(scope.labels().tls, tls);
                scope.record(&Method::GET, 200, None, Outcome::Ok, Duration::ZERO);
            });
        }
    }
    let samples = parse(&telemetry.render());
    let series: Vec<_> = samples
        .iter()
        .filter(|(name, _)| name.starts_with("weft_requests"))
        .collect();
    assert_eq!(series.len(), 2 * (MAX_PEERS + 1));
    let others: Vec<f64> = series
        .iter()
        .filter(|(name, _)| name.contains("peer=\"other\""))
        .map(|(_, value)| **value)
        .collect();
    assert_eq!(others, [50.0, 50.0]);
}

#[test]
fn scopes_are_shared_and_bounded() {
    let telemetry = telemetry();
    let first = telemetry.request_scope(labels("shop/web"));
    assert!(Arc::ptr_eq(
        &first,
        &telemetry.request_scope(labels("shop/web"))
    ));
    for number in 0..MAX_SCOPES + 10 {
        let scope = telemetry.request_scope(ScopeLabels {
            route: format!("route-{number}").into(),
            ..labels("shop/web")
        });
        assert_eq!(&*scope.labels().route == OVERFLOW, number >= MAX_SCOPES - 1);
    }
    assert!(Arc::ptr_eq(
        &first,
        &telemetry.request_scope(labels("shop/web"))
    ));
    for number in 0..MAX_SCOPES + 10 {
        let route = format!("route-{number}").into();
        let counters = telemetry.retry_counters(&"s".into(), &route, &"b".into());
        counters.record(RetryResult::Deadline);
    }
    let samples = parse(&telemetry.render());
    assert_eq!(
        samples["weft_limit_hits_total{limit=\"request_scopes\"}"],
        11.0
    );
    assert_eq!(
        samples["weft_limit_hits_total{limit=\"retry_scopes\"}"],
        10.0
    );
    let overflow = "weft_retries_total{service=\"overflow\",route=\"overflow\",backend=\"overflow\",result=\"deadline\"}";
    assert_eq!(samples[overflow], 10.0);
}

#[test]
fn tcp_connections_are_counted_however_they_end() {
    let telemetry = telemetry();
    let scope = telemetry.tcp_scope(TcpLabels {
        direction: Origin::Inbound,
        service: "shop/db:5432".into(),
        backend: "shop/db:5432".into(),
        peer: "shop/web".into(),
        tls: Tls::Mutual,
        sni: None,
    });
    let kept = scope.open();
    kept.read(10);
    kept.wrote(20);
    scope.open().end(Outcome::Ok);
    drop(scope.open());
    let open = "weft_tcp_open_connections{direction=\"inbound\"}";
    let samples = parse(&telemetry.render());
    assert_eq!(samples[open], 1.0);
    assert_eq!(sum(&samples, "weft_tcp_read_bytes_total{"), 10.0);
    assert_eq!(sum(&samples, "weft_tcp_write_bytes_total{"), 20.0);
    kept.end(Outcome::Ok);
    let samples = parse(&telemetry.render());
    assert_eq!(samples[open], 0.0);
    let of = |outcome: &str| {
        samples
            .iter()
            .find(|(series, _)| {
                series.starts_with("weft_tcp_connections_total")
                    && series.contains(&format!("outcome=\"{outcome}\""))
            })
            .map(|(_, value)| *value)
    };
    assert_eq!(of("ok"), Some(2.0));
    assert_eq!(of("reset"), Some(1.0));
}

#[test]
fn server_names_are_a_label_and_bounded() {
    let telemetry = telemetry();
    for number in 0..MAX_SERVER_NAMES + 10 {
        let labels = TcpLabels {
            direction: Origin::Outbound,
            service: "shop/db:5432".into(),
            backend: "shop/db:5432".into(),
            peer: "shop/db".into(),
            tls: Tls::Mutual,
            sni: (number > 0).then(|| format!("{number}.example").into()),
        };
        telemetry.tcp_scope(labels).open().end(Outcome::Ok);
    }
    let samples = parse(&telemetry.render());
    let of = |part: &str| -> f64 {
        samples
            .iter()
            .filter(|(series, _)| {
                series.starts_with("weft_tcp_connections_total") && series.contains(part)
            })
            .map(|(_, value)| *value)
            .sum()
    };
    assert_eq!(of(""), (MAX_SERVER_NAMES + 10) as f64);
    assert_eq!(of("sni=\"7.example\""), 1.0);
    assert_eq!(of("sni=\"other\""), 9.0);
    assert_eq!(of("sni="), (MAX_SERVER_NAMES + 9) as f64);
    assert_eq!(
        samples["weft_limit_hits_total{limit=\"server_names\"}"],
        9.0
    );
}

#[test]
fn counters_of_collectors_do_not_vanish() {
    let telemetry = telemetry();
    let present = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let seen = Arc::clone(&present);
    telemetry.register_collector(Arc::new(move |exposition| {
        if seen.load(std::sync::atomic::Ordering::Relaxed) {
            let labels = [("backend", "b"), ("to", "open")];
            exposition.counter(&families::BREAKER_TRANSITIONS, &labels, 2.0);
            exposition.counter(&families::BREAKER_TRANSITIONS, &labels, 1.0);
            exposition.gauge(&families::ENDPOINTS, &[("backend", "b")], 4.0);
        }
    }));
    let counter = "weft_circuit_breaker_transitions_total{backend=\"b\",to=\"open\"}";
    let undeclared = [("backend", "b"), ("from", "closed")];
    assert!(!families::BREAKER_TRANSITIONS.has(&undeclared));
    assert_eq!(parse(&telemetry.render())[counter], 3.0);
    present.store(false, std::sync::atomic::Ordering::Relaxed);
    let samples = parse(&telemetry.render());
    assert_eq!(samples[counter], 3.0);
    assert_eq!(sum(&samples, "weft_endpoints"), 0.0);
}

#[test]
fn what_collectors_write_is_bounded() {
    let telemetry = telemetry();
    telemetry.register_collector(Arc::new(|exposition| {
        for number in 0..=MAX_SAMPLES {
            let number = number.to_string();
            exposition.gauge(&families::ENDPOINTS, &[("backend", &number)], 1.0);
        }
    }));
    telemetry.render();
    let samples = parse(&telemetry.render());
    assert!(samples["weft_limit_hits_total{limit=\"collected_samples\"}"] >= 1.0);
}

#[test]
fn the_control_plane_side_is_told() {
    let telemetry = telemetry();
    telemetry.set_discovery(true, 0.0);
    assert_eq!(parse(&telemetry.render())["weft_config_age_seconds"], 0.0);
    telemetry.set_discovery(false, 2.5);
    assert_eq!(parse(&telemetry.render())["weft_config_age_seconds"], 2.5);
    telemetry.set_certificate_expiry(UNIX_EPOCH + Duration::from_secs(1_000));
    let samples = parse(&telemetry.render());
    assert_eq!(
        samples["weft_certificate_expiry_timestamp_seconds"],
        1_000.0
    );
    assert_eq!(samples["weft_discovery_connected"], 0.0);
}

#[tokio::test]
async fn panics_are_counted() {
    let telemetry = telemetry();
    telemetry.supervise("fine", async {}).await;
    telemetry
        .supervise("broken", async { panic!("on purpose, {}", 1) })
        .await;
    assert_eq!(parse(&telemetry.render())["weft_panics_total"], 1.0);
}

#[test]
fn limit_names_are_bounded() {
    let telemetry = telemetry();
    telemetry.limit("named").increment(2);
    telemetry.limit("named").increment(1);
    let samples = parse(&telemetry.render());
    assert_eq!(samples["weft_limit_hits_total{limit=\"named\"}"], 3.0);
}

#[test]
fn bounds_of_both_kinds_agree() {
    for (micros, text) in BOUNDS_MICROS.iter().zip(histogram::BOUNDS_TEXT) {
        let seconds: f64 = text.parse().unwrap();
        assert_eq!((seconds * 1e6).round() as u64, *micros);
    }
}

#[test]
fn a_full_table_makes_one_overflow() {
    let table = Table::new(2);
    let get = |key: u32| {
        table.with(
            |known| *known == key,
            |room| (key, if room { key } else { 99 }),
            |value| *value,
        )
    };
    assert_eq!([get(1), get(2), get(3), get(4), get(2)], [1, 2, 99, 99, 2]);
}

proptest! {
    #[test]
    fn histograms_hold_every_value(values in prop::collection::vec(0u64..40_000_000, 0..200)) {
        let histogram = LatencyHistogram::default();
        for value in &values {
            histogram.record_micros(*value);
        }
        let snapshot = histogram.snapshot();
        prop_assert_eq!(snapshot.count(), values.len() as u64);
        prop_assert_eq!(snapshot.sum_micros, values.iter().sum::<u64>());
        let mut cumulated = 0;
        for (bound, count) in BOUNDS_MICROS.iter().zip(snapshot.buckets) {
            cumulated += count;
            let expected = values.iter().filter(|value| *value <= bound).count();
            prop_assert_eq!(cumulated, expected as u64);
        }
        let mut text = String::new();
        write_histogram(&mut text, "h", "", &snapshot);
        let last = format!("h_count {}\n", values.len());
        prop_assert!(text.ends_with(&last));
    }

    #[test]
    fn label_values_stay_within_their_quotes(value in "\\PC*|[\\\\\"\n]*") {
        let text = label_text([("a", value.as_str())].into_iter());
        prop_assert!(!text.contains('\n'));
        let inner = text.strip_prefix("a=\"").unwrap().strip_suffix('"').unwrap();
        let mut unescaped = String::new();
        let mut characters = inner.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some('n') => unescaped.push('\n'),
                    Some(other) => unescaped.push(other),
                    None => prop_assert!(false, "a backslash at the end"),
                },
                '"' => prop_assert!(false, "a bare quote"),
                other => unescaped.push(other),
            }
        }
        prop_assert_eq!(unescaped, value);
    }
}

fn by_tenant(values: usize) -> (Arc<Telemetry>, PeerScopes) {
    let telemetry = telemetry();
    telemetry.set_header_label(HeaderLabelSettings {
        label: "tenant".into(),
        header: http::HeaderName::from_static("x-tenant"),
        values,
    });
    let scopes = PeerScopes::new(
        Arc::clone(&telemetry),
        Origin::Inbound,
        "shop/cart:80".into(),
        "".into(),
        "shop/cart:80".into(),
    );
    (telemetry, scopes)
}

/// Counts one request of a tenant.
fn of_tenant(scopes: &PeerScopes, tenant: &str) {
    let account = crate::exchange::Account {
        scopes: Arc::new(PeerScopes::new(
            Arc::clone(scopes.telemetry()),
            scopes.direction(),
            Arc::clone(scopes.place()[0]),
            Arc::clone(scopes.place()[1]),
            Arc::clone(scopes.place()[2]),
        )),
        peer: "shop/web".into(),
        tls: Tls::Mutual,
    };
    let mut request = http::Request::get("/").body(()).unwrap();
    if !tenant.is_empty() {
        let value = tenant.parse().unwrap();
        request.headers_mut().insert("x-tenant", value);
    }
    let mut exchange = crate::exchange::Exchange::begin(account, Method::GET);
    exchange.observe(&request);
    exchange.finish(200, None, Outcome::Ok);
}

#[tokio::test]
async fn a_header_is_a_label_up_to_its_bound() {
    let (telemetry, scopes) = by_tenant(2);
    for tenant in ["acme", "", "umbrella", "acme", "late", "later"] {
        of_tenant(&scopes, tenant);
    }
    let samples = parse(&telemetry.render());
    for (tenant, expected) in [("acme", 2.0), ("", 1.0), ("umbrella", 1.0), ("other", 2.0)] {
        let label = format!(",tenant=\"{tenant}\"");
        let of = |family: &str| -> f64 {
            let series = samples
                .iter()
                .filter(|(series, _)| series.starts_with(family));
            let series = series.filter(|(series, _)| series.contains(&label));
            series.map(|(_, value)| value).sum()
        };
        assert_eq!(of("weft_requests_total{"), expected, "{tenant}");
        let count = of("weft_header_request_duration_seconds_count{");
        assert_eq!(count, expected, "{tenant}");
    }
    assert_eq!(sum(&samples, "weft_requests_total{"), 6.0);
    assert_eq!(sum(&samples, "weft_request_duration_seconds_count"), 6.0);
    let hits = samples["weft_limit_hits_total{limit=\"header_label_values\"}"];
    assert_eq!(hits, 2.0);
}

#[tokio::test]
async fn ten_thousand_hostile_values_make_no_more_series_than_the_bound() {
    let (telemetry, scopes) = by_tenant(50);
    for number in 0..10_000 {
        of_tenant(&scopes, &format!("{number}\u{7e}<\"\\>"));
    }
    let samples = parse(&telemetry.render());
    let series = samples
        .keys()
        .filter(|series| series.starts_with("weft_requests_total{"));
    assert_eq!(series.count(), 51);
    assert_eq!(sum(&samples, "weft_requests_total{"), 10_000.0);
}

#[tokio::test]
async fn without_a_label_from_a_header_nothing_is_different() {
    let telemetry = telemetry();
    let scopes = PeerScopes::new(
        Arc::clone(&telemetry),
        Origin::Inbound,
        "shop/cart:80".into(),
        "".into(),
        "shop/cart:80".into(),
    );
    of_tenant(&scopes, "acme");
    let text = telemetry.render();
    assert!(!text.contains("tenant") && !text.contains("acme"));
    assert!(!text.contains("weft_header_request_duration_seconds"));
}
