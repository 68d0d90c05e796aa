//! The clients of a load: one connection each, one exchange at a time.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Load, Protocol, Record, Shared, Shot};
use crate::app;

type Body = Full<Bytes>;

/// Requests are given out here, to whichever client is free.
struct Plan {
    load: Load,
    /// Where connections go.
    route: Result<SocketAddr, String>,
    shared: Arc<Shared>,
    start: Instant,
    next: Cell<u64>,
}

/// The next request.
struct Turn {
    number: u64,
    due: Instant,
}

/// Runs the load to its end, on the current thread's runtime.
pub(super) async fn run(load: Load, route: Result<SocketAddr, String>, shared: Arc<Shared>) {
    let clients = load.clients;
    let plan = Rc::new(Plan {
        load,
        route,
        shared,
        start: Instant::now(),
        next: Cell::new(0),
    });
    let clients: Vec<_> = (0..clients)
        .map(|_| tokio::task::spawn_local(Client::new(Rc::clone(&plan)).run()))
        .collect();
    for client in clients {
        client.await.expect("a client does not panic");
    }
}

impl Plan {
    /// Waits until the next request is due; `None` at the end.
    async fn turn(&self) -> Option<Turn> {
        if self.has_ended(Instant::now()) {
            return None;
        }
        let number = self.next.get();
        if self
            .load
            .requests
            .is_some_and(|requests| number >= requests)
        {
            return None;
        }
        self.next.set(number + 1);
        let due = match self.load.rate {
            None => Instant::now(),
            Some(rate) => {
                let due = self.start + Duration::from_secs_f64(number as f64 / rate);
                tokio::time::sleep_until(due).await;
                due
            }
        };
        if self.has_ended(due) || self.shared.stop.load(Ordering::Relaxed) {
            return None;
        }
        Some(Turn { number, due })
    }

    fn has_ended(&self, at: Instant) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
            || self
                .load
                .duration
                .is_some_and(|duration| at >= self.start + duration)
    }

    fn shot(&self, number: u64) -> &Shot {
        &self.load.mix[(number % self.load.mix.len() as u64) as usize]
    }

    fn request(&self, number: u64) -> Result<Request<Body>, http::Error> {
        let shot = self.shot(number);
        let mut builder = Request::builder().method(shot.method.clone());
        builder = match self.load.protocol {
            Protocol::Http1 => builder
                .uri(&shot.target)
                .header(http::header::HOST, &self.load.authority),
            Protocol::Http2 => builder.uri(
                Uri::builder()
                    .scheme("http")
                    .authority(self.load.authority.as_str())
                    .path_and_query(shot.target.as_str())
                    .build()?,
            ),
        };
        for (name, value) in &shot.headers {
            builder = builder.header(name, value);
        }
        if let Some((name, before)) = &self.load.id_header {
            builder = builder.header(name, format!("{before}{number}"));
        }
        let id = format!("{}-{number}", self.load.id_prefix);
        let mut body = Vec::new();
        if shot.body_length > 0 {
            body.reserve(shot.body_length + id.len());
            while body.len() < shot.body_length {
                body.extend_from_slice(id.as_bytes());
            }
            body.truncate(shot.body_length);
        }
        builder
            .header(app::ID, id)
            .body(Full::new(Bytes::from(body)))
    }
}

struct Client {
    plan: Rc<Plan>,
    connection: Option<Connection>,
}

struct Connection {
    send: Send,
    /// Whether an answer has come over it: only such a one may be replaced.
    is_proved: bool,
}

enum Send {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Client {
    fn new(plan: Rc<Plan>) -> Self {
        Self {
            plan,
            connection: None,
        }
    }

    async fn run(mut self) {
        let plan = Rc::clone(&self.plan);
        while let Some(turn) = plan.turn().await {
            let Turn { number, due } = turn;
            plan.shared.report.lock().sent += 1;
            let result = tokio::time::timeout(plan.load.timeout, self.exchange(number)).await;
            let mut record = Record {
                number,
                method: plan.shot(number).method.clone(),
                status: 0,
                outcome: None,
                served_by: None,
                took: due.elapsed(),
            };
            match result {
                Ok(Ok(head)) => {
                    let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
                    record.status = head.status.as_u16();
                    record.outcome = text(weft_proto::names::headers::OUTCOME).map(Box::from);
                    record.served_by = text(app::SERVED_BY).map(Box::from);
                    let version = text(app::VERSION);
                    plan.shared.report.lock().answered(record, version);
                }
                Ok(Err(why)) => {
                    self.connection = None;
                    plan.shared.report.lock().failed(record, why);
                }
                Err(_) => {
                    self.connection = None;
                    let why = format!("no whole answer within {:?}", plan.load.timeout);
                    plan.shared.report.lock().failed(record, why);
                }
            }
        }
    }

    /// One request and its answer, to the end of its body.
    async fn exchange(&mut self, number: u64) -> Result<http::response::Parts, String> {
        let mut request = self.plan.request(number).map_err(|error| text(&error))?;
        let response = loop {
            let connection = self.connection().await?;
            match connection.send(request).await {
                Ok(response) => {
                    connection.is_proved = true;
                    break response;
                }
                Err(mut error) => {
                    // Handed back: nothing of it was written, the connection had been closed.
                    let unsent = error.take_message().filter(|_| connection.is_proved);
                    let Some(unsent) = unsent else {
                        return Err(text(error.error()));
                    };
                    self.connection = None;
                    self.plan.shared.report.lock().reconnects += 1;
                    request = unsent;
                }
            }
        };
        let (head, mut body) = response.into_parts();
        while let Some(frame) = body.frame().await {
            frame.map_err(|error| text(&error))?;
        }
        Ok(head)
    }

    /// The connection that there is, unless the server closed it; else a new one.
    async fn connection(&mut self) -> Result<&mut Connection, String> {
        if let Some(connection) = &mut self.connection
            && !connection.is_usable().await
        {
            self.connection = None;
            self.plan.shared.report.lock().reconnects += 1;
        }
        if self.connection.is_none() {
            self.connection = Some(Connection::open(&self.plan).await?);
        }
        Ok(self.connection.as_mut().expect("was just made"))
    }
}

impl Connection {
    async fn open(plan: &Plan) -> Result<Self, String> {
        let refused = |error: String| format!("connecting: {error}");
        let route = plan.route.clone().map_err(refused)?;
        let stream = TcpStream::connect(route)
            .await
            .map_err(|error| refused(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| text(&error))?;
        let io = TokioIo::new(stream);
        let send = match plan.load.protocol {
            Protocol::Http1 => {
                let (send, connection) = http1::handshake(io).await.map_err(|e| text(&e))?;
                tokio::spawn(connection);
                Send::Http1(send)
            }
            Protocol::Http2 => {
                let (send, connection) = http2::handshake(TokioExecutor::new(), io)
                    .await
                    .map_err(|e| text(&e))?;
                tokio::spawn(connection);
                Send::Http2(send)
            }
        };
        Ok(Self {
            send,
            is_proved: false,
        })
    }

    /// Waits until a request may be sent; `false` where the server has closed it.
    async fn is_usable(&mut self) -> bool {
        match &mut self.send {
            Send::Http1(send) => send.ready().await.is_ok(),
            Send::Http2(send) => send.ready().await.is_ok(),
        }
    }

    async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        match &mut self.send {
            Send::Http1(send) => send.try_send_request(request).await,
            Send::Http2(send) => send.try_send_request(request).await,
        }
    }
}

/// An error with its causes, in one line.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
