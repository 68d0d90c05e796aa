//! What a sidecar costs, beside others and beside none, on one machine in one run.
//!
//! A *peer* is a pair of pods, one with a client and one with a server, and what stands between them.
//! Each pod has a core of its own, which its sidecar, its client or its server share, as they would share
//! a small node. A *point* is a kind of load. Every round measures every point at every peer, one after
//! the other and each time in another order, so that what the machine does meanwhile meets all alike; what
//! is reported are medians over rounds, and ratios of values of the same round.
//!
//! * `options`: the command line.
//! * `program`: where the programs of others are.
//! * `pairs`: the pods, and who stands between them.
//! * `protocol`: what client and server speak.
//! * `wire`: the client and the server, as cheap as they can be.
//! * `usage`: cores, processor time and memory.
//! * `collector`: who takes spans.
//! * `point`: the kinds of load, and what is told of each.
//! * `slice`: one load at one peer.
//! * `standing`: what is measured once: memory, the size of the program.
//! * `ready`: the time to be ready.
//! * `run`: rounds.
//! * `report`: tables and JSON.
//! * `gate`: what fails a run.
//!
//! A request that fails ends the run: a figure of a path that does not work is none.

mod collector;
mod gate;
pub mod options;
mod pairs;
mod point;
mod program;
mod protocol;
mod ready;
mod report;
mod run;
mod slice;
mod standing;
mod usage;
mod wire;

pub use run::run;
