//! What the control plane does in a cluster beside reading it: it writes what only one may write, and
//! asks the API server who somebody is.
//!
//! Everything here needs the API server and none of it is on a request's way: while it is away, what is
//! known stays in force, and work goes on when it is back. What is written is written by the replica
//! that [leads](Leading), on change only, and never over something newer.

pub mod rbac;

use tokio::sync::watch;

/// Whether this replica leads: the one that writes. False from the moment at which another one may.
pub type Leading = watch::Receiver<bool>;
