//! The ends of transactions in a WAL segment, what recovery compares a target time with; and the making of tablespaces, which
//! a server that is brought to life beside the original must not do again.
//!
//! Pages and records as `src/include/access/xlog_internal.h` and `xlogrecord.h` have them, the same in PostgreSQL 13 to
//! 18: every page begins with a header of 24 bytes (40 in the first page of a segment); records follow each other at
//! multiples of 8 and go on behind the next page's header where they do not fit.

use chrono::DateTime;

use super::wal::SegmentHeader;
use crate::model::{Lsn, Timestamp};

const SHORT_HEADER: usize = 24;
const LONG_HEADER: usize = 40;
/// `SizeOfXLogRecord`.
const RECORD_HEADER: usize = 24;
/// `RM_XACT_ID` in `rmgrlist.h`.
const TRANSACTIONS: u8 = 1;
/// The operation in `xl_info` (`XLOG_XACT_OPMASK`), and those that end a transaction: commit, abort, and both of a
/// prepared one.
const OPERATION: u8 = 0x70;
const PREPARED_ENDS: [u8; 2] = [0x30, 0x40];
/// `RM_XLOG_ID`, `XLR_INFO_MASK` turned around, and `XLOG_RESTORE_POINT` (`pg_control.h`).
const LOG: u8 = 0;
const OPERATION_OF_LOG: u8 = 0xF0;
const RESTORE_POINT: u8 = 0x70;
const ENDS: [u8; 4] = [0x00, 0x20, 0x30, 0x40];
/// `RM_TBLSPC_ID`, and `XLOG_TBLSPC_CREATE` (`tablespace.h`) among its operations.
const TABLESPACES: u8 = 5;
const OPERATION_OF_TABLESPACE: u8 = 0xF0;
const CREATE: u8 = 0x00;
/// What a record's first header behind its own may be: the number above, its data short or long, an origin.
const HEADS: std::ops::RangeInclusive<u8> = 252..=255;
/// PostgreSQL counts microseconds from the year 2000.
const EPOCH: i64 = 946_684_800;

/// What a segment holds that recovery can stop at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stops {
    /// When the last transaction ended that ends in it.
    pub last_transaction: Option<Timestamp>,
    /// Where the last record begins that is whole in it.
    pub last_record: Option<Lsn>,
}

/// Something that an operator can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// A restore point (`pg_create_restore_point()`).
    Name(String),
    /// The end of the transaction with this number.
    Transaction(u32),
}

/// Where the last record with this mark begins, of those that begin in this segment; `following` are the first bytes of
/// the next one, for a record that ends there.
pub fn find(segment: &[u8], following: &[u8], mark: &Mark) -> Option<Lsn> {
    let header = SegmentHeader::read(segment)?;
    let bytes = [segment, following].concat();
    let mut reader = Reader::of(&bytes, segment.len())?;
    let mut found = None;
    while let Some(record) = reader.record().filter(|record| record.at < segment.len()) {
        if is_marked(&record, mark) {
            found = Some(Lsn(header.position.0 + record.at as u64));
        }
    }
    found
}

/// Looks through a segment as far as its records are whole; nothing when it is no segment.
pub fn stops(segment: &[u8]) -> Stops {
    let mut stops = Stops::default();
    let (Some(header), Some(mut reader)) = (SegmentHeader::read(segment), Reader::of(segment, segment.len()))
    else {
        return stops;
    };
    while let Some(record) = reader.record() {
        stops.last_record = Some(Lsn(header.position.0 + record.at as u64));
        // They need not be in order.
        stops.last_transaction = stops.last_transaction.max(ended_at(&record));
    }
    stops
}

/// Whether a tablespace is made in this segment, also by a record that only begins or ends in it.
///
/// A record whose own header is cut in two by the segment's end is known by what of it stands in the next one: that may be
/// taken for one that makes a tablespace where it is not, but hardly ever is, and never the other way round.
pub fn makes_tablespace(segment: &[u8]) -> bool {
    if begins_with_tablespace(segment) {
        return true;
    }
    let Some(mut reader) = Reader::of(segment, segment.len()) else { return false };
    while let Some((_, header)) = reader.header() {
        let makes = header[17] == TABLESPACES && header[16] & OPERATION_OF_TABLESPACE == CREATE;
        if makes && length_of(&header).is_some() {
            return true;
        }
        if reader.body(&header, false).is_none() {
            break;
        }
    }
    false
}

/// Whether what is left of the record that began in the segment before is that of one that makes a tablespace, with its
/// operation in it. Records begin at multiples of 8, so that 8 or 16 of the header's 24 bytes may stand before.
fn begins_with_tablespace(segment: &[u8]) -> bool {
    let word = |at: usize| Some(u32::from_ne_bytes(segment.get(at..at + 4)?.try_into().ok()?));
    let remaining = word(16).map_or(0, |word| word as usize);
    let rest = segment.get(LONG_HEADER..).unwrap_or_default();
    let rest = &rest[..rest.len().min(remaining)];
    [0, 8].into_iter().any(|at| {
        let is_padded = rest.get(at + 2..at + 4) == Some(&[0, 0]);
        let operation = rest.get(at).is_some_and(|info| info & OPERATION_OF_TABLESPACE == CREATE);
        let is_theirs = rest.get(at + 1) == Some(&TABLESPACES);
        let has_data = rest.get(at + 8).is_some_and(|head| HEADS.contains(head));
        is_padded && operation && is_theirs && has_data
    })
}

/// How long a record is behind its header; nothing where there is none, such as in the zeros behind a switch to the next
/// segment.
fn length_of(header: &[u8]) -> Option<usize> {
    (u32::from_ne_bytes(header.get(..4)?.try_into().ok()?) as usize).checked_sub(RECORD_HEADER)
}

/// A record, as far as it is wanted: its header, and of those that end a transaction all of it.
struct Record {
    /// Where in the segment it begins.
    at: usize,
    transaction: u32,
    info: u8,
    manager: u8,
    body: Vec<u8>,
}

struct Reader<'a> {
    /// A segment, and perhaps the beginning of the next one.
    bytes: &'a [u8],
    segment_size: usize,
    page: usize,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Behind the end of a record that began in the segment before.
    fn of(bytes: &'a [u8], segment_size: usize) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let page = word(36)? as usize;
        let is_size = page.is_power_of_two() && (1024..=65_536).contains(&page);
        let page = if is_size { page } else { return None };
        let mut reader = Self { bytes, segment_size, page, at: LONG_HEADER };
        let remaining = word(16)? as usize;
        reader.skip(remaining)?;
        reader.align();
        Some(reader)
    }

    /// Where the bytes at the present place really lie: behind the page's header when the page has just begun.
    fn enter_page(&mut self) {
        if self.at.is_multiple_of(self.page) {
            self.at += if self.at.is_multiple_of(self.segment_size) { LONG_HEADER } else { SHORT_HEADER };
        }
    }

    fn take(&mut self, mut length: usize, mut into: Option<&mut Vec<u8>>) -> Option<()> {
        while length > 0 {
            self.enter_page();
            let piece = length.min(self.page - self.at % self.page);
            let bytes = self.bytes.get(self.at..self.at + piece)?;
            if let Some(into) = into.as_deref_mut() {
                into.extend_from_slice(bytes);
            }
            self.at += piece;
            length -= piece;
        }
        Some(())
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.take(length, None)
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    /// Where the next record begins, and its header; `None` at the end of the segment.
    fn header(&mut self) -> Option<(usize, Vec<u8>)> {
        self.enter_page();
        let at = self.at;
        let mut header = Vec::with_capacity(RECORD_HEADER);
        self.take(RECORD_HEADER, Some(&mut header))?;
        Some((at, header))
    }

    /// What stands behind the header, if it is wanted; `None` where it is not whole, or no record.
    fn body(&mut self, header: &[u8], wanted: bool) -> Option<Vec<u8>> {
        let rest = length_of(header)?;
        let mut body = Vec::new();
        self.take(rest, wanted.then_some(&mut body))?;
        self.align();
        Some(body)
    }

    /// The next record; `None` at the end of the segment, and where there is nothing more.
    fn record(&mut self) -> Option<Record> {
        let (at, header) = self.header()?;
        let (info, manager) = (header[16], header[17]);
        let wanted = manager == TRANSACTIONS || (manager == LOG && info & OPERATION_OF_LOG == RESTORE_POINT);
        let body = self.body(&header, wanted)?;
        let transaction = u32::from_ne_bytes(header[4..8].try_into().ok()?);
        Some(Record { at, transaction, info, manager, body })
    }
}

/// When the transaction ended, if the record ends one: the first field of its data (`xl_xact_commit`, `xl_xact_abort`).
fn ended_at(record: &Record) -> Option<Timestamp> {
    if record.manager != TRANSACTIONS || !ENDS.contains(&(record.info & OPERATION)) {
        return None;
    }
    let microseconds = i64::from_ne_bytes(data_of(record)?.get(..8)?.try_into().ok()?);
    DateTime::from_timestamp_micros(microseconds.checked_add(EPOCH * 1_000_000)?)
}

/// What stands behind an origin (253), the number of the transaction above (252), and how long it is (255: in one byte; 254:
/// in four).
fn data_of(record: &Record) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        match record.body.get(at)? {
            253 => at += 3,
            252 => at += 5,
            255 => return record.body.get(at + 2..),
            254 => return record.body.get(at + 5..),
            _ => return None,
        }
    }
}

fn is_marked(record: &Record, mark: &Mark) -> bool {
    match mark {
        // `xl_restore_point`: a time, and the name in 64 bytes.
        Mark::Name(name) => {
            record.manager == LOG
                && data_of(record)
                    .and_then(|data| data.get(8..))
                    .is_some_and(|found| found.split(|byte| *byte == 0).next() == Some(name.as_bytes()))
        }
        Mark::Transaction(number) => {
            let is_end = record.manager == TRANSACTIONS && ENDS.contains(&(record.info & OPERATION));
            // The end of a prepared one is another transaction's record, and has the number in its body.
            let is_prepared = PREPARED_ENDS.contains(&(record.info & OPERATION));
            let number_in = |body: &[u8]| body.windows(4).any(|four| four == number.to_ne_bytes());
            is_end && (record.transaction == *number || (is_prepared && number_in(&record.body)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 1024;

    /// A segment of two pages with this many bytes left of the record before.
    fn segment(remaining: u32) -> Vec<u8> {
        let mut bytes = vec![0; 2 * PAGE];
        bytes[16..20].copy_from_slice(&remaining.to_ne_bytes());
        bytes[36..40].copy_from_slice(&1024_u32.to_ne_bytes());
        bytes
    }

    fn record(manager: u8, info: u8, data: usize) -> Vec<u8> {
        let mut bytes = vec![0; RECORD_HEADER];
        bytes[16] = info;
        bytes[17] = manager;
        bytes.extend([255, u8::try_from(data).unwrap()]);
        bytes.extend(vec![7; data]);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn a_record_that_makes_a_tablespace_is_found_wherever_it_lies() {
        assert!(!makes_tablespace(&segment(0)), "zeros are no record");
        assert!(!makes_tablespace(&[]), "nor is nothing");
        let with = |at: usize, record: &[u8]| {
            let mut bytes = segment(0);
            let before = super::tests::record(10, 0, 6);
            let mut place = LONG_HEADER;
            while place < at {
                bytes[place..place + 32].copy_from_slice(&before);
                place += 32;
            }
            let end = (place + record.len()).min(PAGE);
            bytes[place..end].copy_from_slice(&record[..end - place]);
            makes_tablespace(&bytes)
        };
        assert!(with(LONG_HEADER, &record(TABLESPACES, CREATE, 40)));
        assert!(with(LONG_HEADER + 320, &record(TABLESPACES, CREATE, 40)));
        assert!(!with(LONG_HEADER + 320, &record(TABLESPACES, 0x10, 40)), "one that is dropped");
        assert!(!with(LONG_HEADER, &record(10, CREATE, 40)));
    }

    #[test]
    fn one_whose_header_is_cut_by_the_end_of_the_segment_before_is_found_in_the_next() {
        for cut in [8, 16] {
            let whole = record(TABLESPACES, CREATE, 40);
            let mut bytes = segment(u32::try_from(whole.len() - cut).unwrap());
            bytes[LONG_HEADER..LONG_HEADER + whole.len() - cut].copy_from_slice(&whole[cut..]);
            assert!(makes_tablespace(&bytes), "{cut}");
            let other = record(TABLESPACES, 0x10, 40);
            bytes[LONG_HEADER..LONG_HEADER + whole.len() - cut].copy_from_slice(&other[cut..]);
            assert!(!makes_tablespace(&bytes), "{cut}");
        }
    }

    #[test]
    fn one_that_only_begins_in_the_segment_is_found_in_it() {
        let mut bytes = segment(0);
        let before = record(10, 0, 6);
        let mut place = LONG_HEADER;
        while place + 24 < 2 * PAGE {
            if place == PAGE {
                place += SHORT_HEADER;
            }
            // 984 bytes in the first page are 30 records of 32 and 24 bytes; 1,000 in the second.
            if 2 * PAGE - place < 32 + 40 {
                let makes = record(TABLESPACES, CREATE, 200);
                bytes[place..].copy_from_slice(&makes[..2 * PAGE - place]);
                break;
            }
            let end = (place + 32).min(if place < PAGE { PAGE } else { 2 * PAGE });
            bytes[place..end].copy_from_slice(&before[..end - place]);
            if end == PAGE && end - place < 32 {
                let rest = 32 - (end - place);
                bytes[PAGE + SHORT_HEADER..PAGE + SHORT_HEADER + rest].copy_from_slice(&before[32 - rest..]);
                place = PAGE + SHORT_HEADER + rest;
            } else {
                place = end;
            }
        }
        assert!(makes_tablespace(&bytes));
    }
}
