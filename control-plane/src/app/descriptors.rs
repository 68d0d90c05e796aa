//! How many connections this process may have: as many as its environment lets it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Fewer descriptors than a replica with 1,000 sidecars is sure to need.
const FEW: u64 = 4_096;

/// Raises the soft limit of descriptors to the hard one: container runtimes and shells leave it at 1,024
/// for programs that cannot do with more.
pub(super) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised)
        && current.is_some_and(|current| current < FEW)
    {
        tracing::warn!(%error, ?current, "the limit of open connections is low and stays so");
    }
}
