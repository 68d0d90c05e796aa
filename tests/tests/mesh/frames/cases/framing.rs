//! Frames that are out of place, of a wrong length, or of a stream that is none.

use weft_tests::frames::{block, flag, frame, headers, kind};

use super::{Case, FRAME_SIZE, GET, OF_CONNECTION, UNTESTED, case, data, post};

pub(super) fn framing() -> Vec<Case> {
    let mut interleaved = frame(kind::HEADERS, flag::END_STREAM, 1, &block(&GET));
    interleaved.extend(frame(kind::PING, 0, 0, &[0; 8]));
    let mut overflow = frame(kind::WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes());
    overflow.extend(frame(
        kind::WINDOW_UPDATE,
        0,
        0,
        &0x7fff_ffff_u32.to_be_bytes(),
    ));
    let mut lower = headers(3, true, &GET);
    lower.extend(headers(1, true, &GET));
    let setting = |number: u16, value: u32| {
        let mut payload = number.to_be_bytes().to_vec();
        payload.extend(value.to_be_bytes());
        frame(kind::SETTINGS, 0, 0, &payload)
    };
    let mut padded = post(&[]);
    padded.extend(frame(kind::DATA, flag::PADDED, 1, &[200, 0, 0]));
    vec![
        case(
            "PING between HEADERS and CONTINUATION",
            UNTESTED,
            interleaved,
            OF_CONNECTION,
            0,
        ),
        case(
            "CONTINUATION without HEADERS",
            UNTESTED,
            frame(kind::CONTINUATION, flag::END_HEADERS, 1, &block(&GET)),
            OF_CONNECTION,
            0,
        ),
        case(
            "HPACK index that is not there",
            UNTESTED,
            frame(kind::HEADERS, 5, 1, &[0xff, 0x7f]),
            OF_CONNECTION,
            0,
        ),
        case(
            "an even stream",
            UNTESTED,
            headers(2, true, &GET),
            OF_CONNECTION,
            0,
        ),
        case(
            "a lower stream than before",
            UNTESTED,
            lower,
            OF_CONNECTION,
            1,
        ),
        case(
            "HEADERS on stream 0",
            UNTESTED,
            headers(0, true, &GET),
            OF_CONNECTION,
            0,
        ),
        case(
            "DATA on an idle stream",
            UNTESTED,
            data(true, b"a"),
            OF_CONNECTION,
            0,
        ),
        case(
            "DATA on stream 0",
            UNTESTED,
            frame(kind::DATA, 0, 0, b"a"),
            OF_CONNECTION,
            0,
        ),
        case(
            "DATA with more padding than payload",
            UNTESTED,
            padded,
            OF_CONNECTION,
            1,
        ),
        case(
            "RST_STREAM of an idle stream",
            UNTESTED,
            frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            OF_CONNECTION,
            0,
        ),
        case(
            "PUSH_PROMISE of a client",
            UNTESTED,
            frame(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x82]),
            OF_CONNECTION,
            0,
        ),
        case(
            "PING of 7 bytes",
            UNTESTED,
            frame(kind::PING, 0, 0, &[0; 7]),
            OF_CONNECTION,
            0,
        ),
        case(
            "PING on a stream",
            UNTESTED,
            frame(kind::PING, 0, 1, &[0; 8]),
            OF_CONNECTION,
            0,
        ),
        case(
            "SETTINGS of 5 bytes",
            UNTESTED,
            frame(kind::SETTINGS, 0, 0, &[0; 5]),
            OF_CONNECTION,
            0,
        ),
        case(
            "SETTINGS with a too large window",
            UNTESTED,
            setting(4, 0x8000_0000),
            OF_CONNECTION,
            0,
        ),
        case(
            "SETTINGS with a too small frame size",
            UNTESTED,
            setting(5, 100),
            OF_CONNECTION,
            0,
        ),
        case(
            "WINDOW_UPDATE of 0",
            UNTESTED,
            frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
            OF_CONNECTION,
            0,
        ),
        case(
            "WINDOW_UPDATE over the largest window",
            UNTESTED,
            overflow,
            "GOAWAY FLOW_CONTROL_ERROR",
            0,
        ),
        case(
            "frame over 16 KiB",
            UNTESTED,
            frame(kind::DATA, 0, 1, &[0; 16_385]),
            FRAME_SIZE,
            0,
        ),
    ]
}
