//! What fails a short run: costs that have grown grossly.
//!
//! The yardstick is in the run: what the client and the server use by themselves per request or byte, with
//! nothing between them, on the same cores in the same minute. What the sidecars use is told as a multiple
//! of it, so that neither a slow machine nor a busy one changes it much; processor time does not count the
//! time in which others had the core: a build beside it makes the multiple smaller, if anything. A bound is
//! the greatest multiple that was measured, on a quiet machine and on a busy one, and half as much again. A
//! program without optimisation, as tests build it, has bounds of its own, with room for twice: what
//! it uses differs more between machines.

use std::fmt::Write as _;

use super::options::Peer;
use super::point::Point;
use super::run::Values;

/// What is compared.
struct Gate {
    point: &'static str,
    sidecars: &'static str,
    own: &'static str,
    /// The greatest multiple that was measured.
    measured: f64,
}

/// What a multiple may be of the greatest that was measured.
const ROOM: f64 = if OPTIMISED { 1.5 } else { 2.0 };

const OPTIMISED: bool = !cfg!(debug_assertions);

const GATES: [Gate; 2] = [
    Gate {
        point: "http1-1k-c8",
        sidecars: "cpuMicros",
        own: "ownCpu",
        // 3.5 to 4.0; 6.4 to 16.8.
        measured: if OPTIMISED { 4.0 } else { 16.8 },
    },
    Gate {
        point: "tcp-up",
        sidecars: "cpuSecondsPerGigabyte",
        own: "ownCpuSecondsPerGigabyte",
        // 2.3 to 4.1; 2.5 to 3.9.
        measured: if OPTIMISED { 4.1 } else { 3.9 },
    },
];

/// Whether all gates hold, and a line about each.
pub(super) struct Verdict {
    pub(super) holds: bool,
    pub(super) text: String,
}

/// A gate whose values are not there does not hold.
pub(super) fn verdict(points: &[(usize, Point)], values: &Values) -> Verdict {
    let mut verdict = Verdict {
        holds: true,
        text: "\nGates: the sidecars' processor time as a multiple of the client's and the server's own\n"
            .to_owned(),
    };
    for gate in GATES {
        let at = points.iter().find(|(_, point)| point.name == gate.point);
        let value = |peer, key| {
            let rounds = at.and_then(|(at, _)| values.get(&(*at, peer)));
            let value = rounds.and_then(|rounds| rounds.last());
            value.map_or(f64::NAN, |value| value.get(key))
        };
        let multiple = value(Peer::Weft, gate.sidecars) / value(Peer::Direct, gate.own);
        // Not a number holds no bound.
        let most = ROOM * gate.measured;
        let holds = multiple > 0.0 && multiple <= most;
        verdict.holds &= holds;
        let word = if holds { "holds" } else { "FAILS" };
        let _ = writeln!(
            verdict.text,
            "  {:<12} {multiple:>6.2}, at most {most:.1}: {word}",
            gate.point
        );
    }
    verdict
}
