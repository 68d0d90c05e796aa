use std::cell::Cell;

use proptest::prelude::*;

use super::*;

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

/// A guard behind its preface, and a clock to turn.
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
