//! What follows a `101` or a CONNECT: bytes both ways.
//!
//! A stack takes [`Wanted`] of a request before it hands the request on and [`Upstream`] of the response
//! before it answers with that, and spawns [`bridge_upgrade`] with both. Each side may end its half on
//! its own.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use ::http::header::CONTENT_LENGTH;
use ::http::{Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use super::client::Tunnel;
use super::deadline::before;
use super::headers;
use crate::net::closing::{Closing, Phase};
use crate::outcome::{Failure, Outcome};
use crate::resilience::deadline::Deadline;

/// Bytes in hand, each way.
const BUFFER: usize = 16 * 1024;

/// A request's wish for what follows the exchange, with its client's side of it.
#[derive(Debug)]
pub struct Wanted {
    connect: bool,
    downstream: OnUpgrade,
}

impl Wanted {
    /// Takes the wish of a request: an upgrade or CONNECT.
    pub fn take<B>(request: &mut Request<B>) -> Option<Self> {
        let connect = request.method() == Method::CONNECT;
        if !connect && !headers::upgrade_wanted(request) {
            return None;
        }
        Some(Self {
            connect,
            downstream: hyper::upgrade::on(request),
        })
    }

    /// Whether `response` grants it: 101, or any success of CONNECT (RFC 9110 section 9.3.6).
    pub fn is_granted<B>(&self, response: &Response<B>) -> bool {
        let status = response.status();
        status == StatusCode::SWITCHING_PROTOCOLS || (self.connect && status.is_success())
    }

    /// Whether a response changes over though nobody asked for it, or not so: what follows such a one is
    /// nothing that a client understands.
    pub fn is_unasked<B>(wanted: Option<&Self>, response: &Response<B>) -> bool {
        let changes = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        changes && wanted.is_none_or(|wanted| wanted.connect)
    }

    /// The client's side.
    pub fn into_downstream(self) -> OnUpgrade {
        self.downstream
    }
}

/// The upstream's side of what follows a response.
#[derive(Debug)]
pub enum Upstream {
    /// The library has it, or will.
    Library(OnUpgrade),
    /// It is here.
    Tunnel(Tunnel),
}

impl Upstream {
    /// Takes it from a response that grants a wish.
    pub fn take<B>(response: &mut Response<B>) -> Self {
        let switched = response.extensions_mut().remove::<Switched>();
        match switched.and_then(Switched::take) {
            Some(tunnel) => Self::Tunnel(tunnel),
            None => Self::Library(hyper::upgrade::on(response)),
        }
    }
}

/// In a response's extensions: a connection that has left HTTP. Closed where nobody takes it.
#[derive(Clone, Debug)]
pub(super) struct Switched(Arc<Mutex<Option<Tunnel>>>);

impl Switched {
    pub(super) fn new(tunnel: Tunnel) -> Self {
        Self(Arc::new(Mutex::new(Some(tunnel))))
    }

    fn take(self) -> Option<Tunnel> {
        self.0.lock().take()
    }
}

/// How an upgraded connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridged {
    /// Both sides ended it.
    Complete {
        /// Bytes from the client.
        up: u64,
        /// Bytes to the client.
        down: u64,
    },
    /// A side broke, or never changed over.
    Broken,
    /// The deadline passed.
    Deadline,
    /// This sidecar ends.
    Over,
}

impl Bridged {
    /// The word for it.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Broken => Outcome::Reset,
            Self::Complete { .. } => Outcome::Ok,
            Self::Deadline => Outcome::RequestTimeout,
            Self::Over => Outcome::Shed,
        }
    }
}

/// Makes a response that grants a wish fit to be one: it has no body, whatever it says (RFC 9110, 9.3.6
/// and 15.2.2).
pub fn without_length<B>(response: &mut Response<B>) {
    response.headers_mut().remove(CONTENT_LENGTH);
}

/// What an unasked 101 is taken for.
pub fn unasked() -> Failure {
    Failure::maybe(
        Outcome::Reset,
        "the answer changes to another protocol, which was not asked for",
    )
}

/// Copies both ways until both sides have ended, `deadline` passed or phase Over came. To be spawned
/// when the response is on its way: neither side changes over before.
pub async fn bridge_upgrade(
    downstream: OnUpgrade,
    upstream: Upstream,
    mut closing: Closing,
    deadline: Deadline,
) -> Bridged {
    let mut copying = pin!(before(deadline, copy(downstream, upstream)));
    let mut over = pin!(closing.reached(Phase::Over));
    poll_fn(|cx| {
        if let Poll::Ready(copied) = copying.as_mut().poll(cx) {
            return Poll::Ready(match copied {
                Ok(Ok((up, down))) => Bridged::Complete { up, down },
                Ok(Err(())) => Bridged::Broken,
                Err(_) => Bridged::Deadline,
            });
        }
        over.as_mut().poll(cx).map(|_| Bridged::Over)
    })
    .await
}

async fn copy(downstream: OnUpgrade, upstream: Upstream) -> Result<(u64, u64), ()> {
    let downstream = TokioIo::new(downstream.await.map_err(drop)?);
    match upstream {
        Upstream::Library(upstream) => {
            copy_both(downstream, TokioIo::new(upstream.await.map_err(drop)?)).await
        }
        Upstream::Tunnel(upstream) => copy_both(downstream, upstream).await,
    }
}

async fn copy_both(
    mut downstream: impl AsyncRead + AsyncWrite + Unpin,
    mut upstream: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<(u64, u64), ()> {
    copy_bidirectional_with_sizes(&mut downstream, &mut upstream, BUFFER, BUFFER)
        .await
        .map_err(drop)
}
