use std::cell::Cell;

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::http::Version;
use crate::http::body::ResponseBody;
use crate::http::server::{ServerOptions, serve};
use crate::http::testing::answers;
use crate::net::closing;

const LIMITS: FloodLimits = FloodLimits {
    frames: 100,
    resets: 50,
};
const PREFACE_BYTES: &[u8; PREFACE] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PRIORITY: u8 = 2;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 1]);
    frame.extend(payload);
    frame
}

/// A guard behind the preface, and a clock to turn.
struct Turned {
    guard: Guard,
    start: Instant,
    passed: Cell<Duration>,
}

impl Turned {
    fn new() -> Self {
        let mut turned = Self {
            guard: Guard::of_client(LIMITS),
            start: Instant::now(),
            passed: Cell::default(),
        };
        turned.read(PREFACE_BYTES).unwrap();
        turned
    }

    fn of_server() -> Self {
        Self {
            guard: Guard::of_server(LIMITS),
            ..Self::new()
        }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Flood> {
        let (start, passed) = (self.start, self.passed.get());
        self.guard.read(bytes, || start + passed)
    }

    /// How many of `frame` are borne at once, up to `most`.
    fn borne(&mut self, frame: &[u8], most: u32) -> u32 {
        let refused = (0..most).find(|_| self.read(frame).is_err());
        // A connection ends there. One that goes on begins with the next frame.
        self.guard.skip = 0;
        refused.unwrap_or(most)
    }

    fn pass(&self, time: Duration) {
        self.passed.set(self.passed.get() + time);
    }
}

#[test]
fn each_kind_of_flood_is_one() {
    let padding = [255_u8; 256];
    let kinds: [(&str, Vec<u8>, u32, Flood); 9] = [
        ("PING", frame(Frame::PING, 0, &[0; 8]), 400, Flood::Frames),
        (
            "SETTINGS",
            frame(Frame::SETTINGS, 0, &[]),
            50,
            Flood::Frames,
        ),
        (
            "SETTINGS ack",
            frame(Frame::SETTINGS, 1, &[]),
            400,
            Flood::Frames,
        ),
        ("PRIORITY", frame(PRIORITY, 0, &[0; 5]), 400, Flood::Frames),
        (
            "WINDOW_UPDATE",
            frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
            400,
            Flood::Frames,
        ),
        ("empty DATA", frame(Frame::DATA, 0, &[]), 400, Flood::Frames),
        (
            "DATA of padding",
            frame(Frame::DATA, Frame::PADDED, &padding),
            400,
            Flood::Frames,
        ),
        (
            "CONTINUATION",
            frame(CONTINUATION, 0, &[0; 7]),
            400,
            Flood::Frames,
        ),
        (
            "RST_STREAM",
            frame(Frame::RST_STREAM, 0, &[0; 4]),
            200,
            Flood::Resets,
        ),
    ];
    for (name, bytes, burst, flood) in kinds {
        let mut turned = Turned::new();
        assert_eq!(turned.borne(&bytes, burst), burst, "{name}");
        assert_eq!(turned.read(&bytes), Err(flood), "{name}");
    }
}

#[test]
fn each_kind_of_flood_of_a_server_is_one() {
    let kinds: [(&str, Vec<u8>, u32); 8] = [
        ("PING", frame(Frame::PING, 0, &[0; 8]), 400),
        ("SETTINGS", frame(Frame::SETTINGS, 0, &[]), 50),
        ("SETTINGS ack", frame(Frame::SETTINGS, 1, &[]), 400),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]), 400),
        ("empty DATA", frame(Frame::DATA, 0, &[]), 400),
        ("CONTINUATION", frame(CONTINUATION, 0, &[0; 7]), 400),
        ("HEADERS", frame(Frame::HEADERS, 4, &[0x88]), 400),
        ("RST_STREAM", frame(Frame::RST_STREAM, 0, &[0; 4]), 400),
    ];
    for (name, bytes, burst) in kinds {
        let mut turned = Turned::of_server();
        assert_eq!(turned.borne(&bytes, burst), burst, "{name}");
        assert_eq!(turned.read(&bytes), Err(Flood::Frames), "{name}");
        // What it was asked explains some of them, each request once.
        for _ in 0..2 {
            turned.guard.skip = 0;
            turned.guard.requested(10);
        }
        let most = FRAMES_PER_REQUEST * 10 * burst / 400;
        assert_eq!(turned.borne(&bytes, 1_000), most, "{name}");
    }
}

#[test]
fn each_answer_may_have_its_heads_its_trailers_and_its_reset() {
    let mut turned = Turned::of_server();
    let mut answer = frame(Frame::HEADERS, 4, &[8, 3, b'1', b'0', b'3']);
    for kind in [Frame::HEADERS, Frame::HEADERS] {
        answer.extend(frame(kind, 4, &[0x88]));
    }
    answer.extend(frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]));
    answer.extend(frame(Frame::RST_STREAM, 0, &[0; 4]));
    for number in 1..=100_000 {
        turned.guard.requested(number);
        turned.read(&answer).unwrap();
    }
}

#[test]
fn time_allows_a_rate_and_no_more() {
    let ping = frame(Frame::PING, 0, &[0; 8]);
    let mut turned = Turned::new();
    assert_eq!(turned.borne(&ping, 1_000), 400);
    // Small steps lose nothing.
    let mut borne = 0;
    for _ in 0..1_000 {
        turned.pass(Duration::from_millis(3));
        borne += turned.borne(&ping, 1_000);
    }
    assert!((295..=300).contains(&borne), "{borne}");
    turned.pass(Duration::from_secs(3_600));
    assert_eq!(turned.borne(&ping, 1_000), 400);
}

#[test]
fn acknowledging_each_small_frame_twice_is_no_flood() {
    let mut turned = Turned::new();
    let update = frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]);
    for _ in 0..100_000 {
        // A DATA frame of one byte.
        turned.guard.wrote(FRAME_HEADER + 1);
        turned.read(&update).unwrap();
        turned.read(&update).unwrap();
    }
    // Also late, all at once.
    turned.guard.wrote(30_000 * (FRAME_HEADER + 1));
    assert_eq!(turned.borne(&update, 60_000), 60_000);
}

#[test]
fn answers_to_a_flood_explain_nothing() {
    for (kind, payload, answer, cost) in [
        (Frame::PING, &[0; 8][..], PONG, 1),
        (Frame::SETTINGS, &[][..], SETTINGS_ACK, SETTINGS_COST),
    ] {
        let mut turned = Turned::new();
        let bytes = frame(kind, 0, payload);
        for _ in 0..400 / cost {
            turned.read(&bytes).unwrap();
            turned.guard.wrote(answer);
        }
        assert_eq!(turned.read(&bytes), Err(Flood::Frames));
    }
}

#[test]
fn half_of_the_requests_may_be_given_up() {
    let request = frame(Frame::HEADERS, 5, &[0x82]);
    let reset = frame(Frame::RST_STREAM, 0, &[0, 0, 0, 8]);
    let mut turned = Turned::new();
    for _ in 0..100_000 {
        turned.read(&request).unwrap();
        turned.read(&request).unwrap();
        turned.read(&reset).unwrap();
    }
    // All of them are too many: nothing is earned that lasts.
    let mut pairs = request.clone();
    pairs.extend(&reset);
    let borne = turned.borne(&pairs, 10_000);
    assert!((400..=1_500).contains(&borne), "{borne}");
}

#[test]
fn a_sidecar_may_pass_on_many_cancellations() {
    let limits = LIMITS.of_sidecars();
    assert_eq!((limits.frames, limits.resets), (100, 1_000));
}

/// Requests of the conversation below.
const REQUESTS: usize = 600;
/// Bytes of each of its answers: more than the client's first window.
const ANSWER: usize = 100_000;

/// A client that measures the path with PING all the time, acknowledges what it reads and gives up a
/// third of its requests needs next to no allowance; and looking at its frames costs next to nothing
/// beside serving them.
#[tokio::test]
async fn a_real_client_is_no_flood_and_costs_little() {
    let limits = FloodLimits {
        frames: 5,
        resets: 1,
    };
    let (client_end, near) = duplex(64 * 1024);
    let (far, server_end) = duplex(64 * 1024);
    let sent = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn(pump(near, far, Arc::clone(&sent)));
    let handler = answers(|_| async { Response::new(ResponseBody::full(vec![b'a'; ANSWER])) });
    let options = ServerOptions {
        floods: FloodBounds {
            limits,
            ..FloodBounds::default()
        },
        ..ServerOptions::default()
    };
    let (_closing, leaving) = closing::channel();
    tokio::spawn(serve(server_end, Version::Http2, handler, leaving, options));

    let begin = std::time::Instant::now();
    let (client, mut connection) = h2::client::handshake(client_end).await.unwrap();
    let mut ping_pong = connection.ping_pong().unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    for number in 0..REQUESTS {
        let request = Request::post("http://a/").body(()).unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(&[b'b'; 300]), true)
            .unwrap();
        let mut body = response.await.unwrap().into_body();
        ping_pong.ping(h2::Ping::opaque()).await.unwrap();
        if number % 3 == 0 {
            continue;
        }
        let mut length = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            length += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        assert_eq!(length, ANSWER);
    }
    let served = begin.elapsed();

    let sent = std::mem::take(&mut *sent.lock());
    let kinds = kinds(&sent);
    assert!(kinds[usize::from(Frame::PING)] >= REQUESTS, "{kinds:?}");
    assert!(kinds[usize::from(Frame::RST_STREAM)] > 100, "{kinds:?}");
    let mut guard = Guard::of_client(FloodLimits::default());
    let begin = std::time::Instant::now();
    for part in sent.chunks(8 * 1024) {
        guard.wrote(100_000);
        guard.read(part, Instant::now).unwrap();
    }
    let guarded = begin.elapsed();
    let percent = guarded.as_secs_f64() * 100.0 / served.as_secs_f64();
    println!(
        "{} frames: {guarded:?} of {served:?}, {percent:.3} %",
        kinds.iter().sum::<usize>()
    );
    assert!(percent < 5.0, "{percent} % of serving");
}

/// Both ways; what comes from `near` is kept.
async fn pump(near: DuplexStream, far: DuplexStream, sent: Arc<Mutex<Vec<u8>>>) {
    let (mut from_client, mut to_client) = tokio::io::split(near);
    let (mut from_server, mut to_server) = tokio::io::split(far);
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut bytes = vec![0; 8 * 1024];
    while let Ok(read @ 1..) = from_client.read(&mut bytes).await {
        sent.lock().extend(&bytes[..read]);
        if to_server.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

/// Frames by their kind.
fn kinds(mut sent: &[u8]) -> [usize; 10] {
    let mut kinds = [0; 10];
    sent = &sent[PREFACE..];
    while sent.len() >= FRAME_HEADER {
        let length = u32::from_be_bytes([0, sent[0], sent[1], sent[2]]) as usize;
        kinds[usize::from(sent[3])] += 1;
        sent = sent.get(FRAME_HEADER + length..).unwrap_or_default();
    }
    kinds
}

/// A frame of any kind, length and flags.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    (0..12_u8, any::<u8>(), payload).prop_map(|(kind, flags, payload)| frame(kind, flags, &payload))
}

proptest! {
    #[test]
    fn any_split_has_the_same_verdict(
        frames in prop::collection::vec(any_frame(), 0..200),
        cuts in prop::collection::vec(1_usize..30, 1..50),
    ) {
        let mut bytes = PREFACE_BYTES.to_vec();
        bytes.extend(frames.concat());
        let limits = FloodLimits { frames: 5, resets: 2 };
        let now = Instant::now();
        let whole = Guard::of_client(limits).read(&bytes, || now);
        let mut guard = Guard::of_client(limits);
        let mut rest = &bytes[..];
        let mut verdict = Ok(());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() || verdict.is_err() {
                break;
            }
            let (part, more) = rest.split_at((*cut).min(rest.len()));
            verdict = guard.read(part, || now);
            rest = more;
        }
        prop_assert_eq!(whole, verdict);
    }

    #[test]
    fn nonsense_is_followed_without_a_panic(
        reads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40),
        written in any::<usize>(),
    ) {
        let mut guard = Guard::of_client(LIMITS);
        for bytes in reads {
            let _ = guard.read(&bytes, Instant::now);
            guard.wrote(written >> 8);
        }
    }
}

#[test]
fn a_head_is_unfinished_until_its_last_byte() {
    let mut guard = Guard::of_client(LIMITS);
    let mut read = |bytes: &[u8]| {
        guard.read(bytes, Instant::now).unwrap();
        guard.unfinished_head()
    };
    assert_eq!(read(PREFACE_BYTES), None);
    assert_eq!(read(&frame(4, 0, b"")), None);
    let whole = frame(1, 4, b"block");
    let (most, last) = whole.split_at(whole.len() - 1);
    assert_eq!(read(most), Some(1));
    assert_eq!(read(last), None);
    assert_eq!(read(&frame(0, 1, b"data")), None);
    assert_eq!(read(&frame(1, 0, b"block")), Some(2));
    assert_eq!(read(&frame(CONTINUATION, 0, b"block")), Some(2));
    assert_eq!(read(&frame(CONTINUATION, 4, b"")), None);
    assert_eq!(read(&frame(1, 0, b"")), Some(3));
}
