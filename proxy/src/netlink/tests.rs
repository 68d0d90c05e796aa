//! Golden bytes, properties, and two exchanges with the kernel that change nothing.

use proptest::prelude::*;

use super::*;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const IFLA_IFNAME: u16 = 3;

/// `struct ifinfomsg` for any link.
const ANY_LINK: [u8; 16] = [0; 16];

#[cfg(target_endian = "little")]
#[test]
fn a_message_as_the_kernel_reads_it() {
    let mut message = Message::new(0x0a03, flags::CREATE, &[2, 0, 0, 10]);
    message.string(1, "weft");
    message.u32_be(2, 0x0102_0304);
    message.nested(3, |nested| {
        nested.attribute(4, &[0xaa]);
        nested.u32(5, 0x0102_0304);
    });
    let bytes = message.finish(7, flags::ACK).expect("short");
    let expected: [&[u8]; 6] = [
        &[60, 0, 0, 0, 3, 10, 5, 4, 7, 0, 0, 0, 0, 0, 0, 0],
        &[2, 0, 0, 10],
        &[9, 0, 1, 0, b'w', b'e', b'f', b't', 0, 0, 0, 0],
        &[8, 0, 2, 0, 1, 2, 3, 4],
        &[20, 0, 3, 0x80, 5, 0, 4, 0, 0xaa, 0, 0, 0],
        &[8, 0, 5, 0, 4, 3, 2, 1],
    ];
    assert_eq!(bytes, expected.concat());
}

#[test]
fn an_attribute_that_is_too_long_is_refused() {
    let mut fits = Message::new(0, 0, &[]);
    fits.attribute(1, &vec![0; 65_531]);
    assert!(fits.finish(1, 0).is_some());

    let mut too_long = Message::new(0, 0, &[]);
    too_long.nested(1, |nested| {
        nested.attribute(2, &vec![0; 65_530]);
    });
    assert!(too_long.finish(1, 0).is_none());
}

#[test]
fn lengths_that_point_outside_end_the_iteration() {
    for bytes in [&[3, 0, 1, 0][..], &[5, 0, 1, 0], &[0, 0, 0, 0], &[4, 0, 1]] {
        let read: Vec<_> = Attributes::new(bytes).collect();
        assert_eq!(read, [Err(Malformed)], "{bytes:?}");
    }
    let mut header = [0; 16];
    for length in [0u32, 15, 17] {
        header[0..4].copy_from_slice(&length.to_ne_bytes());
        let read: Vec<_> = Frames::new(&header).collect();
        assert_eq!(read, [Err(Malformed)], "{length}");
    }
}

#[test]
fn text_ends_at_its_nul() {
    let text = |payload| Attribute { kind: 1, payload }.text();
    assert_eq!(text(b"lo\0\0"), Some("lo"));
    assert_eq!(text(b"lo"), Some("lo"));
    assert_eq!(text(b"\xff\0"), None);
}

proptest! {
    #[test]
    fn what_is_built_is_read_back(
        family_header in prop::collection::vec(any::<u8>(), 0..20),
        attributes in prop::collection::vec(
            (0u16..0x3fff, prop::collection::vec(any::<u8>(), 0..70)), 0..12),
        nested_kind in 0u16..0x3fff,
        sequence in any::<u32>(),
    ) {
        let mut message = Message::new(99, flags::CREATE, &family_header);
        for (kind, payload) in &attributes {
            message.attribute(*kind, payload);
        }
        message.nested(nested_kind, |nested| {
            for (kind, payload) in &attributes {
                nested.attribute(*kind, payload);
            }
        });
        let bytes = message.finish(sequence, flags::ACK).expect("short");
        prop_assert_eq!(bytes.len() % 4, 0);

        let frames: Vec<_> = Frames::new(&bytes).collect::<Result<_, _>>().expect("ours");
        prop_assert_eq!(frames.len(), 1);
        let frame = frames[0];
        prop_assert_eq!((frame.kind, frame.sequence), (99, sequence));
        prop_assert_eq!(frame.flags, flags::CREATE | flags::REQUEST | flags::ACK);

        let body = &frame.payload[family_header.len().next_multiple_of(4)..];
        let mut read: Vec<_> = Attributes::new(body).collect::<Result<_, _>>().expect("ours");
        let nested = read.pop().expect("the nested one");
        prop_assert_eq!(nested.kind, nested_kind);
        let inner: Vec<_> =
            Attributes::new(nested.payload).collect::<Result<_, _>>().expect("ours");
        for list in [&read, &inner] {
            prop_assert_eq!(list.len(), attributes.len());
            for (attribute, (kind, payload)) in list.iter().zip(&attributes) {
                prop_assert_eq!(attribute.kind, *kind);
                prop_assert_eq!(attribute.payload, &payload[..]);
                let offset = attribute.payload.as_ptr() as usize - bytes.as_ptr() as usize;
                prop_assert_eq!(offset % 4, 0);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Attributes::new(&bytes).count() <= bytes.len());
        prop_assert!(Frames::new(&bytes).count() <= bytes.len());
    }
}

#[test]
fn the_kernel_lists_its_links() {
    let mut socket = Socket::route().expect("anyone may ask");
    let links = socket
        .dump(&Message::new(RTM_GETLINK, 0, &ANY_LINK))
        .expect("a list");
    let names: Vec<_> = links
        .iter()
        .filter(|reply| reply.kind == RTM_NEWLINK)
        .filter_map(|reply| {
            let mut attributes = Attributes::new(&reply.payload[ANY_LINK.len()..]);
            let name = attributes.find(|a| a.is_ok_and(|a| a.kind == IFLA_IFNAME))?;
            name.ok()?.text().map(str::to_owned)
        })
        .collect();
    assert!(names.contains(&"lo".to_owned()), "{names:?}");
}

#[test]
fn a_refusal_carries_the_errno_and_the_socket_goes_on() {
    let mut socket = Socket::route().expect("anyone may ask");
    for _ in 0..2 {
        let mut message = Message::new(RTM_SETLINK, 0, &ANY_LINK);
        message.string(IFLA_IFNAME, "weft-nowhere");
        let error = socket.request(message).expect_err("no such link");
        assert!(
            matches!(error, Error::Refused { position: 0, .. }),
            "{error:?}"
        );

        let mut message = Message::new(RTM_GETLINK, 0, &ANY_LINK);
        message.string(IFLA_IFNAME, "lo");
        let replies = socket.request(message).expect("there is one");
        assert_eq!(replies.len(), 1);
    }
}
