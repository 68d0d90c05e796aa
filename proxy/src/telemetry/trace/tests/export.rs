//! The queue, and the way to a collector: one that takes, one that fails, one that is not there.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::super::export::{MAX_BATCH, QUEUE};
use super::super::span::{End, Kind};
use super::{Telemetry, Tracer, head, tracer};
use crate::outcome::Outcome;
use crate::telemetry::Tls;
use crate::testing::collector::Collector;
use crate::testing::servers::Refusing;
use crate::testing::soon;

/// Begins and ends so many.
fn put(tracer: &Tracer, spans: usize) {
    for _ in 0..spans {
        let span = tracer.begin(Kind::Server, &mut head("/", &[])).unwrap();
        span.end(End {
            elapsed: Duration::from_millis(1),
            status: 200,
            grpc_status: None,
            outcome: Outcome::Ok,
            is_copy: false,
            request_id: None,
            service: "shop/cart:80".into(),
            route: "".into(),
            backend: "shop/cart:80".into(),
            peer: "unknown".into(),
            tls: Tls::None,
        });
    }
}

fn count(telemetry: &Telemetry, result: &str) -> usize {
    let text = telemetry.render();
    let line = format!("weft_trace_spans_total{{result=\"{result}\"}} ");
    let value = text.lines().find_map(|it| it.strip_prefix(&line));
    value
        .expect("the counter is there from the start")
        .parse()
        .unwrap()
}

fn counts(telemetry: &Telemetry) -> [usize; 4] {
    ["exported", "dropped", "refused", "unsent"].map(|result| count(telemetry, result))
}

#[tokio::test]
async fn spans_arrive_in_batches_and_say_whose_they_are() {
    let collector = Collector::start().await;
    let (tracer, exporter, telemetry) = tracer(&collector.address.to_string(), 1.0);
    assert_eq!(counts(&telemetry), [0; 4]);
    put(&tracer, MAX_BATCH + 88);
    tokio::spawn(exporter.run());
    soon(async {
        while count(&telemetry, "exported") < MAX_BATCH + 88 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(collector.spans().len(), MAX_BATCH + 88);
    let exports = collector.exports();
    assert_eq!(exports.len(), 2);
    let resource = exports[0].resource_spans[0].resource.clone().unwrap();
    let keys: Vec<_> = resource.attributes.iter().map(|it| &*it.key).collect();
    assert!(keys.contains(&"service.name"), "{keys:?}");
    assert_eq!(counts(&telemetry), [MAX_BATCH + 88, 0, 0, 0]);
}

#[tokio::test]
async fn the_end_sends_what_waits() {
    let collector = Collector::start().await;
    let (tracer, exporter, telemetry) = tracer(&collector.address.to_string(), 1.0);
    put(&tracer, 2 * MAX_BATCH);
    tokio::spawn(exporter.run());
    soon(tracer.flush()).await;
    assert_eq!(collector.spans().len(), 2 * MAX_BATCH);
    assert_eq!(count(&telemetry, "exported"), 2 * MAX_BATCH);
    soon(tracer.flush()).await;
}

#[tokio::test]
async fn a_full_queue_drops_and_never_waits() {
    let (tracer, exporter, telemetry) = tracer("127.0.0.1:9", 1.0);
    put(&tracer, QUEUE + 100);
    assert_eq!(counts(&telemetry), [0, 100, 0, 0]);
    drop(exporter);
    put(&tracer, 1);
    assert_eq!(counts(&telemetry), [0, 101, 0, 0]);
}

#[tokio::test]
async fn what_fails_for_now_is_sent_again() {
    let collector = Collector::scripted(|nth| match nth {
        1 => Err(tonic::Status::unavailable("restarting")),
        _ => Ok(0),
    })
    .await;
    let (tracer, exporter, telemetry) = tracer(&collector.address.to_string(), 1.0);
    put(&tracer, 3);
    tokio::spawn(exporter.run());
    soon(async {
        while count(&telemetry, "exported") < 3 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(collector.exports().len(), 2);
    assert_eq!(collector.exports()[0], collector.exports()[1]);
    assert_eq!(counts(&telemetry), [3, 0, 0, 0]);
}

#[tokio::test]
async fn what_is_refused_is_counted_and_not_sent_again() {
    let collector = Collector::scripted(|nth| match nth {
        1 => Err(tonic::Status::invalid_argument("no")),
        _ => Ok(2),
    })
    .await;
    let (tracer, exporter, telemetry) = tracer(&collector.address.to_string(), 1.0);
    tokio::spawn(exporter.run());
    put(&tracer, 3);
    soon(tracer.flush()).await;
    assert_eq!(counts(&telemetry), [0, 0, 3, 0]);
    put(&tracer, 5);
    soon(tracer.flush()).await;
    assert_eq!(counts(&telemetry), [3, 0, 5, 0]);
    assert_eq!(collector.exports().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_is_away_costs_its_batches_only() {
    let refusing = Refusing::new();
    let (tracer, exporter, telemetry) = tracer(&refusing.address.to_string(), 1.0);
    put(&tracer, MAX_BATCH + 7);
    tokio::spawn(exporter.run());
    sleep(Duration::from_secs(70)).await;
    assert_eq!(count(&telemetry, "unsent"), MAX_BATCH, "the first is old");
    sleep(Duration::from_secs(70)).await;
    assert_eq!(counts(&telemetry), [0, 0, 0, MAX_BATCH + 7]);
    // Its end waits for nothing.
    put(&tracer, 1);
    timeout(Duration::from_secs(5), tracer.flush())
        .await
        .unwrap();
    assert_eq!(count(&telemetry, "unsent"), MAX_BATCH + 8);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let (tracer, exporter, telemetry) = tracer(&address.to_string(), 1.0);
    put(&tracer, 1);
    tokio::spawn(exporter.run());
    sleep(Duration::from_secs(120)).await;
    assert_eq!(counts(&telemetry), [0, 0, 0, 1]);
}
