//! The load of these tests, and what has to come of it.

use std::time::{Duration, Instant};

use http::Method;
use weft_sandbox::app::Stats;
use weft_sandbox::load::{Load, Protocol, Report, Running, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{Mesh, Pod};

use crate::common::{Cx, PORT, assert_no_failure, policy};

/// How long the load lasts at least.
const QUICK: Duration = Duration::from_secs(15);
const SOAK: Duration = Duration::from_secs(60);
/// Requests per second of the long form, over all loads but bursts.
const SOAK_RATE: f64 = 1_000.0;
/// How long the machine is measured, and by how many clients of each protocol.
const CALIBRATION: Duration = Duration::from_secs(2);
const CALIBRATION_CLIENTS: usize = 4;
/// The part of what the machine can do that is asked of it, and the bounds of that: fewer would show
/// nothing, more would only measure the machine.
const PART: f64 = 6.0;
const LEAST_RATE: f64 = 20.0;
const MOST_RATE: f64 = 120.0;
/// Clients at most: what waits for an answer holds nothing else up.
const CLIENTS: usize = 2_000;
/// gRPC callers share connections, as in one process.
const CHANNELS: usize = 2;
/// How late a request may begin in a loop that is open: what the machine takes, not what answers do.
const LATE_BOUND: Duration = Duration::from_secs(5);
/// Requests of one burst, at once, and how long each is worked on: so each has a connection of its own.
pub(super) const BURST: u64 = 36;
pub(super) const BURST_WORK: Duration = Duration::from_millis(30);
const BURST_RATE: f64 = 10_000.0;
/// Bytes of a body.
const BODY: usize = 300;

/// What is said of the service: on a machine that does much else a handshake may take longer than the
/// second that is the default. Retries are those that there are without a policy.
pub(super) fn patient(builder: Builder) -> Builder {
    builder.policy(&policy("patient", "api", "timeouts: {connect: 5s}"))
}

/// A load that runs.
pub(super) struct Traffic {
    begin: Instant,
    least: Duration,
    rate: f64,
    loads: Vec<(&'static str, Running)>,
}

/// What came of it.
pub(super) struct Outcome {
    rate: f64,
    took: Duration,
    reports: Vec<(&'static str, Report)>,
}

impl Traffic {
    /// Measures what the machine can do, forgets that, and starts a part of it. `pauses` are those
    /// between bursts; `connect_patience` is for clients whose own sidecar will be away.
    pub(super) async fn start(
        cx: &Cx,
        mesh: &Mesh,
        apps: &[&str],
        pauses: &[Duration],
        connect_patience: Duration,
    ) -> anyhow::Result<Self> {
        let client = mesh.pod("client");
        let rate = if cx.soak {
            SOAK_RATE
        } else {
            calibrate(cx, mesh, &client).await
        };
        for app in apps {
            mesh.app(app).reset_stats().await?;
        }
        let load = |prefix: &'static str, protocol, rate| {
            Load::new(mesh.addr("api", PORT))
                .id_prefix(prefix)
                .protocol(protocol)
                .rate(rate)
                .on_demand()
                .clients(CLIENTS)
                .connect_patience(connect_patience)
        };
        let http1 = mixed(load("http1", Protocol::Http1, rate / 2.0), "");
        let grpc = load("grpc", Protocol::Grpc, rate / 2.0)
            .connections(CHANNELS)
            .shot(Shot::post("/", BODY));
        let mut loads = vec![
            ("HTTP/1", http1.start(&client)),
            ("gRPC", grpc.start(&client)),
        ];
        if !pauses.is_empty() {
            let work = format!("?delay_ms={}", BURST_WORK.as_millis());
            let bursts = mixed(load("burst", Protocol::Http1, BURST_RATE), &work)
                .pauses(pauses.iter().map(|pause| (BURST, *pause)));
            loads.push(("bursts", bursts.start(&client)));
        }
        Ok(Self {
            begin: Instant::now(),
            least: cx.pick(QUICK, SOAK),
            rate,
            loads,
        })
    }

    /// Whether there is time for one more round of what takes so long.
    pub(super) fn has_time_for(&self, round: Duration) -> bool {
        self.begin.elapsed() + round < self.least
    }

    /// Looks at what has come of each load so far.
    pub(super) fn look<T>(&self, mut look: impl FnMut(&Report) -> T) -> Vec<T> {
        self.loads
            .iter()
            .map(|(_, load)| load.look(&mut look))
            .collect()
    }

    /// Waits for the load's time to be over, and for its last answer.
    pub(super) async fn end(self) -> Outcome {
        tokio::time::sleep(self.least.saturating_sub(self.begin.elapsed())).await;
        let ending = self.loads.into_iter();
        // All are told before one is waited for.
        let ending = ending.map(|(name, load)| async move { (name, load.stop().await) });
        let reports = futures_util::future::join_all(ending).await;
        Outcome {
            rate: self.rate,
            took: self.begin.elapsed(),
            reports,
        }
    }
}

impl Outcome {
    /// Each request was answered with 200, by the time it was due and not when its client was free,
    /// and seen by one server once, with the whole of its body.
    pub(super) fn assert_nothing_lost(&self, seen: &Stats) {
        let mut sent = 0;
        let mut bodies = 0;
        for (name, report) in &self.reports {
            assert_no_failure(report);
            assert!(report.sent > 0, "{name} sent nothing");
            // The libraries of gRPC send such a call again once, if at all.
            assert_eq!(report.left_out, 0, "{name}: left out by GOAWAY");
            assert!(
                report.late < LATE_BOUND,
                "{name}: begun {:?} late",
                report.late
            );
            sent += report.sent;
            if *name != "gRPC" {
                let posts = report.records.iter().filter(|it| it.method == Method::POST);
                bodies += posts.count();
            }
        }
        assert_eq!(seen.not_listed, 0, "the servers' tables are too small");
        let mut twice = seen.ids.iter().filter(|(_, count)| **count > 1);
        assert_eq!(twice.next(), None, "a request that servers saw twice");
        assert_eq!(seen.ids.len() as u64, sent, "ids that servers saw");
        assert_eq!(seen.requests, sent, "requests that servers saw");
        assert_eq!(seen.bodies.len(), bodies, "bodies that servers saw");
        assert!(
            seen.bodies.values().all(|count| *count == 1),
            "a body came twice"
        );
    }

    /// Connections that were refused to clients.
    pub(super) fn refused(&self) -> u64 {
        self.reports.iter().map(|(_, report)| report.refused).sum()
    }

    pub(super) fn say(&self, cx: &Cx) {
        for (name, report) in &self.reports {
            cx.measured(format!(
                "{name}: {} requests in {:.1?} ({:.0}/s steady), {} failed, {} reconnects, {} refused \
                 connections, {} left out by GOAWAY, p50 {:.1?}, p99 {:.0?}, longest {:.0?}, begun at most {:.0?} late",
                report.sent,
                self.took,
                self.rate,
                report.not_ok(),
                report.reconnects,
                report.refused,
                report.left_out,
                report.latency(0.5),
                report.latency(0.99),
                report.latency(1.0),
                report.late,
            ));
            if report.not_ok() > 0 {
                cx.measured(format!(
                    "{name}: statuses {:?}, outcomes {:?}, failures {:?}",
                    report.statuses, report.outcomes, report.failures
                ));
            }
        }
    }
}

/// Requests per second that the loads shall make together.
async fn calibrate(cx: &Cx, mesh: &Mesh, client: &Pod) -> f64 {
    let load = |prefix: &str, protocol| {
        Load::new(mesh.addr("api", PORT))
            .id_prefix(prefix)
            .protocol(protocol)
            .clients(CALIBRATION_CLIENTS)
            .duration(CALIBRATION)
    };
    let http1 = mixed(load("calibration-1", Protocol::Http1), "");
    let grpc = load("calibration-2", Protocol::Grpc).shot(Shot::post("/", BODY));
    let (http1, grpc) = tokio::join!(http1.run(client), grpc.run(client));
    for report in [&http1, &grpc] {
        assert_no_failure(report);
    }
    let can = (http1.answered + grpc.answered) as f64 / CALIBRATION.as_secs_f64();
    let rate = (can / PART).clamp(LEAST_RATE, MOST_RATE);
    cx.measured(format!(
        "the machine does {can:.0}/s in a closed loop; asked for {rate:.0}/s"
    ));
    rate
}

/// GETs and POSTs in turn.
fn mixed(load: Load, query: &str) -> Load {
    load.shot(Shot::get(&format!("/items{query}")))
        .shot(Shot::post(&format!("/orders{query}"), BODY))
}
