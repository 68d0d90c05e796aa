//! What a peer's HTTP/2 frames may cost, beside what they carry.
//!
//! Most frames of HTTP/2 are answered or looked at for next to nothing; sent for their own sake they
//! are a flood (RFC 9113, 10.5). The library bounds what a peer can make it keep, but not how often
//! it can make it work. A [`Guard`] follows the framing of what is read (9 bytes of each frame; the
//! payload is skipped) and ends the connection of a peer that sends more than its traffic explains.
//!
//! Invariants:
//! * **What an ordinary peer has a reason to send is never a flood.** Requests, bytes that we send and
//!   DATA that carries some earn room: a peer may acknowledge each of our frames on its own
//!   (WINDOW_UPDATE) and measure the path with each (PING); it may give up half of its requests. Only
//!   what goes beyond counts against an allowance that time refills. Of a server each request of ours
//!   explains a few frames, so that it may refuse all of them; its answers' heads explain nothing.
//! * Any split of the same bytes into reads has the same verdict.
//! * A guard keeps 10 bytes of the peer's and a few numbers. The clock is asked only when an
//!   allowance is used up.
//!
//! It fails with a [`Flood`] that names what there was too much of, once; the connection is cut then.
//! A frame that is none is the library's to refuse.
//!
//! [`server`](super::server) guards the connections of clients and [`client`](super::client) those to
//! servers, both by a [`Watch`].

use std::io;
use std::time::Duration;

use metrics::Counter;
use tokio::time::Instant;

use super::body::h2_error;

/// What begins a client's side of a connection (RFC 9113, 3.4).
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
/// Allowances hold what comes in this time.
const BURST: Duration = Duration::from_secs(4);
/// Our bytes that explain one frame of the peer's: the smallest DATA frame may be answered with two
/// WINDOW_UPDATEs.
const BYTES_PER_FRAME: usize = 5;
/// Frames that are explained in advance, at most: so many small frames of ours may wait to be
/// acknowledged in one go.
const MAX_EARNED: u32 = 65_536;
/// Resets that are explained in advance, at most, times [`RESET_COST`].
const MAX_EARNED_RESETS: u32 = 1_000;
/// Frames of a server's that a request of ours explains: an answer's heads, interim ones among them,
/// its trailers, the windows of its stream, and the reset at its end.
const FRAMES_PER_REQUEST: u32 = 8;
/// A reset is worth so many requests: half of them may be given up.
const RESET_COST: u32 = 2;
/// Settings are applied to each stream.
const SETTINGS_COST: u32 = 8;
/// Microseconds of a second.
const MICROS: u128 = 1_000_000;
/// Length of the answers to PING and to SETTINGS, which explain nothing.
const PONG: usize = FRAME_HEADER + 8;
const SETTINGS_ACK: usize = FRAME_HEADER;

/// How much of one HTTP/2 peer is borne beyond what its traffic explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodLimits {
    /// Control frames and empty DATA per second; four seconds' worth at once.
    pub frames: u32,
    /// Streams reset per second; four seconds' worth at once.
    pub resets: u32,
}

/// What is borne of the peers of some connections, and where it is counted that one went beyond.
#[derive(Clone)]
pub struct FloodBounds {
    /// What is borne.
    pub limits: FloodLimits,
    /// Counts connections that were cut.
    pub hits: Counter,
}

/// A [`Guard`] over one connection that counts what it finds.
pub(super) struct Watch {
    guard: Guard,
    hits: Counter,
}

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flood {
    #[error("a flood of HTTP/2 control frames or empty DATA")]
    Frames,
    #[error("a flood of HTTP/2 stream resets")]
    Resets,
}

/// Follows one direction of one connection.
#[derive(Debug)]
pub(super) struct Guard {
    /// Bytes that are looked at no closer: the rest of the preface or of a payload.
    skip: usize,
    side: Side,
    /// Requests of ours that were heard of; of a server only.
    requests: u64,
    /// The frame header so far, and the length of padding behind that of DATA.
    header: [u8; FRAME_HEADER + 1],
    filled: usize,
    frames: Pot,
    resets: Pot,
    /// Bytes of ours that will answer control frames.
    owed: usize,
    /// Bytes of ours that have explained nothing yet.
    spare: usize,
    /// Heads that have begun.
    heads: u64,
    head: Head,
}

/// Where in a head what was read ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    /// In none.
    Over,
    /// In the last frame of one.
    Last,
    /// Further frames follow.
    Open,
}

/// Who the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Its HEADERS are requests, which explain much; it may give up half of them.
    Client,
    /// Its HEADERS are answers. They, and resets, are explained by what it was asked.
    Server,
}

impl Default for FloodLimits {
    fn default() -> Self {
        Self {
            frames: 250,
            resets: 250,
        }
    }
}

impl FloodLimits {
    /// For a verified sidecar, which passes on what many clients give up.
    #[must_use]
    pub fn of_sidecars(self) -> Self {
        Self {
            resets: self.resets.saturating_mul(20),
            ..self
        }
    }
}

impl Default for FloodBounds {
    /// The default limits; nothing is counted.
    fn default() -> Self {
        Self {
            limits: FloodLimits::default(),
            hits: Counter::noop(),
        }
    }
}

impl std::fmt::Debug for FloodBounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("FloodBounds");
        debug.field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl FloodBounds {
    /// Counts a flood that the library ended: streams reset before they were taken, heads in endless
    /// pieces, the smallest DATA.
    pub(super) fn count_end(&self, error: &hyper::Error) {
        let calmed = h2_error(error).is_some_and(|error| {
            error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
        });
        if calmed {
            self.hits.increment(1);
            tracing::warn!("a flood of HTTP/2 frames, connection ended");
        }
    }
}

impl Watch {
    /// Over what a client sends, from the first byte on.
    pub(super) fn over_client(bounds: &FloodBounds, is_sidecar: bool) -> Self {
        let limits = if is_sidecar {
            bounds.limits.of_sidecars()
        } else {
            bounds.limits
        };
        Self::new(Guard::of_client(limits), bounds)
    }

    /// Over what a server sends, from the first byte on.
    pub(super) fn over_server(bounds: &FloodBounds) -> Self {
        Self::new(Guard::of_server(bounds.limits), bounds)
    }

    fn new(guard: Guard, bounds: &FloodBounds) -> Self {
        Self {
            guard,
            hits: bounds.hits.clone(),
        }
    }

    /// Looks at what was read. Fails where the peer floods the connection, which is to be cut then.
    pub(super) fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.guard.read(bytes, Instant::now).map_err(|flood| {
            self.hits.increment(1);
            tracing::warn!(%flood, "connection cut");
            io::Error::new(io::ErrorKind::ConnectionAborted, flood)
        })
    }

    /// So many bytes were written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.guard.wrote(bytes);
    }

    /// Which head, of those that have begun, is not whole yet; see [`Guard::unfinished_head`].
    pub(super) fn unfinished_head(&self) -> Option<u64> {
        self.guard.unfinished_head()
    }

    /// Whether what was read ends with a whole frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.guard.next_frame(&[]) == Some(0)
    }

    /// Where in `bytes`, which are about to be read, or how far behind them, the first frame begins that
    /// has not yet; none where that is not known by them.
    pub(super) fn next_frame(&self, bytes: &[u8]) -> Option<usize> {
        self.guard.next_frame(bytes)
    }

    /// A server has been sent so many requests so far.
    pub(super) fn requested(&mut self, requests: u64) {
        self.guard.requested(requests);
    }
}

impl Guard {
    /// Follows what a client sends from the first byte on.
    pub(super) fn of_client(limits: FloodLimits) -> Self {
        Self {
            skip: PREFACE,
            ..Self::new(Side::Client, limits)
        }
    }

    /// Follows what a server sends from the first byte on.
    pub(super) fn of_server(limits: FloodLimits) -> Self {
        Self::new(Side::Server, limits)
    }

    fn new(side: Side, limits: FloodLimits) -> Self {
        Self {
            skip: 0,
            side,
            requests: 0,
            header: [0; FRAME_HEADER + 1],
            filled: 0,
            frames: Pot::new(limits.frames, MAX_EARNED),
            resets: Pot::new(limits.resets.saturating_mul(RESET_COST), MAX_EARNED_RESETS),
            owed: 0,
            spare: 0,
            heads: 0,
            head: Head::Over,
        }
    }

    /// Looks at what was read.
    pub(super) fn read(
        &mut self,
        mut bytes: &[u8],
        now: impl Fn() -> Instant,
    ) -> Result<(), Flood> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (self.header_length() - self.filled).min(bytes.len());
            let (head, rest) = bytes.split_at(taken);
            self.header[self.filled..self.filled + taken].copy_from_slice(head);
            self.filled += taken;
            bytes = rest;
            // The first nine bytes may say that there is a tenth.
            if self.filled == self.header_length() {
                let frame = Frame::new(self.header);
                self.skip = frame.length - (self.filled - FRAME_HEADER);
                self.filled = 0;
                self.judge(&frame, &now)?;
            }
        }
        Ok(())
    }

    /// The number of the head that has begun and is not whole; none where there is none.
    pub(super) fn unfinished_head(&self) -> Option<u64> {
        let unfinished = match self.head {
            Head::Over => false,
            Head::Last => self.skip > 0,
            Head::Open => true,
        };
        unfinished.then_some(self.heads)
    }

    /// So many bytes were written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        let answers = self.owed.min(bytes);
        self.owed -= answers;
        let spare = self.spare + bytes - answers;
        self.spare = spare % BYTES_PER_FRAME;
        self.frames
            .earn(u32::try_from(spare / BYTES_PER_FRAME).unwrap_or(u32::MAX));
    }

    /// A server has been sent so many requests so far.
    pub(super) fn requested(&mut self, requests: u64) {
        let more = requests.saturating_sub(self.requests);
        if more > 0 {
            self.requests = requests;
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            self.frames.earn(more.saturating_mul(FRAMES_PER_REQUEST));
        }
    }

    fn next_frame(&self, bytes: &[u8]) -> Option<usize> {
        if self.filled == 0 {
            return Some(self.skip);
        }
        let begun = self.header[..self.filled].iter();
        let mut header = begun.chain(bytes).copied();
        let [a, b, c] = [header.next()?, header.next()?, header.next()?];
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        Some(FRAME_HEADER - self.filled + length)
    }

    fn header_length(&self) -> usize {
        if self.filled < FRAME_HEADER {
            return FRAME_HEADER;
        }
        FRAME_HEADER + usize::from(Frame::new(self.header).tells_padding())
    }

    fn judge(&mut self, frame: &Frame, now: &impl Fn() -> Instant) -> Result<(), Flood> {
        self.head = match frame.kind {
            Frame::HEADERS | Frame::CONTINUATION if frame.has(Frame::END_HEADERS) => Head::Last,
            Frame::HEADERS | Frame::CONTINUATION => Head::Open,
            _ => Head::Over,
        };
        let cost = match frame.kind {
            Frame::DATA if frame.data() > 0 => {
                self.frames.earn(1);
                return Ok(());
            }
            Frame::DATA if frame.has(Frame::END_STREAM) => return Ok(()),
            Frame::HEADERS if self.side == Side::Client => {
                self.heads += 1;
                self.frames.earn(1);
                self.resets.earn(1);
                return Ok(());
            }
            Frame::RST_STREAM if self.side == Side::Client => {
                let borne = self.resets.spend(RESET_COST, now);
                return borne.then_some(()).ok_or(Flood::Resets);
            }
            Frame::SETTINGS if !frame.has(Frame::ACK) => {
                self.owed += SETTINGS_ACK;
                SETTINGS_COST
            }
            Frame::PING if !frame.has(Frame::ACK) => {
                self.owed += PONG;
                1
            }
            _ => 1,
        };
        let borne = self.frames.spend(cost, now);
        borne.then_some(()).ok_or(Flood::Frames)
    }
}

/// What a frame's header says, and the first byte behind it.
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    padding: usize,
}

impl Frame {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    const ACK: u8 = 1;
    const PADDED: u8 = 8;

    fn new(bytes: [u8; FRAME_HEADER + 1]) -> Self {
        let [a, b, c, kind, flags, .., padding] = bytes;
        Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            padding: padding.into(),
        }
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn tells_padding(&self) -> bool {
        self.kind == Self::DATA && self.has(Self::PADDED) && self.length > 0
    }

    /// Bytes of DATA without their padding.
    fn data(&self) -> usize {
        if self.tells_padding() {
            self.length.saturating_sub(1 + self.padding)
        } else {
            self.length
        }
    }
}

/// What was earned, and beside it what time allows.
#[derive(Debug)]
struct Pot {
    earned: u32,
    most_earned: u32,
    allowed: u64,
    rate: u32,
    /// When the allowance was counted last; none before it was first needed in full.
    counted: Option<Instant>,
}

impl Pot {
    fn new(rate: u32, most_earned: u32) -> Self {
        Self {
            earned: 0,
            most_earned,
            allowed: Self::most_allowed(rate),
            rate,
            counted: None,
        }
    }

    fn most_allowed(rate: u32) -> u64 {
        u64::from(rate) * BURST.as_secs()
    }

    fn earn(&mut self, more: u32) {
        self.earned = self.earned.saturating_add(more).min(self.most_earned);
    }

    fn spend(&mut self, cost: u32, now: &impl Fn() -> Instant) -> bool {
        let explained = self.earned.min(cost);
        self.earned -= explained;
        let cost = u64::from(cost - explained);
        // The clock starts with the first that is not explained: a connection that never sends such
        // never asks for the time.
        if cost > 0 && self.counted.is_none() {
            self.counted = Some(now());
        }
        if cost > self.allowed {
            self.refill(now());
        }
        let borne = cost <= self.allowed;
        self.allowed = self.allowed.saturating_sub(cost);
        borne
    }

    fn refill(&mut self, now: Instant) {
        let Some(counted) = self.counted else {
            return;
        };
        let rate = u128::from(self.rate);
        let passed = now.saturating_duration_since(counted);
        let more = passed.as_micros() * rate / MICROS;
        // The rest of the time counts the next time: asking often loses nothing.
        let used = u64::try_from(more * MICROS / rate.max(1)).unwrap_or(u64::MAX);
        self.counted = counted
            .checked_add(Duration::from_micros(used))
            .or(Some(now));
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        let most = Self::most_allowed(self.rate);
        self.allowed = self.allowed.saturating_add(more).min(most);
    }
}

#[cfg(test)]
mod tests;
