//! What the control plane does in a cluster beside reading it: it writes what only one may write, and
//! asks the API server who somebody is.
//!
//! Everything here needs the API server and none of it is on a request's way: while it is away, what is
//! known stays in force, and work goes on when it is back. What is written is written by the replica
//! that [leads](Leading), on change only, and never over something newer.

pub mod access;
pub mod authority;
pub mod bundle;
mod call;
pub mod events;
pub mod given;
pub mod lease;
pub mod rbac;
pub mod review;
pub mod status;
pub mod webhook;
mod wiped;

use tokio::sync::watch;

pub use self::call::CallError;

/// Whether this replica leads: the one that writes. False from the moment at which another one may.
pub type Leading = watch::Receiver<bool>;

/// Waits until this replica leads. False where it never will again, as the process ends.
pub(crate) async fn until_leading(leading: &mut Leading) -> bool {
    // A receiver whose sender is gone still holds the last word.
    leading.wait_for(|leads| *leads).await.is_ok() && leading.has_changed().is_ok()
}

/// Waits until this replica does not lead (any more).
pub(crate) async fn until_led_by_another(leading: &mut Leading) {
    // Where nobody says any more who leads, it is not this replica.
    let _ = leading.wait_for(|leads| !*leads).await;
}
