//! A caller without a mesh identity is refused where policy says Strict.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use weft_proxy::outcome::Outcome;

use super::{APP_PORT, WEB, make_web_strict};
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;

const CALLS: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(10);
/// From the file on disk to the first refusal.
const MOST_DELAY: Duration = Duration::from_secs(1);
/// A path that only the stranger asks for, once it is refused.
const TARGET: &str = "/from-a-stranger";

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A stranger in plaintext",
            "A pod without sidecar calls web, which accepts it until its policy says Strict.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let stranger = world.mesh.stranger("stranger")?;
    let to = SocketAddr::new(world.mesh.pod(WEB).v4().into(), APP_PORT);
    let before = stage.during(stranger.get(to, "/before")).await?;
    stage.check(
        "status of a stranger's call before",
        f64::from(before.status.as_u16()),
        Unit::Count,
        Expected::exactly(200),
    );

    make_web_strict(&world)?;
    let took = stage
        .until(PATIENCE, async |_| {
            let answer = stranger.get(to, "/before").await;
            answer.is_ok_and(|answer| answer.outcome() == Some(Outcome::MtlsRequired.as_str()))
        })
        .await;
    stage.check_time(
        "from the policy on disk to the first refusal",
        took,
        MOST_DELAY,
    );
    let calls = async {
        let mut refused = 0;
        for _ in 0..CALLS {
            let answer = stranger.get(to, TARGET).await?;
            let outcome = Outcome::MtlsRequired;
            if answer.status == outcome.http_status() && answer.outcome() == Some(outcome.as_str())
            {
                refused += 1;
            }
        }
        anyhow::Ok(refused)
    };
    let refused = stage.during(calls).await?;
    stage.check_count(
        "refused with 403 mtls_required",
        (CALLS, "calls"),
        refused,
        Expected::exactly(CALLS as f64),
    );
    let stats = world.mesh.app(WEB).stats().await?;
    let seen = stats.routes.get(&format!("GET {TARGET}"));
    stage.check_count(
        "seen by web's application",
        (CALLS, "calls"),
        seen.copied().unwrap_or(0),
        Expected::exactly(0),
    );
    stage.check_no_failure();
    Ok(())
}
