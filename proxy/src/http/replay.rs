//! Request bodies that can be sent once more.
//!
//! While the first try streams, what it reads is kept, up to a bound. Past the bound the buffer is
//! dropped and the try goes on: it is only that no other can follow. A further try sends what was
//! kept and then reads on from the same source, so it may begin while the client still sends.
//!
//! A copy of the whole body can be waited for ([`ReplayHandle::copied`]), by somebody who is no try and
//! in nobody's way.
//!
//! One try reads at a time: [`ReplayHandle::another`] takes the source away from the try before,
//! whose body then fails. Empty bodies are never teed, and neither are those announced as longer
//! than the bound. What all bodies of a process keep has a bound of its own ([`KeptBytes`]): a body that
//! finds no room there is one past its bound. Kept are at most `limit` bytes and the trailers: small frames are copied
//! together, so that no frame pins a read buffer many times its size.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::body::{BodyError, RequestBody};
use crate::bounds::{KeptBytes, KeptPlace};

/// Frames below this are copied together rather than kept as they are.
const SMALL_FRAME: usize = 1_024;
/// A copy area grows by this.
const COPY_STEP: usize = 4_096;

/// What there is to say about a body's replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayState {
    /// All of it is here.
    Replayable,
    /// Longer than the bound.
    TooBig,
    /// The client still sends; all it has sent so far is here.
    InProgress {
        /// Bytes kept.
        buffered: usize,
    },
    /// The client broke off: there will never be a whole body.
    Broken,
}

/// Makes the body of a first try, and the handle that makes those of further ones. At most `limit` bytes
/// are kept, and no more than `kept` has room for.
pub fn replayable(
    incoming: Incoming,
    limit: usize,
    kept: &Arc<KeptBytes>,
) -> (RequestBody, ReplayHandle) {
    if incoming.is_end_stream() {
        return (RequestBody::Empty, ReplayHandle(Kept::Whole(None)));
    }
    if incoming.size_hint().lower() > limit as u64 {
        return (RequestBody::Incoming(incoming), ReplayHandle(Kept::TooBig));
    }
    let (body, tee) = ReplayBody::new(incoming, limit, kept);
    (RequestBody::Replay(body), ReplayHandle(Kept::Tee(tee)))
}

/// Makes further bodies of one request.
#[derive(Debug)]
pub struct ReplayHandle(Kept);

/// What became of a wish for a copy of a body.
#[derive(Debug)]
pub enum Copied {
    /// It is whole: to be sent as this.
    Whole(WholeBody),
    /// It is longer than the bound.
    TooBig,
    /// Nobody read it to its end, or it never came to one.
    Broken,
}

/// A body that is all here.
#[derive(Debug, Default)]
pub struct WholeBody {
    pieces: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// What the pieces take; shared with the tries.
    _place: Option<Arc<KeptPlace>>,
}

#[derive(Debug)]
enum Kept {
    Whole(Option<Bytes>),
    TooBig,
    Tee(Arc<Mutex<Tee<Incoming>>>),
}

impl ReplayHandle {
    /// For a body that is in memory anyway.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(Kept::Whole((!bytes.is_empty()).then_some(bytes)))
    }

    /// Whether another try can be made now.
    pub fn state(&self) -> ReplayState {
        match &self.0 {
            Kept::Whole(_) => ReplayState::Replayable,
            Kept::TooBig => ReplayState::TooBig,
            Kept::Tee(tee) => tee.lock().state(),
        }
    }

    /// The body of another try; none where the body is too big or broken. It takes the source away
    /// from the try before.
    pub fn another(&self) -> Option<RequestBody> {
        match &self.0 {
            Kept::Whole(None) => Some(RequestBody::Empty),
            Kept::Whole(Some(bytes)) => Some(RequestBody::Full(Some(bytes.clone()))),
            Kept::TooBig => None,
            Kept::Tee(tee) => ReplayBody::another(tee).map(RequestBody::Replay),
        }
    }

    /// A copy of the body, as soon as it is known to be whole. To be asked for before the first try
    /// reads, and once.
    pub fn copied(&self) -> impl Future<Output = Copied> + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        match &self.0 {
            Kept::Whole(bytes) => {
                let pieces = bytes.iter().cloned().collect();
                let whole = WholeBody {
                    pieces,
                    trailers: None,
                    _place: None,
                };
                // Who asks is there to hear it.
                let _ = sender.send(Copied::Whole(whole));
            }
            Kept::TooBig => {
                let _ = sender.send(Copied::TooBig);
            }
            Kept::Tee(tee) => tee.lock().copy_to = Some(sender),
        }
        async move { receiver.await.unwrap_or(Copied::Broken) }
    }
}

impl Body for WholeBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let piece = this.pieces.pop_front().map(Frame::data);
        let frame = piece.or_else(|| this.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let size = self.pieces.iter().map(|piece| piece.len() as u64).sum();
        // An exact size would make HTTP/1 announce a length, and after that no trailers can follow.
        if self.trailers.is_some() {
            let mut hint = SizeHint::new();
            hint.set_lower(size);
            return hint;
        }
        SizeHint::with_exact(size)
    }
}

/// One try's body.
#[derive(Debug)]
pub struct ReplayBody<B = Incoming> {
    tee: Arc<Mutex<Tee<B>>>,
    /// Which try this is.
    turn: u64,
    /// Kept pieces yet to be sent, before the source is read: `next..until`.
    next: usize,
    until: usize,
    trailers_sent: bool,
}

/// The source and what was read from it.
#[derive(Debug)]
struct Tee<B> {
    source: B,
    limit: usize,
    turn: u64,
    pieces: Vec<Bytes>,
    /// Small frames since the last piece.
    small: BytesMut,
    buffered: usize,
    place: Arc<KeptPlace>,
    trailers: Option<HeaderMap>,
    too_big: bool,
    ended: bool,
    /// The source was over without having said that it ends.
    cut: bool,
    broken: bool,
    /// Somebody waits for a copy.
    copy_to: Option<oneshot::Sender<Copied>>,
}

impl<B> ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    BodyError: From<B::Error>,
{
    fn new(source: B, limit: usize, kept: &Arc<KeptBytes>) -> (Self, Arc<Mutex<Tee<B>>>) {
        let tee = Arc::new(Mutex::new(Tee {
            source,
            limit,
            turn: 0,
            pieces: Vec::new(),
            small: BytesMut::new(),
            buffered: 0,
            place: Arc::new(kept.place()),
            trailers: None,
            too_big: false,
            ended: false,
            cut: false,
            broken: false,
            copy_to: None,
        }));
        let body = Self {
            tee: Arc::clone(&tee),
            turn: 0,
            next: 0,
            until: 0,
            trailers_sent: false,
        };
        (body, tee)
    }

    /// Of a body that is over: whether its source never said that it ends. Of HTTP/2 alone that means
    /// something.
    pub(super) fn is_cut(&self) -> bool {
        self.tee.lock().cut
    }

    fn another(tee: &Arc<Mutex<Tee<B>>>) -> Option<Self> {
        let mut locked = tee.lock();
        if locked.too_big || locked.broken {
            return None;
        }
        locked.seal();
        locked.turn += 1;
        Some(Self {
            tee: Arc::clone(tee),
            turn: locked.turn,
            next: 0,
            until: locked.pieces.len(),
            trailers_sent: false,
        })
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    BodyError: From<B::Error>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut tee = this.tee.lock();
        if tee.turn != this.turn {
            return Poll::Ready(Some(Err(BodyError::superseded())));
        }
        if this.next < this.until {
            let piece = tee.pieces[this.next].clone();
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if tee.ended {
            if this.trailers_sent {
                return Poll::Ready(None);
            }
            this.trailers_sent = true;
            let trailers = tee.trailers.clone();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = tee.poll_source(cx);
        // Trailers that came from the source just now are sent.
        this.trailers_sent |= tee.trailers.is_some();
        polled
    }

    fn is_end_stream(&self) -> bool {
        let tee = self.tee.lock();
        if tee.turn != self.turn || self.next < self.until {
            return false;
        }
        let trailers_due = tee.trailers.is_some() && !self.trailers_sent;
        !trailers_due && (tee.ended || tee.source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let tee = self.tee.lock();
        if tee.turn != self.turn {
            return SizeHint::default();
        }
        let kept: u64 = tee.pieces.get(self.next..self.until).map_or(0, |pieces| {
            pieces.iter().map(|piece| piece.len() as u64).sum()
        });
        let rest = if tee.ended {
            SizeHint::with_exact(0)
        } else {
            tee.source.size_hint()
        };
        let mut hint = SizeHint::new();
        // An exact size would make HTTP/1 announce a length, and after that no trailers can follow.
        let trailers_due = tee.trailers.is_some() && !self.trailers_sent;
        if let Some(upper) = rest.upper().filter(|_| !trailers_due) {
            hint.set_upper(kept.saturating_add(upper));
        }
        hint.set_lower(kept.saturating_add(rest.lower()));
        hint
    }
}

impl<B> Tee<B>
where
    B: Body<Data = Bytes> + Unpin,
    BodyError: From<B::Error>,
{
    fn state(&self) -> ReplayState {
        if self.broken {
            return ReplayState::Broken;
        }
        if self.too_big {
            return ReplayState::TooBig;
        }
        if self.ended || self.source.is_end_stream() {
            return ReplayState::Replayable;
        }
        ReplayState::InProgress {
            buffered: self.buffered,
        }
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = std::task::ready!(Pin::new(&mut self.source).poll_frame(cx));
        Poll::Ready(match polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                    self.ended = true;
                }
                if self.copy_to.is_some() {
                    self.copy();
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.broken = true;
                self.forget();
                Some(Err(error.into()))
            }
            None => {
                self.ended = true;
                self.cut = !self.source.is_end_stream();
                if self.copy_to.is_some() {
                    self.copy();
                }
                None
            }
        })
    }

    fn keep(&mut self, data: &Bytes) {
        if self.too_big || data.is_empty() {
            return;
        }
        self.buffered += data.len();
        if self.buffered > self.limit || !self.place.take(data.len()) {
            self.too_big = true;
            self.forget();
            return;
        }
        if data.len() < SMALL_FRAME {
            if self.small.capacity() - self.small.len() < data.len() {
                self.small.reserve(COPY_STEP.min(self.limit));
            }
            self.small.extend_from_slice(data);
            return;
        }
        self.seal();
        self.pieces.push(data.clone());
    }

    /// Gives the copy to who waits for it, where there is one to give.
    fn copy(&mut self) {
        let copied = match self.state() {
            ReplayState::InProgress { .. } => return,
            ReplayState::Replayable => {
                self.seal();
                Copied::Whole(WholeBody {
                    pieces: self.pieces.iter().cloned().collect(),
                    trailers: self.trailers.clone(),
                    _place: Some(Arc::clone(&self.place)),
                })
            }
            ReplayState::TooBig => Copied::TooBig,
            ReplayState::Broken => Copied::Broken,
        };
        if let Some(waits) = self.copy_to.take() {
            // Whoever waited may have gone.
            let _ = waits.send(copied);
        }
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(self.small.split().freeze());
        }
    }

    /// Gives up what is kept; a copy that was made has its share for itself.
    fn forget(&mut self) {
        self.pieces = Vec::new();
        self.small = BytesMut::new();
        self.place = Arc::new(self.place.another());
    }
}

#[cfg(test)]
mod tests;
