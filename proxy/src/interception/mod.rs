//! `weft-proxy init`: the rules that hand a workload's TCP connections to its sidecar.
//!
//! An [`InterceptionPlan`] is turned into a [`Ruleset`] by [`rules`], a pure function; [`apply`]
//! puts it into the network namespace of the calling thread, over netlink, in one transaction:
//! either all of it is in force or nothing has changed. Applying again replaces what an earlier
//! run left; [`undo`] removes it.
//!
//! What the rules promise, in `table ip weft` and `table ip6 weft`:
//! * A TCP connection that the application makes reaches the outbound listener, on loopback.
//!   The original destination is kept by conntrack (`SO_ORIGINAL_DST`).
//! * A TCP connection from outside to any port reaches the inbound listener, at the address of
//!   the interface that it came in by.
//! * The sidecar's own connections pass, known by packet mark or by uid. Only the sentinel
//!   destination is redirected for the sidecar too: that is how it proves that the rules work.
//! * Loopback passes: the application talks to itself, and the sidecar to the application at the
//!   pod's own address, without a detour. UDP is never touched.
//!
//! Connections that are established already stay as they are.
//!
//! What the rules do in a real kernel is tested by the target `kernel` of `weft-tests`.

mod command;
mod nftables;
mod plan;
mod ruleset;

#[cfg(test)]
mod tests;

pub use command::{InitArgs, run};
pub use nftables::{Applied, Error, apply, undo};
pub use plan::{InterceptionPlan, rules};
pub use ruleset::{Action, Chain, Family, Hook, Match, Rule, Ruleset, Table};
