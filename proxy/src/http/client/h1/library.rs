//! A connection of the HTTP library's, for names of headers as they were spelled: only the library knows
//! how it has read them. It runs in a task of its own.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

use super::super::io::{Link, Meter, Probe};
use super::super::proof::Evidence;
use super::super::sent::SentBody;
use super::super::{SendOptions, UPLOAD_GRACE};
use super::connection::{Connection, Held, check_in};
use crate::bounds::ProcessLimits;
use crate::http::body::RequestBody;
use crate::http::settings;
use crate::outcome::{Failure, Outcome};

/// The sender's side of a connection.
pub(super) struct Library {
    sender: SendRequest<SentBody>,
    link: Arc<Link>,
    probe: Option<Probe>,
    task: AbortHandle,
}

/// How an exchange without a response ended.
pub(super) struct Unanswered {
    pub(super) error: TrySendError<Request<SentBody>>,
    pub(super) evidence: Evidence,
}

impl Library {
    /// Over a fresh connection, which holds `held` for as long as it is open.
    pub(super) async fn new<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        io: I,
        held: Held,
        limits: &ProcessLimits,
        peer_has_closed: Option<fn(&I) -> bool>,
    ) -> Result<Self, Failure> {
        let link = Arc::new(Link::new());
        let (meter, probe) = match peer_has_closed {
            Some(has_closed) => {
                let (meter, probe) = Meter::with_probe(io, Arc::clone(&link), held, has_closed);
                (meter, Some(probe))
            }
            None => (Meter::new(io, Arc::clone(&link), held), None),
        };
        let mut builder = http1::Builder::new();
        if limits.headers > settings::LIBRARY_HEADERS {
            builder.max_headers(limits.headers.into());
        }
        let (sender, driver) = builder
            .max_buf_size(settings::max_buffer(limits.header_bytes))
            .max_header_size(limits.header_bytes)
            .preserve_header_case(true)
            .handshake::<_, SentBody>(TokioIo::new(meter))
            .await
            .map_err(|error| {
                Failure::never(Outcome::Reset, "no HTTP/1 connection").because(error)
            })?;
        let task = tokio::spawn(async move {
            // Whoever waits for a response is told; nobody else wants to know.
            let _ = driver.with_upgrades().await;
        });
        Ok(Self {
            sender,
            link,
            probe,
            task: task.abort_handle(),
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Asks the kernel whether the peer has closed it.
    pub(super) fn peer_has_closed(&self) -> bool {
        self.probe.as_ref().is_some_and(|has_closed| has_closed())
    }

    /// Sends `request` and waits for its response's head. `clean_close_is_proof`: see
    /// [`Connect`](super::super::Connect::clean_close_is_proof).
    pub(super) async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        options: &SendOptions,
        clean_close_is_proof: bool,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mark = self.link.mark();
        let sent = |body| SentBody::new(body, options.progress.clone());
        let sending = self.sender.try_send_request(request.map(sent));
        sending.await.map_err(|error| Unanswered {
            error,
            evidence: Evidence {
                wrote_nothing: self.link.wrote_nothing_since(mark),
                closed_cleanly: clean_close_is_proof
                    && self.link.closed_cleanly_without_a_byte_since(mark),
            },
        })
    }
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// A connection whose response body has not ended.
#[derive(Debug)]
pub(in crate::http) struct H1Lease(Box<Connection>);

impl H1Lease {
    pub(super) fn new(connection: Box<Connection>) -> Self {
        Self(connection)
    }

    /// The response has ended. Where the request has not, it gets a short grace: a connection that
    /// waits for the rest of a request that nobody answers any more would stay for ever.
    pub(in super::super) fn give_back(self) {
        let Self(mut connection) = self;
        let Some(library) = connection.library() else {
            return;
        };
        if library.is_closed() {
            return;
        }
        if library.is_ready() {
            check_in(connection);
            return;
        }
        tokio::spawn(async move {
            let Some(library) = connection.library() else {
                return;
            };
            match tokio::time::timeout(UPLOAD_GRACE, library.sender.ready()).await {
                Ok(Ok(())) => check_in(connection),
                Ok(Err(_)) => {}
                Err(_) => library.task.abort(),
            }
        });
    }
}
