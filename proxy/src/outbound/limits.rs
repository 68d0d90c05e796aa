//! Waiting for a place under a backend's concurrency caps.
//!
//! A request first gets a place among the tries in flight, then an endpoint, then a connection.
//! Where the connections are capped and there is no room for one more, it takes what is there, in
//! this order: a connection of the same endpoint that another worker left idle; over HTTP/2, or when
//! it has waited already, any connection of the backend that is free for it; the room of an idle
//! connection, which is closed; and else it stands in line, without an endpoint.
//!
//! Waiting ends with a place, with the request's time, with the client, or with the backend's
//! breaker. Nothing is held while waiting but the place in line, and of requests that wait for a
//! connection their place among the tries.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::backend::Backend;
use super::endpoint::Endpoint;
use super::tries::out_of_time;
use crate::http::Version;
use crate::http::client::{Full, Queued, Room, Token};
use crate::http::deadline::before;
use crate::outcome::{Failure, Outcome};
use crate::resilience::deadline::Deadline;
use crate::resilience::limits::{Limit, Limits, Place, Turn};

/// A place among the tries in flight; `None` where they are not capped.
pub(crate) async fn request_place(
    backend: &Backend,
    deadline: Deadline,
) -> Result<Option<Place>, Failure> {
    let limits = backend.group.limits();
    if !limits.has(Limit::Requests) {
        return Ok(None);
    }
    check_breaker(backend)?;
    if !limits.has_line(Limit::Requests)
        && let Some(place) = limits.take(Limit::Requests)
    {
        return Ok(Some(place));
    }
    let turn = line_up(limits, Limit::Requests, true)?;
    let granted = async {
        loop {
            turn.called().await;
            if let Some(place) = turn.place() {
                return Ok(Some(place));
            }
            check_breaker(backend)?;
        }
    };
    before(deadline, granted).await.map_err(|_| out_of_time())?
}

/// The right to one connection for bytes, by `deadline`.
pub(crate) async fn connection_place(
    backend: &Backend,
    deadline: Deadline,
) -> Result<Place, Failure> {
    let limits = backend.group.limits();
    if !limits.has_line(Limit::Connections)
        && let Some(place) = limits.take(Limit::Connections)
    {
        return Ok(place);
    }
    check_breaker(backend)?;
    let mut waiting = Waiting::default();
    waiting.line_up(backend)?;
    loop {
        let waited = before(deadline, waiting.its_turn(backend)).await;
        waited.map_err(|_| {
            limits.overflowed(Limit::Connections);
            overflow("no connection became possible in time")
        })??;
        if let Some(place) = limits.take(Limit::Connections) {
            return Ok(place);
        }
        waiting.make_room(backend)?;
    }
}

/// One request's way to a connection. Costs nothing before it meets something that is full.
#[derive(Default)]
pub(crate) struct Search {
    waiting: Waiting,
    /// Endpoints whose own pool is full.
    pub(crate) full: SmallVec<[Arc<Endpoint>; 2]>,
    /// Only these have a connection to spare; empty: any endpoint will do.
    pub(crate) among: Vec<Arc<Endpoint>>,
    /// An idle connection was closed so that this one may have one more: to look elsewhere would close
    /// connections in a circle.
    room_for: Option<Arc<Endpoint>>,
    /// There is somewhere else to look before anything is waited for.
    looks_on: bool,
}

impl Search {
    /// To be called before an endpoint is chosen: waits, where others wait or nothing is free.
    pub(crate) async fn turn(
        &mut self,
        backend: &Backend,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        if std::mem::take(&mut self.looks_on) {
            return Ok(());
        }
        let limits = backend.group.limits();
        if self.waiting.turn.is_none() {
            if !limits.has_line(Limit::Connections) {
                return Ok(());
            }
            check_breaker(backend)?;
            self.waiting.stand_behind(backend)?;
        }
        let waited = before(deadline, self.waiting.its_turn(backend)).await;
        waited.map_err(|_| out_of_time())?
    }

    /// Told when the request has its connection.
    pub(crate) fn queued(&self) -> Option<Arc<dyn Queued>> {
        let turn = Arc::clone(self.waiting.turn.as_ref()?);
        Some(turn)
    }

    /// Endpoints that are not to be chosen where others are left: those of former tries, and those
    /// that have no connection to give.
    pub(crate) fn avoided<'t>(
        &self,
        backend: &Backend,
        tried: &'t [Arc<Endpoint>],
    ) -> Cow<'t, [Arc<Endpoint>]> {
        if self.is_narrowed() {
            let endpoints = backend.known_endpoints();
            let spares = |one: &&Arc<Endpoint>| self.among.iter().any(|it| Arc::ptr_eq(it, one));
            let others = endpoints.iter().filter(|one| !spares(one));
            return others.chain(tried).cloned().collect();
        }
        if let Some(chosen) = &self.room_for {
            let endpoints = backend.known_endpoints();
            let others = endpoints.iter().filter(|one| !Arc::ptr_eq(one, chosen));
            return others.chain(tried).cloned().collect();
        }
        if self.full.is_empty() {
            return tried.into();
        }
        tried.iter().chain(&self.full).cloned().collect()
    }

    /// Whether connections of other workers are to be used as well.
    pub(crate) fn is_narrowed(&self) -> bool {
        !self.among.is_empty()
    }

    /// There was no connection at `endpoint`: where to look next. `tried` are not asked again.
    pub(crate) fn refused(
        &mut self,
        full: Full,
        backend: &Backend,
        endpoint: &Arc<Endpoint>,
        tried: &[Arc<Endpoint>],
        seeks: impl Fn(&Endpoint) -> bool,
        version: Version,
    ) -> Result<(), Failure> {
        let narrowed = !std::mem::take(&mut self.among).is_empty();
        self.room_for = None;
        if full == Full::Pool {
            if self.full.iter().any(|one| Arc::ptr_eq(one, endpoint)) {
                return Err(overflow("the pools of all endpoints are full"));
            }
            self.full.push(Arc::clone(endpoint));
            self.looks_on = true;
            return Ok(());
        }
        if !narrowed {
            let anywhere = version == Version::Http2 || self.waiting.turn.is_some();
            let fits = |one: &&Arc<Endpoint>| {
                let another = !tried.iter().any(|tried| Arc::ptr_eq(one, tried));
                (Arc::ptr_eq(one, endpoint) || (anywhere && another)) && seeks(one)
            };
            let endpoints = backend.known_endpoints();
            self.among = endpoints.iter().filter(fits).cloned().collect();
            self.looks_on = !self.among.is_empty();
            if self.looks_on {
                return Ok(());
            }
        }
        if self.waiting.turn.is_some() {
            self.waiting.make_room(backend)?;
        } else {
            self.waiting.line_up(backend)?;
        }
        self.room_for = self.waiting.evicted.then(|| Arc::clone(endpoint));
        Ok(())
    }
}

/// Standing in line for a connection.
#[derive(Default)]
struct Waiting {
    turn: Option<Arc<Turn>>,
    /// An idle connection was closed for this one: its room is about to come free.
    evicted: bool,
}

impl Waiting {
    /// At the cap: an idle connection will make room at once, or there is room in line.
    fn line_up(&mut self, backend: &Backend) -> Result<(), Failure> {
        let limits = backend.group.limits();
        let is_first = !limits.has_line(Limit::Connections);
        let evicts = is_first && backend.close_idle();
        self.turn = Some(Arc::new(line_up(limits, Limit::Connections, !evicts)?));
        self.evicted = evicts;
        Ok(())
    }

    /// Behind those who stand there already.
    fn stand_behind(&mut self, backend: &Backend) -> Result<(), Failure> {
        let limits = backend.group.limits();
        self.turn = Some(Arc::new(line_up(limits, Limit::Connections, true)?));
        Ok(())
    }

    /// First in line, and nothing is free: closes an idle connection, or waits like all others.
    fn make_room(&mut self, backend: &Backend) -> Result<(), Failure> {
        let Some(turn) = &self.turn else {
            return Ok(());
        };
        turn.looked_in_vain();
        self.evicted = self.evicted || backend.close_idle();
        if self.evicted {
            return Ok(());
        }
        turn.count_in().map_err(|_| full_line())
    }

    async fn its_turn(&mut self, backend: &Backend) -> Result<(), Failure> {
        match &self.turn {
            Some(turn) => its_turn(backend, turn).await,
            None => Ok(()),
        }
    }
}

/// Waits until this one is the first and may look.
async fn its_turn(backend: &Backend, turn: &Turn) -> Result<(), Failure> {
    loop {
        turn.called().await;
        check_breaker(backend)?;
        if turn.is_first() {
            return Ok(());
        }
    }
}

/// Nobody waits for a backend that would refuse the request anyway.
fn check_breaker(backend: &Backend) -> Result<(), Failure> {
    if backend.group.is_refusing(Instant::now().into_std()) {
        return Err(Failure::never(
            Outcome::CircuitOpen,
            "the backend's breaker is open",
        ));
    }
    Ok(())
}

fn line_up(limits: &Arc<Limits>, limit: Limit, counted: bool) -> Result<Turn, Failure> {
    limits.line_up(limit, counted).map_err(|_| full_line())
}

fn full_line() -> Failure {
    overflow("as many requests wait for the backend as may")
}

fn overflow(detail: &'static str) -> Failure {
    Failure::never(Outcome::Overflow, detail)
}

impl Room for Limits {
    fn take(self: Arc<Self>) -> Option<Token> {
        let place = Limits::take(&self, Limit::Connections)?;
        Some(Box::new(place))
    }

    fn eased(&self) {
        Limits::eased(self);
    }
}

impl Queued for Turn {
    fn served(&self) {
        self.leave();
    }
}
