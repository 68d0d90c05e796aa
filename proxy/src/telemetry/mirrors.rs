//! Counting copies of requests.

use metrics::Counter;

/// What became of a copy of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorResult {
    /// It was answered, with whatever status.
    Answered,
    /// There were as many on their way as may.
    Dropped,
    /// It got no answer.
    Failed,
    /// The request never became whole, or nobody wanted the rest of it.
    Incomplete,
    /// The request's body is too long.
    TooBig,
}

impl MirrorResult {
    /// Every result, in the order of the enum.
    pub const ALL: [Self; 5] = [
        Self::Answered,
        Self::Dropped,
        Self::Failed,
        Self::Incomplete,
        Self::TooBig,
    ];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
            Self::Incomplete => "incomplete",
            Self::TooBig => "too_big",
        }
    }
}

/// Counts the copies that go from one service's clients to one backend. Cheap to clone.
#[derive(Clone)]
pub struct MirrorCounters([Counter; MirrorResult::ALL.len()]);

impl MirrorCounters {
    pub(super) fn new(make: impl Fn(MirrorResult) -> Counter) -> Self {
        Self(MirrorResult::ALL.map(make))
    }

    /// Counts one.
    pub fn record(&self, result: MirrorResult) {
        self.0[result as usize].increment(1);
    }
}
