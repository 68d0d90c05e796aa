use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use proptest::prelude::*;

use crate::policy::{self, BalancerPolicy, BreakerPolicy, BreakerScope};
use crate::resilience::attempt::TryVerdict;
use crate::resilience::group::Group;
use crate::resilience::limits::{Limit, Limits, Overflow, Place};

use super::breaker_policy;

fn caps(requests: Option<u32>, connections: Option<u32>, pending: u32) -> policy::Limits {
    policy::Limits {
        max_connections: connections,
        max_pending_requests: pending,
        max_requests: requests,
    }
}

/// What whoever wants a place does.
async fn seek(limits: Arc<Limits>) -> Result<Place, Overflow> {
    if !limits.has_line(Limit::Requests)
        && let Some(place) = limits.take(Limit::Requests)
    {
        return Ok(place);
    }
    let turn = limits.line_up(Limit::Requests, true)?;
    loop {
        turn.called().await;
        if let Some(place) = turn.place() {
            return Ok(place);
        }
    }
}

/// One who seeks a place, polled only when somebody woke it.
struct Seeker {
    number: usize,
    woken: Arc<Woken>,
    future: Pin<Box<dyn Future<Output = Result<Place, Overflow>>>>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Seeker {
    fn new(number: usize, limits: &Arc<Limits>) -> Self {
        Self {
            number,
            woken: Arc::new(Woken(AtomicBool::new(true))),
            future: Box::pin(seek(Arc::clone(limits))),
        }
    }

    fn poll_if_woken(&mut self) -> Option<Result<Place, Overflow>> {
        if !self.woken.0.swap(false, Ordering::SeqCst) {
            return None;
        }
        let waker = Waker::from(Arc::clone(&self.woken));
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }
}

/// The thing itself, driven by hand.
struct Real {
    limits: Arc<Limits>,
    seeking: Vec<Seeker>,
    holding: Vec<(usize, Place)>,
    refused: Vec<usize>,
}

impl Real {
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            let mut at = 0;
            while at < self.seeking.len() {
                let Some(result) = self.seeking[at].poll_if_woken() else {
                    at += 1;
                    continue;
                };
                moved = true;
                let number = self.seeking.remove(at).number;
                match result {
                    Ok(place) => self.holding.push((number, place)),
                    Err(Overflow) => self.refused.push(number),
                }
            }
            // One that looked in vain was polled, and did not move.
            let woken = |seeker: &Seeker| seeker.woken.0.load(Ordering::SeqCst);
            if !moved && !self.seeking.iter().any(woken) {
                return;
            }
        }
    }
}

/// The same, naively.
#[derive(Default)]
struct Model {
    cap: usize,
    pending: usize,
    line: VecDeque<usize>,
    holding: Vec<usize>,
    refused: Vec<usize>,
}

impl Model {
    fn arrive(&mut self, number: usize) {
        if self.line.is_empty() && self.holding.len() < self.cap {
            self.holding.push(number);
        } else if self.line.len() < self.pending {
            self.line.push_back(number);
        } else {
            self.refused.push(number);
        }
    }

    fn serve(&mut self) {
        while self.holding.len() < self.cap {
            let Some(first) = self.line.pop_front() else {
                return;
            };
            self.holding.push(first);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Arrive,
    /// The holder of this position ends.
    End(usize),
    /// The one at this position of the line goes away.
    GoAway(usize),
    Set(Option<u32>, u32),
}

fn step() -> impl Strategy<Value = Step> {
    let cap = prop_oneof![4 => (1_u32..5).prop_map(Some), 1 => Just(None)];
    prop_oneof![
        6 => Just(Step::Arrive),
        4 => (0_usize..8).prop_map(Step::End),
        2 => (0_usize..8).prop_map(Step::GoAway),
        1 => (cap, 0_u32..6).prop_map(|(cap, pending)| Step::Set(cap, pending)),
    ]
}

proptest! {
    #[test]
    fn places_and_lines_are_what_a_naive_model_says(
        cap in 1_u32..5,
        pending in 0_u32..6,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut real = Real {
            limits: Limits::new(Some(&caps(Some(cap), None, pending))),
            seeking: Vec::new(),
            holding: Vec::new(),
            refused: Vec::new(),
        };
        let mut model = Model {
            cap: cap as usize,
            pending: pending as usize,
            ..Model::default()
        };
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Arrive => {
                    real.seeking.push(Seeker::new(number, &real.limits));
                    model.arrive(number);
                }
                Step::End(at) if at < model.holding.len() => {
                    let number = model.holding.remove(at);
                    real.holding.retain(|(holder, _)| *holder != number);
                }
                Step::GoAway(at) if at < model.line.len() => {
                    let number = model.line.remove(at).unwrap();
                    real.seeking.retain(|seeker| seeker.number != number);
                }
                Step::End(_) | Step::GoAway(_) => {}
                Step::Set(cap, pending) => {
                    real.limits.set(Some(&caps(cap, None, pending)));
                    model.cap = cap.map_or(usize::MAX, |cap| cap as usize);
                    model.pending = pending as usize;
                }
            }
            real.settle();
            model.serve();
            // In the order in which they got their places.
            let holding: Vec<_> = real.holding.iter().map(|(number, _)| *number).collect();
            prop_assert_eq!(&holding, &model.holding);
            prop_assert_eq!(&real.refused, &model.refused);
            let [requests, _] = real.limits.views();
            prop_assert_eq!(requests.held, model.holding.len());
            prop_assert_eq!(requests.waiting, model.line.len());
            prop_assert_eq!(real.limits.pending().1, model.line.len());
            prop_assert_eq!(requests.overflows as usize, model.refused.len());
        }
    }
}

#[test]
fn threads_never_pass_the_cap_and_all_are_served() {
    const CAP: usize = 3;
    const EACH: usize = 2_000;
    let limits = Limits::new(Some(&caps(Some(CAP as u32), None, 64)));
    let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    for _ in 0..EACH {
                        let sought = seek(Arc::clone(&limits));
                        let patience = std::time::Duration::from_secs(30);
                        let place = tokio::time::timeout(patience, sought).await;
                        let place = place.expect("woken").expect("the line is long enough");
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(place);
                    }
                });
            });
        }
    });
    assert!(most.load(Ordering::SeqCst) <= CAP);
    let [requests, _] = limits.views();
    assert_eq!((requests.held, requests.waiting), (0, 0));
    assert_eq!(limits.pending().1, 0);
}

#[test]
fn both_lines_share_one_bound() {
    let limits = Limits::new(Some(&caps(Some(1), Some(1), 2)));
    let _request = limits.take(Limit::Requests).unwrap();
    let _connection = limits.take(Limit::Connections).unwrap();
    assert!(limits.take(Limit::Requests).is_none());
    let first = limits.line_up(Limit::Requests, true).unwrap();
    let second = limits.line_up(Limit::Connections, true).unwrap();
    assert!(limits.line_up(Limit::Requests, true).is_err());
    // One who was promised a place is beyond the bound, until the promise falls through.
    let promised = limits.line_up(Limit::Connections, false).unwrap();
    assert_eq!(promised.count_in(), Err(Overflow));
    assert!(first.is_first() && second.is_first() && !promised.is_first());
    drop(first);
    assert_eq!(promised.count_in(), Ok(()));
    drop(second);
    assert!(promised.is_first());
    drop(promised);
    assert_eq!(limits.pending(), (2, 0));
    let [requests, connections] = limits.views();
    assert_eq!((requests.overflows, connections.overflows), (1, 1));
}

#[test]
fn connections_are_counted_before_they_are_capped() {
    let limits = Limits::new(None);
    let early = [(); 3].map(|()| limits.take(Limit::Connections).unwrap());
    limits.set(Some(&caps(None, Some(2), 0)));
    assert!(limits.take(Limit::Connections).is_none());
    let [one, two, three] = early;
    drop((one, two));
    let again = limits.take(Limit::Connections).unwrap();
    assert!(limits.take(Limit::Connections).is_none());
    drop((three, again));
    assert_eq!(limits.views()[1].held, 0);
}

#[test]
fn who_is_as_good_as_served_takes_no_room_in_the_queue() {
    let limits = Limits::new(Some(&caps(None, Some(1), 1)));
    let connection = limits.take(Limit::Connections).unwrap();
    let first = limits.line_up(Limit::Connections, true).unwrap();
    assert!(limits.line_up(Limit::Connections, true).is_err());
    drop(connection);
    // It has not looked yet.
    assert_eq!((first.is_first(), limits.pending().1), (true, 0));
    let second = limits.line_up(Limit::Connections, true).unwrap();
    assert!(limits.line_up(Limit::Connections, true).is_err());
    let connection = limits.take(Limit::Connections).unwrap();
    first.leave();
    assert!(second.is_first());
    // What becomes free for nobody changes nothing in the end.
    limits.eased();
    limits.eased();
    assert_eq!(limits.pending().1, 0);
    second.looked_in_vain();
    second.looked_in_vain();
    assert_eq!(limits.pending().1, 1);
    assert!(limits.line_up(Limit::Connections, true).is_err());
    drop((connection, second));
    assert_eq!(limits.pending().1, 0);
    assert_eq!(limits.views()[1].held, 0);
}

#[test]
fn a_change_of_limits_resets_no_breaker_and_limits_alone_are_none() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut policy = BreakerPolicy {
        scope: BreakerScope::Backend,
        consecutive_failures: Some(1),
        limits: Some(caps(Some(1), None, 0)),
        ..breaker_policy()
    };
    let balancer = BalancerPolicy::RoundRobin;
    let group = Group::new(now, Some(policy.clone()), balancer.clone());
    assert!(!group.is_refusing(now));
    let mut permit = group.enter(now).unwrap();
    permit.observe(now, TryVerdict::Failure, &mut rng);
    assert!(group.is_refusing(now));
    let place = group.limits().take(Limit::Requests).unwrap();
    policy.limits = Some(caps(Some(2), None, 0));
    group.set_policy(now, Some(policy.clone()), balancer.clone());
    assert!(group.is_refusing(now), "the breaker was reset");
    let [requests, _] = group.limits().views();
    assert_eq!((requests.max, requests.held), (Some(2), 1));
    drop(place);

    policy.consecutive_failures = None;
    for scope in [BreakerScope::Backend, BreakerScope::Endpoint] {
        let only = BreakerPolicy {
            scope,
            ..policy.clone()
        };
        group.set_policy(now, Some(only), balancer.clone());
        group.set_endpoints(now, &super::endpoints(2));
        let states = group.states();
        assert!(!states.is_empty());
        assert!(
            states
                .iter()
                .all(|view| view.endpoint.is_some() && view.reconnect)
        );
        for _ in 0..20 {
            let mut permit = group.enter(now).unwrap();
            permit.observe(now, TryVerdict::Failure, &mut rng);
        }
        assert!(group.limits().has(Limit::Requests));
    }
}
