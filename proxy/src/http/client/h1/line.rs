//! One HTTP/1 connection to an upstream, driven by whoever has an exchange on it: nothing of it runs by
//! itself, so that a request costs no task and no channel.
//!
//! The life of a connection: it is idle ([`Line::poll_idle`] tells whether its peer has left), then has an
//! exchange ([`Line::poll_exchange`] until there is a response's head, [`Line::poll_body`] until its end,
//! and beside that [`Line::poll_upload`] where the request's body has not ended by then), then it is idle
//! again, if [`Line::is_reusable`] says so. Dropped at any other moment it is closed, with a last word
//! where its TLS has one.
//!
//! Promises:
//! * Head and body leave in one write where the body is at hand and short.
//! * A request is not written to a connection whose peer is known to have left it:
//!   [`Broken::BeforeRequest`] leaves the request whole.
//! * What cannot be written does not hide an answer that was sent before: a peer may refuse a request
//!   without reading it to its end (RFC 9112, 9.3).
//! * It counts what went over it: what a proof is made of.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::super::Outgoing;
use super::decode::{self, Found, Framing, Head, Malformed, Piece};
use super::encode::{self, Out};
use super::transport::Transport;
use crate::bounds::Bounds;
use crate::http::body::{BodyError, Progress, RequestBody};
use crate::http::spare;

/// Bytes that a read has room for, at first and while nothing is in hand.
const FIRST_READ: usize = 8 * 1024;
/// The same, where reads are filled.
const MAX_READ: usize = 64 * 1024;
/// Answers that say that another follows, for one request.
const MAX_INTERIM: u32 = 1_000;

/// One connection.
pub(super) struct Line {
    io: Box<dyn Transport>,
    bounds: Arc<Bounds>,
    incoming: BytesMut,
    next_read: usize,
    out: Out,
    upload: Upload,
    /// An exchange has begun.
    is_busy: bool,
    /// It takes no request after this one.
    is_last: bool,
    interim: u32,
    /// Bytes of a head that is not whole.
    tried: usize,
    count: Count,
}

/// What went over a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) written: u64,
    pub(super) read: u64,
    /// Its peer has ended it cleanly.
    pub(super) ended: bool,
}

/// How far a request is.
#[derive(Debug)]
enum Upload {
    /// Its body is being written.
    Body(encode::Framing),
    /// All of it was handed to the transport.
    Flush,
    Done,
    /// It cannot be written any more.
    Broken(io::Error),
}

/// Why an exchange got no response, or a response not its end.
#[derive(Debug, thiserror::Error)]
pub(in crate::http::client) enum Broken {
    /// The peer had left before anything was written.
    #[error("the connection was closed")]
    BeforeRequest,
    /// The request itself failed.
    #[error("{0}")]
    Request(#[source] BodyError),
    /// What came is no response.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The peer ended the connection.
    #[error("the connection was closed before the message was complete")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Line {
    /// Over a fresh connection.
    pub(super) fn new(io: Box<dyn Transport>, bounds: Arc<Bounds>) -> Self {
        Self {
            io,
            bounds,
            incoming: BytesMut::new(),
            next_read: FIRST_READ,
            out: Out::default(),
            upload: Upload::Done,
            is_busy: false,
            is_last: false,
            interim: 0,
            tried: 0,
            count: Count::default(),
        }
    }

    /// What went over it.
    pub(super) fn count(&self) -> Count {
        self.count
    }

    /// Asks the kernel whether the peer has closed it.
    pub(super) fn peer_has_closed(&self) -> bool {
        self.io.peer_has_closed()
    }

    /// Ready once an idle connection can take no request: its peer has left, or has said what nobody
    /// asked for.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Whatever comes makes it useless: no buffer for it.
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        Pin::new(&mut self.io).poll_read(cx, &mut byte).map(drop)
    }

    /// Writes `request` and reads the head of its response. To be polled with the same request until it
    /// is ready; the request's body may go on after that.
    pub(super) fn poll_exchange(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut Outgoing<'_>,
        progress: Option<&Arc<Progress>>,
    ) -> Poll<Result<Head, Broken>> {
        let begins = !self.is_busy;
        if begins {
            if self.poll_idle(cx).is_ready() {
                return Poll::Ready(Err(Broken::BeforeRequest));
            }
            self.begin(request)?;
        }
        let ((head, _), body) = request.split();
        let _ = self.poll_upload(cx, &head.headers, body, progress)?;
        if begins {
            // Nothing had come a moment ago, and what comes wakes this task.
            return Poll::Pending;
        }
        self.poll_head(cx, &head.method)
    }

    /// Writes what there is of the request; ready once all of it is written, or cannot be any more.
    pub(super) fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        headers: &HeaderMap,
        body: &mut RequestBody,
        progress: Option<&Arc<Progress>>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            match &mut self.upload {
                Upload::Done | Upload::Broken(_) => return Poll::Ready(Ok(())),
                Upload::Body(_) | Upload::Flush => {}
            }
            self.gather(cx, headers, body, progress)?;
            let polled = if self.out.is_empty() {
                let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
                if let (Ok(()), Upload::Body(_)) = (&flushed, &self.upload) {
                    // It waits for its body.
                    return Poll::Pending;
                }
                flushed.map(|()| {
                    self.upload = Upload::Done;
                    std::mem::take(&mut self.out).let_go();
                })
            } else {
                ready!(self.poll_write(cx))
            };
            if let Err(error) = polled {
                self.is_last = true;
                self.upload = Upload::Broken(error);
            }
        }
    }

    /// The next frame of the response's body; ready without one at its end.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
    ) -> Poll<Result<Option<Frame<Bytes>>, Broken>> {
        loop {
            let found = match framing {
                Framing::Length(0) => return Poll::Ready(Ok(None)),
                Framing::Length(left) if !self.incoming.is_empty() => {
                    let all = self.incoming.len();
                    let len = usize::try_from(*left).map_or(all, |left| left.min(all));
                    *left -= len as u64;
                    Piece::Data(self.incoming.split_to(len).freeze())
                }
                Framing::Close if !self.incoming.is_empty() => {
                    Piece::Data(self.incoming.split().freeze())
                }
                Framing::Chunked(chunked) => {
                    chunked.read(&mut self.incoming, &self.bounds.limits)?
                }
                Framing::Length(_) | Framing::Close => Piece::More,
            };
            match found {
                Piece::Data(data) => return Poll::Ready(Ok(Some(Frame::data(data)))),
                Piece::Trailers(trailers) => {
                    return Poll::Ready(Ok(Some(Frame::trailers(trailers))));
                }
                Piece::End => return Poll::Ready(Ok(None)),
                Piece::More => {}
            }
            if ready!(self.poll_read(cx))? == 0 {
                if matches!(framing, Framing::Close) {
                    *framing = Framing::Length(0);
                    return Poll::Ready(Ok(None));
                }
                return Poll::Ready(Err(self.closed()));
            }
        }
    }

    /// Whether the request was written to its end.
    pub(super) fn is_uploaded(&self) -> bool {
        matches!(self.upload, Upload::Done | Upload::Broken(_))
    }

    /// Whether it may take another request, now that its response has ended.
    pub(super) fn is_reusable(&self) -> bool {
        matches!(self.upload, Upload::Done) && !self.is_last && self.incoming.is_empty()
    }

    /// Makes it idle.
    pub(super) fn rest(&mut self) {
        self.is_busy = false;
        self.interim = 0;
        self.next_read = FIRST_READ;
        self.let_go_of_room();
    }

    /// What is read next takes whatever room is warm then.
    fn let_go_of_room(&mut self) {
        if self.incoming.is_empty() {
            spare::give_read(std::mem::take(&mut self.incoming));
        }
    }

    /// What follows is not HTTP: what was read already, and the rest.
    pub(super) fn take(&mut self) -> (Bytes, Box<dyn Transport>) {
        let read = std::mem::take(&mut self.incoming).freeze();
        self.is_busy = false;
        (
            read,
            std::mem::replace(&mut self.io, Box::new(tokio::io::empty())),
        )
    }

    fn begin(&mut self, request: &Outgoing<'_>) -> Result<(), Broken> {
        self.out = Out::new();
        let head = encode::head(request, &mut self.out).map_err(Broken::Request)?;
        self.is_busy = true;
        self.is_last = head.is_last;
        self.upload = Upload::Body(head.framing);
        Ok(())
    }

    /// Takes as much of the request's body as is worth being written at once.
    fn gather(
        &mut self,
        cx: &mut Context<'_>,
        headers: &HeaderMap,
        body: &mut RequestBody,
        progress: Option<&Arc<Progress>>,
    ) -> Result<(), Broken> {
        while let Upload::Body(framing) = &mut self.upload
            && self.out.is_short()
        {
            let mut trailers = None;
            let mut has_ended = body.is_end_stream() || *framing == encode::Framing::Length(0);
            if !has_ended {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(None) => has_ended = true,
                    Poll::Ready(Some(Err(error))) => return Err(Broken::Request(error)),
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Some(progress) = progress {
                            progress.touch();
                        }
                        match frame.into_data() {
                            Ok(data) => {
                                framing.data(data, &mut self.out).map_err(Broken::Request)?;
                            }
                            Err(frame) => {
                                trailers = frame.into_trailers().ok();
                                has_ended = true;
                            }
                        }
                    }
                }
            }
            if has_ended {
                let framing = *framing;
                self.end(framing, headers, trailers.as_ref())?;
            }
        }
        Ok(())
    }

    fn end(
        &mut self,
        framing: encode::Framing,
        headers: &HeaderMap,
        trailers: Option<&HeaderMap>,
    ) -> Result<(), Broken> {
        let ended = framing.end(headers, trailers, &mut self.out);
        ended.map_err(Broken::Request)?;
        self.upload = Upload::Flush;
        Ok(())
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Head, Broken>> {
        loop {
            // A head that comes byte by byte is not read anew with each byte.
            while decode::may_be_whole(&self.incoming, self.tried) {
                match decode::head(&mut self.incoming, method, &self.bounds.limits)? {
                    Found::More => break,
                    Found::Interim if self.interim < MAX_INTERIM => self.interim += 1,
                    Found::Interim => return Poll::Ready(Err(Malformed::Syntax.into())),
                    Found::Head(head) => {
                        self.is_last |= head.is_last;
                        self.tried = 0;
                        return Poll::Ready(Ok(head));
                    }
                }
                self.tried = 0;
            }
            self.tried = self.incoming.len();
            if self.tried > self.bounds.limits.header_bytes {
                return Poll::Ready(Err(Malformed::Bytes.into()));
            }
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Err(self.closed()));
            }
        }
    }

    /// Nothing more will come.
    fn closed(&mut self) -> Broken {
        match std::mem::replace(&mut self.upload, Upload::Done) {
            Upload::Broken(error) => Broken::Io(error),
            _ => Broken::Closed,
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.incoming.capacity() == 0 {
            self.incoming = spare::to_read();
        }
        self.incoming.reserve(self.next_read);
        let room = self.incoming.capacity() - self.incoming.len();
        let polled = {
            let reading = pin!(self.io.read_buf(&mut self.incoming));
            reading.poll(cx)
        };
        let Poll::Ready(read) = polled else {
            self.let_go_of_room();
            return Poll::Pending;
        };
        let read = read?;
        self.count.read += read as u64;
        self.count.ended |= read == 0;
        if read == room {
            self.next_read = (self.next_read * 2).min(MAX_READ);
        } else if read < self.next_read / 4 {
            self.next_read = (self.next_read / 2).max(FIRST_READ);
        }
        Poll::Ready(Ok(read))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let pieces = self.out.pieces();
        let io = Pin::new(&mut self.io);
        let written = match (&*pieces[0], &*pieces[1]) {
            (short, []) => ready!(io.poll_write(cx, short)),
            ([], long) => ready!(io.poll_write(cx, long)),
            _ => ready!(io.poll_write_vectored(cx, &pieces)),
        }?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.count.written += written as u64;
        self.out.advance(written);
        Poll::Ready(Ok(()))
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line")
            .field("count", &self.count)
            .field("is_busy", &self.is_busy)
            .finish_non_exhaustive()
    }
}

impl Drop for Line {
    /// Says that it ends, as far as that is possible without waiting.
    fn drop(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut self.io).poll_shutdown(&mut cx);
    }
}
