use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::policy::BudgetPolicy;
use crate::resilience::budget::Budget;

fn policy(percent: u32, interval: u64, floor: u32) -> BudgetPolicy {
    BudgetPolicy {
        percent,
        interval: Duration::from_secs(interval),
        min_retries_per_second: floor,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Requests(u32),
    Retries(u32),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1_u32..50).prop_map(Step::Requests),
        (1_u32..50).prop_map(Step::Retries),
        (0_u64..3_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn retries_stay_within_the_budget(
        steps in prop::collection::vec(step(), 1..100),
        percent in 0_u32..=100,
        interval in 1_u64..=60,
        floor in 0_u32..20,
        idle in 0_u64..10_000,
    ) {
        let start = Instant::now();
        let (budget, policy) = (Budget::new(start), policy(percent, interval, floor));
        // The time before the first request gives nothing.
        let first = start + Duration::from_millis(idle);
        let mut now = first;
        let (mut requests, mut retries) = (1_u64, 0_u64);
        budget.deposit(now);
        for step in steps {
            match step {
                Step::Requests(count) => {
                    (0..count).for_each(|_| budget.deposit(now));
                    requests += u64::from(count);
                }
                Step::Retries(count) => {
                    retries += (0..count).filter(|_| budget.withdraw(now, &policy)).count() as u64;
                }
                Step::Wait(ms) => now += Duration::from_millis(ms),
            }
            let by_floor = f64::from(floor) * (now - first).as_secs_f64();
            let bound = requests as f64 * f64::from(percent) / 100.0 + by_floor + 1.0;
            prop_assert!(retries as f64 <= bound + 1e-6, "{retries} > {bound}");
        }
    }
}

#[test]
fn the_share_is_granted_and_slides_away() {
    let start = Instant::now();
    let (budget, policy) = (Budget::new(start), policy(20, 10, 0));
    let take = |now| (0..1_000).filter(|_| budget.withdraw(now, &policy)).count();
    (0..100).for_each(|_| budget.deposit(start));
    assert_eq!(take(start), 20);
    (0..100).for_each(|_| budget.deposit(start + Duration::from_secs(5)));
    assert_eq!(take(start + Duration::from_secs(5)), 20);
    // Requests that are older than the interval give nothing any more.
    (0..10).for_each(|_| budget.deposit(start + Duration::from_secs(20)));
    assert_eq!(take(start + Duration::from_secs(20)), 2);
    assert_eq!(take(start + Duration::from_secs(40)), 0);
}

#[test]
fn the_floor_accrues_and_is_kept_for_a_second() {
    let start = Instant::now();
    let (budget, policy) = (Budget::new(start), policy(0, 10, 10));
    let take = |now| (0..1_000).filter(|_| budget.withdraw(now, &policy)).count();
    budget.deposit(start);
    assert_eq!(take(start), 1);
    assert_eq!(take(start + Duration::from_millis(500)), 5);
    assert_eq!(take(start + Duration::from_secs(60)), 10);
}

#[test]
fn what_was_taken_in_advance_is_paid_back_first() {
    let start = Instant::now();
    let (budget, policy) = (Budget::new(start), policy(0, 10, 10));
    let take = |now| (0..1_000).filter(|_| budget.withdraw(now, &policy)).count();
    budget.deposit(start);
    assert_eq!(take(start), 1);
    (0..3).for_each(|_| budget.charge());
    assert_eq!(take(start + Duration::from_millis(500)), 2);
    (0..1_000).for_each(|_| budget.charge());
    assert_eq!(take(start + Duration::from_secs(10)), 0);
}

#[test]
fn threads_share_one_budget() {
    const THREADS: u64 = 4;
    const REQUESTS: u64 = 20_000;
    let start = Instant::now();
    let (budget, policy) = (Budget::new(start), policy(20, 60, 10));
    let retries = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for index in 0..REQUESTS {
                    // One second of traffic.
                    let now = start + Duration::from_micros(index * 50);
                    budget.deposit(now);
                    if budget.withdraw(now, &policy) {
                        retries.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let granted = retries.load(Ordering::Relaxed);
    let bound = THREADS * REQUESTS / 5 + 10 + 1;
    assert!(granted <= bound, "{granted} > {bound}");
    assert!(granted >= bound / 2, "{granted}");
}
