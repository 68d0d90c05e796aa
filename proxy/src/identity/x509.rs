//! The few fields of a leaf that the TLS library does not show.
//!
//! A reader of DER (X.690) that follows exactly the path to them through a certificate (RFC 5280,
//! section 4.1) and is strict about lengths. It never panics; what it cannot follow is unreadable.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::verify::IdentityError;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// `uniformResourceIdentifier` in a GeneralName.
const URI_NAME: u8 = 0x86;

const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

const MAX_SERIAL: usize = 21;

/// What is read of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// When it expires.
    pub(super) not_after: SystemTime,
    /// Whether its key usage says digitalSignature; `false` where it says nothing.
    pub(super) may_sign: bool,
    /// Whether it calls itself a CA.
    pub(super) is_ca: bool,
    /// How many URIs are among its alternative names.
    pub(super) uri_names: usize,
}

impl Leaf {
    /// Reads a certificate.
    pub(super) fn read(der: &[u8]) -> Result<Self, IdentityError> {
        Self::parse(der).ok_or(IdentityError::Unreadable)
    }

    fn parse(der: &[u8]) -> Option<Self> {
        let mut certificate = Reader(Reader(der).expect(SEQUENCE)?);
        let mut fields = Reader(certificate.expect(SEQUENCE)?);
        fields.optional(VERSION)?;
        for _serial_algorithm_issuer in 0..3 {
            fields.element()?;
        }
        let mut validity = Reader(fields.expect(SEQUENCE)?);
        validity.element()?;
        let (tag, text) = validity.element()?;
        let mut leaf = Self {
            not_after: time(tag, text)?,
            may_sign: false,
            is_ca: false,
            uri_names: 0,
        };
        while let Some((tag, content)) = fields.next()? {
            if tag == EXTENSIONS {
                leaf.extensions(Reader(content).expect(SEQUENCE)?)?;
            }
        }
        Some(leaf)
    }

    fn extensions(&mut self, list: &[u8]) -> Option<()> {
        let mut list = Reader(list);
        while let Some((tag, extension)) = list.next()? {
            let mut extension = Reader((tag == SEQUENCE).then_some(extension)?);
            let oid = extension.expect(OID)?;
            extension.optional(BOOLEAN)?;
            let value = extension.expect(OCTET_STRING)?;
            match oid {
                KEY_USAGE => {
                    // One byte of unused-bit count, then bits; digitalSignature is the first.
                    let bits = Reader(value).expect(BIT_STRING)?;
                    self.may_sign = bits.get(1).is_some_and(|byte| byte & 0x80 != 0);
                }
                BASIC_CONSTRAINTS => {
                    let mut constraints = Reader(Reader(value).expect(SEQUENCE)?);
                    let ca = constraints.optional(BOOLEAN)?;
                    self.is_ca = ca.is_some_and(|value| value != [0]);
                }
                SUBJECT_ALT_NAME => {
                    let mut names = Reader(Reader(value).expect(SEQUENCE)?);
                    while let Some((tag, _)) = names.next()? {
                        self.uri_names += usize::from(tag == URI_NAME);
                    }
                }
                _ => {}
            }
        }
        Some(())
    }
}

/// The serial number of a certificate, in hexadecimal digits.
pub(super) fn serial(der: &[u8]) -> Result<String, IdentityError> {
    let bytes = || {
        let mut certificate = Reader(Reader(der).expect(SEQUENCE)?);
        let mut fields = Reader(certificate.expect(SEQUENCE)?);
        fields.optional(VERSION)?;
        // 20 bytes at most, and a zero before them where they would be negative (RFC 5280, 4.1.2.2).
        let bytes = fields.expect(INTEGER)?;
        (1..=MAX_SERIAL).contains(&bytes.len()).then_some(bytes)
    };
    Ok(hexadecimal(bytes().ok_or(IdentityError::Unreadable)?))
}

/// Bytes as hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

/// What is left of a sequence of elements.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element; `None` where there is none or it is broken.
    fn element(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            let bytes = usize::from(first & 0x7f);
            if !(1..=3).contains(&bytes) || rest.len() < bytes {
                return None;
            }
            let (length, after) = rest.split_at(bytes);
            rest = after;
            length
                .iter()
                .fold(0, |sum, &byte| (sum << 8) | usize::from(byte))
        };
        if rest.len() < length {
            return None;
        }
        let (content, rest) = rest.split_at(length);
        self.0 = rest;
        Some((tag, content))
    }

    /// The next element, or `Some(None)` at the end.
    #[allow(clippy::option_option)]
    fn next(&mut self) -> Option<Option<(u8, &'a [u8])>> {
        if self.0.is_empty() {
            return Some(None);
        }
        self.element().map(Some)
    }

    /// The next element's content, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content) = self.element()?;
        (found == tag).then_some(content)
    }

    /// The next element's content where it has this tag; `None` where what follows is broken.
    #[allow(clippy::option_option)]
    fn optional(&mut self, tag: u8) -> Option<Option<&'a [u8]>> {
        if self.0.first() != Some(&tag) {
            return Some(None);
        }
        self.element().map(|(_, content)| Some(content))
    }
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280, section 4.1.2.5).
fn time(tag: u8, text: &[u8]) -> Option<SystemTime> {
    let (year, rest) = match tag {
        UTC_TIME => {
            let year = number(text.get(..2)?)?;
            (
                if year < 50 { 2000 + year } else { 1900 + year },
                &text[2..],
            )
        }
        GENERALIZED_TIME => (number(text.get(..4)?)?, &text[4..]),
        _ => return None,
    };
    let [digits @ .., b'Z'] = rest else {
        return None;
    };
    if digits.len() != 10 {
        return None;
    }
    let part = |index: usize| number(&digits[index * 2..index * 2 + 2]);
    let (month, day) = (part(0)?, part(1)?);
    let (hour, minute, second) = (part(2)?, part(3)?, part(4)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let days = days_since_epoch(i64::from(year), i64::from(month), i64::from(day));
    let seconds = days * 86_400 + i64::from(hour * 3600 + minute * 60 + second);
    // Before 1970 is simply long over.
    let seconds = u64::try_from(seconds).unwrap_or(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        Some(sum * 10 + digit)
    })
}

/// Days from 1970-01-01 in the Gregorian calendar: years are counted from March, so that the leap
/// day is the last of its year.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    const EPOCH: i64 = 719_468;
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - EPOCH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(tag: u8, text: &str) -> Option<u64> {
        let time = time(tag, text.as_bytes())?;
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Some(since.as_secs())
    }

    #[test]
    fn times() {
        assert_eq!(seconds(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, "000229120000Z"), Some(951_825_600));
        assert_eq!(seconds(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(
            seconds(GENERALIZED_TIME, "20500101000000Z"),
            Some(2_524_608_000)
        );
        assert_eq!(seconds(GENERALIZED_TIME, "19500101000000Z"), Some(0));
        for bad in [
            "",
            "Z",
            "7001010000Z",
            "701301000000Z",
            "70010100000xZ",
            "700101000000",
        ] {
            assert_eq!(seconds(UTC_TIME, bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Leaf::read(&bytes);
        }

        #[test]
        fn a_damaged_certificate_is_survived(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec!["a.b".to_owned()]).unwrap();
            let mut der = params.self_signed(&key).unwrap().der().to_vec();
            prop_assert!(Leaf::read(&der).is_ok());
            let at = at.index(der.len());
            der[at] = byte;
            let _ = Leaf::read(&der);
        }
    }
}
