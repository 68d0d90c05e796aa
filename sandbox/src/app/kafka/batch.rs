//! Record batches, version 2: a head with a checksum (CRC-32C, RFC 3720 appendix B.4), then the records.
//! The base offset stands before what the checksum covers, so that a broker can set it.

use super::wire::{Malformed, Reader, Writer};

/// Where the parts of the head begin, and where it ends.
const LENGTH_AT: usize = 8;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const COVERED_AT: usize = 21;
const HEAD: usize = 61;
/// The one version.
const MAGIC: u8 = 2;
/// Bits of the attributes that name a compression.
const COMPRESSION: i16 = 0b111;
/// CRC-32C's polynomial, its lowest bit first.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const TABLE: [u32; 256] = table();

/// What a broker has to know of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Offset of its first record.
    pub(super) base: i64,
    /// How many offsets it takes.
    pub(super) count: i64,
    /// Whether its checksum is right.
    pub(super) is_whole: bool,
    /// Whether its records can be read here.
    pub(super) is_plain: bool,
}

/// A batch of records without keys, all of this time in milliseconds since 1970.
pub(super) fn encode(values: &[&[u8]], time: i64) -> Vec<u8> {
    let mut records = Writer::default();
    for (number, value) in values.iter().enumerate() {
        let mut record = Writer::default();
        // No attributes, no later than the first, so far behind it, no key.
        record.i8(0).signed(0).signed(number as i64).signed(-1);
        record.signed(value.len() as i64).raw(value).unsigned(0);
        let record = record.into_bytes();
        records.signed(record.len() as i64).raw(&record);
    }
    let mut covered = Writer::default();
    covered
        .i16(0)
        .i32(values.len() as i32 - 1)
        .i64(time)
        .i64(time);
    // No producer that is known again.
    covered.i64(-1).i16(-1).i32(-1);
    covered.i32(values.len() as i32).raw(&records.into_bytes());
    let covered = covered.into_bytes();
    let mut batch = Writer::default();
    let length = covered.len() + COVERED_AT - LENGTH_AT - 4;
    batch.i64(0).i32(length as i32).i32(-1).i8(MAGIC as i8);
    batch.raw(&checksum(&covered).to_be_bytes()).raw(&covered);
    batch.into_bytes()
}

/// The head of exactly one batch.
pub(super) fn head(batch: &[u8]) -> Result<Head, Malformed> {
    let mut reader = Reader::new(batch);
    let base = reader.i64()?;
    let length = usize::try_from(reader.i32()?).map_err(|_| Malformed)?;
    if batch.len() < HEAD || batch[MAGIC_AT] != MAGIC || length + LENGTH_AT + 4 != batch.len() {
        return Err(Malformed);
    }
    let said = &batch[CRC_AT..COVERED_AT];
    let covered = &batch[COVERED_AT..];
    let mut reader = Reader::new(covered);
    let attributes = reader.i16()?;
    let last = reader.i32()?;
    if last < 0 {
        return Err(Malformed);
    }
    Ok(Head {
        base,
        count: i64::from(last) + 1,
        is_whole: checksum(covered).to_be_bytes() == said,
        is_plain: attributes & COMPRESSION == 0,
    })
}

/// Gives a batch its offset.
pub(super) fn set_base(batch: &mut [u8], base: i64) {
    if let Some(place) = batch.get_mut(..LENGTH_AT) {
        place.copy_from_slice(&base.to_be_bytes());
    }
}

/// Offsets and values of the records of one batch that is not compressed.
pub(super) fn records(batch: &[u8]) -> Result<Vec<(i64, &[u8])>, Malformed> {
    let head = head(batch)?;
    let mut reader = Reader::new(&batch[HEAD..]);
    let mut records = Vec::new();
    while !reader.is_at_end() {
        let mut record = Reader::new(reader.short_bytes()?.ok_or(Malformed)?);
        record.i8()?;
        record.signed()?;
        let behind = record.signed()?;
        record.short_bytes()?;
        let value = record.short_bytes()?.unwrap_or_default();
        records.push((head.base.saturating_add(behind), value));
    }
    Ok(records)
}

/// The batches of what a broker answers; the last may be cut short, and is left out then.
pub(super) fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut batches = Vec::new();
    while let Some(length) = bytes.get(LENGTH_AT..LENGTH_AT + 4) {
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some((batch, rest)) = bytes.split_at_checked(length + LENGTH_AT + 4) else {
            break;
        };
        batches.push(batch);
        bytes = rest;
    }
    batches
}

pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)]
    });
    !crc
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut number = 0;
    while number < 256 {
        let mut value = number as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                (value >> 1) ^ POLYNOMIAL
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[number] = value;
        number += 1;
    }
    table
}
