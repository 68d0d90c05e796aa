//! Revoked authorization ends what is open.
//!
//! A change of a port's policy is held against every open connection at once:
//!
//! * a caller who could not ask for anything any more loses the connection, with all that is in
//!   flight;
//! * of a caller who still may ask for something, only those exchanges end that would be refused now
//!   (and the connection too, where it does not let go of them), and nothing else is touched;
//! * bytes, and what follows an upgrade, end where they would not be let in now.
//!
//! An HTTP exchange without a response is answered 403, others are broken off, and all are counted
//! `unauthorized`. Time passes only for what must be given the chance to say so: [`GRACE`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::authorize::{Wish, admit, admits_anything};
use super::{Peer, Port};
use crate::http::cuts::Cuts;
use crate::outcome::Outcome;
use crate::policy::InboundPolicy;

/// How long exchanges that were cut may take to say so before their connection is dropped.
const GRACE: Duration = Duration::from_millis(300);

/// Runs `serving`, the requests of one connection, until it ends or its caller is no longer welcome.
pub(super) async fn serve_while_welcome(
    port: &Port,
    peer: &Peer,
    cuts: &Cuts,
    serving: Pin<&mut impl Future<Output = ()>>,
) {
    let revoked = async {
        let mut seen = port.policy.load();
        loop {
            let policy = port.policy.changed(seen.as_ref()).await;
            let caller = peer.id.as_ref();
            cuts.cut_where(|method, path| {
                admit(&policy, caller, Wish::Request { method, path }).is_err()
            });
            let welcome = admits_anything(&policy, caller);
            if welcome && !cuts.has_cut() {
                seen = Some(policy);
                continue;
            }
            tokio::time::sleep(GRACE).await;
            if !welcome || cuts.has_cut() {
                let (port, peer) = (port.address.port(), &*peer.label);
                tracing::info!(port, peer, "authorization revoked: connection ended");
                return;
            }
            seen = Some(policy);
        }
    };
    // Either way the connection is over.
    let _ = unless(serving, revoked).await;
}

/// Runs `relaying`, bytes that were let in as `wish` by the policy `seen`, until it ends or it would
/// not be let in any more; then why.
pub(super) async fn relay_while_welcome<T>(
    port: &Port,
    peer: &Peer,
    wish: Wish<'_>,
    mut seen: Option<Arc<InboundPolicy>>,
    relaying: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Outcome> {
    let revoked = async {
        loop {
            let policy = port.policy.changed(seen.as_ref()).await;
            if let Err(outcome) = admit(&policy, peer.id.as_ref(), wish) {
                let (port, peer) = (port.address.port(), &*peer.label);
                tracing::info!(port, peer, "authorization revoked: connection ended");
                return outcome;
            }
            seen = Some(policy);
        }
    };
    unless(relaying, revoked).await
}

/// `running`'s result, unless `revoked` ends first. The latter is polled only when it has something to
/// say: what all connections wait on is not touched with every byte of each.
async fn unless<T, R>(
    mut running: Pin<&mut impl Future<Output = T>>,
    revoked: impl Future<Output = R>,
) -> Result<T, R> {
    let mut revoked = FuturesUnordered::from_iter([revoked]);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(Some(revoked)) = revoked.poll_next_unpin(cx) {
            return Poll::Ready(Err(revoked));
        }
        running.as_mut().poll(cx).map(Ok)
    })
    .await
}

#[cfg(test)]
mod tests;
