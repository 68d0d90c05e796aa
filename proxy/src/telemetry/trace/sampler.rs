//! Which traces are sampled that begin here.
//!
//! The decision depends on the trace's id and the share alone: sidecars of the same share that are asked
//! of the same trace say the same. A decision that a caller has made is never asked for here.

use super::context::TraceId;

/// Samples a share of all traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Of all ids, shortened to 63 bits, those below are sampled.
    below: u64,
}

impl Sampler {
    /// All shortened ids are below.
    const ALL: u64 = 1 << 63;

    /// Samples `share` of all traces, from 0 to 1; what is outside counts as the nearer of the two.
    pub fn new(share: f64) -> Self {
        // Float to integer saturates; what is no number becomes 0.
        let below = (share * Self::ALL as f64) as u64;
        Self {
            below: below.min(Self::ALL),
        }
    }

    /// Whether this trace is sampled.
    pub fn samples(self, trace: TraceId) -> bool {
        // The lower half: all that some systems keep of an id.
        trace.low() >> 1 < self.below
    }
}
