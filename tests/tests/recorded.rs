//! What a sidecar's registry costs, however many requests it records and whatever they say.
//!
//! This file is a process of its own with one test at a time, because it looks at the memory of the
//! whole process. `cargo test --release -p weft-tests --test recorded -- --nocapture` prints the figures
//! of a release build; without optimisation, and without `WEFT_SOAK=1`, fewer requests are recorded.

// Counters come as `f64` and are whole numbers: equality is what is meant.
#![allow(clippy::float_cmp)]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use weft_proxy::exchange::{Account, Exchange};
use weft_proxy::outcome::{Origin, Outcome};
use weft_proxy::telemetry::{
    MAX_REQUEST_SERIES, PeerScopes, ProcessLabels, TcpLabels, Telemetry, Tls,
};

/// Requests that are recorded, in the long form and in the quick one.
const REQUESTS: usize = 10_000_000;
const QUICK: usize = 2_000_000;
/// Those before which memory is not looked at: whatever has a bound has reached it.
const FIRST: usize = 1_000_000;
/// Different values, each of which a client or a server could send.
const HOSTILE: usize = 10_000;
/// What the process may grow by from the first to the last.
const GROWTH: usize = 256 << 10;
/// Series that a scrape is measured with, at least.
const SERIES: usize = 5_000;
/// What such a scrape may cost, also without optimisation.
const SCRAPE: Duration = Duration::from_millis(5);

/// Tests that look at the process run one after the other.
static PROCESS: Mutex<()> = Mutex::new(());

#[test]
fn hostile_requests_leave_memory_flat() {
    let _process = PROCESS.lock();
    let quick = cfg!(debug_assertions) && std::env::var_os("WEFT_SOAK").is_none();
    let requests = if quick { QUICK } else { REQUESTS };
    let telemetry = telemetry();
    let values: Vec<Arc<str>> = (0..HOSTILE).map(hostile).collect();
    let methods: Vec<Method> = (0..HOSTILE)
        .map(|number| Method::from_bytes(format!("M{number}").as_bytes()).expect("a token"))
        .collect();
    let outcomes = Outcome::ALL;
    let scopes: Vec<_> = [Origin::Inbound, Origin::Outbound]
        .into_iter()
        .flat_map(|direction| (0..10).map(move |number| (direction, number)))
        .map(|(direction, number)| scopes(&telemetry, direction, number))
        .collect();
    let mut random = fastrand::Rng::with_seed(7);
    let begun = Instant::now();
    let mut before = 0;
    for number in 0..requests {
        if number == FIRST {
            before = resident();
        }
        // Some come often, so that every bound is reached soon.
        let many = if random.bool() { 50 } else { HOSTILE };
        let value = &values[random.usize(..many)];
        let account = Account {
            scopes: Arc::clone(&scopes[random.usize(..scopes.len())]),
            peer: Arc::clone(value),
            tls: random
                .choice([Tls::Mutual, Tls::None, Tls::Local])
                .expect("three"),
        };
        let exchange = Exchange::begin(account, methods[random.usize(..HOSTILE)].clone());
        let grpc = random.bool().then(|| random.u8(..));
        let outcome = outcomes[random.usize(..outcomes.len())];
        exchange.finish(random.u16(100..1_000), grpc, outcome);
        if number.is_multiple_of(100) {
            tcp(&telemetry, value);
        }
    }
    let growth = resident().saturating_sub(before);
    let text = telemetry.render();
    assert!(
        series(&text) >= MAX_REQUEST_SERIES,
        "the bound is not reached"
    );
    let counted: f64 = values_of(&text, "weft_requests_total{").sum();
    println!(
        "measured memory: {requests} requests with {HOSTILE} hostile values in {:.1?}: {} KiB more than \
         after the first {FIRST}, {} series in all",
        begun.elapsed(),
        growth >> 10,
        series(&text),
    );
    assert_eq!(counted, requests as f64, "none is lost");
    assert!(growth < GROWTH, "{growth} bytes");
}

#[test]
fn a_scrape_of_5000_series_is_cheap() {
    let _process = PROCESS.lock();
    let telemetry = telemetry();
    for number in 0..160 {
        let scopes = scopes(&telemetry, Origin::Outbound, number);
        for (status, outcome) in (200..212).zip(Outcome::ALL) {
            let account = Account {
                scopes: Arc::clone(&scopes),
                peer: "shop/web".into(),
                tls: Tls::Mutual,
            };
            Exchange::begin(account, Method::GET).finish(status, None, outcome);
        }
    }
    let found = series(&telemetry.render());
    assert!(found >= SERIES, "{found} series");
    let costs: Vec<Duration> = (0..50)
        .map(|_| {
            let begun = thread_time();
            std::hint::black_box(telemetry.render());
            thread_time().saturating_sub(begun)
        })
        .collect();
    let least = costs.iter().min().expect("fifty");
    let mean = costs.iter().sum::<Duration>() / 50;
    println!("measured scrape: {found} series: CPU {least:.2?} at least, {mean:.2?} in the mean");
    assert!(mean < SCRAPE, "{mean:?}");
}

fn telemetry() -> Arc<Telemetry> {
    Telemetry::new(ProcessLabels {
        workload: "cart-1".into(),
        namespace: "shop".into(),
    })
}

fn scopes(telemetry: &Arc<Telemetry>, direction: Origin, number: usize) -> Arc<PeerScopes> {
    let service: Arc<str> = format!("shop/cart-{number}:80").into();
    let scopes = PeerScopes::new(
        Arc::clone(telemetry),
        direction,
        Arc::clone(&service),
        "default".into(),
        service,
    );
    Arc::new(scopes)
}

/// What a header, a name or a path could be, and a label must not become.
fn hostile(number: usize) -> Arc<str> {
    let mut value = format!("{number}\"}} 1\n\\# é");
    while value.len() < 40 + number % 200 {
        let _ = write!(value, "{number:x};");
    }
    value.into()
}

/// An opaque connection with the name that its client chose.
fn tcp(telemetry: &Arc<Telemetry>, name: &Arc<str>) {
    let scope = telemetry.tcp_scope(TcpLabels {
        direction: Origin::Outbound,
        service: "shop/db:5432".into(),
        backend: "shop/db:5432".into(),
        peer: Arc::clone(name),
        tls: Tls::None,
        sni: Some(Arc::clone(name)),
    });
    scope.open().end(Outcome::Ok);
}

fn series(text: &str) -> usize {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .count()
}

fn values_of<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = f64> + 'a {
    let lines = text.lines().filter(move |line| line.starts_with(prefix));
    lines.map(|line| {
        let value = line.rsplit(' ').next().expect("a value");
        value.parse().expect("a number")
    })
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("a Linux process");
    let pages: usize = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("pages");
    pages * rustix::param::page_size()
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
