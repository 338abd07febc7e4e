//! Checksums of pages (`src/include/storage/checksum_impl.h`): FNV-1a in 32 lanes over a page's 32-bit words.

/// Bytes of a page (`BLCKSZ`), the only size that PostgreSQL is packaged with.
pub const PAGE_BYTES: usize = 8192;

const LANES: usize = 32;
const PRIME: u32 = 16_777_619;
/// Where the sums begin (`checksumBaseOffsets`).
const BEGIN: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a page looks like whose checksum is wrong: as long as this stays the same, nobody is writing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    lsn: [u8; 8],
    /// What its header says.
    stored: u16,
    /// What its bytes add up to.
    found: u16,
}

/// Looks at a page that was read at this block number of its relation: `None` when it is as it was written, or was never
/// used. Its LSN is not asked: in a page of garbage that may be anything, and a page that was read while it was being
/// written is right a moment later.
pub fn look_at(page: &[u8], block: u32) -> Option<Wrong> {
    let half = |at: usize| u16::from_ne_bytes([page[at], page[at + 1]]);
    // pd_upper is 0 in a page that was added and never filled (`PageIsNew`); such a page is all zeroes
    // (`PageIsVerifiedExtended` in `bufpage.c`).
    let is_new = half(14) == 0;
    let (stored, found) = (half(8), checksum(page, block));
    let is_good = if is_new { page.iter().all(|byte| *byte == 0) } else { stored == found };
    let mut lsn = [0; 8];
    lsn.copy_from_slice(&page[..8]);
    (!is_good).then_some(Wrong { lsn, stored, found })
}

/// The checksum of a page at this block number; its own field (bytes 8 and 9) counts as zero.
pub fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = BEGIN;
    let mut row = [0; LANES];
    for (number, bytes) in page.chunks_exact(LANES * 4).enumerate() {
        for (word, bytes) in row.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        if number == 0 {
            let mut word = row[2].to_ne_bytes();
            (word[0], word[1]) = (0, 0);
            row[2] = u32::from_ne_bytes(word);
        }
        mix(&mut sums, &row);
    }
    for _ in 0..2 {
        mix(&mut sums, &[0; LANES]);
    }
    let sum = sums.into_iter().fold(0, |all, sum| all ^ sum) ^ block;
    // Never 0: that means "no checksum".
    (sum % 65_535 + 1) as u16
}

#[inline]
fn mix(sums: &mut [u32; LANES], row: &[u32; LANES]) {
    for (sum, word) in sums.iter_mut().zip(row) {
        let mixed = *sum ^ word;
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lsn: u64) -> Vec<u8> {
        let mut page: Vec<u8> = (0..PAGE_BYTES).map(|n| (n * 7 % 251) as u8).collect();
        page[..4].copy_from_slice(&((lsn >> 32) as u32).to_ne_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_ne_bytes());
        page[14..16].copy_from_slice(&8000_u16.to_ne_bytes());
        let sum = checksum(&page, 5);
        page[8..10].copy_from_slice(&sum.to_ne_bytes());
        page
    }

    #[test]
    fn a_page_is_good_new_or_wrong() {
        let mut bytes = page(100);
        assert_eq!(look_at(&bytes, 5), None);
        assert!(look_at(&bytes, 6).is_some(), "the page of another block");
        bytes[4000] ^= 1;
        assert!(look_at(&bytes, 5).is_some());
        bytes[..8].fill(0xFF);
        assert!(look_at(&bytes, 5).is_some(), "garbage has any LSN");
        bytes[..24].fill(0);
        assert!(look_at(&bytes, 5).is_some(), "a new page has no rows");
        assert_eq!(look_at(&vec![0; PAGE_BYTES], 5), None);
    }
}
