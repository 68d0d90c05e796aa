use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use proptest::prelude::*;
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::{self, AeadKey, Iv};

use super::*;
use crate::identity::thin::record::{alert_for, room_for, whole};

fn secrets(number: u64, chacha: bool) -> (u64, ConnectionTrafficSecrets) {
    let key = AeadKey::from([7; 32]);
    let iv = Iv::from([9; 12]);
    let secrets = if chacha {
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }
    } else {
        ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    };
    (number, secrets)
}

fn pair(number: u64) -> (Sealer, Opener) {
    (
        Sealer::new(secrets(number, false)).unwrap(),
        Opener::new(secrets(number, false)).unwrap(),
    )
}

fn seal(sealer: &mut Sealer, content: &[u8]) -> Vec<u8> {
    let mut room = vec![0; HEADER + content.len() + TRAILER];
    let len = sealer.seal(ContentType::ApplicationData, content, &mut room);
    assert_eq!(len.unwrap(), room.len());
    room
}

fn open(opener: &mut Opener, record: &[u8]) -> Result<Vec<u8>, Error> {
    let mut room = vec![0; room_for(record.len())];
    let content = opener.open(record, &mut room)?;
    assert_eq!(content.kind, ContentType::ApplicationData);
    room.truncate(content.len);
    Ok(room)
}

#[test]
fn keys_wear_out_and_numbers_end() {
    let (mut sealer, mut opener) = pair((1 << 24) - 1);
    assert!(!sealer.is_worn());
    let record = seal(&mut sealer, b"last");
    assert!(sealer.is_worn());
    assert_eq!(open(&mut opener, &record).unwrap(), b"last");

    let (mut sealer, mut opener) = pair(u64::MAX);
    let mut room = [0; 64];
    for _ in 0..2 {
        let sealed = sealer.seal(ContentType::ApplicationData, b"", &mut room);
        assert!(sealed.is_err());
        assert!(opener.open(&[0; 40], &mut [0; 19]).is_err());
    }
}

#[test]
fn each_number_is_used_once() {
    let (mut sealer, mut opener) = pair(0);
    let (first, second) = (seal(&mut sealer, b"same"), seal(&mut sealer, b"same"));
    assert_ne!(first, second);
    assert_eq!(open(&mut opener, &first).unwrap(), b"same");
    // Again, and in another order.
    assert_eq!(open(&mut opener, &first), Err(Error::DecryptError));
    let (_, mut opener) = pair(0);
    assert_eq!(open(&mut opener, &second), Err(Error::DecryptError));
    // Another suite's keys.
    let mut opener = Opener::new(secrets(0, true)).unwrap();
    assert_eq!(open(&mut opener, &first), Err(Error::DecryptError));
}

#[test]
fn what_does_not_fit_is_not_sealed() {
    let (mut sealer, _) = pair(0);
    let mut room = vec![0; 20_000];
    let kind = ContentType::ApplicationData;
    assert!(
        sealer
            .seal(kind, &vec![0; MAX_CONTENT + 1], &mut room)
            .is_err()
    );
    assert!(sealer.seal_in_place(MAX_CONTENT + 1, &mut room).is_err());
    assert!(sealer.seal(kind, b"abc", &mut room[..24]).is_err());
    assert!(sealer.seal(kind, b"abc", &mut room[..25]).is_ok());
}

#[test]
fn a_content_that_is_too_long_is_told_from_a_forged_one() {
    let (mut sealer, mut opener) = pair(0);
    // The longest that is allowed, padding included.
    let mut content = vec![1; MAX_CONTENT - 1];
    content.push(23);
    let mut room = vec![0; HEADER + MAX_CONTENT + TRAILER];
    let padding = ContentType::from(0);
    sealer.seal(padding, &content, &mut room).unwrap();
    assert_eq!(open(&mut opener, &room).unwrap().len(), MAX_CONTENT - 1);

    // One byte more than that, which no sealer of ours would seal.
    let len = MAX_CONTENT + 1 + TRAILER;
    let mut room = cipher::make_tls13_aad(len).to_vec();
    let mut sealed = vec![23; MAX_CONTENT + 2];
    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap();
    let cipher::Nonce(nonce) = cipher::Nonce::new(&Iv::from([9; 12]), 1);
    LessSafeKey::new(key)
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(&room),
            &mut sealed,
        )
        .unwrap();
    room.extend(sealed);
    assert_eq!(whole(&room), Ok(Some(room.len())));
    let error = open(&mut opener, &room).unwrap_err();
    assert_eq!(error, Error::PeerSentOversizedRecord);
    assert_eq!(alert_for(&error), Some(AlertDescription::RecordOverflow));
    assert_eq!(
        alert_for(&Error::AlertReceived(AlertDescription::BadRecordMac)),
        None
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_is_opened(
        contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2_000), 1..6),
        number in 0_u64..1 << 40,
    ) {
        let (mut sealer, mut opener) = pair(number);
        let (mut in_place, mut there) = pair(number);
        for content in contents {
            let record = seal(&mut sealer, &content);
            let mut room = vec![0; record.len() + 3];
            room[HEADER..][..content.len()].copy_from_slice(&content);
            let len = in_place.seal_in_place(content.len(), &mut room).unwrap();
            prop_assert_eq!(&room[..len], &record[..]);
            prop_assert_eq!(whole(&record), Ok(Some(record.len())));
            prop_assert_eq!(whole(&record[..record.len() - 1]), Ok(None));

            prop_assert_eq!(&open(&mut opener, &record).unwrap(), &content);
            let opened = there.open_in_place(&mut room[..len]).unwrap();
            prop_assert_eq!(opened.len, content.len());
            prop_assert_eq!(&room[HEADER..][..opened.len], &content[..]);
        }
    }

    #[test]
    fn a_changed_bit_is_seen(
        content in proptest::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let (mut sealer, mut opener) = pair(3);
        let mut record = seal(&mut sealer, &content);
        let at = at.index(record.len());
        record[at] ^= 1 << bit;
        prop_assert_eq!(open(&mut opener, &record), Err(Error::DecryptError));
        let (_, mut opener) = pair(3);
        prop_assert_eq!(opener.open_in_place(&mut record), Err(Error::DecryptError));
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut seen = Ok(None);
        for end in 0..=bytes.len() {
            let now = whole(&bytes[..end]);
            // Once it is clear it stays so.
            if seen != Ok(None) {
                prop_assert_eq!(&now, &seen);
            }
            seen = now;
        }
        if let Ok(Some(len)) = seen {
            let (_, mut opener) = pair(0);
            prop_assert!(open(&mut opener, &bytes[..len]).is_err());
        }
    }
}
