//! What retrying costs a service that fails entirely, counted by the service.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::*;
use crate::policy::{BudgetPolicy, HeaderMatch, RetryPolicy, SplitMatch, ValueMatch};
use crate::testing::clients::request;
use crate::testing::policies::{retries, side, target};
use crate::testing::servers::{Act, Seen};

/// The header that says whose request it is.
const CLIENT: &str = "x-client";
const SIDECARS: usize = 10;
const INTERVAL: Duration = Duration::from_secs(10);

fn budget(percent: u32, min_retries_per_second: u32) -> BudgetPolicy {
    BudgetPolicy {
        percent,
        interval: INTERVAL,
        min_retries_per_second,
    }
}

/// Three retries of everything, with the mesh default's waits between them.
fn persistent(budget: BudgetPolicy) -> RetryPolicy {
    RetryPolicy {
        attempts: 3,
        backoff_base: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
        budget,
        ..retries()
    }
}

fn retrying(budget: BudgetPolicy) -> ServiceTarget {
    let mut target = target("api", &["api"]);
    target.routes[0].retries = Some(persistent(budget));
    target
}

/// A service that answers nothing but 503, and counts by client.
async fn failing() -> (Server, Arc<[AtomicU64; SIDECARS]>) {
    let counts = Arc::<[AtomicU64; SIDECARS]>::default();
    let counting = Arc::clone(&counts);
    let server = Server::plain(move |_, seen: &Seen| {
        let client: usize = seen.headers[CLIENT].to_str().unwrap().parse().unwrap();
        counting[client].fetch_add(1, Ordering::Relaxed);
        Act::status(503, "down")
    })
    .await;
    (server, counts)
}

/// What one client came to.
struct Spent {
    requests: u64,
    tries: u64,
    /// From the first request to the last answer.
    seconds: f64,
}

/// Sends at a steady pace for as long as `lasts`.
async fn send(sidecar: Sidecar, number: usize, pace: Duration, lasts: Duration) -> (u64, f64) {
    let mut client = sidecar.http1().await;
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks.tick().await;
    let started = Instant::now();
    let mut requests = 0;
    while started.elapsed() < lasts {
        let name = number.to_string();
        let get = request(Method::GET, "/", &[(CLIENT, &name)], "");
        let answer = client.send(get).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (503, &b"down"[..]));
        requests += 1;
        ticks.tick().await;
    }
    let seconds = started.elapsed().as_secs_f64();
    client.leave().await;
    assert_eq!(sidecar.requests(&[("status", "503")]), requests);
    (requests, seconds)
}

/// Ten sidecars with these budgets, all at once.
async fn spend(budgets: [BudgetPolicy; SIDECARS], pace: Duration, lasts: Duration) -> Vec<Spent> {
    let (server, counts) = failing().await;
    let clients = budgets.into_iter().enumerate().map(|(number, budget)| {
        let sidecar = Sidecar::knowing(retrying(budget), at(&[&server]));
        tokio::spawn(send(sidecar, number, pace, lasts))
    });
    let clients: Vec<_> = clients.collect();
    let mut spent = Vec::new();
    for (client, tries) in clients.into_iter().zip(&*counts) {
        let (requests, seconds) = client.await.unwrap();
        spent.push(Spent {
            requests,
            tries: tries.load(Ordering::Relaxed),
            seconds,
        });
    }
    spent
}

impl Spent {
    /// The bound that `resilience::budget` states.
    fn most_retries(&self, budget: &BudgetPolicy) -> f64 {
        let share = self.requests as f64 * f64::from(budget.percent) / 100.0;
        share + f64::from(budget.min_retries_per_second) * self.seconds + 1.0
    }

    fn retries(&self) -> f64 {
        (self.tries - self.requests) as f64
    }
}

/// "10 client sidecars against a service that fails entirely, over a minute of virtual time: tries
/// per sidecar within the bound": the mesh default's budget, and it is used, not only kept.
#[tokio::test(start_paused = true)]
async fn ten_sidecars_stay_within_their_budgets_for_a_minute() {
    let all = || budget(20, 10);
    let pace = Duration::from_millis(100);
    let budgets = std::array::from_fn(|_| all());
    for spent in spend(budgets, pace, Duration::from_secs(60)).await {
        assert!(spent.requests >= 590, "{}", spent.requests);
        let (most, retries) = (spent.most_retries(&all()), spent.retries());
        assert!(retries <= most, "{retries} > {most}");
        assert!(retries >= most * 0.9, "{retries} of {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_percentage_and_floor_bounds_its_own() {
    let parts = [
        (0, 0),
        (0, 1),
        (0, 20),
        (5, 0),
        (20, 0),
        (20, 1),
        (50, 0),
        (50, 3),
        (100, 0),
        (100, 5),
    ];
    let budgets = parts.map(|(percent, floor)| budget(percent, floor));
    let pace = Duration::from_millis(50);
    let all = spend(budgets, pace, Duration::from_secs(20)).await;
    for (spent, budget) in all.iter().zip(&budgets) {
        let (most, retries) = (spent.most_retries(budget), spent.retries());
        assert!(retries <= most, "{budget:?}: {retries} > {most}");
        // Without a floor there is no token for the very first request either.
        let first = if budget.min_retries_per_second == 0 {
            1.0
        } else {
            0.0
        };
        let least = (most - first) * 0.9 - 1.0;
        assert!(retries >= least, "{budget:?}: {retries} of {most}");
    }
    assert_eq!(all[0].tries, all[0].requests, "nothing is nothing");
}

/// One backend's failures cost another nothing, in one service's split and between services.
#[tokio::test(start_paused = true)]
async fn each_backend_has_a_budget_of_its_own() {
    let bad = Server::plain(|_, _| Act::status(503, "down")).await;
    // Every other try of the good one fails.
    let good = Server::plain(|nth, _| match nth % 2 {
        1 => Act::status(503, "busy"),
        _ => Act::ok("fine"),
    })
    .await;
    let mut policy = target("api", &["bad", "good"]);
    policy.routes[0].retries = Some(persistent(budget(100, 0)));
    policy.routes[0].split.backends = vec![side(0, 1), side(1, 0)];
    policy.routes[0].split.backends[1].forced = vec![SplitMatch {
        headers: vec![HeaderMatch {
            name: "x-good".parse().unwrap(),
            value: ValueMatch::Exact(http::HeaderValue::from_static("1")),
        }],
        cookies: Vec::new(),
    }];
    let sidecar = Sidecar::knowing(policy, at(&[&bad]));
    sidecar.tell_endpoints("good", at(&[&good]));
    let mut client = sidecar.http1().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 503);
    }
    assert_eq!(bad.requests(), 40, "as many retries as requests");
    assert!(sidecar.retries("budget_exhausted") > 0);
    for _ in 0..10 {
        let get = request(Method::GET, "/", &[("x-good", "1")], "");
        client.send(get).await.assert_ok("fine");
    }
    assert_eq!(good.requests(), 20);

    // Another service of the same backend begins with nothing spent: a budget is the addressed
    // service's and the backend's.
    let other: SocketAddr = "10.96.0.2:80".parse().unwrap();
    let mut second = target("shop", &["bad"]);
    second.routes[0].retries = Some(persistent(budget(100, 0)));
    let second = OutboundTarget::Service(Arc::new(second));
    sidecar.discovery.tell_outbound(other, second);
    let mut client = sidecar.dial(other).await.http1().await;
    client.get("/").await;
    assert_eq!(bad.requests(), 42, "one try and one retry");
}

/// Neither a policy edit nor another set of endpoints fills a budget that was spent.
#[tokio::test(start_paused = true)]
async fn updates_do_not_refill_it() {
    let servers = [
        Server::plain(|_, _| Act::status(503, "down")).await,
        Server::plain(|_, _| Act::status(503, "down")).await,
    ];
    let sidecar = Sidecar::knowing(retrying(budget(10, 1)), at(&[&servers[0]]));
    let mut client = sidecar.http1().await;
    let mut sent = 0;
    let mut all = async |times: usize| {
        for _ in 0..times {
            assert_eq!(client.get("/").await.status, 503);
        }
        sent += times;
        servers[0].requests() + servers[1].requests() - sent
    };
    // The first token, and 10 % of 20 requests. No virtual time passes but the retries' waits.
    let started = Instant::now();
    let spent = all(20).await;
    assert!((2..=4).contains(&spent), "{spent}");
    for round in 1..=5 {
        let mut edited = retrying(budget(10, 1));
        edited.routes[0].timeouts.request = Some(Duration::from_secs(60 + round));
        edited.backends[0].connect_timeout = Duration::from_secs(round);
        sidecar.tell(edited);
        sidecar.tell_endpoints("api", at(&[&servers[(round % 2) as usize]]));
    }
    // Another 20 requests: 10 % again, and what the floor gave in the meantime.
    let retries = all(20).await;
    let most = 40.0 * 0.1 + started.elapsed().as_secs_f64() + 1.0;
    assert!(retries as f64 <= most, "{retries} > {most}");
    assert!(retries > spent, "it was all spent before");
}
