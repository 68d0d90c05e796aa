//! The phases in which a sidecar ends, told to everything that holds connections.
//!
//! Phases only rise. `Announcing` comes from the control plane ("pod terminating"), `Draining` from
//! SIGTERM, `Finishing` when all that was in flight has ended, `Over` when that last part has ended
//! too or the drain deadline has passed.

use std::time::Duration;

use tokio::sync::watch;

/// How long a connection that is just opening is waited for while draining.
const SILENCE_GRACE: Duration = Duration::from_secs(1);

/// Where a sidecar is on its way out. Ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not closing.
    #[default]
    Serving,
    /// Peers are told to leave (`Connection: close`, GOAWAY); everything is still accepted and
    /// served, and idle connections stay open until their peer leaves.
    Announcing,
    /// No new connections but of the own application; what is in flight is finished, then its
    /// connection closes.
    Draining,
    /// No new connections at all. Those that were made until now are finished as while draining: the
    /// kernel had told their clients that they are open.
    Finishing,
    /// Time is up: what is left is cut.
    Over,
}

/// Tells the phase.
#[derive(Debug)]
pub struct ClosingSender(watch::Sender<Phase>);

/// Learns the phase. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Closing(watch::Receiver<Phase>);

/// A pair in phase `Serving`.
pub fn channel() -> (ClosingSender, Closing) {
    let (sender, receiver) = watch::channel(Phase::default());
    (ClosingSender(sender), Closing(receiver))
}

impl ClosingSender {
    /// Rises to `phase`; a lower or equal one changes nothing.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let rises = phase > *current;
            if rises {
                *current = phase;
            }
            rises
        });
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// One more listener.
    pub fn subscribe(&self) -> Closing {
        Closing(self.0.subscribe())
    }
}

impl Closing {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Completes when a connection that has not yet said what it wants is to be given up: a moment
    /// after Draining began, so that one that is just opening is still served.
    pub async fn ends_silence(mut self) {
        if self.reached(Phase::Draining).await < Phase::Over {
            tokio::time::sleep(SILENCE_GRACE).await;
        }
    }

    /// Waits until the phase is at least `phase`. Where the sender is gone, time is up.
    pub async fn reached(&mut self, phase: Phase) -> Phase {
        self.0
            .wait_for(|current| *current >= phase)
            .await
            .map_or(Phase::Over, |p| *p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_rise() {
        let (sender, mut closing) = channel();
        sender.advance(Phase::Draining);
        sender.advance(Phase::Announcing);
        assert_eq!(closing.phase(), Phase::Draining);
        assert_eq!(closing.reached(Phase::Announcing).await, Phase::Draining);
        drop(sender);
        assert_eq!(closing.reached(Phase::Over).await, Phase::Over);
    }
}
