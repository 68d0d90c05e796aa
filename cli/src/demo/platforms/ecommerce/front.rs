//! What comes in through the ingress: two paths lead to their services, and nobody asks for more than 100 a
//! second.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use http::Request;
use weft_sandbox::Pod;
use weft_sandbox::client::{Answer, Http1};

use super::super::common::{calls, seen_at};
use super::{
    BLUE, CALLS, CARTS, CLIENT, FRONT, GATEWAY, INGRESS, NEW_POD, OLD_PODS, ORDERS, PRODUCTS, SHOP,
    USERS,
};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;

/// The guide's limit, each second and at once.
pub(super) const RATE: u64 = 100;
/// What one client sends as fast as it can, over so many connections.
const FLOOD: u64 = 600;
const CONNECTIONS: u64 = 20;
/// Who that is, and what nobody else asks for.
const GREEDY: &str = "198.51.100.7";
const FLOODED: &str = "/flood";
/// What is no business of the ingress.
const INSIDE: &str = "/internal";
/// Requests more or less that a limit may let pass: clocks are read at two places.
const ROUNDING: f64 = 10.0;

/// What became of the flood.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Came to the gateway's application.
    came: u64,
    refused: u64,
    /// Of these, with the time to come back.
    told_when: u64,
    took: Duration,
}

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "At the ingress",
            "It leads /api/users and /api/products to their services, and a client floods it.",
        )
        .await;
    paths(stage).await?;
    let saw = stage
        .before_and_after(GATEWAY, &[INGRESS], async |stage| flood(stage).await)
        .await?;
    let most = RATE as f64 * (1.0 + saw.after.took.as_secs_f64()) + ROUNDING;
    stage.check_both(
        "of the flood of 600 came to the gateway",
        saw.map(|it| it.came as f64),
        Unit::Count,
        BeforeAfter {
            before: Expected::exactly(FLOOD as f64),
            after: Expected::between(RATE as f64, most),
        },
    );
    stage.check_count(
        "after: refused with 429",
        (FLOOD, "requests"),
        saw.after.refused,
        Expected::exactly((FLOOD - saw.after.came) as f64),
    );
    stage.check_count(
        "after: told when by Retry-After",
        (saw.after.refused, "refusals"),
        saw.after.told_when,
        Expected::exactly(saw.after.refused as f64),
    );
    let what = "another client: not answered with 200";
    stage.check_no_failure_of(what, &[SHOP]);
    let what = "services: not answered with 200";
    stage.check_no_failure_of(what, &[USERS, PRODUCTS, CARTS, ORDERS]);
    Ok(())
}

/// Each path to its service, and what is not of the guide's paths to nobody.
async fn paths(stage: &mut Stage) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let front = world.mesh.pod(FRONT);
    let (mut right, mut refused) = (0, 0);
    for (target, path, service) in [
        (USERS, "/api/users/7", "user-service"),
        (PRODUCTS, "/api/products/7", "product-service"),
    ] {
        let to = world.addr(target);
        let (answers, _) = stage.during(calls(&front, to, path, CALLS)).await?;
        let served = answers.iter().filter(|answer| {
            let by = answer.served_by().unwrap_or_default();
            answer.status == 200 && by.starts_with(service)
        });
        right += served.count() as u64;
        let (answers, _) = stage.during(calls(&front, to, INSIDE, CALLS)).await?;
        refused += answers.iter().filter(|it| it.status == 403).count() as u64;
    }
    let (of, all) = ((2 * CALLS, "calls"), Expected::exactly((2 * CALLS) as f64));
    stage.check_count("paths that lead to their service", of, right, all);
    stage.check_count("other paths refused with 403", of, refused, all);
    let mut came = 0;
    for pod in [OLD_PODS[0], OLD_PODS[1], NEW_POD, BLUE] {
        came += seen_of(stage, pod, INSIDE).await?;
    }
    let what = "of these seen by a service";
    stage.check_count(what, of, came, Expected::exactly(0));
    Ok(())
}

/// One client asks as fast as it can.
async fn flood(stage: &mut Stage) -> anyhow::Result<Seen> {
    let world = Rc::clone(&stage.world);
    let (front, to) = (world.mesh.pod(FRONT), world.addr(SHOP));
    let before = seen_of(stage, GATEWAY, FLOODED).await?;
    let begun = Instant::now();
    let each = (0..CONNECTIONS).map(|_| greedy(&front, to));
    let answers = stage.during(try_join_all(each)).await?.concat();
    let took = begun.elapsed();
    let refused = answers.iter().filter(|answer| answer.status == 429);
    let told_when = refused.clone().filter(|answer| {
        let seconds = answer.header("retry-after").map(str::parse::<u64>);
        matches!(seconds, Some(Ok(_)))
    });
    Ok(Seen {
        came: seen_of(stage, GATEWAY, FLOODED).await? - before,
        refused: refused.count() as u64,
        told_when: told_when.count() as u64,
        took,
    })
}

/// Its part over one connection.
async fn greedy(pod: &Pod, to: SocketAddr) -> anyhow::Result<Vec<Answer>> {
    let mut connection = Http1::connect(pod, to).await?;
    let mut answers = Vec::new();
    for _ in 0..FLOOD / CONNECTIONS {
        let request = Request::get(FLOODED)
            .header(http::header::HOST, to.to_string())
            .header(CLIENT, GREEDY)
            .body(Default::default())?;
        answers.push(connection.request(request).await?);
    }
    Ok(answers)
}

/// Requests for a path that an application has seen.
async fn seen_of(stage: &Stage, pod: &str, path: &str) -> anyhow::Result<u64> {
    seen_at(&stage.world, &[pod], &format!("GET {path}")).await
}
