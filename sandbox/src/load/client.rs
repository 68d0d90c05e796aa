//! The clients of a load: one exchange at a time each.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::line::{Body, Line};
use super::{Load, Protocol, Record, Shared, Shot, grpc, schedule};
use crate::app;

/// Requests are given out here, to whichever client is free.
pub(super) struct Plan {
    load: Load,
    /// Where connections go.
    route: Result<SocketAddr, String>,
    shared: Arc<Shared>,
    start: Instant,
    next: Cell<u64>,
    /// Connections that clients share.
    lines: Vec<Rc<Line>>,
}

/// The next request.
struct Turn {
    number: u64,
    due: Instant,
}

/// Runs the load to its end, on the current thread's runtime.
pub(super) async fn run(load: Load, route: Result<SocketAddr, String>, shared: Arc<Shared>) {
    let lines = match (load.protocol, load.connections) {
        (Protocol::Http1, _) | (_, None) => 0,
        (_, Some(connections)) => connections,
    };
    let plan = Rc::new(Plan {
        load,
        route,
        shared,
        start: Instant::now(),
        next: Cell::new(0),
        lines: (0..lines).map(|_| Rc::default()).collect(),
    });
    if plan.load.on_demand && plan.load.rate.is_some() {
        return run_on_demand(&plan).await;
    }
    let clients: Vec<_> = (0..plan.load.clients)
        .map(|number| tokio::task::spawn_local(Client::new(&plan, number).run()))
        .collect();
    for client in clients {
        client.await.expect("a client does not panic");
    }
}

/// As many clients as requests need, the one that was free last first.
async fn run_on_demand(plan: &Rc<Plan>) {
    let free: Rc<RefCell<Vec<Client>>> = Rc::default();
    let freed = Rc::new(Notify::new());
    let mut made = 0;
    let mut exchanges = JoinSet::new();
    while let Some(turn) = plan.turn().await {
        let client = loop {
            let known = free.borrow_mut().pop();
            if let Some(client) = known {
                break client;
            }
            if made < plan.load.clients {
                made += 1;
                break Client::new(plan, made - 1);
            }
            freed.notified().await;
        };
        let (free, freed) = (Rc::clone(&free), Rc::clone(&freed));
        exchanges.spawn_local(async move {
            client.serve(turn).await;
            free.borrow_mut().push(client);
            freed.notify_one();
        });
        while let Some(done) = exchanges.try_join_next() {
            done.expect("a client does not panic");
        }
    }
    while let Some(done) = exchanges.join_next().await {
        done.expect("a client does not panic");
    }
}

impl Plan {
    pub(super) fn protocol(&self) -> Protocol {
        self.load.protocol
    }

    pub(super) fn connect_patience(&self) -> Duration {
        self.load.connect_patience
    }

    pub(super) fn route(&self) -> Result<SocketAddr, String> {
        self.route.clone()
    }

    /// A connection was replaced because the server had closed it.
    pub(super) fn reconnected(&self) {
        self.shared.report.lock().reconnects += 1;
    }

    /// A request was left out by a GOAWAY and goes over another connection.
    pub(super) fn left_out(&self) {
        self.shared.report.lock().left_out += 1;
    }

    /// A connection was refused and will be tried again.
    pub(super) fn refused(&self) {
        self.shared.report.lock().refused += 1;
    }

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
                let due = self.start + schedule::due(number, rate, &self.load.pauses);
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

    /// The request of this number, and what its body says.
    fn request(&self, number: u64) -> Result<(Request<Body>, Vec<u8>), http::Error> {
        let shot = self.shot(number);
        let mut builder = Request::builder().method(shot.method.clone());
        builder = match self.load.protocol {
            Protocol::Http1 => builder
                .uri(&shot.target)
                .header(http::header::HOST, &self.load.authority),
            Protocol::Http2 => builder.uri(self.uri(&shot.target)?),
            Protocol::Grpc => grpc::head(builder.uri(self.uri(&grpc::path())?)),
        };
        for (name, value) in &shot.headers {
            builder = builder.header(name, value);
        }
        if let Some((name, before)) = &self.load.id_header {
            builder = builder.header(name, format!("{before}{number}"));
        }
        let id = format!("{}-{number}", self.load.id_prefix);
        let mut said = Vec::new();
        if shot.body_length > 0 {
            said.reserve(shot.body_length + id.len());
            while said.len() < shot.body_length {
                said.extend_from_slice(id.as_bytes());
            }
            said.truncate(shot.body_length);
        }
        let body = match self.load.protocol {
            Protocol::Grpc => grpc::body(said.clone()),
            Protocol::Http1 | Protocol::Http2 => Bytes::from(said.clone()),
        };
        let request = builder.header(app::ID, id).body(Full::new(body))?;
        Ok((request, said))
    }

    fn uri(&self, target: &str) -> Result<Uri, http::Error> {
        Uri::builder()
            .scheme("http")
            .authority(self.load.authority.as_str())
            .path_and_query(target)
            .build()
    }
}

struct Client {
    plan: Rc<Plan>,
    line: Rc<Line>,
    is_shared: bool,
}

impl Client {
    fn new(plan: &Rc<Plan>, number: usize) -> Self {
        let shared = match plan.lines.len() {
            0 => None,
            lines => Some(Rc::clone(&plan.lines[number % lines])),
        };
        Self {
            plan: Rc::clone(plan),
            is_shared: shared.is_some(),
            line: shared.unwrap_or_default(),
        }
    }

    async fn run(self) {
        while let Some(turn) = self.plan.turn().await {
            self.serve(turn).await;
        }
    }

    /// One request, from when it is due to its record.
    async fn serve(&self, turn: Turn) {
        let plan = &self.plan;
        let Turn { number, due } = turn;
        {
            let mut report = plan.shared.report.lock();
            report.sent += 1;
            report.late = report.late.max(due.elapsed());
        }
        let result = tokio::time::timeout(plan.load.timeout, self.exchange(number)).await;
        let mut record = Record {
            number,
            method: plan.shot(number).method.clone(),
            status: 0,
            outcome: None,
            served_by: None,
            took: due.elapsed(),
        };
        let why = match result {
            Ok(Ok(head)) => {
                let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
                record.status = head.status.as_u16();
                record.outcome = text(weft_proto::names::headers::OUTCOME).map(Box::from);
                record.served_by = text(app::SERVED_BY).map(Box::from);
                let version = text(app::VERSION);
                plan.shared.report.lock().answered(record, version);
                return;
            }
            Ok(Err(why)) => why,
            Err(_) => format!("no whole answer within {:?}", plan.load.timeout),
        };
        plan.shared.report.lock().failed(record, why);
        // Where others use it too, they find out for themselves.
        if !self.is_shared {
            self.line.give_up().await;
        }
    }

    /// One request and its answer, to the end of its body.
    async fn exchange(&self, number: u64) -> Result<http::response::Parts, String> {
        let (request, said) = self.plan.request(number).map_err(|error| text(&error))?;
        let response = self.line.send(&self.plan, request).await?;
        let (head, mut body) = response.into_parts();
        let is_grpc = self.plan.load.protocol == Protocol::Grpc;
        let mut answer = BytesMut::new();
        let mut trailers: Option<HeaderMap> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| text(&error))?;
            match frame.into_data() {
                Ok(data) if is_grpc => answer.extend_from_slice(&data),
                Ok(_) => {}
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        if is_grpc {
            let trailers = trailers.as_ref();
            grpc::judge(head.status, &head.headers, &answer, trailers, &said)?;
        }
        Ok(head)
    }
}

/// An error with its causes, in one line.
pub(super) fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
