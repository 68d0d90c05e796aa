//! HTTP/2 by hand: frames are written byte by byte, right or wrong, and what comes back is told apart.
//!
//! Header blocks are literals without indexing and without Huffman codes (RFC 7541, 6.2.2), so that
//! any bytes can be sent as a name or a value. Of answers only the status is understood: each
//! connection's first header block, or one that uses the static table.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What begins a client's side (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame header.
const HEADER: usize = 9;
/// Bytes that are written before what came back is looked at.
const BATCH: usize = 16 * 1024;
/// How long a connection that is being flooded may stand still.
const STANDSTILL: Duration = Duration::from_secs(10);

/// Kinds of frames (RFC 9113, 6).
#[expect(missing_docs, reason = "the names are the RFC's")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames (RFC 9113, 6).
#[expect(missing_docs, reason = "the names are the RFC's")]
pub mod flag {
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
}

/// Names of error codes (RFC 9113, 7), by their number.
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// One frame of any kind, whatever stands in it.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames of tests are short");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block of literals, in this order.
pub fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of 7 bits (RFC 7541, 5.1).
fn length(block: &mut Vec<u8>, mut number: usize) {
    const MOST: usize = 127;
    if number < MOST {
        return block.push(number as u8);
    }
    block.push(MOST as u8);
    number -= MOST;
    while number >= 128 {
        block.push((number % 128) as u8 | 128);
        number /= 128;
    }
    block.push(number as u8);
}

/// HEADERS that are whole; with `end` the request is too.
pub fn headers(stream: u32, end: bool, headers: &[(&str, &str)]) -> Vec<u8> {
    let flags = flag::END_HEADERS | u8::from(end);
    frame(kind::HEADERS, flags, stream, &block(headers))
}

/// An error code's name.
pub fn code_name(code: u32) -> &'static str {
    CODES.get(code as usize).copied().unwrap_or("unknown")
}

/// What has come back.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Statuses by stream.
    pub statuses: BTreeMap<u32, u16>,
    /// Streams that the peer has ended, in order.
    pub ended: Vec<u32>,
    /// Error codes by stream that was reset.
    pub resets: BTreeMap<u32, u32>,
    /// The last stream and the error code of the last GOAWAY.
    pub go_away: Option<(u32, u32)>,
    /// GOAWAY frames.
    pub go_aways: u32,
    /// Answers to PING.
    pub pongs: u64,
    /// Answers to SETTINGS.
    pub settings_acks: u64,
    /// The peer's settings, by their number.
    pub settings: BTreeMap<u16, u32>,
    /// What the peer has added to the connection's window.
    pub window: u64,
    /// Bytes of DATA by stream.
    pub data: BTreeMap<u32, u64>,
    /// The connection is closed.
    pub closed: bool,
}

impl Heard {
    /// How it ended for a stream, or for the connection; none while it has not.
    pub fn end(&self, stream: u32) -> Option<String> {
        if let Some(code) = self.resets.get(&stream)
            && !self.ended.contains(&stream)
        {
            return Some(format!("RST_STREAM {}", code_name(*code)));
        }
        if self.ended.contains(&stream) {
            return Some(self.statuses.get(&stream)?.to_string());
        }
        match self.go_away {
            Some((_, code)) if code != 0 => Some(format!("GOAWAY {}", code_name(code))),
            _ if self.closed => Some("closed".to_owned()),
            _ => None,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Wire<S = TcpStream> {
    stream: S,
    unread: BytesMut,
    /// What has come back.
    pub heard: Heard,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A connection that has said nothing yet.
    pub fn raw(stream: S) -> Self {
        Self {
            stream,
            unread: BytesMut::new(),
            heard: Heard::default(),
        }
    }

    /// Writes. No error where the peer has closed the connection: reading shows it.
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.stream.write_all(bytes).await.is_err() {
            self.heard.closed = true;
        }
        Ok(())
    }

    /// Reads until `done`, the connection's end, or for `patience`; whether it is done.
    pub async fn until(
        &mut self,
        patience: Duration,
        done: impl Fn(&Heard) -> bool,
    ) -> anyhow::Result<bool> {
        let reading = async {
            while !done(&self.heard) {
                if self.heard.closed {
                    return anyhow::Ok(());
                }
                self.read().await?;
            }
            Ok(())
        };
        // Nothing is lost: reading into the buffer can be given up at any time.
        if let Ok(read) = tokio::time::timeout(patience, reading).await {
            read?;
        }
        Ok(done(&self.heard))
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        // A reset is an end too.
        if self.stream.read_buf(&mut self.unread).await.unwrap_or(0) == 0 {
            self.heard.closed = true;
        }
        understand(&mut self.unread, &mut self.heard)
    }
}

impl Wire {
    /// Sends the preface and empty settings, and waits until the peer has answered.
    pub async fn open(stream: TcpStream) -> anyhow::Result<Self> {
        stream.set_nodelay(true)?;
        let mut wire = Self {
            stream,
            unread: BytesMut::new(),
            heard: Heard::default(),
        };
        let mut first = PREFACE.to_vec();
        first.extend(frame(kind::SETTINGS, 0, 0, &[]));
        wire.send(&first).await?;
        let greeted = wire.until(STANDSTILL, |heard| heard.settings_acks > 0);
        anyhow::ensure!(greeted.await?, "no HTTP/2 server: {:?}", wire.heard);
        Ok(wire)
    }

    /// Sends `part(0)`, `part(1)` and so on until the connection ends, at most `most`, and answers how
    /// many were sent when the end was noticed. With `deaf` nothing is read until writing fails or
    /// stands still.
    pub async fn flood(
        &mut self,
        most: u32,
        deaf: bool,
        part: impl Fn(u32) -> Vec<u8>,
    ) -> anyhow::Result<u32> {
        let mut sent = 0;
        while sent < most && !self.heard.closed {
            let mut batch = Vec::with_capacity(BATCH);
            while batch.len() < BATCH && sent < most {
                batch.extend(part(sent));
                sent += 1;
            }
            let Self { stream, unread, .. } = self;
            let mut batch = &batch[..];
            while !batch.is_empty() && !self.heard.closed {
                let (mut read, mut write) = stream.split();
                let step = async {
                    tokio::select! {
                        wrote = write.write(batch) => wrote.map(Some),
                        got = read.read_buf(unread), if !deaf => got.map(|got| if got == 0 { Some(0) } else { None }),
                    }
                };
                match tokio::time::timeout(STANDSTILL, step).await {
                    Ok(Ok(Some(0)) | Err(_)) => self.heard.closed = true,
                    Ok(Ok(Some(wrote))) => batch = &batch[wrote..],
                    Ok(Ok(None)) => understand(unread, &mut self.heard)?,
                    Err(_) => return Ok(sent),
                }
            }
        }
        Ok(sent)
    }
}

/// Takes whole frames out of what was read.
fn understand(unread: &mut BytesMut, heard: &mut Heard) -> anyhow::Result<()> {
    while unread.len() >= HEADER {
        let length = u32::from_be_bytes([0, unread[0], unread[1], unread[2]]) as usize;
        if unread.len() < HEADER + length {
            break;
        }
        let mut head = unread.split_to(HEADER);
        let payload = unread.split_to(length);
        let (kind, flags) = (head[3], head[4]);
        head.advance(5);
        let stream = head.get_u32();
        take(kind, flags, stream, &payload, heard)?;
    }
    Ok(())
}

fn take(
    kind: u8,
    flags: u8,
    stream: u32,
    mut payload: &[u8],
    heard: &mut Heard,
) -> anyhow::Result<()> {
    let acknowledges = flags & flag::ACK != 0;
    match kind {
        kind::DATA => *heard.data.entry(stream).or_default() += payload.len() as u64,
        // Trailers come without a status.
        kind::HEADERS if !heard.statuses.contains_key(&stream) => {
            let status = status(payload).context("a status")?;
            heard.statuses.insert(stream, status);
        }
        kind::RST_STREAM => {
            heard.resets.insert(stream, payload.get_u32());
        }
        kind::SETTINGS if acknowledges => heard.settings_acks += 1,
        kind::SETTINGS => {
            while payload.len() >= 6 {
                let number = payload.get_u16();
                heard.settings.insert(number, payload.get_u32());
            }
        }
        kind::PING if acknowledges => heard.pongs += 1,
        kind::GOAWAY => {
            heard.go_aways += 1;
            heard.go_away = Some((payload.get_u32(), payload.get_u32()));
        }
        kind::WINDOW_UPDATE if stream == 0 => heard.window += u64::from(payload.get_u32()),
        _ => {}
    }
    if matches!(kind, kind::DATA | kind::HEADERS) && flags & flag::END_STREAM != 0 {
        heard.ended.push(stream);
    }
    Ok(())
}

/// The `:status` that a header block begins with: out of the static table, or a literal whose name
/// is (RFC 7541, 6 and appendix A), in digits or in their Huffman codes.
fn status(mut block: &[u8]) -> Option<u16> {
    // An update of the table's size may come first.
    while block.first()? & 0xe0 == 0x20 {
        block = &block[1..];
    }
    let (first, rest) = block.split_first()?;
    if let 0x88..=0x8e = first {
        return Some([200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)]);
    }
    // Literals with incremental indexing, without, and never indexed.
    let name = if first & 0x40 != 0 {
        first & 0x3f
    } else {
        first & 0x0f
    };
    if !(8..=14).contains(&name) {
        return None;
    }
    let (length, rest) = rest.split_first()?;
    let value = rest.get(..usize::from(length & 0x7f))?;
    if length & 0x80 == 0 {
        return std::str::from_utf8(value).ok()?.parse().ok();
    }
    let bits: u32 = value
        .iter()
        .fold(0, |bits, byte| bits << 8 | u32::from(*byte));
    let (mut left, mut status) = (value.len() * 8, 0);
    for _ in 0..3 {
        let short = bits >> (left - 5) & 0x1f;
        let digit = if short <= 2 {
            left -= 5;
            short
        } else {
            left -= 6;
            (bits >> left & 0x3f).checked_sub(0x16)?
        };
        status = status * 10 + u16::try_from(digit).ok()?;
    }
    Some(status)
}
