use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::{HeaderValue, Request};
use proptest::prelude::*;

use super::*;
use crate::outcome::Outcome;
use crate::testing::{limit_hits, telemetry};

#[test]
fn requests_in_flight() {
    let requests = Requests::new(3, 1);
    assert!((0..3).all(|_| requests.enter()));
    assert!(!requests.enter());
    assert_eq!(requests.in_flight(), 4, "counted until it leaves");
    requests.leave();
    requests.leave();
    assert!(requests.enter());
    assert_eq!(requests.in_flight(), 3);
}

#[test]
fn requests_of_several_workers() {
    let requests = Requests::new(5, 4);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let requests = &requests;
            scope.spawn(move || {
                crate::worker::enter(worker, Arc::default());
                assert!(requests.enter());
            });
        }
    });
    // This thread counts as the first worker: its share is used up, the others are looked at.
    assert!(requests.enter());
    assert!(!requests.enter());
    assert_eq!(requests.in_flight(), 6);
}

#[tokio::test(start_paused = true)]
async fn dials_fail_at_once_where_nothing_can_be_closed() {
    let telemetry = telemetry();
    let limits = ProcessLimits {
        upstream_connections: 1,
        ..ProcessLimits::DEFAULT
    };
    let bounds = Bounds::new(limits, Origin::Outbound, 1, &telemetry);
    let place = bounds.dials.place().await.unwrap();
    let before = tokio::time::Instant::now();
    let failure = bounds.dials.place().await.unwrap_err();
    assert_eq!(failure.outcome, Outcome::Overflow);
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(limit_hits(&telemetry, "outbound_upstream_connections"), 1);
    drop(place);
    assert!(bounds.dials.place().await.is_ok());
    assert_eq!(bounds.dials.taken(), 0);
    assert_eq!(limit_hits(&telemetry, "outbound_upstream_connections"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dial_takes_the_place_of_an_idle_connection() {
    let dials = Dials::new(1, Counter::noop());
    let idle = parking_lot::Mutex::new(Some(dials.place().await.unwrap()));
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    dials.reclaim_with(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let Some(place) = idle.lock().take() else {
            return false;
        };
        // The connection is gone a little later.
        tokio::spawn(async move {
            tokio::time::sleep(RECLAIM_WAIT / 2).await;
            drop(place);
        });
        true
    });
    let place = dials.place().await.unwrap();
    assert_eq!((dials.taken(), asked.load(Ordering::Relaxed)), (1, 1));
    assert!(dials.place().await.is_err(), "nothing is idle any more");
    drop(place);
}

#[tokio::test(start_paused = true)]
async fn a_dial_does_not_wait_for_ever() {
    let dials = Dials::new(1, Counter::noop());
    let _place = dials.place().await.unwrap();
    dials.reclaim_with(|| true);
    let before = tokio::time::Instant::now();
    assert!(dials.place().await.is_err());
    assert_eq!(before.elapsed(), RECLAIM_WAIT);
}

#[test]
fn heads() {
    let limits = ProcessLimits {
        header_bytes: 100,
        headers: 2,
        ..ProcessLimits::DEFAULT
    };
    let mut request = Request::new(());
    *request.uri_mut() = "http://a/b?c".parse().unwrap();
    // Of the line: GET, /b?c and a.
    assert_eq!(limits.request_excess(&request), None);
    let value = "v".repeat(100 - 8 - 32 - 1);
    let value = HeaderValue::try_from(value).unwrap();
    request.headers_mut().insert("n", value);
    assert_eq!(limits.request_excess(&request), None);
    *request.uri_mut() = "http://a/b?cd".parse().unwrap();
    assert_eq!(limits.request_excess(&request), Some(HeadExcess::Bytes));
    let headers = request.headers_mut();
    headers.clear();
    headers.append("n", HeaderValue::from_static(""));
    headers.append("n", HeaderValue::from_static(""));
    assert_eq!(limits.request_excess(&request), None);
    let headers = request.headers_mut();
    headers.append("n", HeaderValue::from_static(""));
    assert_eq!(limits.request_excess(&request), Some(HeadExcess::Fields));
}

#[test]
fn an_endpoint_has_room_for_one_of_each_worker() {
    let limits = |endpoint_connections| ProcessLimits {
        endpoint_connections,
        ..ProcessLimits::DEFAULT
    };
    assert_eq!(limits(100).endpoint_connections_of(4), 25);
    assert_eq!(limits(100).endpoint_connections_of(1), 100);
    assert_eq!(limits(1).endpoint_connections_of(4), 1);
}

proptest! {
    #[test]
    fn kept_bytes_are_given_back(sizes in prop::collection::vec((0_usize..8, 0_usize..100), 0..60)) {
        let kept = KeptBytes::new(150, Counter::noop());
        let mut places: Vec<(KeptPlace, usize)> = Vec::new();
        for (at, bytes) in sizes {
            if at >= places.len() {
                places.push((kept.place(), 0));
            }
            let last = places.len() - 1;
            let (place, held) = &mut places[at.min(last)];
            let sum = kept.taken() + bytes;
            prop_assert_eq!(place.take(bytes), sum <= 150);
            *held += if sum <= 150 { bytes } else { 0 };
            if bytes % 7 == 0 {
                places.swap_remove(at.min(last));
            }
            prop_assert_eq!(kept.taken(), places.iter().map(|(_, held)| held).sum::<usize>());
        }
        places.clear();
        prop_assert_eq!(kept.taken(), 0);
    }
}
