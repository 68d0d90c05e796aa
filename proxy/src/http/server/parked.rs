//! An HTTP/1 connection that is put away while nobody uses it.
//!
//! The library keeps some 20 KiB for each connection, most of it buffers, and clients keep many idle ones.
//! One that has been at rest for a while gives all of it back: what stays is the transport and what it
//! knows, and the first byte brings the library back.
//!
//! A connection is parked only where the library has nothing of it in hand: every byte that it was given
//! belongs to an exchange that is over, all that it wrote is flushed, and it has asked for more
//! ([`State::rests`](super::state::State::rests)). Whoever looks at the connection from outside sees no
//! difference.
//!
//! To come back takes the buffers again, so that a few connections are at rest for long before they are
//! parked; and many for a short time ([`patience`]), as what all of a crowd have had at once stays with the
//! process.

use std::cell::Cell;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::ServerIo;
use super::service::Serving;
use super::state::State;
use super::{Connection, Handler, ServerOptions};
use crate::http::settings;

/// How long a connection is at rest before it is parked, where few are not.
const PATIENCE: Duration = Duration::from_secs(1);
/// And where more than [`FEW`] of this thread are not.
const LITTLE_PATIENCE: Duration = Duration::from_millis(20);
const FEW: usize = 64;

thread_local! {
    /// Connections of this thread that are not parked.
    static AT_WORK: Cell<usize> = const { Cell::new(0) };
}

/// How long a connection has to be at rest now before it is parked.
pub(super) fn patience() -> Duration {
    if AT_WORK.get() > FEW {
        LITTLE_PATIENCE
    } else {
        PATIENCE
    }
}

/// One of [`AT_WORK`], until dropped.
struct AtWork;

impl AtWork {
    fn new() -> Self {
        AT_WORK.set(AT_WORK.get() + 1);
        Self
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        // Another thread's, where a test moves its connections about.
        AT_WORK.set(AT_WORK.get().saturating_sub(1));
    }
}

/// The library's connection.
type Working<I, H> = http1::UpgradeableConnection<TokioIo<ServerIo<I>>, Serving<H>>;

/// An HTTP/1 connection, with the library or without.
pub(super) struct Parkable<I, H: Handler> {
    place: Place<I, H>,
    state: Arc<State>,
    half_close: bool,
    keep_case: bool,
}

enum Place<I, H: Handler> {
    Working(Box<Working<I, H>>, AtWork),
    Parked(Box<Parked<I, H>>),
    /// Between the two; left before anybody can look.
    Moving,
}

struct Parked<I, H> {
    io: ServerIo<I>,
    service: Serving<H>,
}

impl<I, H> Parkable<I, H>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    pub(super) fn new(
        io: ServerIo<I>,
        service: Serving<H>,
        state: Arc<State>,
        options: &ServerOptions,
    ) -> Self {
        let mut this = Self {
            place: Place::Parked(Box::new(Parked { io, service })),
            state,
            half_close: options.half_close,
            keep_case: options.keep_case,
        };
        this.work();
        this
    }

    /// Makes the library's connection, where there is none.
    fn work(&mut self) {
        self.place = match mem::replace(&mut self.place, Place::Moving) {
            Place::Parked(parked) => {
                let Parked { io, service } = *parked;
                Place::Working(Box::new(self.connection(io, service)), AtWork::new())
            }
            working => working,
        };
    }

    fn connection(&self, io: ServerIo<I>, service: Serving<H>) -> Working<I, H> {
        let limits = &self.state.bounds().limits;
        let mut builder = http1::Builder::new();
        if limits.headers > settings::LIBRARY_HEADERS {
            builder.max_headers(limits.headers.into());
        }
        builder
            .timer(TokioTimer::new())
            // Ours instead: hyper's counts the idle time between requests too.
            .header_read_timeout(None)
            .half_close(self.half_close)
            .preserve_header_case(self.keep_case)
            .max_buf_size(settings::max_buffer(limits.header_bytes))
            .max_header_size(limits.header_bytes)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades()
    }
}

impl<I, H> Future for Parkable<I, H>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    type Output = hyper::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Place::Parked(parked) = &mut this.place {
            ready!(parked.io.poll_wake(cx));
            this.work();
        }
        match &mut this.place {
            Place::Working(connection, _) => Pin::new(connection).poll(cx),
            Place::Parked(_) | Place::Moving => Poll::Ready(Ok(())),
        }
    }
}

impl<I, H> Connection for Parkable<I, H>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        let this = self.get_mut();
        // The library knows how a connection ends.
        this.work();
        if let Place::Working(connection, _) = &mut this.place {
            Pin::new(&mut **connection).graceful_shutdown();
        }
    }

    fn park(self: Pin<&mut Self>) {
        let this = self.get_mut();
        if !this.state.rests() {
            return;
        }
        this.state.set_rests(false);
        this.place = match mem::replace(&mut this.place, Place::Moving) {
            Place::Working(connection, _) => match connection.into_parts() {
                // What the library has read is nothing, or it would not be at rest.
                Some(parts) => Place::Parked(Box::new(Parked {
                    io: parts.io.into_inner(),
                    service: parts.service,
                })),
                // It has left HTTP, and this part of it is over.
                None => Place::Moving,
            },
            parked => parked,
        };
    }
}

#[cfg(test)]
mod tests;
