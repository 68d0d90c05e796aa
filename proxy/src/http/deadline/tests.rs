use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn after(start: Instant, time: Duration) -> Deadline {
    Deadline::after(start.into_std(), Some(time))
}

fn pooled() -> usize {
    POOL.with_borrow(Vec::len)
}

#[tokio::test(start_paused = true)]
async fn what_is_ready_costs_no_timer() {
    let before_now = Instant::now();
    assert_eq!(
        before(after(before_now, Duration::ZERO), async { 7 }).await,
        Ok(7)
    );
    assert_eq!(before(Deadline::NONE, async { 8 }).await, Ok(8));
    assert_eq!(pooled(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_kept_exactly() {
    let start = Instant::now();
    let result = before(after(start, SECOND), sleep(5 * SECOND)).await;
    assert_eq!(result, Err(Elapsed));
    let took = start.elapsed();
    assert!(
        took >= SECOND && took <= SECOND + Duration::from_millis(2),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pooled_timer_that_is_armed_earlier_does_not_end_a_later_deadline() {
    let start = Instant::now();
    // Leaves a timer armed for one second in the pool.
    assert!(
        before(after(start, SECOND), sleep(SECOND / 10))
            .await
            .is_ok()
    );
    assert_eq!(pooled(), 1);
    let later = start + 3 * SECOND;
    let armed = POOL.with_borrow(|pool| pool[0].sleep.deadline());
    {
        let borrowed = Borrowed::new(later);
        assert_eq!(
            borrowed.0.as_ref().map(|timer| timer.sleep.deadline()),
            Some(armed)
        );
    }
    assert_eq!(
        before(after(start, 3 * SECOND), sleep(9 * SECOND)).await,
        Err(Elapsed)
    );
    assert!(start.elapsed() >= 3 * SECOND && start.elapsed() < 4 * SECOND);
    // And one that is armed later than needed is armed anew.
    let next = Instant::now();
    assert!(
        before(after(next, 60 * SECOND), sleep(SECOND))
            .await
            .is_ok()
    );
    assert_eq!(
        before(after(next, 2 * SECOND), sleep(9 * SECOND)).await,
        Err(Elapsed)
    );
    assert!(next.elapsed() >= 2 * SECOND && next.elapsed() < 3 * SECOND);
    assert_eq!(pooled(), 1, "one timer did it all");
}

#[tokio::test(start_paused = true)]
async fn the_pool_is_bounded() {
    let at = Instant::now() + SECOND;
    let borrowed: Vec<_> = (0..POOL_LIMIT + 10).map(|_| Borrowed::new(at)).collect();
    drop(borrowed);
    assert_eq!(pooled(), POOL_LIMIT);
}

#[test]
fn a_timer_of_an_ended_runtime_is_not_used() {
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O");
        runtime.block_on(async {
            let at = Instant::now() + SECOND;
            assert_eq!(
                before(after(at, Duration::ZERO), sleep(5 * SECOND)).await,
                Err(Elapsed)
            );
        });
    }
}
