//! A connection of the pool, whoever drives it, and how it comes back.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tokio::time::Instant;

use super::super::{Outgoing, Token};
use super::body::LineBody;
use super::decode::{Framing, Head};
use super::library::Library;
use super::line::{Broken, Line};
use super::transport::Tunnel;
use super::{Shared, Slot};
use crate::bounds::DialPlace;
use crate::http::body::{Progress, RequestBody, UpstreamBody};
use crate::http::upgrade::Switched;

/// A peer that announces a longer keep-alive is not believed beyond this.
const MAX_ANNOUNCED_IDLE: Duration = Duration::from_secs(60);
/// How far below its announced end a connection is left alone.
const ANNOUNCED_MARGIN: Duration = Duration::from_secs(1);
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What a connection holds for as long as it is open.
pub(super) type Held = (DialPlace, (Slot, Option<Token>));

/// A connection of the pool.
pub(super) struct Connection {
    pub(super) carrier: Carrier,
    pub(super) pool: Weak<Shared>,
    pub(super) checks_before_reuse: bool,
    pub(super) used: Instant,
    /// It has carried an exchange.
    pub(super) used_before: bool,
    pub(super) idle_limit: Duration,
    /// It has become so old that no more requests go over it.
    pub(super) replace_at: Option<Instant>,
}

/// Who drives a connection.
#[derive(Debug)]
pub(super) enum Carrier {
    /// Its exchange.
    Line(Line, Held),
    /// A task of the library's.
    Library(Library),
}

impl Connection {
    /// The response that begins with `head`, whose body reads on from this connection.
    pub(super) fn response(
        mut self: Box<Self>,
        head: Head,
        request: &mut Outgoing<'_>,
        progress: Option<&Arc<Progress>>,
    ) -> Response<UpstreamBody> {
        let Head {
            mut response,
            framing,
            switches,
            is_last: _,
        } = head;
        let progress = progress.map(Arc::clone);
        if switches {
            if let Some(tunnel) = self.into_tunnel() {
                response.extensions_mut().insert(Switched::new(tunnel));
            }
            return response.map(|()| UpstreamBody::of_line(LineBody::none(), progress));
        }
        if let Some(announced) = announced_idle(response.headers()) {
            self.idle_limit = announced;
        }
        let body = if self.is_uploaded() {
            request.let_go();
            LineBody::new(self, framing)
        } else {
            LineBody::beside(request.take(), progress.clone(), self, framing)
        };
        response.map(|()| UpstreamBody::of_line(body, progress))
    }

    /// What is left when both sides have left HTTP.
    pub(super) fn into_tunnel(self) -> Option<Tunnel> {
        let Carrier::Line(mut line, held) = self.carrier else {
            return None;
        };
        let (read, io) = line.take();
        Some(Tunnel::new(read, io, held))
    }

    /// Goes on with the request; see [`Line::poll_upload`].
    pub(super) fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut Request<RequestBody>,
        progress: Option<&Arc<Progress>>,
    ) -> Poll<Result<(), Broken>> {
        match &mut self.carrier {
            Carrier::Line(line, _) => {
                // Its headers stay as they are; the borrow checker cannot know.
                let headers = std::mem::take(request.headers_mut());
                let polled = line.poll_upload(cx, &headers, request.body_mut(), progress);
                *request.headers_mut() = headers;
                polled
            }
            Carrier::Library(_) => Poll::Ready(Ok(())),
        }
    }

    /// The next frame of the response's body; see [`Line::poll_body`].
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
    ) -> Poll<Result<Option<Frame<Bytes>>, Broken>> {
        match &mut self.carrier {
            Carrier::Line(line, _) => line.poll_body(cx, framing),
            Carrier::Library(_) => Poll::Ready(Err(Broken::Closed)),
        }
    }

    pub(super) fn is_uploaded(&self) -> bool {
        match &self.carrier {
            Carrier::Line(line, _) => line.is_uploaded(),
            Carrier::Library(_) => true,
        }
    }

    pub(super) fn library(&mut self) -> Option<&mut Library> {
        match &mut self.carrier {
            Carrier::Line(..) => None,
            Carrier::Library(library) => Some(library),
        }
    }

    pub(super) fn usable(&self, now: Instant) -> bool {
        self.is_open() && now.duration_since(self.used) < self.idle_limit && !self.is_old(now)
    }

    /// Not known to have ended.
    pub(super) fn is_open(&self) -> bool {
        match &self.carrier {
            Carrier::Line(..) => true,
            Carrier::Library(library) => !library.is_closed(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        match &self.carrier {
            Carrier::Line(..) => true,
            Carrier::Library(library) => library.is_ready(),
        }
    }

    /// Ready once an idle connection can take no request.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.carrier {
            Carrier::Line(line, _) => line.poll_idle(cx),
            Carrier::Library(library) if library.is_closed() => Poll::Ready(()),
            Carrier::Library(_) => Poll::Pending,
        }
    }

    /// Asks the kernel whether the peer of an idle connection has closed it, where that is to be asked.
    pub(super) fn peer_has_closed(&self) -> bool {
        self.checks_before_reuse
            && match &self.carrier {
                Carrier::Line(line, _) => line.peer_has_closed(),
                Carrier::Library(library) => library.peer_has_closed(),
            }
    }

    pub(super) fn is_old(&self, now: Instant) -> bool {
        self.replace_at.is_some_and(|at| now >= at)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("carrier", &self.carrier)
            .finish_non_exhaustive()
    }
}

/// A connection whose exchange has ended goes back to its pool, where it may take another one.
pub(super) fn give_back(mut connection: Box<Connection>) {
    if let Carrier::Line(line, _) = &mut connection.carrier {
        if !line.is_reusable() {
            return;
        }
        line.rest();
    }
    check_in(connection);
}

pub(super) fn check_in(connection: Box<Connection>) {
    if let Some(pool) = connection.pool.upgrade() {
        pool.check_in(connection);
    }
}

/// `Keep-Alive: timeout=N`, less a margin.
pub(super) fn announced_idle(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let seconds = value.split(',').find_map(|part| {
        let (name, seconds) = part.trim().split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("timeout") {
            return None;
        }
        seconds.trim().trim_matches('"').parse().ok()
    })?;
    let announced = Duration::from_secs(seconds);
    Some(
        announced
            .saturating_sub(ANNOUNCED_MARGIN)
            .min(MAX_ANNOUNCED_IDLE),
    )
}
