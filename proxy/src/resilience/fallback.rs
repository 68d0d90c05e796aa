//! Whether a fallback stands in for what a request came to.

use crate::outcome::Outcome;
use crate::policy::FallbackTrigger;

/// Whether one of `triggers` names what happened: `outcome`, of which `exhausted` says that the last
/// try would have been repeated if attempts and budget had not been spent.
pub fn is_triggered(triggers: &[FallbackTrigger], outcome: Outcome, exhausted: bool) -> bool {
    triggers.iter().any(|trigger| match trigger {
        FallbackTrigger::CircuitOpen => outcome == Outcome::CircuitOpen,
        FallbackTrigger::NoEndpoints => outcome == Outcome::NoEndpoints,
        FallbackTrigger::Overload => matches!(outcome, Outcome::Overflow | Outcome::Shed),
        FallbackTrigger::RetriesExhausted => exhausted,
        FallbackTrigger::Timeout => {
            matches!(outcome, Outcome::RequestTimeout | Outcome::TryTimeout)
        }
    })
}
