//! The ends of transactions in a WAL segment, what recovery compares a target time with; and the making of tablespaces, which
//! a server that is brought to life beside the original must not do again.
//!
//! Pages and records as `src/include/access/xlog_internal.h` and `xlogrecord.h` have them, the same in PostgreSQL 13 to
//! 18: every page begins with a header of 24 bytes (40 in the first page of a segment); records follow each other at
//! multiples of 8 and go on behind the next page's header where they do not fit. How much of a record is left stands in that
//! header; after a crash in the middle of a record it says instead that the rest never came, and that WAL goes on with another
//! (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`, since 13.5 and 14.1). As in `xlogreader.c`, the two are compared at every page.

use chrono::DateTime;

use super::wal::SegmentHeader;
use crate::model::{Lsn, Timestamp};

const SHORT_HEADER: usize = 24;
const LONG_HEADER: usize = 40;
/// `SizeOfXLogRecord`.
const RECORD_HEADER: usize = 24;
/// What a page's header says in its flags: it begins with the rest of a record, or that rest never came.
const GOES_ON: u16 = 0x0001;
const NEVER_CAME: u16 = 0x0008;
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
    while let Ok(record) = reader.record()
        && record.at < segment.len()
    {
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
    while let Ok(record) = reader.record() {
        stops.last_record = Some(Lsn(header.position.0 + record.at as u64));
        // They need not be in order.
        stops.last_transaction = stops.last_transaction.max(ended_at(&record));
    }
    stops
}

/// What can be said of the making of tablespaces in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tablespaces {
    /// None is made.
    None,
    /// One is.
    Made,
    /// There is something in it that can't be read.
    CannotTell,
}

/// Whether a tablespace is made in this segment, also by a record that only begins or ends in it. Records that begin before
/// `from` don't count: replay begins there.
///
/// A record whose own header is cut in two by the segment's end is known by what of it stands in the next one: that may be
/// taken for one that makes a tablespace where it is not, but hardly ever is, and never the other way round.
pub fn tablespaces(segment: &[u8], from: Lsn) -> Tablespaces {
    let (Some(header), Some(mut reader)) = (SegmentHeader::read(segment), Reader::of(segment, segment.len()))
    else {
        return Tablespaces::CannotTell;
    };
    if header.position > from && begins_with_tablespace(segment) {
        return Tablespaces::Made;
    }
    loop {
        match reader.record() {
            Ok(record) if header.position.0 + record.at as u64 >= from.0 && record.makes_tablespace() => {
                return Tablespaces::Made;
            }
            Ok(_) => {}
            // The server that goes on reading in the next segment replays it.
            Err(Cut::End(Some(begun)))
                if header.position.0 + begun.at as u64 >= from.0 && begun.makes_tablespace() =>
            {
                return Tablespaces::Made;
            }
            Err(Cut::End(_)) => return Tablespaces::None,
            Err(Cut::Unreadable) => return Tablespaces::CannotTell,
        }
    }
}

/// Whether what is left of the record that began in the segment before is that of one that makes a tablespace, with its
/// operation in it. Records begin at multiples of 8, so that 8 or 16 of the header's 24 bytes may stand before.
fn begins_with_tablespace(segment: &[u8]) -> bool {
    let remaining = word(segment, 16).map_or(0, |word| word as usize);
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

/// A record, as far as it is wanted: its header, and of those that end a transaction all of it.
struct Record {
    /// Where in the segment it begins.
    at: usize,
    transaction: u32,
    info: u8,
    manager: u8,
    body: Vec<u8>,
}

impl Record {
    /// Of its first bytes; nothing when these are not its whole header.
    fn of(at: usize, bytes: &[u8]) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(RECORD_HEADER)?;
        let transaction = u32::from_ne_bytes(header[4..8].try_into().ok()?);
        Some(Self { at, transaction, info: header[16], manager: header[17], body: body.to_owned() })
    }

    fn makes_tablespace(&self) -> bool {
        self.manager == TABLESPACES && self.info & OPERATION_OF_TABLESPACE == CREATE
    }
}

/// Why there is no further record.
enum Cut {
    /// The bytes end, or there are only zeros from here on, as behind a switch to the next segment. With the record that begins
    /// and does not end, if its header is whole.
    End(Option<Record>),
    /// What is there is not what has to be there.
    Unreadable,
}

/// How a page goes on with a record.
enum Onwards {
    /// With its rest.
    Rest,
    /// With others: the rest never came.
    Others,
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
        let page = word(bytes, 36)? as usize;
        let is_size = page.is_power_of_two() && (1024..=65_536).contains(&page);
        let page = if is_size { page } else { return None };
        let mut reader = Self { bytes, segment_size, page, at: LONG_HEADER };
        // The rest of a record may be longer than the segment: then all pages go on with it, and there is no other.
        let mut remaining = word(bytes, 16)? as usize;
        while remaining > 0 {
            if reader.at.is_multiple_of(page) {
                match reader.onwards(remaining) {
                    Ok(Onwards::Rest) => {}
                    // The first record that is whole is in this page, or none is.
                    Ok(Onwards::Others) | Err(_) => return Some(reader),
                }
            }
            let piece = remaining.min(page - reader.at % page);
            reader.at += piece;
            remaining -= piece;
        }
        reader.align();
        Some(reader)
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    /// How long the header is of the page that begins at the present place, its flags, and what it says is left of a record.
    fn page_header(&self) -> Result<(usize, u16, usize), Cut> {
        let length = if self.at.is_multiple_of(self.segment_size) { LONG_HEADER } else { SHORT_HEADER };
        let Some(header) = self.bytes.get(self.at..self.at + length) else { return Err(Cut::End(None)) };
        let address = |bytes: &[u8]| bytes.get(8..16)?.try_into().ok().map(u64::from_ne_bytes);
        // One that was left over from a file's former life says that it lies elsewhere.
        let is_here = address(header) == address(self.bytes).map(|first| first.wrapping_add(self.at as u64));
        let (Some(flags), Some(rest)) = (header.get(2..4), word(header, 16)) else {
            return Err(Cut::Unreadable);
        };
        if header[..2] != self.bytes[..2] || !is_here {
            return Err(self.end_in_zeros());
        }
        Ok((length, u16::from_ne_bytes([flags[0], flags[1]]), rest as usize))
    }

    /// Goes behind the header of the page that begins here, in a record of which so many bytes are still to come; stays before
    /// it where they never came.
    fn onwards(&mut self, remaining: usize) -> Result<Onwards, Cut> {
        let (length, flags, rest) = self.page_header()?;
        if flags & NEVER_CAME != 0 {
            return Ok(Onwards::Others);
        }
        if flags & GOES_ON == 0 || rest != remaining {
            return Err(Cut::Unreadable);
        }
        self.at += length;
        Ok(Onwards::Rest)
    }

    fn end_in_zeros(&self) -> Cut {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.iter().all(|byte| *byte == 0) { Cut::End(None) } else { Cut::Unreadable }
    }

    /// The next record that is whole.
    fn record(&mut self) -> Result<Record, Cut> {
        loop {
            if let Some(record) = self.attempt()? {
                return Ok(record);
            }
        }
    }

    /// The next record; `None` where its rest never came.
    fn attempt(&mut self) -> Result<Option<Record>, Cut> {
        if self.at.is_multiple_of(self.page) {
            let (length, flags, _) = self.page_header()?;
            if flags & GOES_ON != 0 {
                return Err(Cut::Unreadable);
            }
            self.at += length;
        }
        let at = self.at;
        let Some(total) = word(self.bytes, at) else { return Err(Cut::End(None)) };
        let total = total as usize;
        if total < RECORD_HEADER {
            return Err(self.end_in_zeros());
        }
        let (mut remaining, mut taken, mut wanted) =
            (total, Vec::with_capacity(RECORD_HEADER), RECORD_HEADER);
        while remaining > 0 {
            if self.at.is_multiple_of(self.page) {
                match self.onwards(remaining) {
                    Ok(Onwards::Rest) => {}
                    Ok(Onwards::Others) => return Ok(None),
                    Err(Cut::End(_)) => return Err(Cut::End(Record::of(at, &taken))),
                    Err(cut) => return Err(cut),
                }
            }
            let piece = remaining.min(self.page - self.at % self.page);
            let Some(bytes) = self.bytes.get(self.at..self.at + piece) else {
                return Err(Cut::End(Record::of(at, &taken)));
            };
            let used = piece.min(wanted - taken.len());
            taken.extend_from_slice(&bytes[..used]);
            if used > 0 && wanted == RECORD_HEADER && taken.len() == RECORD_HEADER && is_wanted(&taken) {
                wanted = total;
                taken.extend_from_slice(&bytes[used..]);
            }
            self.at += piece;
            remaining -= piece;
        }
        self.align();
        Ok(Record::of(at, &taken))
    }
}

/// Whether more than the header is looked at.
fn is_wanted(header: &[u8]) -> bool {
    let (info, manager) = (header[16], header[17]);
    manager == TRANSACTIONS || (manager == LOG && info & OPERATION_OF_LOG == RESTORE_POINT)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
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
    /// Where the segment begins.
    const POSITION: u64 = 0x500_0000;
    const ANYWHERE: Lsn = Lsn(0);

    /// A segment of some pages, as far as it is written.
    struct Wal {
        bytes: Vec<u8>,
        at: usize,
        /// Flags of the next page.
        flags: u16,
    }

    impl Wal {
        fn new(pages: usize) -> Self {
            let mut wal = Self { bytes: vec![0; pages * PAGE], at: 0, flags: 0 };
            wal.begin_page(0);
            wal
        }

        /// With this much of a record that began in the segment before.
        fn with_rest(pages: usize, rest: &[u8]) -> Self {
            let mut wal = Self { bytes: vec![0; pages * PAGE], at: 0, flags: GOES_ON };
            wal.begin_page(rest.len());
            wal.lay(rest);
            wal
        }

        fn begin_page(&mut self, rest: usize) {
            let (at, is_first) = (self.at, self.at == 0);
            let flags = std::mem::take(&mut self.flags) | if is_first { 2 } else { 0 };
            let page = &mut self.bytes[at..];
            page[..2].copy_from_slice(&0xD10D_u16.to_ne_bytes());
            page[2..4].copy_from_slice(&flags.to_ne_bytes());
            page[8..16].copy_from_slice(&(POSITION + at as u64).to_ne_bytes());
            page[16..20].copy_from_slice(&u32::try_from(rest).unwrap().to_ne_bytes());
            if is_first {
                page[32..36].copy_from_slice(&(1_u32 << 20).to_ne_bytes());
                page[36..40].copy_from_slice(&1024_u32.to_ne_bytes());
            }
            self.at += if is_first { LONG_HEADER } else { SHORT_HEADER };
        }

        /// As far as there is room, over as many pages as it takes; returns where it begins.
        fn lay(&mut self, record: &[u8]) -> usize {
            let mut begins = None;
            for (number, byte) in record.iter().enumerate() {
                if self.at == self.bytes.len() {
                    break;
                }
                if self.at.is_multiple_of(PAGE) {
                    let is_new = number == 0;
                    self.flags |= if is_new { 0 } else { GOES_ON };
                    self.begin_page(if is_new { 0 } else { record.len() - number });
                }
                begins.get_or_insert(self.at);
                self.bytes[self.at] = *byte;
                self.at += 1;
            }
            let end = self.at.next_multiple_of(8);
            self.at = end;
            begins.unwrap_or(self.at)
        }

        /// Only to the end of the page, where WAL goes on with other records.
        fn lay_torn(&mut self, record: &[u8]) {
            let room = PAGE - self.at % PAGE;
            assert!(record.len() > room);
            self.lay(&record[..room]);
            self.flags = NEVER_CAME;
        }

        /// Records up to so many bytes before the page's end.
        fn fill(&mut self, left: usize) {
            while PAGE - self.at % PAGE >= left + 64 {
                self.lay(&record(10, 0, 6));
            }
            let more = PAGE - self.at % PAGE - left;
            self.lay(&record(10, 0, more - RECORD_HEADER - 2));
            assert_eq!(PAGE - self.at % PAGE, left);
        }

        fn tablespaces(&self) -> Tablespaces {
            tablespaces(&self.bytes, ANYWHERE)
        }
    }

    fn record(manager: u8, info: u8, data: usize) -> Vec<u8> {
        let mut bytes = vec![0; RECORD_HEADER];
        bytes[16] = info;
        bytes[17] = manager;
        bytes.extend([255, u8::try_from(data).unwrap()]);
        bytes.extend(vec![7; data]);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_record_that_makes_a_tablespace_is_found_wherever_it_lies() {
        assert_eq!(Wal::new(2).tablespaces(), Tablespaces::None, "zeros are no record");
        assert_eq!(tablespaces(&[], ANYWHERE), Tablespaces::CannotTell, "nothing is no segment");
        let with = |before: usize, record: &[u8]| {
            let mut wal = Wal::new(2);
            for _ in 0..before {
                wal.lay(&super::tests::record(10, 0, 6));
            }
            wal.lay(record);
            wal.tablespaces()
        };
        for before in 0..50 {
            assert_eq!(with(before, &record(TABLESPACES, CREATE, 40)), Tablespaces::Made, "{before}");
            assert_eq!(
                with(before, &record(TABLESPACES, 0x10, 40)),
                Tablespaces::None,
                "one that is dropped"
            );
            assert_eq!(with(before, &record(10, CREATE, 40)), Tablespaces::None);
        }
    }

    #[test]
    fn one_whose_header_is_cut_by_the_end_of_the_segment_before_is_found_in_the_next() {
        for cut in [8, 16] {
            let whole = record(TABLESPACES, CREATE, 40);
            let wal = Wal::with_rest(2, &whole[cut..]);
            assert_eq!(wal.tablespaces(), Tablespaces::Made, "{cut}");
            assert_eq!(tablespaces(&wal.bytes, Lsn(POSITION)), Tablespaces::None, "it begins before");
            let other = record(TABLESPACES, 0x10, 40);
            assert_eq!(Wal::with_rest(2, &other[cut..]).tablespaces(), Tablespaces::None, "{cut}");
        }
    }

    #[test]
    fn one_that_only_begins_in_the_segment_is_found_in_it() {
        let mut wal = Wal::new(1);
        wal.fill(32);
        wal.lay(&record(TABLESPACES, CREATE, 200));
        assert_eq!(wal.tablespaces(), Tablespaces::Made);
    }

    #[test]
    fn one_behind_a_record_that_a_crash_has_torn_is_found_and_a_torn_one_is_none() {
        // Of the torn one stands its length alone, a part of its header, all of that, and more.
        for left in [8, 16, 24, 40] {
            let torn = |torn: &[u8], next: &[u8]| {
                let mut wal = Wal::new(3);
                wal.fill(left);
                wal.lay_torn(torn);
                let at = wal.lay(next);
                (wal, at)
            };
            let (makes, other) = (record(TABLESPACES, CREATE, 100), record(10, 0, 100));
            let (wal, at) = torn(&other, &makes);
            assert_eq!(wal.tablespaces(), Tablespaces::Made, "{left}");
            assert_eq!(stops(&wal.bytes).last_record, Some(Lsn(POSITION + at as u64)), "{left}");
            assert_eq!(torn(&makes, &other).0.tablespaces(), Tablespaces::None, "{left}");
        }
        // Also when the torn one began in the segment before and ran over pages of this one.
        let mut wal = Wal::with_rest(3, &[7; PAGE - LONG_HEADER]);
        wal.bytes[16..20].copy_from_slice(&5000_u32.to_ne_bytes());
        wal.flags = NEVER_CAME;
        wal.lay(&record(TABLESPACES, CREATE, 100));
        assert_eq!(wal.tablespaces(), Tablespaces::Made);
    }

    #[test]
    fn a_restore_point_and_the_end_of_a_transaction_behind_a_torn_record_are_found() {
        let mut wal = Wal::new(3);
        wal.fill(16);
        wal.lay_torn(&record(10, 0, 100));
        let mut point = record(LOG, RESTORE_POINT, 72);
        point[RECORD_HEADER + 10..].fill(0);
        point[RECORD_HEADER + 10..RECORD_HEADER + 14].copy_from_slice(b"here");
        let at = wal.lay(&point);
        let mark = Mark::Name("here".to_owned());
        assert_eq!(find(&wal.bytes, &[], &mark), Some(Lsn(POSITION + at as u64)));
        let mut ends = record(TRANSACTIONS, 0, 8);
        ends[RECORD_HEADER + 2..].fill(0);
        wal.lay(&ends);
        let said = stops(&wal.bytes).last_transaction.map(|time| time.timestamp());
        assert_eq!(said, Some(EPOCH));
    }

    #[test]
    fn what_cannot_be_read_to_its_end_is_not_said_to_make_none() {
        let whole = || {
            let mut wal = Wal::new(3);
            wal.fill(24);
            wal.lay(&record(10, 0, 100));
            wal
        };
        assert_eq!(whole().tablespaces(), Tablespaces::None);
        for (at, byte) in [
            // The second page does not go on with the record, with another length of it, or lies elsewhere.
            (PAGE + 2, 0),
            (PAGE + 16, 1),
            (PAGE + 10, 9),
            (PAGE, 0),
            // And something stands behind the last record.
            (3 * PAGE - 1, 1),
        ] {
            let mut wal = whole();
            wal.bytes[at] = byte;
            assert_eq!(wal.tablespaces(), Tablespaces::CannotTell, "{at}");
        }
    }

    #[test]
    fn one_before_the_place_where_replay_begins_does_not_count() {
        let mut wal = Wal::new(2);
        let made = wal.lay(&record(TABLESPACES, CREATE, 40)) as u64 + POSITION;
        wal.lay(&record(10, 0, 6));
        assert_eq!(tablespaces(&wal.bytes, Lsn(made)), Tablespaces::Made);
        assert_eq!(tablespaces(&wal.bytes, Lsn(made + 1)), Tablespaces::None);
    }
}
