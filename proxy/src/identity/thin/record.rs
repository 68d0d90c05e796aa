//! Records of TLS 1.3, sealed and opened (RFC 8446, section 5): no I/O, and no memory of their own.
//!
//! The TLS library shakes hands, and then hands the secrets over to who protects records himself (its
//! kernel API). Its own records are copied twice on their way and allocated once; these go from the
//! caller's bytes into the caller's buffer, and back.
//!
//! * A number is used once with a key, whether sealing succeeds or not: no nonce comes twice.
//! * What does not verify is never shown: on an error the room may hold anything, and is nobody's.
//! * Neither numbers nor keys wear out: [`Sealer::is_worn`] says in time when new keys are due.

use std::io;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::crypto::cipher::{self, Iv};
use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType, Error, PeerMisbehaved};

/// Before what is sealed: type, version, length.
pub(super) const HEADER: usize = 5;
/// Behind the content: its type, and the tag. No suite of ours has another.
pub(super) const TRAILER: usize = 1 + TAG;
const TAG: usize = 16;
/// The longest content (section 5.1).
pub(super) const MAX_CONTENT: usize = 1 << 14;
/// What follows the header, at most (section 5.2).
const MAX_SEALED: usize = MAX_CONTENT + 256;
/// Records after which AES-GCM needs new keys (section 5.5), rounded down.
const MAX_RECORDS: u64 = 1 << 24;

/// Secrets as the library hands them over: the next record's number, and the keys.
pub(super) type Secrets = (u64, ConnectionTrafficSecrets);

/// Seals what is sent.
pub(super) struct Sealer(Keys);

/// Opens what has come.
pub(super) struct Opener(Keys);

/// What was in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) kind: ContentType,
    /// In bytes, from where the record was opened to.
    pub(super) len: usize,
}

struct Keys {
    key: LessSafeKey,
    iv: Iv,
    /// The next record's.
    number: u64,
}

impl Sealer {
    /// # Errors
    /// Where the suite is none of TLS 1.3's.
    pub(super) fn new(secrets: Secrets) -> Result<Self, Error> {
        Keys::new(secrets).map(Self)
    }

    /// Whether the keys are to be replaced before anything else is sealed.
    pub(super) fn is_worn(&self) -> bool {
        self.0.number >= MAX_RECORDS
    }

    /// Records that these keys have sealed.
    #[cfg(test)]
    pub(super) fn sealed(&self) -> u64 {
        self.0.number
    }

    /// As if so many had been sealed.
    #[cfg(test)]
    pub(super) fn pretend(&mut self, sealed: u64) {
        self.0.number = sealed;
    }

    /// Seals `content` into a record at the beginning of `room`; how long it is.
    ///
    /// # Errors
    /// Where `content` is longer than [`MAX_CONTENT`], or the record than `room`.
    pub(super) fn seal(
        &mut self,
        kind: ContentType,
        content: &[u8],
        room: &mut [u8],
    ) -> io::Result<usize> {
        let (record, nonce) = self.0.begin(content.len(), room)?;
        let (header, sealed) = record.split_at_mut(HEADER);
        let (sealed, trailer) = sealed.split_at_mut(content.len());
        let kind = [kind.into()];
        self.0
            .key
            .seal_out_of_place_scatter(nonce, Aad::from(header), content, sealed, &kind, trailer)
            .map_err(|_| io::Error::other(Error::EncryptError))?;
        Ok(record.len())
    }

    /// [`Self::seal`] of application data that lies in `room` already, from [`HEADER`] on.
    pub(super) fn seal_in_place(&mut self, len: usize, room: &mut [u8]) -> io::Result<usize> {
        let (record, nonce) = self.0.begin(len, room)?;
        let (header, sealed) = record.split_at_mut(HEADER);
        let (sealed, trailer) = sealed.split_at_mut(len);
        let kind = [ContentType::ApplicationData.into()];
        self.0
            .key
            .seal_in_place_scatter(nonce, Aad::from(header), sealed, &kind, trailer)
            .map_err(|_| io::Error::other(Error::EncryptError))?;
        Ok(record.len())
    }
}

impl Opener {
    /// # Errors
    /// Where the suite is none of TLS 1.3's.
    pub(super) fn new(secrets: Secrets) -> Result<Self, Error> {
        Keys::new(secrets).map(Self)
    }

    /// As if so many had been opened.
    #[cfg(test)]
    pub(super) fn pretend(&mut self, opened: u64) {
        self.0.number = opened;
    }

    /// Opens a [`whole`] record into `room`, which is [`room_for`] it.
    ///
    /// # Errors
    /// Where nobody has sealed it so, or what was sealed is not allowed.
    pub(super) fn open(&mut self, record: &[u8], room: &mut [u8]) -> Result<Content, Error> {
        let (header, sealed) = record.split_at(HEADER);
        let (sealed, tag) = sealed.split_at(sealed.len() - TAG);
        let nonce = self.0.nonce().ok_or(Error::DecryptError)?;
        self.0
            .key
            .open_separate_gather(nonce, Aad::from(header), sealed, tag, room)
            .map_err(|_| Error::DecryptError)?;
        content(room)
    }

    /// [`Self::open`] to where it lies: the content begins at [`HEADER`].
    pub(super) fn open_in_place(&mut self, record: &mut [u8]) -> Result<Content, Error> {
        let (header, sealed) = record.split_at_mut(HEADER);
        let nonce = self.0.nonce().ok_or(Error::DecryptError)?;
        let opened = self
            .0
            .key
            .open_in_place(nonce, Aad::from(header), sealed)
            .map_err(|_| Error::DecryptError)?;
        content(opened)
    }
}

impl Keys {
    fn new((number, secrets): Secrets) -> Result<Self, Error> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a suite that is not known".into())),
        };
        let key = UnboundKey::new(algorithm, key.as_ref())
            .map_err(|_| Error::General("a key that does not fit its suite".into()))?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv,
            number,
        })
    }

    /// The next record's; none when there are no numbers left.
    fn nonce(&mut self) -> Option<Nonce> {
        let number = self.number;
        self.number = number.checked_add(1)?;
        let cipher::Nonce(nonce) = cipher::Nonce::new(&self.iv, number);
        Some(Nonce::assume_unique_for_key(nonce))
    }

    /// A record's place in `room`, with its header, for `len` bytes of content.
    fn begin<'a>(&mut self, len: usize, room: &'a mut [u8]) -> io::Result<(&'a mut [u8], Nonce)> {
        let whole = HEADER + len + TRAILER;
        if len > MAX_CONTENT || whole > room.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let nonce = self
            .nonce()
            .ok_or_else(|| io::Error::other(Error::EncryptError))?;
        let record = &mut room[..whole];
        record[..HEADER].copy_from_slice(&cipher::make_tls13_aad(len + TRAILER));
        Ok((record, nonce))
    }
}

/// How long the record is that `bytes` begin with; `None` until it is there to its end.
///
/// # Errors
/// By its header, as soon as that is there: where it is no sealed record, or too long for one.
pub(super) fn whole(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    // After the handshake nothing travels in the clear, alerts and change_cipher_spec included.
    let kind = ContentType::from(header[0]);
    if kind != ContentType::ApplicationData {
        return Err(unexpected(kind));
    }
    let sealed = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if sealed > MAX_SEALED {
        return Err(Error::PeerSentOversizedRecord);
    }
    if sealed < TRAILER {
        return Err(Error::DecryptError);
    }
    let whole = HEADER + sealed;
    Ok((bytes.len() >= whole).then_some(whole))
}

/// The room that it takes to open a record as long as that elsewhere.
pub(super) fn room_for(whole: usize) -> usize {
    whole - HEADER - TAG
}

/// The alert that tells the peer of an error; none for one that the peer has told.
pub(super) fn alert_for(error: &Error) -> Option<AlertDescription> {
    Some(match error {
        Error::AlertReceived(_) => return None,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => AlertDescription::UnexpectedMessage,
        _ => AlertDescription::InternalError,
    })
}

/// What nobody may send once hands are shaken.
pub(super) fn unexpected(kind: ContentType) -> Error {
    Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData],
        got_type: kind,
    }
}

/// Takes padding and type off (section 5.4).
fn content(opened: &[u8]) -> Result<Content, Error> {
    let Some(last) = opened.iter().rposition(|byte| *byte != 0) else {
        return Err(PeerMisbehaved::IllegalTlsInnerPlaintext.into());
    };
    if last > MAX_CONTENT {
        return Err(Error::PeerSentOversizedRecord);
    }
    Ok(Content {
        kind: opened[last].into(),
        len: last,
    })
}
