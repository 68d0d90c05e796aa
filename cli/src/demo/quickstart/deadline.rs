//! Slow calls end when policy says so.

use std::time::{Duration, Instant};

use weft_proxy::outcome::Outcome;

use super::{CHECKOUT, REPORT_DEADLINE, WEB};
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;

const CALLS: u64 = 5;
/// What the application would take.
const SLOW: Duration = Duration::from_secs(3);
/// What a machine with other things to do may take on top.
const MOST_LATE: Duration = Duration::from_millis(250);

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A slow call meets its deadline",
            "Reports take three seconds; the policy of checkout gives them 400 ms.",
        )
        .await;
    let world = std::rc::Rc::clone(&stage.world);
    let calls = async {
        let (pod, to) = (world.mesh.pod(WEB), world.addr(CHECKOUT));
        let target = format!("/report?delay_ms={}", SLOW.as_millis());
        let mut answered = 0;
        let mut times = Vec::new();
        for _ in 0..CALLS {
            let begun = Instant::now();
            let answer = pod.get(to, &target).await?;
            times.push(begun.elapsed());
            let outcome = Outcome::RequestTimeout;
            if answer.status == outcome.http_status() && answer.outcome() == Some(outcome.as_str())
            {
                answered += 1;
            }
        }
        anyhow::Ok((answered, times))
    };
    let (answered, times) = stage.during(calls).await?;
    stage.check_count(
        "answered with 504 request_timeout",
        (CALLS, "calls"),
        answered,
        Expected::exactly(CALLS as f64),
    );
    for (what, time) in [
        ("time of the quickest of them", times.iter().min()),
        ("time of the slowest of them", times.iter().max()),
    ] {
        let least = REPORT_DEADLINE.as_secs_f64() * 1000.0;
        let most = (REPORT_DEADLINE + MOST_LATE).as_secs_f64() * 1000.0;
        stage.check(
            what,
            time.map(|time| time.as_secs_f64() * 1000.0),
            Unit::Milliseconds,
            Expected::between(least, most),
        );
    }
    stage.check_no_failure();
    Ok(())
}
