//! How many connections this process may have: as many as its environment lets it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Fewer descriptors than a busy sidecar needs: two for each connection that it relays.
const FEW: u64 = 16_384;

/// Raises the soft limit of descriptors to the hard one: container runtimes and shells leave it at
/// 1,024 for programs that cannot do with more. A limit that stays low is told: connections beyond it
/// wait to be accepted, and what cannot be dialled is answered `shed`.
pub(super) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let now = if current == maximum || setrlimit(Resource::Nofile, raised).is_ok() {
        maximum
    } else {
        current
    };
    if now.is_some_and(|now| now < FEW) {
        tracing::warn!(
            descriptors = now,
            "the limit of open files is low: a connection takes two (ulimit -n)"
        );
    }
}
