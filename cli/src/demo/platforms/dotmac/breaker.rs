//! Looking at breakers and resetting them, as people do: with `weft breaker`, whose output scripts read.

use std::net::SocketAddr;

use anyhow::Context as _;
use serde_json::Value;
use weft_proto::names::ports;
use weft_proxy::outcome::Outcome;
use weft_sandbox::client::Answer;
use weft_sandbox::pod::loopback::Place;
use weft_sandbox::process::Program;

use super::PROVIDER_PORT;
use crate::demo::world::World;

/// A provider's address.
pub(super) fn provider(world: &World, service: &str) -> SocketAddr {
    world.mesh.addr(service, PROVIDER_PORT)
}

/// How commands and metrics name a provider.
pub(super) fn backend(world: &World, service: &str) -> String {
    world.label_of(service, PROVIDER_PORT)
}

/// Whether the breaker of one replica around a provider is in this state, as its sidecar says.
pub(super) async fn is(world: &World, replica: &str, service: &str, state: &str) -> bool {
    let backend = backend(world, service);
    world.breaker_is(replica, &backend, state).await
}

/// Whether an open breaker gave this answer.
pub(super) fn made(answer: &Answer) -> bool {
    answer.status == 503 && answer.outcome() == Some(Outcome::CircuitOpen.as_str())
}

/// How many breakers around a provider are not closed, over all sidecars: `weft breaker list`.
pub(super) async fn not_closed(world: &World, service: &str) -> anyhow::Result<u64> {
    let backend = backend(world, service);
    let listed = weft(world, &["breaker", "list", &backend, "-o", "json"]).await?;
    let listed: Value = serde_json::from_str(&listed).context("reading what weft breaker lists")?;
    let breakers = listed["breakers"].as_array().context("no breakers")?;
    let count = breakers.iter().filter(|it| it["state"] != "closed").count();
    Ok(count as u64)
}

/// `weft breaker reset`, of one provider or of all.
pub(super) async fn reset(world: &World, service: Option<&str>) -> anyhow::Result<()> {
    let backend = service.map(|service| backend(world, service));
    let mut args = vec!["breaker", "reset"];
    args.extend(backend.as_deref());
    weft(world, &args).await.map(drop)
}

/// Runs this program beside the control plane; what it printed.
async fn weft(world: &World, args: &[&str]) -> anyhow::Result<String> {
    let pod = world.mesh.control_plane_pod();
    let host = pod.place().map_or([127, 0, 0, 1].into(), Place::address);
    let server = format!("http://{host}:{}", ports::ADMIN);
    let command = Program::new("/proc/self/exe")
        .args(args.iter().copied())
        .args(["--server", &server])
        .command();
    let output = pod.output(command).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "weft {}: {said}", args.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}
