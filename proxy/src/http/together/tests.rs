use std::future::{pending, poll_fn};
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::*;

/// What is spawned during a turn, and what that spawns, is polled in it.
#[tokio::test]
async fn what_is_spawned_is_polled_in_the_same_turn() {
    let spawner = Spawner::default();
    let mut together = Together::new(spawner.clone());
    let (told, mut heard) = oneshot::channel();
    let mut told = Some(told);
    let polled = poll_fn(|cx| {
        let polled = together.poll(cx, |_| {
            if let Some(told) = told.take() {
                let inner = spawner.clone();
                spawner.execute(async move {
                    inner.execute(async move { told.send(()).unwrap() });
                });
            }
            Poll::<()>::Pending
        });
        Poll::Ready(polled)
    });
    assert!(polled.await.is_pending());
    assert!(heard.try_recv().is_ok());
    assert!(together.is_empty());
}

/// Wherever it comes from, a wake is followed by a poll.
#[tokio::test]
async fn no_wake_is_lost() {
    let spawner = Spawner::default();
    let mut together = Together::new(spawner.clone());
    let (passed, rang) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    for _ in 0..4 {
        let (passed, rang) = (Arc::clone(&passed), Arc::clone(&rang));
        spawner.execute(async move {
            for _ in 0..1_000 {
                rang.notified().await;
                passed.fetch_add(1, Ordering::SeqCst);
                rang.notify_one();
            }
        });
    }
    // From this task, from another one, and from another thread.
    rang.notify_one();
    let other = Arc::clone(&rang);
    let ringing = std::thread::spawn(move || {
        for _ in 0..100 {
            other.notify_one();
            std::thread::sleep(Duration::from_micros(50));
        }
    });
    let all = poll_fn(|cx| {
        let polled = together.poll(cx, |_| Poll::<()>::Pending);
        assert!(polled.is_pending());
        if together.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    tokio::time::timeout(Duration::from_secs(10), all)
        .await
        .expect("all were woken");
    assert_eq!(passed.load(Ordering::SeqCst), 4_000);
    ringing.join().unwrap();
}

/// Two that wake each other for ever do not keep the thread.
#[tokio::test]
async fn a_turn_ends() {
    let spawner = Spawner::default();
    let mut together = Together::new(spawner.clone());
    spawner.execute(poll_fn(|cx| {
        cx.waker().wake_by_ref();
        Poll::Pending
    }));
    let for_ever = poll_fn(|cx| {
        together.poll(cx, |cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        })
    });
    let ended = tokio::time::timeout(Duration::from_millis(50), for_ever).await;
    assert!(ended.is_err(), "the timer had its turn");
}

/// What the connection spawns with its last breath, and what stood in the queue then, is polled.
#[tokio::test]
async fn what_was_spawned_outlives_the_connection() {
    let spawner = Spawner::default();
    let mut together = Together::new(spawner.clone());
    // Wakes itself more often than one round polls it.
    let mut left = 100;
    spawner.execute(poll_fn(move |cx| {
        left -= 1;
        if left == 0 {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }));
    let mut has_ended = false;
    let all = poll_fn(|cx| {
        let polled = together.poll(cx, |_| {
            if has_ended {
                return Poll::Pending;
            }
            spawner.execute(async {});
            Poll::Ready(())
        });
        has_ended |= polled.is_ready();
        if has_ended && together.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    let ended = tokio::time::timeout(Duration::from_secs(10), all).await;
    ended.expect("all were polled");
}

#[tokio::test]
async fn what_was_spawned_ends_with_it() {
    let spawner = Spawner::default();
    let mut together = Together::new(spawner.clone());
    let (told, heard) = oneshot::channel::<()>();
    spawner.execute(async move {
        let _told = told;
        pending::<()>().await;
    });
    let polled = poll_fn(|cx| Poll::Ready(together.poll(cx, |_| Poll::<()>::Pending))).await;
    assert!(polled.is_pending() && !together.is_empty());
    drop((together, spawner));
    assert!(heard.await.is_err());
}
