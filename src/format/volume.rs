//! Volumes and frames: headers, nonces, and what a seal binds (SPEC.md, sections 3 and 4).

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};

use crate::model::{Codec, Fault, Kind};

/// The most plain bytes that a frame holds.
pub const FRAME_BYTES: usize = 4 * 1024 * 1024;
/// The length of a frame's header.
pub const FRAME_HEADER: usize = 12;
/// What sealing adds to a frame.
pub const TAG: usize = 16;

const MAGIC: &[u8; 8] = b"PGKEEPVL";
/// The length of a volume's header without its owner and key.
pub const FIXED_HEADER: usize = 24;

/// A volume's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeHeader {
    /// The volume's number within its owner, from 0.
    pub number: u32,
    /// How its frames are compressed: only the method is stored.
    pub method: Method,
    /// Whose volume it is: a backup's identifier, or the end of its own key in the store.
    pub owner: String,
    /// The key of the frames as [`Keyring::seal_named`](super::keyring::Keyring::seal_named) seals it; empty in volumes
    /// of a backup, whose manifest has the key.
    pub sealed_key: Vec<u8>,
}

/// The compression method of a volume's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// zstd, a complete zstd frame per frame.
    Zstd,
    /// gzip, a complete gzip member per frame.
    Gzip,
}

impl From<Codec> for Method {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::Zstd(_) => Self::Zstd,
            Codec::Gzip(_) => Self::Gzip,
        }
    }
}

impl VolumeHeader {
    /// The header's bytes.
    pub fn encode(&self) -> anyhow::Result<Vec<u8>> {
        let length = FIXED_HEADER + self.owner.len() + self.sealed_key.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&super::VERSION.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(length)?.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.push(match self.method {
            Method::Zstd => 1,
            Method::Gzip => 2,
        });
        bytes.extend_from_slice(&[0; 3]);
        bytes.extend_from_slice(&u16::try_from(self.owner.len())?.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(self.sealed_key.len())?.to_le_bytes());
        bytes.extend_from_slice(self.owner.as_bytes());
        bytes.extend_from_slice(&self.sealed_key);
        Ok(bytes)
    }

    /// The length of the whole header that begins with these [`FIXED_HEADER`] bytes; any number for other bytes, but
    /// never less.
    pub fn length_in(bytes: &[u8]) -> usize {
        usize::from(u16_at(bytes, 10)).max(FIXED_HEADER)
    }

    /// Reads the header at the beginning of `bytes`; returns it with its length.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), Fault> {
        let bad = |what: &str| Fault::new(Kind::Damaged, format!("not a volume of pgkeep: {what}"));
        if bytes.len() < FIXED_HEADER {
            return Err(bad("too short for a header"));
        }
        if &bytes[..8] != MAGIC {
            return Err(bad("the first bytes are not PGKEEPVL"));
        }
        let version = u16_at(bytes, 8);
        if version > super::VERSION {
            return Err(Fault::new(
                Kind::NotInitialised,
                format!("the volume has format {version}, this pgkeep reads up to {}", super::VERSION),
            )
            .hint("Use the version that made it, or a newer one."));
        }
        let length = usize::from(u16_at(bytes, 10));
        let owner_length = usize::from(u16_at(bytes, 20));
        let key_length = usize::from(u16_at(bytes, 22));
        if version == 0 || length != FIXED_HEADER + owner_length + key_length || bytes.len() < length {
            return Err(bad("the header's lengths do not fit together"));
        }
        let method = match bytes[16] {
            1 => Method::Zstd,
            2 => Method::Gzip,
            _ => return Err(bad("unknown compression method")),
        };
        let owner = std::str::from_utf8(&bytes[FIXED_HEADER..FIXED_HEADER + owner_length])
            .map_err(|_| bad("the owner's name is not UTF-8"))?;
        let header = Self {
            number: u32_at(bytes, 12),
            method,
            owner: owner.to_owned(),
            sealed_key: bytes[FIXED_HEADER + owner_length..length].to_vec(),
        };
        Ok((header, length))
    }
}

/// A frame's header: what the reader must know before it can open the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes that follow: the sealed frame with its tag.
    pub stored: u32,
    /// Bytes of the frame when it is opened and decompressed.
    pub plain: u32,
    /// Compression did not pay: the sealed bytes are the plain ones.
    pub raw: bool,
    /// The last frame of the volume, which holds nothing.
    pub last: bool,
}

impl FrameHeader {
    /// The header's bytes.
    pub fn encode(self) -> [u8; FRAME_HEADER] {
        let mut bytes = [0; FRAME_HEADER];
        bytes[..4].copy_from_slice(&self.stored.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.plain.to_le_bytes());
        bytes[8..].copy_from_slice(&(u32::from(self.last) | u32::from(self.raw) << 1).to_le_bytes());
        bytes
    }

    /// Reads a header; `None` when no frame can have it.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < FRAME_HEADER {
            return None;
        }
        let flags = u32_at(bytes, 8);
        let header = Self {
            stored: u32_at(bytes, 0),
            plain: u32_at(bytes, 4),
            last: flags & 1 != 0,
            raw: flags & 2 != 0,
        };
        let fits = flags < 4
            && header.plain as usize <= FRAME_BYTES
            && (TAG..=FRAME_BYTES + TAG).contains(&(header.stored as usize));
        fits.then_some(header)
    }
}

/// Seals and opens the frames of one volume.
pub struct FrameSeal {
    key: LessSafeKey,
    header_digest: [u8; 32],
    volume: u32,
}

impl fmt::Debug for FrameSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameSeal(volume {})", self.volume)
    }
}

/// The frame does not fit its seal.
#[derive(Debug, Clone, Copy)]
pub struct SealBroken;

impl FrameSeal {
    /// Takes the backup's key (32 bytes) and the header of the volume as it is stored.
    pub fn new(key: &[u8; 32], encoded_header: &[u8], volume: u32) -> anyhow::Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| anyhow::anyhow!("make an AES-256 key"))?;
        let mut header_digest = [0; 32];
        header_digest.copy_from_slice(digest(&SHA256, encoded_header).as_ref());
        Ok(Self { key: LessSafeKey::new(key), header_digest, volume })
    }

    /// Seals the bytes in place and appends the tag. A (key, volume, frame) may be used once only.
    pub fn seal(&self, frame: u32, header: FrameHeader, bytes: &mut Vec<u8>) -> anyhow::Result<()> {
        self.key
            .seal_in_place_append_tag(self.nonce(frame), Aad::from(self.bound(header)), bytes)
            .map_err(|_| anyhow::anyhow!("seal frame {frame}"))
    }

    /// Opens the sealed bytes in place; the plain ones are those before the tag.
    pub fn open<'a>(
        &self,
        frame: u32,
        header: FrameHeader,
        bytes: &'a mut [u8],
    ) -> Result<&'a mut [u8], SealBroken> {
        self.key
            .open_in_place(self.nonce(frame), Aad::from(self.bound(header)), bytes)
            .map_err(|_| SealBroken)
    }

    /// Volume and frame number, each once under a key: a nonce never repeats.
    fn nonce(&self, frame: u32) -> Nonce {
        let mut bytes = [0; NONCE_LEN];
        bytes[..4].copy_from_slice(&self.volume.to_le_bytes());
        bytes[4..8].copy_from_slice(&frame.to_le_bytes());
        Nonce::assume_unique_for_key(bytes)
    }

    /// The volume's header stands for backup, number and method; the frame's for lengths and "last".
    fn bound(&self, header: FrameHeader) -> [u8; 32 + FRAME_HEADER] {
        let mut bytes = [0; 32 + FRAME_HEADER];
        bytes[..32].copy_from_slice(&self.header_digest);
        bytes[32..].copy_from_slice(&header.encode());
        bytes
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn header(number: u32) -> VolumeHeader {
        let owner = "20261122T020000Z-database-1a2b3c4d".to_owned();
        VolumeHeader { number, method: Method::Zstd, owner, sealed_key: Vec::new() }
    }

    fn sealed(seal: &FrameSeal, frame: u32, plain: &[u8]) -> (FrameHeader, Vec<u8>) {
        let stored = u32::try_from(plain.len() + TAG).unwrap();
        let frame_header =
            FrameHeader { stored, plain: u32::try_from(plain.len()).unwrap(), raw: true, last: false };
        let mut bytes = plain.to_vec();
        seal.seal(frame, frame_header, &mut bytes).unwrap();
        (frame_header, bytes)
    }

    #[test]
    fn a_volume_header_reads_back_and_says_its_length() {
        let mut bytes = header(7).encode().unwrap();
        let length = bytes.len();
        bytes.extend_from_slice(b"frames follow");
        assert_eq!(VolumeHeader::decode(&bytes).unwrap(), (header(7), length));
    }

    #[test]
    fn every_cut_of_a_header_is_refused() {
        let bytes = header(0).encode().unwrap();
        for length in 0..bytes.len() {
            assert!(VolumeHeader::decode(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_frame_opens_only_in_its_place_under_its_header_and_unchanged() {
        let key = [7; 32];
        let encoded = header(0).encode().unwrap();
        let seal = FrameSeal::new(&key, &encoded, 0).unwrap();
        let (frame_header, bytes) = sealed(&seal, 3, b"rows of a table");
        assert_eq!(seal.open(3, frame_header, &mut bytes.clone()).unwrap(), b"rows of a table");

        assert!(seal.open(4, frame_header, &mut bytes.clone()).is_err(), "another place");
        let last = FrameHeader { last: true, ..frame_header };
        assert!(seal.open(3, last, &mut bytes.clone()).is_err(), "another header");
        let other = FrameSeal::new(&key, &header(1).encode().unwrap(), 1).unwrap();
        assert!(other.open(3, frame_header, &mut bytes.clone()).is_err(), "another volume");
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(seal.open(3, frame_header, &mut flipped).is_err(), "byte {at}");
        }
    }

    #[test]
    fn headers_are_written_as_the_specification_says_byte_by_byte() {
        let written = VolumeHeader {
            number: 0x0102_0304,
            method: Method::Gzip,
            owner: "ab".into(),
            sealed_key: b"key".into(),
        };
        let bytes = written.encode().unwrap();
        assert_eq!(bytes, b"PGKEEPVL\x01\x00\x1d\x00\x04\x03\x02\x01\x02\0\0\0\x02\x00\x03\x00abkey");
        let frame = FrameHeader { stored: 0x0001_0203, plain: 0x0004_0506, raw: true, last: false };
        assert_eq!(frame.encode(), *b"\x03\x02\x01\x00\x06\x05\x04\x00\x02\0\0\0");
        let last = FrameHeader { stored: 16, plain: 0, raw: true, last: true };
        assert_eq!(last.encode(), *b"\x10\0\0\0\0\0\0\0\x03\0\0\0");
    }

    #[test]
    fn a_newer_volume_is_refused_by_name() {
        let mut bytes = header(0).encode().unwrap();
        bytes[8] = 2;
        let fault = VolumeHeader::decode(&bytes).unwrap_err();
        assert_eq!((fault.kind, fault.message.contains("format 2")), (Kind::NotInitialised, true));
    }

    proptest! {
        #[test]
        fn any_bytes_at_all_are_no_panic_and_what_reads_writes_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            prop_assert!(VolumeHeader::decode(&bytes).is_err(), "without the magic");
            if let Some(frame) = FrameHeader::decode(&bytes) {
                prop_assert_eq!(&frame.encode()[..], &bytes[..FRAME_HEADER]);
            }
        }

        #[test]
        fn a_changed_header_reads_as_what_it_says_or_not_at_all(
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
            cut: proptest::sample::Index,
        ) {
            let mut bytes = header(7).encode().unwrap();
            bytes.extend_from_slice(&[0; 40]);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok((read, length)) = VolumeHeader::decode(&bytes) {
                bytes.truncate(length);
                bytes[8..10].copy_from_slice(&crate::format::VERSION.to_le_bytes());
                // Reserved: read as anything, written as nothing.
                bytes[17..20].fill(0);
                prop_assert_eq!(read.encode().unwrap(), bytes);
            }
        }

        #[test]
        fn frame_headers_of_all_possible_frames_read_back(
            stored in TAG..=FRAME_BYTES + TAG, plain in 0..=FRAME_BYTES, raw: bool, last: bool,
        ) {
            let header = FrameHeader { stored: stored as u32, plain: plain as u32, raw, last };
            prop_assert_eq!(FrameHeader::decode(&header.encode()), Some(header));
        }

        #[test]
        fn impossible_frame_headers_are_refused(
            stored in prop_oneof![0..TAG as u32, FRAME_BYTES as u32 + TAG as u32 + 1..], plain: u32, flags: u32,
        ) {
            let bytes = [stored.to_le_bytes(), plain.to_le_bytes(), flags.to_le_bytes()].concat();
            prop_assert_eq!(FrameHeader::decode(&bytes), None);
        }
    }
}
