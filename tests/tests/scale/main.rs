//! How the control plane bears a big cluster: the API server for tests is filled, the control plane
//! follows it as a process of its own, and sidecars' streams, each with its own certificate, decode,
//! apply and acknowledge what it sends.
//!
//! `cargo test -p weft-tests --test scale` runs a small form, which proves that every change reaches
//! exactly whom it concerns, once. The full one has figures to be believed only from an optimized build on
//! a machine with nothing else to do:
//!
//! `WEFT_SOAK=1 cargo test --release -p weft-tests --test scale -- --nocapture`
//!
//! The API server and all sidecars run in this process, on the processors that the control plane needs too.
#![allow(clippy::unwrap_used)] // In helpers of tests too.

mod bench;
mod figures;
mod plan;
mod process;
mod sidecar;

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use bench::{Bench, Effort};
use figures::Figures;
use plan::Size;

/// Descriptors beside those of streams.
const SPARE_DESCRIPTORS: u64 = 200;

/// What the control plane must keep to with 1,000 services, 10,000 endpoints and 1,000 streams.
mod gates {
    use std::time::Duration;

    pub(crate) const ENDPOINT: Duration = Duration::from_secs(2);
    pub(crate) const POLICY: Duration = Duration::from_secs(3);
    /// MiB, at its highest.
    pub(crate) const MEMORY: f64 = 250.0;
    /// Of one processor.
    pub(crate) const AT_REST: f64 = 0.05;
}

/// What the small form must keep to, in an unoptimized build on a busy machine: that nothing is out of
/// all proportion.
mod bounds {
    use std::time::Duration;

    pub(crate) const CHANGE: Duration = Duration::from_secs(5);
    /// MiB for each stream more, with its service and ten endpoints.
    pub(crate) const MEMORY_PER_STREAM: f64 = 1.0;
    pub(crate) const AT_REST: f64 = 0.5;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_reaches_whom_it_concerns_and_nobody_else() {
    let is_soak = std::env::var("WEFT_SOAK").is_ok_and(|value| value == "1");
    let (sizes, effort) = if is_soak {
        let effort = Effort {
            changes: 100,
            policies: 20,
            window: Duration::from_secs(20),
        };
        (vec![Size::of(10), Size::of(100), Size::of(1000)], effort)
    } else {
        let effort = Effort {
            changes: 5,
            policies: 2,
            window: Duration::from_secs(2),
        };
        (vec![Size::of(10), Size::of(100)], effort)
    };
    let most = sizes.iter().map(|size| size.streams()).max().unwrap_or(0);
    allow_descriptors(most as u64 + SPARE_DESCRIPTORS);

    let mut all = Vec::new();
    for size in sizes {
        let figures = Bench::measure(size, effort).await;
        let figures = figures.unwrap_or_else(|error| panic!("{size:?}: {error:#}"));
        println!("{figures}");
        all.push(figures);
    }
    if is_soak {
        check_gates(all.last().unwrap());
    }
    check_proportion(&all);
}

fn check_gates(figures: &Figures) {
    for spread in [&figures.near_counted, &figures.far_counted, &figures.churn] {
        let time = spread.percentile(0.99);
        assert!(time < gates::ENDPOINT, "one endpoint: {time:?}");
    }
    let time = figures.policy_counted.percentile(0.99);
    assert!(time < gates::POLICY, "a policy: {time:?}");
    let memory = figures.in_the_end.peak;
    assert!(memory < gates::MEMORY, "{memory} MiB");
    for share in [figures.at_rest, figures.at_rest_after] {
        assert!(share < gates::AT_REST, "{share} of a processor at rest");
    }
}

fn check_proportion(all: &[Figures]) {
    for figures in all {
        for spread in [&figures.near, &figures.far, &figures.policy, &figures.churn] {
            let time = spread.percentile(1.0);
            assert!(!spread.0.is_empty() && time < bounds::CHANGE, "{time:?}");
        }
        assert!(figures.at_rest < bounds::AT_REST);
    }
    for pair in all.windows(2) {
        let [small, big] = pair else { continue };
        let streams = big.size.streams() - small.size.streams();
        let more = big.in_the_end.now - small.in_the_end.now;
        let each = more / streams as f64;
        assert!(each < bounds::MEMORY_PER_STREAM, "{each} MiB per stream");
    }
}

/// Raises how many descriptors this process and its children may have, as far as the machine lets it.
fn allow_descriptors(wanted: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let possible = maximum.is_none_or(|maximum| maximum >= wanted);
    assert!(
        possible,
        "{wanted} descriptors are needed, and {maximum:?} allowed"
    );
    let raised = Rlimit {
        current: Some(wanted),
        maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}
