//! `weft tap`: exchanges as they end, for people who look.
//!
//! A session is opened by its first poll and lives as long as it is polled. It says which exchanges it is
//! about; of those it holds a bounded number of records until the next poll, at a bounded rate, and counts
//! what it dropped. Requests never wait for it. Without a session an exchange costs one relaxed load.
//!
//! Nothing secret leaves the process: see [`redact`](super::redact).

mod filter;
mod session;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
mod text;

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

pub use filter::Filter;
pub use session::{
    DEFAULT_RATE, LIFETIME, MAX_RATE, MAX_RECORDS, MAX_WEIGHT, Session, Settings, WHOLE,
};

use super::record::{Asked, Interest, Place};

/// Sessions of one sidecar.
pub const MAX_SESSIONS: usize = 8;
/// Longest name of a session, in bytes.
pub const MAX_ID: usize = 64;

/// What somebody asks of a sidecar, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// The session's name, which whoever opens it makes up.
    pub session: String,
    /// Which poll of the session this is, counted from 1. The same number gets the same again.
    pub number: u64,
    /// The session ends with this poll.
    pub is_last: bool,
    /// What is wanted; where the session is open already, what was said first counts.
    pub settings: Settings,
}

/// Why a poll is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TapError {
    /// There are as many sessions as there may be.
    #[error(
        "{MAX_SESSIONS} taps look at this sidecar already; one ends {} s after who looked is gone",
        LIFETIME.as_secs()
    )]
    Full,
    /// A session without name, or with too long a one.
    #[error("the session's name is to have 1 to {MAX_ID} bytes")]
    BadName,
}

/// The open sessions.
#[derive(Debug)]
pub struct Tap {
    interest: Arc<Interest>,
    sessions: ArcSwap<Vec<Arc<Session>>>,
    /// Held by who opens or ends a session; whether somebody sweeps.
    changing: Mutex<bool>,
}

impl Tap {
    pub(super) fn new(interest: Arc<Interest>) -> Self {
        Self {
            interest,
            sessions: ArcSwap::default(),
            changing: Mutex::new(false),
        }
    }

    /// Opens a session, or goes on with it: what was recorded since, as JSON.
    pub fn poll(&self, poll: Poll) -> Result<String, TapError> {
        if poll.session.is_empty() || poll.session.len() > MAX_ID {
            return Err(TapError::BadName);
        }
        let now = Instant::now();
        let session = self.session(&poll.session, poll.settings, now)?;
        let said = session.poll(poll.number, now);
        if poll.is_last {
            let _changing = self.changing.lock();
            self.keep(|one| *one.id != *poll.session);
        }
        Ok(said)
    }

    /// Whether the caller is to [`Self::sweep`] from now on, until there is nothing left: there are
    /// sessions, and nobody does it yet.
    pub fn needs_sweeper(&self) -> bool {
        let mut is_swept = self.changing.lock();
        !self.sessions.load().is_empty() && !std::mem::replace(&mut *is_swept, true)
    }

    /// Ends the sessions that nobody polls any more; whether there are others, and so this is to be done
    /// again.
    pub fn sweep(&self) -> bool {
        let now = Instant::now();
        let mut is_swept = self.changing.lock();
        *is_swept = self.keep(|session| !session.is_over(now));
        *is_swept
    }

    /// Who wants this exchange, as far as its begin tells.
    pub(super) fn wish(&self, asked: Asked<'_>, place: Place<'_>) -> SmallVec<[Arc<Session>; 1]> {
        let now = Instant::now();
        let draw = || fastrand::u32(..WHOLE);
        let sessions = self.sessions.load();
        let wanting = sessions
            .iter()
            .filter(|it| it.wants(asked, place, now, draw));
        wanting.cloned().collect()
    }

    fn session(
        &self,
        id: &str,
        settings: Settings,
        now: Instant,
    ) -> Result<Arc<Session>, TapError> {
        let _changing = self.changing.lock();
        let sessions = self.sessions.load();
        let is_going_on = |it: &&Arc<Session>| *it.id == *id && !it.is_over(now);
        if let Some(session) = sessions.iter().find(is_going_on) {
            return Ok(Arc::clone(session));
        }
        let mut all: Vec<_> = sessions
            .iter()
            .filter(|it| !it.is_over(now))
            .cloned()
            .collect();
        if all.len() >= MAX_SESSIONS {
            return Err(TapError::Full);
        }
        let session = Arc::new(Session::new(id, settings, now));
        all.push(Arc::clone(&session));
        self.sessions.store(Arc::new(all));
        self.interest.set(Interest::TAP, true);
        Ok(session)
    }

    /// Ends the others; whether there are any left. Of whoever holds `changing`.
    fn keep(&self, is_kept: impl Fn(&Session) -> bool) -> bool {
        let sessions = self.sessions.load();
        let kept: Vec<_> = sessions.iter().filter(|it| is_kept(it)).cloned().collect();
        let any = !kept.is_empty();
        self.interest.set(Interest::TAP, any);
        self.sessions.store(Arc::new(kept));
        any
    }
}
