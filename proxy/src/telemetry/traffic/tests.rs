use std::time::Instant as Clock;

use http::Method;
use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::telemetry::{ProcessLabels, RetryResult, ScopeLabels, TcpLabels, Tls};

const SECOND: Duration = Duration::from_secs(1);

fn telemetry() -> Arc<Telemetry> {
    Telemetry::new(ProcessLabels {
        workload: "web-1".into(),
        namespace: "shop".into(),
    })
}

fn labels(direction: Origin, service: &str) -> ScopeLabels {
    ScopeLabels {
        direction,
        service: service.into(),
        route: "default".into(),
        backend: service.into(),
        peer: "shop/cart".into(),
        tls: Tls::Mutual,
    }
}

fn tcp_labels(service: &str, sni: Option<&str>) -> TcpLabels {
    TcpLabels {
        direction: Origin::Outbound,
        service: service.into(),
        backend: service.into(),
        peer: "shop/db".into(),
        tls: Tls::None,
        sni: sni.map(Into::into),
    }
}

fn record(scope: &RequestScope, status: u16, outcome: Outcome) {
    let took = Duration::from_micros(1_500);
    scope.record(&Method::GET, status, None, outcome, took);
}

fn all(telemetry: &Telemetry) -> Summary {
    telemetry.traffic(&TrafficQuery::default())
}

fn requests(summary: &Summary) -> u64 {
    summary.places.iter().map(Place::requests).sum()
}

#[test]
fn requests_are_summed_by_outcome_and_class_over_methods_and_statuses() {
    let telemetry = telemetry();
    let scope = telemetry.request_scope(labels(Origin::Outbound, "shop/cart:80"));
    for method in [Method::GET, Method::POST] {
        for status in [200, 204, 404, 500] {
            scope.record(&method, status, None, Outcome::Ok, SECOND);
        }
        scope.record(&method, 503, None, Outcome::CircuitOpen, Duration::ZERO);
        scope.record(&method, 499, None, Outcome::ClientGone, Duration::ZERO);
    }
    let summary = all(&telemetry);
    let [place] = &summary.places[..] else {
        panic!("{summary:?}");
    };
    assert_eq!(
        (&*place.direction, &*place.service),
        ("outbound", "shop/cart:80")
    );
    let [row] = &place.rows[..] else {
        panic!("{place:?}");
    };
    assert_eq!((&*row.peer, &*row.tls), ("shop/cart", "mutual"));
    let mut counts: Vec<_> = row
        .counts
        .iter()
        .map(|it| (&*it.0, &*it.1, it.2, it.3))
        .collect();
    counts.sort_unstable();
    let wanted = [
        ("circuit_open", "5xx", 2, 2),
        ("client_gone", "4xx", 2, 0),
        ("ok", "2xx", 4, 0),
        ("ok", "4xx", 2, 0),
        ("ok", "5xx", 2, 2),
    ];
    assert_eq!(counts, wanted);
    let latency = place.latency.as_ref().expect("durations");
    assert_eq!((latency.buckets[0], latency.buckets[11]), (4, 8));
    assert_eq!(latency.sum_micros, 8_000_000);
}

#[test]
fn grpc_fails_as_dashboards_say() {
    let telemetry = telemetry();
    let scope = telemetry.request_scope(labels(Origin::Inbound, "shop/cart:80"));
    for code in 0..=16 {
        scope.record(&Method::POST, 200, Some(code), Outcome::Ok, SECOND);
    }
    let summary = all(&telemetry);
    let counts = &summary.places[0].rows[0].counts;
    assert_eq!(counts, &[Count("ok".into(), "2xx".into(), 17, 5)]);
}

#[test]
fn ways_of_ending_past_the_bound_are_counted() {
    let telemetry = telemetry();
    let scope = telemetry.request_scope(labels(Origin::Inbound, "shop/cart:80"));
    for status in 200..300 {
        record(&scope, status, Outcome::Ok);
        assert_eq!(requests(&all(&telemetry)), u64::from(status) - 199);
    }
    let summary = all(&telemetry);
    let counts = &summary.places[0].rows[0].counts;
    let overflow = counts.iter().find(|it| it.0 == "overflow");
    assert_eq!(overflow.expect("what is past the bound").2, 36);
}

#[tokio::test(start_paused = true)]
async fn a_window_is_what_came_since_the_nearest_reading() {
    let telemetry = telemetry();
    let watching = tokio::spawn(watch(Arc::clone(&telemetry)));
    let scope = telemetry.request_scope(labels(Origin::Outbound, "shop/cart:80"));
    // The first tick is the watcher's begin.
    tokio::task::yield_now().await;
    // One in the first second, two in the second and so on.
    for second in 1..=100 {
        for _ in 0..second {
            record(&scope, 200, Outcome::Ok);
        }
        // The watcher reads what came before.
        tokio::task::yield_now().await;
        advance(SECOND).await;
        tokio::task::yield_now().await;
    }
    let sum = |from: u64, to: u64| (from..=to).sum::<u64>();
    let of = |seconds: u64| {
        let window = Some(Duration::from_secs(seconds));
        let query = TrafficQuery {
            window,
            ..TrafficQuery::default()
        };
        let summary = telemetry.traffic(&query);
        let latency = summary.places.first().and_then(|it| it.latency.clone());
        let buckets = latency.unwrap_or_default().count();
        assert_eq!(buckets, requests(&summary));
        (summary.seconds.round() as u64, requests(&summary))
    };
    assert_eq!(of(10), (10, sum(91, 100)));
    assert_eq!(of(14), (10, sum(91, 100)));
    assert_eq!(of(60), (60, sum(41, 100)));
    // More is not kept.
    assert_eq!(of(600), (60, sum(41, 100)));
    let whole = all(&telemetry);
    assert_eq!(
        (whole.seconds.round() as u64, requests(&whole)),
        (100, 5_050)
    );
    assert_eq!(telemetry.traffic.lock().past.len(), KEPT);
    watching.abort();
}

#[tokio::test(start_paused = true)]
async fn before_the_first_reading_a_window_is_everything() {
    let telemetry = telemetry();
    let scope = telemetry.request_scope(labels(Origin::Outbound, "shop/cart:80"));
    record(&scope, 200, Outcome::Ok);
    advance(3 * SECOND).await;
    let query = TrafficQuery {
        window: Some(60 * SECOND),
        ..TrafficQuery::default()
    };
    let summary = telemetry.traffic(&query);
    assert_eq!((summary.seconds.round() as u64, requests(&summary)), (3, 1));
    assert_eq!(summary.run, all(&telemetry).run);
}

#[test]
fn only_what_is_asked_for_is_told() {
    let telemetry = telemetry();
    for service in [
        "shop/cart:80",
        "shop/cart:90",
        "shop/cart-v2:80",
        "other/cart:80",
    ] {
        for direction in [Origin::Inbound, Origin::Outbound] {
            record(
                &telemetry.request_scope(labels(direction, service)),
                200,
                Outcome::Ok,
            );
        }
        telemetry
            .tcp_scope(tcp_labels(service, None))
            .open()
            .end(Outcome::Ok);
    }
    let of = |direction, namespace: Option<&str>, service: Option<&str>| {
        let summary = telemetry.traffic(&TrafficQuery {
            direction,
            namespace: namespace.map(str::to_owned),
            service: service.map(str::to_owned),
            window: None,
        });
        (requests(&summary), summary.tcp.len())
    };
    assert_eq!(of(None, None, None), (8, 4));
    assert_eq!(of(Some(Origin::Inbound), None, None), (4, 0));
    assert_eq!(of(Some(Origin::Outbound), Some("shop"), None), (3, 3));
    assert_eq!(of(None, None, Some("shop/cart")), (4, 2));
    assert_eq!(of(None, None, Some("shop/cart:80")), (2, 1));
    assert_eq!(of(None, Some("other"), Some("shop/cart:80")), (0, 0));
}

#[test]
fn connections_and_bytes_are_summed_over_server_names() {
    let telemetry = telemetry();
    let kept = telemetry
        .tcp_scope(tcp_labels("shop/db:5432", Some("a.example")))
        .open();
    kept.read(10);
    kept.wrote(20);
    for sni in [None, Some("b.example"), Some("a.example")] {
        telemetry
            .tcp_scope(tcp_labels("shop/db:5432", sni))
            .open()
            .end(Outcome::Ok);
    }
    drop(telemetry.tcp_scope(tcp_labels("shop/db:5432", None)).open());
    let summary = all(&telemetry);
    let [tcp] = &summary.tcp[..] else {
        panic!("{summary:?}");
    };
    assert_eq!((tcp.open, tcp.read, tcp.written), (1, 10, 20));
    let wanted = [("ok".into(), 3), ("reset".into(), 1)];
    assert_eq!(tcp.ended, BTreeMap::from(wanted));
    drop(kept);
    let summary = all(&telemetry);
    assert_eq!((summary.tcp[0].open, summary.tcp[0].connections()), (0, 5));
}

#[test]
fn retries_stand_at_their_place() {
    let telemetry = telemetry();
    let service: Arc<str> = "shop/cart:80".into();
    let counters = || telemetry.retry_counters(&service, &"default".into(), &service);
    counters().record(RetryResult::Sent);
    counters().record(RetryResult::BudgetExhausted);
    // Before its first request has ended, a place has only this.
    assert_eq!(all(&telemetry).places[0].retries, 1);
    record(
        &telemetry.request_scope(labels(Origin::Outbound, &service)),
        200,
        Outcome::Ok,
    );
    counters().record(RetryResult::Sent);
    let summary = all(&telemetry);
    assert_eq!(summary.places.len(), 1);
    assert_eq!((summary.places[0].retries, requests(&summary)), (2, 1));
}

#[test]
fn an_answer_is_bounded_and_loses_nothing() {
    let telemetry = telemetry();
    for number in 0..MAX_ROWS + 100 {
        let service = format!("shop/s{number}:80");
        let scope = telemetry.request_scope(labels(Origin::Outbound, &service));
        for _ in 0..=number {
            record(&scope, 200, Outcome::Ok);
        }
        telemetry
            .tcp_scope(tcp_labels(&service, None))
            .open()
            .end(Outcome::Ok);
    }
    let summary = all(&telemetry);
    assert_eq!(summary.places.len(), MAX_ROWS + 1);
    assert_eq!(summary.places[0].requests(), MAX_ROWS as u64 + 100);
    let overflow = summary.places.last().expect("places");
    assert_eq!(
        (&*overflow.service, &*overflow.rows[0].peer),
        ("overflow", "overflow")
    );
    assert_eq!(
        (overflow.rows.len(), overflow.requests()),
        (1, (1..=100).sum::<u64>())
    );
    let count = overflow.latency.as_ref().map(Latency::count);
    assert_eq!(count, Some(overflow.requests()));
    assert_eq!(requests(&summary), (1..=MAX_ROWS as u64 + 100).sum::<u64>());
    assert_eq!(summary.tcp.len(), MAX_ROWS + 1);
    let connections = summary.tcp.iter().map(Tcp::connections).sum::<u64>();
    assert_eq!(connections, MAX_ROWS as u64 + 100);
}

#[test]
fn twenty_rows_are_small_and_read_back() {
    let telemetry = telemetry();
    for number in 10..30 {
        let service = format!("a-long-namespace/a-service-called-{number}:8080");
        assert!(service.len() > 38);
        let scope = telemetry.request_scope(labels(Origin::Outbound, &service));
        for status in [200, 404, 500, 503] {
            for micros in BOUNDS_MICROS {
                let took = Duration::from_micros(micros);
                scope.record(&Method::GET, status, None, Outcome::Ok, took);
            }
        }
    }
    let summary = all(&telemetry);
    let text = serde_json::to_string(&summary).expect("plain values");
    println!("measured: 20 rows are {} bytes", text.len());
    assert!(text.len() < 12 * 1024, "{}", text.len());
    let read: Summary = serde_json::from_str(&text).expect("what was written");
    assert_eq!(requests(&read), 20 * 4 * 16);
    assert_eq!(read.places, summary.places);
}

#[test]
fn two_thousand_scopes_are_read_in_no_time() {
    let telemetry = telemetry();
    for number in 0..1_999 {
        let service = format!("shop/s{number}:80");
        let scope = telemetry.request_scope(labels(Origin::Outbound, &service));
        for status in [200, 404, 500, 503] {
            record(&scope, status, Outcome::Ok);
        }
    }
    telemetry.remember_traffic();
    let begun = Clock::now();
    telemetry.remember_traffic();
    let remembering = begun.elapsed();
    let bytes = telemetry
        .traffic
        .lock()
        .past
        .back()
        .map(|past| 8 * past.numbers.len());
    let begun = Clock::now();
    let text = serde_json::to_string(&all(&telemetry)).expect("plain values");
    let answering = begun.elapsed();
    println!(
        "measured: 2,000 scopes are read in {remembering:?} and kept in {} bytes; an answer of {} bytes takes \
         {answering:?}",
        bytes.unwrap_or(0),
        text.len(),
    );
    // Whatever the machine does meanwhile.
    assert!(remembering < SECOND && answering < 5 * SECOND);
    assert!(text.len() < 512 * 1024);
}

/// What may happen between two questions.
#[derive(Clone, Debug)]
enum Step {
    Record(u8, u16, u64),
    Retry(u8),
    Remember,
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4_u8, 0..4_usize, 0..100_000_u64)
            .prop_map(|(service, status, micros)| Step::Record(service, [200, 404, 500, 503][status], micros)),
        1 => (0..4_u8).prop_map(Step::Retry),
        2 => Just(Step::Remember),
        2 => (0..20_u8).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happens, an answer is the difference to the nearest of the readings that are kept.
    #[test]
    fn windows_are_exact(steps in prop::collection::vec(step(), 0..120), window in 0..70_u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let telemetry = telemetry();
            let begun = Instant::now();
            // Seconds, requests, failures and retries at each reading that is kept.
            let mut kept = VecDeque::from([(0_u64, 0_u64, 0_u64, 0_u64)]);
            let (mut total, mut failed, mut retried) = (0, 0, 0);
            for step in steps {
                match step {
                    Step::Record(service, status, micros) => {
                        let service = format!("shop/s{service}:80");
                        let scope = telemetry.request_scope(labels(Origin::Outbound, &service));
                        scope.record(&Method::GET, status, None, Outcome::Ok, Duration::from_micros(micros));
                        total += 1;
                        failed += u64::from(status >= 500);
                    }
                    Step::Retry(service) => {
                        let service: Arc<str> = format!("shop/s{service}:80").into();
                        let counters = telemetry.retry_counters(&service, &"default".into(), &service);
                        counters.record(RetryResult::Sent);
                        retried += 1;
                    }
                    Step::Remember => {
                        telemetry.remember_traffic();
                        if kept.len() == KEPT {
                            kept.pop_front();
                        }
                        kept.push_back((begun.elapsed().as_secs(), total, failed, retried));
                    }
                    Step::Wait(seconds) => advance(Duration::from_secs(seconds.into())).await,
                }
            }
            let now = begun.elapsed().as_secs();
            let query = TrafficQuery { window: Some(Duration::from_secs(window)), ..TrafficQuery::default() };
            let summary = telemetry.traffic(&query);
            let nearest = kept.iter().min_by_key(|past| (now - past.0).abs_diff(window));
            let (at, requests_then, failed_then, retried_then) = *nearest.expect("the begin");
            prop_assert_eq!(summary.seconds.round() as u64, now - at);
            prop_assert_eq!(requests(&summary), total - requests_then);
            let rows = || summary.places.iter().flat_map(|place| &place.rows);
            let failures: u64 = rows().flat_map(|row| &row.counts).map(|count| count.3).sum();
            prop_assert_eq!(failures, failed - failed_then);
            let retries: u64 = summary.places.iter().map(|place| place.retries).sum();
            prop_assert_eq!(retries, retried - retried_then);
            for place in &summary.places {
                let count = place.latency.as_ref().map_or(0, Latency::count);
                prop_assert_eq!(count, place.requests());
            }
            Ok(())
        })?;
    }
}
