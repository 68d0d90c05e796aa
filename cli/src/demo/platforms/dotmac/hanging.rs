//! A provider hangs, and with it the platform, and with that its callers: until each request has a limit,
//! and five that came to theirs keep the others from waiting.

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::app::Behavior;
use weft_sandbox::load::{Load, Shot};

use super::super::common::{behave, forget, millis, seen};
use super::breaker::{is, provider, reset};
use super::{
    BILLING, BILLING_POD, CALLERS, EXTERNAL, INGRESS, MESSAGES, MOST_LATE, PLATFORM, REPLICAS,
    TIMEOUT, of_tenant,
};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;

/// What each answer takes: more than the guide allows.
const HANGS: Duration = Duration::from_secs(45);
/// For how long the platform is asked for what it needs the provider for, and how often in a second.
const TIME: Duration = Duration::from_secs(60);
const RATE: f64 = 15.0;
/// Of these the last share, in numbers: breakers have opened by then.
const LAST: f64 = 0.25;
/// Who waits for everything.
const PATIENT: Duration = Duration::from_secs(120);
const CLIENTS: usize = 1000;
/// Until every replica has heard of a policy that one of them knows.
const HEARD: Duration = Duration::from_millis(500);
/// Share of the requests that may reach it with a limit and breakers: those of 30 s, of 60 s, and of the
/// time that it takes three replicas to see five failures each.
const MOST_REACHED: f64 = 0.85;

/// What the platform's callers and the provider saw.
#[derive(Clone, Copy, Debug)]
struct Seen {
    sent: u64,
    failed: u64,
    reached: u64,
    longest: Duration,
    longest_of_last: Duration,
    /// Replicas whose breakers are open in the end.
    open: u64,
}

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A provider hangs",
            "The billing provider takes 45 s, and the platform waits for it: 30 s at most.",
        )
        .await;
    if stage.world.mesh.pod(REPLICAS[0]).place().is_some() {
        stage.say("Left out: replicas that call others need network namespaces, which this machine does not give.");
        return Ok(());
    }
    let policies = [EXTERNAL, PLATFORM];
    let saw = stage
        .before_and_after(INGRESS, &policies, async |stage| hang(stage).await)
        .await?;
    stage.during(reset(&Rc::clone(&stage.world), None)).await?;
    let (hangs, limit) = (millis(stage.time(HANGS)), millis(stage.time(TIMEOUT)));
    let late = millis(MOST_LATE);
    for (when, saw) in [("before", saw.before), ("after", saw.after)] {
        let what = format!("{when}: without any answer");
        let of = (saw.sent, "requests");
        stage.check_count(what, of, saw.failed, Expected::exactly(0));
    }
    stage.check_both(
        "the longest that a caller of the platform waited",
        saw.map(|it| millis(it.longest)),
        Unit::Milliseconds,
        BeforeAfter {
            before: Expected::at_least(hangs),
            after: Expected::between(limit, limit + late),
        },
    );
    stage.check_both(
        "the longest of the last quarter of requests",
        saw.map(|it| millis(it.longest_of_last)),
        Unit::Milliseconds,
        BeforeAfter {
            before: Expected::at_least(hangs),
            after: Expected::at_most(late),
        },
    );
    stage.check_both(
        "requests that reached the provider, in percent",
        saw.map(|it| it.reached as f64 * 100.0 / it.sent.max(1) as f64),
        Unit::Percent,
        BeforeAfter {
            before: Expected::exactly(100),
            after: Expected::at_most(MOST_REACHED * 100.0),
        },
    );
    let replicas = REPLICAS.len() as u64;
    stage.check_count(
        "after: open breakers",
        (replicas, "replicas"),
        saw.after.open,
        Expected::exactly(replicas as f64),
    );
    let others = [CALLERS, MESSAGES];
    stage.check_no_failure_of("failed of what needs no such provider", &others);
    let alerts = ["CircuitBreakerOpen", "HighErrorRate", "HighLatency"];
    stage.check_alerts(&alerts, &[]).await?;
    // There are errors of tenants to ask for now.
    stage.check_queries().await
}

async fn hang(stage: &mut Stage) -> anyhow::Result<Seen> {
    let world = Rc::clone(&stage.world);
    stage.watch(HEARD).await;
    forget(&world, &[BILLING_POD]).await?;
    let hangs = Behavior::latency(stage.time(HANGS));
    behave(&world, &[BILLING_POD], &hangs).await?;
    let requests = (stage.time(TIME).as_secs_f64() * RATE) as u64;
    // No method that is tried again: what reached the provider was sent once.
    let path = format!("/api/v1/charge?call={}/charge", provider(&world, BILLING));
    let load = Load::new(world.addr(CALLERS))
        .id_prefix("charge")
        .shot(of_tenant(Shot::post(&path, 64), "acme"))
        .requests(requests)
        .rate(RATE)
        .clients(CLIENTS)
        .on_demand()
        .timeout(PATIENT)
        .start(&world.mesh.pod(INGRESS));
    let report = stage.during(load.ended()).await;
    let mut open = 0;
    for replica in REPLICAS {
        open += u64::from(is(&world, replica, BILLING, "open").await);
    }
    let reached = seen(&world, &[BILLING_POD]).await?;
    behave(&world, &[BILLING_POD], &Behavior::default()).await?;
    let longest_from = |first: u64| {
        let records = report.records.iter();
        let of = records.filter(|record| record.number >= first);
        of.map(|record| record.took).max().unwrap_or_default()
    };
    Ok(Seen {
        sent: report.sent,
        failed: report.failed,
        reached,
        longest: longest_from(0),
        longest_of_last: longest_from((requests as f64 * (1.0 - LAST)) as u64 + 1),
        open,
    })
}
