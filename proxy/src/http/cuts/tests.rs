//! What is cut and what is not, whoever is first.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

fn begin(cuts: &Arc<Cuts>, path: &'static str) -> Cuttable {
    cuts.begin(&Method::GET, &Uri::from_static(path))
}

async fn is_cut(exchange: &Cuttable) -> bool {
    poll_fn(|cx| Poll::Ready(exchange.poll_cut(cx)))
        .await
        .is_ready()
}

#[tokio::test]
async fn what_is_chosen_is_cut_and_woken() {
    let cuts = Arc::new(Cuts::default());
    let (events, other) = (begin(&cuts, "/events?x=1"), begin(&cuts, "/other"));
    let waiting = tokio::spawn(async move { poll_fn(|cx| events.poll_cut(cx)).await });
    tokio::task::yield_now().await;
    cuts.cut_where(|method, path| *method == Method::GET && path == "/events");
    assert!(cuts.has_cut());
    waiting.await.unwrap();
    assert!(!cuts.has_cut(), "it has ended");
    assert!(!is_cut(&other).await);

    // A place is taken again, without what was there before.
    let next = begin(&cuts, "/next");
    assert_eq!(next.at, 0);
    assert!(!is_cut(&next).await);
    drop((next, other));
    assert_eq!(cuts.0.lock().slots.len(), 2);
}

#[tokio::test]
async fn who_is_cut_stays_so_and_wakes_whoever_asked_last() {
    let cuts = Arc::new(Cuts::default());
    let events = Arc::new(begin(&cuts, "/events"));
    // Somebody who asks and hands it on, as a request does to its response.
    assert!(!is_cut(&events).await);
    let last = tokio::spawn({
        let events = Arc::clone(&events);
        async move { poll_fn(|cx| events.poll_cut(cx)).await }
    });
    tokio::task::yield_now().await;
    cuts.cut_where(|_, _| true);
    last.await.unwrap();
    // A later change that would allow it again comes too late.
    cuts.cut_where(|_, _| false);
    assert!(is_cut(&events).await);
    assert!(cuts.has_cut());
    // What is in its place afterwards is another exchange.
    drop(events);
    assert!(!is_cut(&begin(&cuts, "/events")).await);
}

/// Requests begin and look at the rule while it changes on another thread: none goes on that the change has
/// revoked, and none else is touched.
#[test]
fn none_slips_between_a_decision_and_its_change() {
    const TIMES: usize = 2_000;
    let mut cx = Context::from_waker(Waker::noop());
    let cuts = Arc::new(Cuts::default());
    let allowed = AtomicBool::new(true);
    let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wait_for = |count: &AtomicUsize, at: usize| {
        while count.load(Ordering::Acquire) < at {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=TIMES {
                wait_for(&begun, round);
                allowed.store(false, Ordering::SeqCst);
                cuts.cut_where(|_, path| path == "/events");
                done.store(round, Ordering::Release);
            }
        });
        for round in 1..=TIMES {
            allowed.store(true, Ordering::SeqCst);
            begun.store(round, Ordering::Release);
            // Now the one is first, now the other.
            for _ in 0..round % 50 {
                std::hint::spin_loop();
            }
            let (exchange, other) = (begin(&cuts, "/events"), begin(&cuts, "/other"));
            let admitted = allowed.load(Ordering::SeqCst);
            wait_for(&done, round);
            let goes_on = exchange.poll_cut(&mut cx).is_pending();
            // No `assert`: the other thread would wait for ever.
            if (admitted && goes_on) || other.poll_cut(&mut cx).is_ready() {
                begun.store(usize::MAX, Ordering::Release);
                panic!("round {round}: admitted {admitted}, goes on {goes_on}");
            }
        }
    });
}
