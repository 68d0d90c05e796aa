//! What a GOAWAY leaves out.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tokio::io::AsyncRead;

use super::*;
use crate::http::server::farewell::LAST_PONG;
use crate::http::testing::Peer;
use crate::net::closing::ClosingSender;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `GET http://a/`, by the static table (RFC 7541, A).
const GET_HEAD: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
const MAX_ID: u32 = (1 << 31) - 1;

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn request(stream: u32) -> Vec<u8> {
        frame(1, 5, stream, GET_HEAD)
    }

    async fn read(peer: &mut (impl AsyncRead + Unpin)) -> Self {
        let mut head = [0; 9];
        peer.read_exact(&mut head).await.unwrap();
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        peer.read_exact(&mut payload).await.unwrap();
        Self {
            kind,
            flags,
            stream: u32::from_be_bytes(id),
            payload,
        }
    }

    fn last_stream(&self) -> u32 {
        assert_eq!(self.kind, 7, "{self:?}");
        u32::from_be_bytes(*self.payload.first_chunk().unwrap())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A connection with one request answered, which has been told to leave; its next frame is our answer to
/// the PING.
async fn told_to_leave() -> (Peer, ClosingSender, tokio::task::JoinHandle<()>) {
    let (mut peer, closing, task) = serve_one(Version::Http2, ok(), options());
    let begin = [PREFACE, &frame(4, 0, 0, &[]), &Frame::request(1)].concat();
    peer.0.write_all(&begin).await.unwrap();
    while Frame::read(&mut peer.0).await.kind != 0 {}
    closing.advance(Phase::Draining);
    let notice = loop {
        let frame = Frame::read(&mut peer.0).await;
        if frame.kind == 7 {
            break frame;
        }
    };
    assert_eq!(notice.last_stream(), MAX_ID);
    let ping = Frame::read(&mut peer.0).await;
    assert_eq!((ping.kind, ping.flags), (6, 0));
    let pong = frame(6, 1, 0, &ping.payload);
    assert_eq!(pong, LAST_PONG, "the library's PING is another one now");
    peer.0.write_all(&pong).await.unwrap();
    (peer, closing, task)
}

#[tokio::test(start_paused = true)]
async fn requests_behind_the_answer_to_the_ping_are_served() {
    let (mut peer, _closing, task) = told_to_leave().await;
    let begin = Instant::now();
    let mut answered = BTreeSet::new();
    for stream in (3..43).step_by(2) {
        tokio::time::sleep(SECOND / 20).await;
        let request = Frame::request(stream);
        peer.0.write_all(&request).await.unwrap();
        loop {
            let frame = Frame::read(&mut peer.0).await;
            assert_ne!(frame.kind, 7, "left out at {stream}");
            if frame.kind == 1 {
                answered.insert(frame.stream);
                break;
            }
        }
    }
    assert_eq!(answered.len(), 20);
    let goodbye = loop {
        let frame = Frame::read(&mut peer.0).await;
        if frame.kind == 7 {
            break frame;
        }
    };
    assert_eq!(goodbye.last_stream(), 41);
    assert!(begin.elapsed() < SECOND * 5 / 4, "{:?}", begin.elapsed());
    assert!(peer.ends_within(SECOND).await);
    drop(peer);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_has_nothing_more_to_say_is_not_waited_for() {
    let (mut peer, _closing, task) = told_to_leave().await;
    let begin = Instant::now();
    assert_eq!(Frame::read(&mut peer.0).await.last_stream(), 1);
    assert!(begin.elapsed() < SECOND / 5, "{:?}", begin.elapsed());
    drop(peer);
    task.await.unwrap();
}

/// As one that has not understood: it is left out at last.
#[tokio::test(start_paused = true)]
async fn who_goes_on_all_the_same_is_left_out() {
    let (peer, _closing, task) = told_to_leave().await;
    let begin = Instant::now();
    let (mut read, mut write) = tokio::io::split(peer.0);
    let asking = tokio::spawn(async move {
        for stream in (3..).step_by(2) {
            tokio::time::sleep(SECOND / 20).await;
            if write.write_all(&Frame::request(stream)).await.is_err() {
                return;
            }
        }
    });
    let goodbye = loop {
        let frame = Frame::read(&mut read).await;
        if frame.kind == 7 {
            break frame;
        }
    };
    assert!(goodbye.last_stream() > 1);
    let took = begin.elapsed();
    assert!((2 * SECOND..3 * SECOND).contains(&took), "{took:?}");
    asking.abort();
    drop(read);
    task.await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However frames come: the answer is given once and between two of them, and they are as they were.
    #[test]
    fn nothing_else_is_touched(
        before in frames(),
        behind in frames(),
        cuts in prop::collection::vec((0_usize..400, 0_u64..150), 0..12),
    ) {
        let came = [PREFACE.to_vec(), before.concat(), LAST_PONG.to_vec(), behind.concat()].concat();
        let pong = PREFACE.len() + before.concat().len();
        let mut cuts = cuts;
        cuts.retain(|(at, _)| *at < came.len() && !(pong + 1..pong + LAST_PONG.len()).contains(at));
        cuts.sort_unstable();
        let given = pass(&came, &cuts);
        let mut expected = came;
        expected[pong + 3] = 0xff;
        let ends = ends(&behind, pong + LAST_PONG.len());
        let whole = ends.iter().any(|at| {
            let mut expected = expected.clone();
            expected.splice(at..at, LAST_PONG);
            expected == given
        });
        prop_assert!(whole, "{given:?}");
    }
}

/// Frames that are borne, of all sorts.
fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let kinds = prop::sample::select(vec![(0, 0), (0, 8), (1, 5), (2, 0), (6, 1), (9, 4)]);
    let frame = (kinds, prop::collection::vec(0_u8..8, 8..40))
        .prop_map(|((kind, flags), payload)| frame(kind, flags, 1, &payload));
    prop::collection::vec(frame, 0..6)
}

/// Where frames that begin at `from` end, and `from`.
fn ends(frames: &[Vec<u8>], from: usize) -> Vec<usize> {
    let ends = frames.iter().scan(from, |at, frame| {
        *at += frame.len();
        Some(*at)
    });
    std::iter::once(from).chain(ends).collect()
}

/// What a connection that is leaving reads when `came` comes in pieces: cut at an offset, with milliseconds
/// before what follows.
fn pass(came: &[u8], cuts: &[(usize, u64)]) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut near, far) = duplex(1 << 16);
        let state = Arc::new(State::new(Version::Http2, options().bounds));
        let floods = Watch::over_client(&FloodBounds::default(), false);
        let mut io = ServerIo::new(far, Arc::clone(&state), Some(floods));
        state.leave();
        let write = async {
            let mut from = 0;
            for (at, pause) in cuts {
                near.write_all(&came[from..*at]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(*pause)).await;
                from = *at;
            }
            near.write_all(&came[from..]).await.unwrap();
        };
        let mut given = vec![0; came.len() + LAST_PONG.len()];
        let read = tokio::time::timeout(60 * SECOND, io.read_exact(&mut given));
        let ((), read) = tokio::join!(write, read);
        read.expect("the answer is given").unwrap();
        given
    })
}
