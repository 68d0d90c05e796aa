//! The last GOAWAY of an HTTP/2 connection comes a moment after the first.
//!
//! To end gracefully the library says GOAWAY twice (RFC 9113, 6.8): at first one that leaves nothing
//! out, with a PING behind it; and when that is answered, one that leaves out whatever has not come by
//! then. Clients answer a PING before they send what they have queued, so that a burst of requests
//! which began before the client knew would be left out. Therefore the answer is held back until no
//! more requests come.
//!
//! Invariants: frames keep their order and all other bytes; the answer is given once, between two
//! frames, at most [`LONGEST`] after it came. An answer that is split over two reads is not found, and
//! takes effect at once.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::http::deadline::Alarm;

/// No more requests are expected when none has come for so long.
const QUIET: Duration = Duration::from_millis(100);
/// The longest that an answer is held.
const LONGEST: Duration = Duration::from_secs(2);

const FRAME_HEADER: usize = 9;
const ANSWER: usize = FRAME_HEADER + 8;
/// Where in a frame its type is.
const TYPE: usize = 3;
/// A type that has no meaning: such frames are ignored (RFC 9113, 4.1).
const MEANINGLESS: u8 = 0xff;
/// The answer to the library's last PING.
pub(super) const LAST_PONG: [u8; ANSWER] = [
    0, 0, 8, 6, 1, 0, 0, 0, 0, // PING, ACK
    0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54,
];

/// Holds back the answer to the PING between the GOAWAYs.
#[derive(Debug, Default)]
pub(super) enum Farewell {
    /// It has not come.
    #[default]
    Awaited,
    /// It has come and is held.
    Held(Box<Held>),
    /// So many of its bytes have been given.
    Given(usize),
}

#[derive(Debug)]
pub(super) struct Held {
    /// Not longer than this.
    until: Instant,
    /// Requests that had come when it was looked at last, and since when there were no more.
    requests: u64,
    quiet_since: Instant,
    alarm: Alarm,
}

impl Farewell {
    /// Takes the answer out of what was `read`, whose first frame begins at `next_frame`; `requests` have
    /// come.
    pub(super) fn hold(&mut self, read: &mut [u8], next_frame: Option<usize>, requests: u64) {
        if !matches!(self, Self::Awaited) {
            return;
        }
        let Some(frame) = next_frame.and_then(|at| find(read, at)) else {
            return;
        };
        frame[TYPE] = MEANINGLESS;
        let now = Instant::now();
        *self = Self::Held(Box::new(Held {
            until: now + LONGEST,
            requests,
            quiet_since: now,
            alarm: Alarm::default(),
        }));
    }

    /// Ready when bytes of the answer were put into `buf`. To be asked between two frames only, and
    /// when it is [under way](Self::is_under_way).
    pub(super) fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        requests: u64,
    ) -> Poll<()> {
        if let Self::Held(held) = self
            && held.poll_over(cx, requests).is_ready()
        {
            *self = Self::Given(0);
        }
        let Self::Given(given) = self else {
            return Poll::Pending;
        };
        let rest = &LAST_PONG[*given..];
        let fitting = rest.len().min(buf.remaining());
        if fitting == 0 {
            return Poll::Pending;
        }
        buf.put_slice(&rest[..fitting]);
        *given += fitting;
        Poll::Ready(())
    }

    /// Whether the answer has been given in part: nothing else may come before its rest.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self, Self::Given(given) if (1..ANSWER).contains(given))
    }
}

impl Held {
    fn poll_over(&mut self, cx: &mut Context<'_>, requests: u64) -> Poll<()> {
        if requests != self.requests {
            self.requests = requests;
            self.quiet_since = Instant::now();
        }
        let at = self.until.min(self.quiet_since + QUIET);
        self.alarm.poll_at(cx, at)
    }
}

/// The frame that is the answer, where it is whole.
fn find(read: &mut [u8], mut at: usize) -> Option<&mut [u8]> {
    loop {
        let frame = read.get(at..)?;
        if frame.starts_with(&LAST_PONG) {
            return Some(&mut read[at..at + ANSWER]);
        }
        let [a, b, c] = *frame.first_chunk::<3>()?;
        at += FRAME_HEADER + u32::from_be_bytes([0, a, b, c]) as usize;
    }
}
