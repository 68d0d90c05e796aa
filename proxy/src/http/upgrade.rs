//! What follows a `101` or a CONNECT: bytes both ways.
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;
use crate::net::closing::Closing;

/// How an upgraded connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridged {
    /// Bytes from the client.
    pub up: u64,
    /// Bytes to the client.
    pub down: u64,
    /// Both sides ended it.
    pub complete: bool,
}

/// Copies both ways until both sides have ended, `deadline` or phase Over. To be spawned once the
/// response is on its way.
pub async fn bridge_upgrade(downstream: OnUpgrade, upstream: OnUpgrade, closing: Closing, deadline: Option<Instant>) -> Bridged { todo!() }
