//! The header of a WAL segment, as the server writes it (`XLogLongPageHeaderData` in
//! `src/include/access/xlog_internal.h`), in the byte order of the machine that wrote it, which is this one.

use crate::model::{Fault, Kind, Lsn, WalKind, WalName};

/// How many bytes of a segment [`SegmentHeader::read`] looks at.
pub const HEADER_BYTES: usize = 40;

/// Whether the page's header is of the long sort, which only the first one of a segment has (`XLP_LONG_HEADER`).
const LONG_HEADER: u16 = 0x0002;
/// All flags that there are (`XLP_ALL_FLAGS`).
const ALL_FLAGS: u16 = 0x000F;
/// The number that begins every page (`XLOG_PAGE_MAGIC`): 0xD1 and a count that goes up with each new format.
const MAGIC: u16 = 0xD100;

/// What the first page of a segment says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The timeline on which the first page was written; after a switch that of an ancestor.
    pub timeline: u32,
    /// Where the segment begins.
    pub position: Lsn,
    /// Which cluster wrote it: its system identifier.
    pub system_identifier: u64,
    /// How long segments are, in bytes.
    pub segment_size: u32,
}

impl SegmentHeader {
    /// Reads the first bytes of a segment; `None` when they are not those of one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let field = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
        let half = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let quarter = |at: usize| bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
        // magic 2, flags 2, timeline 4, address 8, remaining length 4, padding 4; then identifier 8, segment size 4,
        // page size 4.
        let (magic, flags) = (quarter(0)?, quarter(2)?);
        let header = Self {
            timeline: half(4)?,
            position: Lsn(field(8)?),
            system_identifier: field(24)?,
            segment_size: half(32)?,
        };
        let fits = magic & 0xFF00 == MAGIC
            && flags & LONG_HEADER != 0
            && flags & !ALL_FLAGS == 0
            && header.segment_size.is_power_of_two()
            && (1 << 20..=1 << 30).contains(&header.segment_size);
        fits.then_some(header)
    }

    /// Why this is not the header of the segment of that name and length; `None` when it can be.
    pub fn contradiction(&self, name: &WalName, size: u64) -> Option<String> {
        if size != u64::from(self.segment_size) {
            return Some(format!("it has {size} bytes, and its header says {}", self.segment_size));
        }
        if name.start(self.segment_size) != Some(self.position.0) {
            return Some(format!("its header says that it begins at {}", self.position));
        }
        // The first segment of a new timeline begins with pages of the one that was left.
        if self.timeline == 0 || self.timeline > name.timeline() {
            return Some(format!("its header says that it is of timeline {}", self.timeline));
        }
        None
    }

    /// Reads and checks the header of a file of this name and length, which begins with these bytes.
    pub fn of(name: &WalName, size: u64, bytes: &[u8]) -> Result<Self, Fault> {
        debug_assert!(matches!(name.kind(), WalKind::Segment | WalKind::Partial));
        let damaged = |why: String| {
            Fault::new(Kind::Damaged, format!("{name} is not what its name says: {why}"))
                .hint("Look at the disk of the server, and at who else writes into its pg_wal.")
        };
        let header = Self::read(bytes)
            .ok_or_else(|| damaged("it does not begin with the header of a segment".to_owned()))?;
        header.contradiction(name, size).map_or(Ok(header), |why| Err(damaged(why)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn header(flags: u16, timeline: u32, position: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0xD110_u16.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(timeline.to_ne_bytes());
        bytes.extend(position.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(7_123_456_789_u64.to_ne_bytes());
        bytes.extend((16_u32 << 20).to_ne_bytes());
        bytes.extend(8192_u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_segment_is_known_by_its_first_page() {
        let name: WalName = "000000020000000A000000FE".parse().unwrap();
        let position = name.start(16 << 20).unwrap();
        let size = 16 << 20;
        let read = SegmentHeader::of(&name, size, &header(2, 2, position)).unwrap();
        assert_eq!((read.system_identifier, read.segment_size), (7_123_456_789, 16 << 20));
        assert!(SegmentHeader::of(&name, size, &header(3, 1, position)).is_ok(), "begun on the ancestor");
        for (why, size, bytes) in [
            ("no long header", size, header(0, 2, position)),
            ("an unknown flag", size, header(0x12, 2, position)),
            ("another position", size, header(2, 2, position + (16 << 20))),
            ("a later timeline", size, header(2, 3, position)),
            ("another length", size - 1, header(2, 2, position)),
            ("cut short", size, header(2, 2, position)[..35].to_vec()),
            ("zeros", size, vec![0; 40]),
        ] {
            assert!(SegmentHeader::of(&name, size, &bytes).is_err(), "{why}");
        }
    }
}
