//! The end of connections that nobody uses.
//!
//! As application servers do it: a connection that has carried a request and then rests for
//! [`KeepAlive::limit`] is closed, HTTP/1 without a word (node, gunicorn, Tomcat), HTTP/2 by GOAWAY.
//! An HTTP/1 request that comes just then is destroyed unread, and its sender gets a reset: the
//! server had decided and looked no more. [`KeepAlive::blind`] makes that moment as long as a busy
//! event loop's. [`Stats`](super::Stats) count what was closed, over how many requests, and how old
//! connections were when they were used again.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// When connections that rest are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// How long a connection rests before it is closed.
    pub limit: Duration,
    /// Answers over HTTP/1 say so: `Keep-Alive: timeout=`, in whole seconds.
    pub announced: bool,
    /// From the decision to close an HTTP/1 connection to the close.
    pub blind: Duration,
}

impl KeepAlive {
    /// Closes connections that rest for `limit`, without a word about it before.
    pub fn silent(limit: Duration) -> Self {
        Self {
            limit,
            announced: false,
            blind: Duration::ZERO,
        }
    }

    /// The same, announced in every answer.
    pub fn announced(limit: Duration) -> Self {
        Self {
            announced: true,
            ..Self::silent(limit)
        }
    }

    /// Looks no more for so long before it closes.
    pub fn blind(mut self, blind: Duration) -> Self {
        self.blind = blind;
        self
    }
}

/// The exchanges of one connection.
#[derive(Debug, Default)]
pub(super) struct Life {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    in_flight: usize,
    is_http2: bool,
    /// When the last exchange ended; none before the first.
    rest: Option<Instant>,
}

/// An exchange in flight, until dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Life>);

impl Life {
    /// A request has come; and how long the connection had been at rest, where it had been used.
    pub(super) fn begin(self: &Arc<Self>, is_http2: bool) -> (Busy, Option<Duration>) {
        let mut state = self.state.lock();
        state.in_flight += 1;
        state.is_http2 = is_http2;
        let rested = match state.in_flight {
            1 => state.rest.map(|rest| rest.elapsed()),
            _ => None,
        };
        drop(state);
        self.changed.notify_one();
        (Busy(Arc::clone(self)), rested)
    }

    /// Waits until the connection has rested for `limit`; whether it is one of HTTP/2.
    pub(super) async fn rested(&self, limit: Duration) -> bool {
        loop {
            let (rest, is_http2) = {
                let state = self.state.lock();
                let rest = state.rest.filter(|_| state.in_flight == 0);
                (rest, state.is_http2)
            };
            let changed = self.changed.notified();
            let Some(rest) = rest else {
                changed.await;
                continue;
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(rest + limit) => {
                    // A request may have been taken since, in the same turn: it is answered.
                    let state = self.state.lock();
                    if state.in_flight == 0 && state.rest == Some(rest) {
                        return is_http2;
                    }
                }
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.in_flight -= 1;
        state.rest = Some(Instant::now());
        drop(state);
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_used_connection_rests() {
        let life = Arc::new(Life::default());
        let limit = Duration::from_secs(1);
        let long = Duration::from_secs(60);
        assert!(
            tokio::time::timeout(long, life.rested(limit))
                .await
                .is_err()
        );

        let (first, rested) = life.begin(true);
        assert_eq!(rested, None);
        assert!(
            tokio::time::timeout(long, life.rested(limit))
                .await
                .is_err()
        );
        drop(first);
        tokio::time::advance(Duration::from_millis(900)).await;
        let (second, rested) = life.begin(true);
        assert_eq!(rested, Some(Duration::from_millis(900)));
        let (third, rested) = life.begin(true);
        assert_eq!(rested, None);
        drop((second, third));

        let begin = Instant::now();
        assert!(life.rested(limit).await);
        let waited = begin.elapsed();
        assert!(
            (limit..limit + Duration::from_millis(5)).contains(&waited),
            "{waited:?}"
        );
    }
}
