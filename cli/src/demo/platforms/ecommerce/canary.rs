//! The guide's canary: a tenth of the users' requests goes to a new version; and one that is bad goes
//! back.

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::app::Behavior;

use super::super::common::{behave, forget, seen};
use super::splits::{OF_USERS, last_request};
use super::{CARTS, MOST_DELAY, NEW_POD, OLD_PODS, ORDERS, PRODUCTS, SHARES, SHOP, USERS};
use crate::demo::check::Expected;
use crate::demo::stage::Stage;

/// How long shares are counted, at 100 requests per second.
const TIME: Duration = Duration::from_millis(3_500);
/// The same while the new version fails.
const BAD_TIME: Duration = Duration::from_secs(3);
/// How long nothing may come to what was taken back.
const AFTERWARDS: Duration = Duration::from_millis(1_500);
/// All to the old version.
const BACK: [u32; 2] = [100, 0];

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "Canary 90/10",
            "Ten of a hundred requests for users go to v2. Pods count them.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    forget(&world, &OLD_PODS).await?;
    forget(&world, &[NEW_POD]).await?;
    stage.watch(TIME).await;
    let (old, new) = (
        seen(&world, &OLD_PODS).await?,
        seen(&world, &[NEW_POD]).await?,
    );
    let all = old + new;
    stage.check_share(
        "v2's share, as pods count",
        (all, "requests"),
        (all > 0).then(|| new as f64 * 100.0 / all as f64),
        Expected::share(f64::from(SHARES[1]), all),
    );
    stage.check_no_failure();
    Ok(())
}

pub(super) async fn play_bad(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A bad canary",
            "v2 answers everything with 500, until it is rolled back.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    behave(&world, &[NEW_POD], &Behavior::status(500)).await?;
    stage.cut();
    stage.watch(BAD_TIME).await;
    let report = stage.cut().swap_remove(USERS);
    let ended = report.answered + report.failed;
    stage.check_share(
        "before: failed of what callers asked users",
        (ended, "requests"),
        (ended > 0).then(|| report.not_ok() as f64 * 100.0 / ended as f64),
        Expected::share(f64::from(SHARES[1]), ended),
    );

    let begun = OF_USERS.set(stage, BACK)?;
    let last = stage.during(last_request(&world, NEW_POD, begun)).await?;
    stage.check_time(
        "from weight 0 on disk to the last request that v2 got",
        Some(last),
        MOST_DELAY,
    );
    forget(&world, &[NEW_POD]).await?;
    stage.cut();
    stage.watch(AFTERWARDS).await;
    let report = stage.cut().swap_remove(USERS);
    let after = seen(&world, &[NEW_POD]).await?;
    let of = (report.sent, "requests");
    let none = Expected::exactly(0);
    stage.check_count("after: came to v2", of, after, none);
    let what = "after: failed of what callers asked users";
    stage.check_count(what, of, report.not_ok(), none);
    stage.check_no_failure_of(
        "failed of what others were asked",
        &[PRODUCTS, CARTS, ORDERS, SHOP],
    );
    // A tenth of the requests are seldom more than a twentieth for long enough.
    let (fire, may) = (["HighErrorRate", "VersionFails"], ["CallersSeeErrors"]);
    stage.check_alerts(&fire, &may).await?;
    // There are errors to ask for now.
    stage.check_queries().await?;

    behave(&world, &[NEW_POD], &Behavior::default()).await?;
    OF_USERS.set(stage, SHARES)?;
    Ok(())
}
