//! Finds out, in a process of its own, whether a rung of the ladder holds.

use std::os::fd::AsFd;
use std::process::Stdio;

use anyhow::Context as _;

use weft_proto::names;
use weft_proxy::interception::{self, InterceptionPlan};

use super::{Rung, own_program};
use crate::net;

/// Set in the probing process: the rung to try.
pub(super) const PROBE_ENV: &str = "WEFT_SANDBOX_PROBE";

/// Asks a process of its own whether the rung holds; the inner error is its refusal.
pub(super) fn ask(rung: Rung) -> anyhow::Result<Result<(), String>> {
    let output = own_program()
        .env(PROBE_ENV, rung.to_string())
        .stdin(Stdio::null())
        .output()
        .context("starting a probe of the kernel's namespaces")?;
    if output.status.success() {
        return Ok(Ok(()));
    }
    let why = String::from_utf8_lossy(&output.stderr);
    let why = why.lines().last().unwrap_or("no reason given");
    Ok(Err(why.to_owned()))
}

/// The probing process: climbs the rung, makes what every mesh needs, and exits.
pub(super) fn answer(rung: Rung) -> ! {
    match climb_and_build(rung) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("{error:#}");
            std::process::exit(1)
        }
    }
}

fn climb_and_build(rung: Rung) -> anyhow::Result<()> {
    rung.climb().context("a process namespace")?;
    let pod = net::unshare_net().context("a network namespace")?;
    let rules = interception::rules(&InterceptionPlan::by_mark(names::PROXY_MARK));
    interception::apply(&rules).context("redirect rules")?;
    let _node = net::unshare_net().context("a second network namespace")?;
    net::create_bridge("weft0")?;
    net::create_veth("weft1", "eth0", pod.as_fd())?;
    Ok(())
}
