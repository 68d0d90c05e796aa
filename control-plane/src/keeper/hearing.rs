//! What is known of sidecars and other replicas, as a rotation wants it.

use std::time::Duration;

use tokio::time::Instant;

use crate::identity::rotation::{Heard, Published};
use crate::identity::{Fingerprint, Stand};
use crate::serve::replicas::Standpoint;

/// Since when everybody has been in step without a break.
#[derive(Default)]
pub(super) struct InStep {
    since: Option<Instant>,
    /// Of this bundle.
    roots: Vec<Fingerprint>,
}

impl InStep {
    pub(super) fn broken(&mut self) {
        self.since = None;
    }

    fn look(&mut self, is_so: bool, roots: &[Fingerprint]) -> Option<Duration> {
        if !is_so || self.roots != roots {
            self.since = None;
            self.roots = roots.to_vec();
        }
        if !is_so {
            return None;
        }
        Some(self.since.get_or_insert_with(Instant::now).elapsed())
    }
}

/// What is known of everybody.
pub(super) fn heard(
    own: &Stand,
    standpoints: &[Standpoint],
    published: Published,
    in_step: &mut InStep,
) -> Heard {
    let all = |is_so: fn(&Stand, &Standpoint) -> bool| standpoints.iter().all(|it| is_so(own, it));
    let signers = standpoints.iter().filter_map(|it| it.trust.as_ref());
    let signers = signers.filter(|trust| trust.stand.issuer == own.issuer);
    let former = signers.filter_map(|trust| trust.stand.former_until);
    Heard {
        published,
        in_step_for: in_step.look(
            all(trusts) && standpoints.iter().all(|it| lagging(it) == 0),
            &own.roots,
        ),
        all_sign: all(signs),
        former_until: former.chain(own.former_until).max(),
    }
}

/// Whether a replica trusts what is trusted here.
pub(super) fn trusts(own: &Stand, standpoint: &Standpoint) -> bool {
    let trust = standpoint.trust.as_ref();
    trust.is_some_and(|trust| {
        own.roots
            .iter()
            .all(|root| trust.stand.roots.contains(root))
    })
}

/// Whether a replica signs with what signs here.
pub(super) fn signs(own: &Stand, standpoint: &Standpoint) -> bool {
    let trust = standpoint.trust.as_ref();
    trust.is_some_and(|trust| trust.stand.issuer == own.issuer)
}

/// A replica's sidecars that have not confirmed its bundle.
pub(super) fn lagging(standpoint: &Standpoint) -> u32 {
    standpoint.trust.as_ref().map_or(0, |trust| trust.lagging)
}

/// The longest life that leaves of anybody may have.
pub(super) fn longest_leaf(own: Duration, standpoints: &[Standpoint]) -> Duration {
    let others = standpoints.iter().filter_map(|it| it.trust.as_ref());
    let others = others.map(|trust| trust.stand.leaf_lifetime);
    // Whole seconds, as it is kept.
    let longest = others.chain([own]).max().unwrap_or(own);
    Duration::from_secs(longest.as_secs())
}
