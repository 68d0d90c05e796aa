//! The guide's blue-green deployment: green is tested beside blue, gets everything, and gives it back.

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use weft_sandbox::app::Behavior;
use weft_sandbox::load::Shot;

use super::super::common::{behave, forget, seen, seen_at};
use super::splits::{OF_PRODUCTS, last_request};
use super::{BLUE, COLOURS, GATEWAY, GREEN, MOST_DELAY, PRODUCTS};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;

/// How long customers are counted.
const TIME: Duration = Duration::from_millis(1_500);
/// What an answer takes meanwhile, so that balancing has something to balance.
const BUSY: Duration = Duration::from_millis(50);
/// Until a change has come to everybody.
const SETTLED: Duration = Duration::from_millis(200);
/// Requests of a tester.
const TESTS: u64 = 20;
/// What says that somebody is a tester, and asks for what nobody else asks for.
const TESTER: HeaderName = HeaderName::from_static("x-test-green");
const TESTED: &str = "/api/products/test";
/// What one of two pods gets where nobody says how much: half, by and large.
const LEAST_UNTOLD: u32 = 20;

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "Blue and green",
            "Green is deployed beside blue. Before: nothing keeps customers away from it.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    behave(&world, &[BLUE, GREEN], &Behavior::latency(BUSY)).await?;
    let customers = stage
        .before_and_after(GATEWAY, &[COLOURS], async |stage| {
            let world = Rc::clone(&stage.world);
            stage.watch(SETTLED).await;
            forget(&world, &[BLUE, GREEN]).await?;
            stage.watch(TIME).await;
            let (blue, green) = (seen(&world, &[BLUE]).await?, seen(&world, &[GREEN]).await?);
            let all = blue + green;
            Ok((all > 0).then(|| green as f64 * 100.0 / all as f64))
        })
        .await?;
    stage.check_both(
        "customers' requests that came to green, untested",
        customers,
        Unit::Percent,
        BeforeAfter {
            before: Expected::at_least(LEAST_UNTOLD),
            after: Expected::exactly(0),
        },
    );
    behave(&world, &[BLUE, GREEN], &Behavior::default()).await?;
    let tester = world
        .load(PRODUCTS, "tester")
        .shot(Shot::get(TESTED).header(TESTER, HeaderValue::from_static("yes")))
        .requests(2 * TESTS);
    stage.during(tester.run(&world.mesh.pod(GATEWAY))).await;
    let [blue, green] = [tests_of(stage, BLUE).await?, tests_of(stage, GREEN).await?];
    let of = (TESTS, "requests");
    let what = "testers' requests that came to green";
    stage.check_count(what, of, green, Expected::exactly(TESTS as f64));
    let what = "testers' requests that came to blue";
    stage.check_count(what, of, blue, Expected::exactly(0));

    for (what, weights, left) in [
        ("switch: until blue got its last request", [0, 100], BLUE),
        (
            "rollback: until green got its last request",
            [100, 0],
            GREEN,
        ),
    ] {
        let begun = OF_PRODUCTS.set(stage, weights)?;
        let last = stage.during(last_request(&world, left, begun)).await?;
        stage.check_time(what, Some(last), MOST_DELAY);
    }
    stage.check_no_failure();
    Ok(())
}

/// How many of the tester's requests an application has seen.
async fn tests_of(stage: &Stage, pod: &str) -> anyhow::Result<u64> {
    seen_at(&stage.world, &[pod], &format!("GET {TESTED}")).await
}
