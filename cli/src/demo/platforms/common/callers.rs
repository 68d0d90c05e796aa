//! Callers that a policy does not name, and requests that both sides' sidecars write a line about: parts of
//! the act in which all is well.

use std::collections::BTreeSet;
use std::rc::Rc;

use weft_proto::names::headers::REQUEST_ID;
use weft_sandbox::app::http::Seen;

use super::{CALLS, MOST_STEPS, calls, seen_at};
use crate::demo::check::Expected;
use crate::demo::stage::Stage;

/// Calls of `caller`, which the policy does not name, are refused and do not get to `pods`, which are those of
/// the target, called `name`.
pub(in crate::demo::platforms) async fn check_refused(
    stage: &mut Stage,
    caller: &str,
    target: usize,
    pods: &[&str],
    name: &str,
) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let (pod, to) = (world.mesh.pod(caller), world.addr(target));
    let (answers, _) = stage.during(calls(&pod, to, "/not-allowed", CALLS)).await?;
    let denied = answers.iter().filter(|answer| answer.status == 403).count();
    let seen = seen_at(&world, pods, "GET /not-allowed").await?;
    let of = (CALLS, "calls");
    stage.check_count(
        "calls of a service that is not named refused",
        of,
        denied as u64,
        Expected::exactly(CALLS as f64),
    );
    let what = format!("of these seen by {name}");
    stage.check_count(what, of, seen, Expected::exactly(0));
    Ok(())
}

/// Each call of a target has one id, which the sidecars of its caller and of `pods` write in their lines, in
/// JSON.
pub(in crate::demo::platforms) async fn check_lines(
    stage: &mut Stage,
    target: usize,
    path: &str,
    pods: &[&str],
) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let caller = world.story.targets[target].caller;
    let (pod, to) = (world.mesh.pod(caller), world.addr(target));
    let (answers, _) = stage.during(calls(&pod, to, path, CALLS)).await?;
    let mut ids = Vec::new();
    for answer in &answers {
        let seen: Seen = serde_json::from_slice(&answer.body)?;
        let headers = seen.headers.into_iter();
        ids.extend(
            headers
                .filter(|(name, _)| name == REQUEST_ID)
                .map(|it| it.1),
        );
    }
    let mut both = 0;
    stage
        .until(MOST_STEPS, async |world| {
            let sides = [&[caller][..], pods].map(|side| {
                let logs = side.iter().map(|it| world.mesh.sidecar_log(it));
                ids_of(&logs.collect::<String>())
            });
            let in_both = |id: &&String| sides.iter().all(|side| side.contains(*id));
            both = ids.iter().filter(in_both).count() as u64;
            both == CALLS
        })
        .await;
    stage.check_count(
        "request ids in the lines of both sidecars",
        (CALLS, "calls"),
        both,
        Expected::exactly(CALLS as f64),
    );
    Ok(())
}

/// Those that the lines of a log have.
fn ids_of(log: &str) -> BTreeSet<String> {
    let lines = log.lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(line["requestId"].as_str()?.to_owned())
    });
    lines.collect()
}
