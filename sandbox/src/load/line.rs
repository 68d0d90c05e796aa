//! The connection of a client, or of several.
//!
//! It is made when a request needs it, and replaced only when the server has closed it: a request
//! that hyper hands back because nothing of it was written goes over the next one, where answers had
//! come over this one or the load has [patience](super::Load::connect_patience).
//!
//! With patience, HTTP/2 requests that a server's GOAWAY leaves out go over the next connection too, as
//! every client library of gRPC does it: they were not processed (RFC 9113, 6.8). They are counted.
//!
//! An HTTP/2 connection carries fewer streams than any server here allows: one that has to wait for its
//! turn is given up by hyper when a GOAWAY comes, without a word on whether it was sent.

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use weft_proxy::http::body::h2_error;

use super::Protocol;
use super::client::{Plan, text};

pub(super) type Body = Full<Bytes>;

/// Pause after a refused connection.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

/// Streams at once: hyper begins no more than 100 before it knows what the server allows.
const MAX_STREAMS: usize = 90;

/// A place for one connection.
pub(super) struct Line {
    connection: Mutex<Option<Connection>>,
    streams: Semaphore,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            connection: Mutex::default(),
            streams: Semaphore::new(MAX_STREAMS),
        }
    }
}

struct Connection {
    send: Send,
    /// Whether an answer has come over it: only such a one may be replaced. It tells connections
    /// apart, too.
    is_proved: Rc<Cell<bool>>,
}

enum Send {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Line {
    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &self,
        plan: &Plan,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, String> {
        let until = Instant::now() + plan.connect_patience();
        let _stream = self.streams.acquire().await.expect("is never closed");
        loop {
            let may_be_sent_again =
                plan.protocol() != Protocol::Http1 && !plan.connect_patience().is_zero();
            let copy = may_be_sent_again.then(|| request.clone());
            let (result, is_proved) = self.send_once(plan, request).await?;
            match result {
                Ok(response) => {
                    is_proved.set(true);
                    return Ok(response);
                }
                Err(mut error) => {
                    // Handed back: nothing of it was written, the connection had been closed.
                    let may_replace = is_proved.get() || Instant::now() < until;
                    let unsent = error.take_message().or_else(|| {
                        let copy = copy.filter(|_| is_left_out(error.error()))?;
                        plan.left_out();
                        Some(copy)
                    });
                    let unsent = unsent.filter(|_| may_replace);
                    let Some(unsent) = unsent else {
                        return Err(text(error.error()));
                    };
                    self.replace(plan, &is_proved).await;
                    request = unsent;
                }
            }
        }
    }

    /// An exchange failed: the connection of one client alone is not used again.
    pub(super) async fn give_up(&self) {
        *self.connection.lock().await = None;
    }

    async fn send_once(&self, plan: &Plan, request: Request<Body>) -> Result<Sent, String> {
        let mut place = self.connection.lock().await;
        let connection = ready(&mut place, plan).await?;
        let is_proved = Rc::clone(&connection.is_proved);
        let result = match &mut connection.send {
            Send::Http1(send) => send.try_send_request(request).await,
            Send::Http2(send) => {
                let mut send = send.clone();
                drop(place);
                send.try_send_request(request).await
            }
        };
        Ok((result, is_proved))
    }

    /// Forgets the connection, unless somebody else has already.
    async fn replace(&self, plan: &Plan, this: &Rc<Cell<bool>>) {
        let mut place = self.connection.lock().await;
        if place
            .as_ref()
            .is_some_and(|it| Rc::ptr_eq(&it.is_proved, this))
        {
            *place = None;
            plan.reconnected();
        }
    }
}

/// Whether a server said that it has not processed the request and never will.
fn is_left_out(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| {
        error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
    })
}

type Sent = (
    Result<Response<Incoming>, TrySendError<Request<Body>>>,
    Rc<Cell<bool>>,
);

/// The connection that there is, unless the server closed it; else a new one.
async fn ready<'a>(
    place: &'a mut Option<Connection>,
    plan: &Plan,
) -> Result<&'a mut Connection, String> {
    if let Some(connection) = place
        && !connection.is_usable().await
    {
        *place = None;
        plan.reconnected();
    }
    if place.is_none() {
        *place = Some(Connection::open(plan).await?);
    }
    Ok(place.as_mut().expect("was just made"))
}

impl Connection {
    async fn open(plan: &Plan) -> Result<Self, String> {
        let refused = |error: String| format!("connecting: {error}");
        let route = plan.route().map_err(refused)?;
        let stream = connect(plan, route)
            .await
            .map_err(|e| refused(e.to_string()))?;
        stream.set_nodelay(true).map_err(|error| text(&error))?;
        let io = TokioIo::new(stream);
        let send = match plan.protocol() {
            Protocol::Http1 => {
                let (send, connection) = http1::handshake(io).await.map_err(|e| text(&e))?;
                tokio::spawn(connection);
                Send::Http1(send)
            }
            Protocol::Http2 | Protocol::Grpc => {
                let (send, connection) = http2::handshake(TokioExecutor::new(), io)
                    .await
                    .map_err(|e| text(&e))?;
                tokio::spawn(connection);
                Send::Http2(send)
            }
        };
        Ok(Self {
            send,
            is_proved: Rc::default(),
        })
    }

    /// Waits until a request may be sent; `false` where the server has closed it.
    async fn is_usable(&mut self) -> bool {
        match &mut self.send {
            Send::Http1(send) => send.ready().await.is_ok(),
            Send::Http2(send) => send.ready().await.is_ok(),
        }
    }
}

/// Connects; where nobody listens, again for as long as the load has patience.
async fn connect(plan: &Plan, to: SocketAddr) -> std::io::Result<TcpStream> {
    let until = Instant::now() + plan.connect_patience();
    loop {
        match TcpStream::connect(to).await {
            Err(error)
                if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < until =>
            {
                plan.refused();
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            result => return result,
        }
    }
}
