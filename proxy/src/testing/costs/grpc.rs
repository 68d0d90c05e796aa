//! A client and a server of unary gRPC calls, frame by frame (RFC 9113): each writes all frames of a
//! message at once, which a library may not do. Headers are literals that no table keeps.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Ask, BODY, Headers};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Kinds of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
/// Flags of frames.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// Indices of the static table (RFC 7541, A).
const AUTHORITY: u8 = 0x01;
const PATH: u8 = 0x04;
const METHOD_POST: u8 = 0x83;
const SCHEME_HTTP: u8 = 0x86;
const STATUS_200: u8 = 0x88;
/// What a connection lends besides its first 65,535 bytes: as much as it may.
const WINDOW: u32 = (1 << 31) - 1 - 65_535;

/// Frames over one connection.
struct Frames<I> {
    io: I,
    read: BytesMut,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Frames<I> {
    async fn write(&mut self, frames: &[Vec<u8>]) {
        self.io.write_all(&frames.concat()).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// What this side begins with, after `first`: no settings of its own, and a window that lasts.
    async fn greet(&mut self, first: &[u8]) {
        let window = frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        let settings = frame(SETTINGS, 0, 0, &[]);
        self.write(&[first.to_vec(), settings, window]).await;
    }

    /// The next frame of a stream; none at the end. Settings are taken as they come.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            while !self.is_whole() {
                if !matches!(self.io.read_buf(&mut self.read).await, Ok(1..)) {
                    return None;
                }
            }
            let length = self.length();
            let mut header = self.read.split_to(HEADER);
            self.read.advance(length);
            header.advance(3);
            let (kind, flags, stream) = (header.get_u8(), header.get_u8(), header.get_u32());
            match (kind, flags) {
                (DATA | HEADERS, _) => {
                    return Some(Frame {
                        kind,
                        flags,
                        stream,
                    });
                }
                (SETTINGS, 0) => self.write(&[frame(SETTINGS, ACK, 0, &[])]).await,
                (SETTINGS | WINDOW_UPDATE, _) => {}
                other => panic!("a frame that nobody expects: {other:?}"),
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.read.len() >= HEADER && self.read.len() >= HEADER + self.length()
    }

    /// Of the payload.
    fn length(&self) -> usize {
        (&self.read[..3]).get_uint(3) as usize
    }
}

/// Length of a frame's header.
const HEADER: usize = 9;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn literal(block: &mut Vec<u8>, text: &str) {
    let length: u8 = text.len().try_into().unwrap();
    assert!(length < 127, "longer ones are written otherwise");
    block.push(length);
    block.extend(text.as_bytes());
}

fn headers(block: &mut Vec<u8>, headers: Headers<'_>) {
    for (name, value) in headers {
        block.push(0);
        literal(block, name);
        literal(block, value);
    }
}

/// One message, with its length before it.
fn message() -> Vec<u8> {
    let mut message = vec![0];
    message.extend((BODY as u32).to_be_bytes());
    message.resize(message.len() + BODY, b'x');
    message
}

/// Calls over one connection.
pub(super) struct Client<I> {
    frames: Frames<I>,
    block: Vec<u8>,
    message: Vec<u8>,
    /// Of the next call.
    stream: u32,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Client<I> {
    /// What a client library sends, and `more`.
    pub(super) async fn new(io: I, more: Headers<'_>) -> Self {
        let read = BytesMut::new();
        let mut frames = Frames { io, read };
        frames.greet(PREFACE).await;
        let mut block = vec![METHOD_POST, SCHEME_HTTP, PATH];
        literal(&mut block, "/cart/Items");
        block.push(AUTHORITY);
        literal(&mut block, "api");
        let library = [
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "costs/1.0"),
        ];
        headers(&mut block, &library);
        headers(&mut block, more);
        Self {
            frames,
            block,
            message: message(),
            stream: 1,
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Ask for Client<I> {
    async fn ask(&mut self) {
        let stream = self.stream;
        self.stream += 2;
        let call = [
            frame(HEADERS, END_HEADERS, stream, &self.block),
            frame(DATA, END_STREAM, stream, &self.message),
        ];
        self.frames.write(&call).await;
        let mut kinds = Vec::new();
        loop {
            let frame = self.frames.next().await.expect("an answer");
            assert_eq!(frame.stream, stream);
            kinds.push(frame.kind);
            if frame.flags & END_STREAM != 0 {
                break;
            }
        }
        assert_eq!(kinds, [HEADERS, DATA, HEADERS]);
    }
}

/// Answers every call on `io`, with a status in trailers.
pub(super) async fn answer(io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut read = BytesMut::zeroed(PREFACE.len());
    let mut frames = Frames {
        io,
        read: BytesMut::new(),
    };
    frames.io.read_exact(&mut read).await.unwrap();
    assert_eq!(read, PREFACE);
    frames.greet(&[]).await;
    let mut head = vec![STATUS_200];
    headers(&mut head, &[("content-type", "application/grpc")]);
    let mut trailers = Vec::new();
    headers(&mut trailers, &[("grpc-status", "0")]);
    let message = message();
    while let Some(Frame { flags, stream, .. }) = frames.next().await {
        if flags & END_STREAM != 0 {
            let answer = [
                frame(HEADERS, END_HEADERS, stream, &head),
                frame(DATA, 0, stream, &message),
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &trailers),
            ];
            frames.write(&answer).await;
        }
    }
}
