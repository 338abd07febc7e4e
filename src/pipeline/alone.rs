//! A single file as one sealed object that opens by itself: a volume whose header carries its key (SPEC.md, section 3).
//! For what has no manifest, such as the saved catalog.

use std::io::{self, Read, Write};

use anyhow::Context;

use crate::format::block;
use crate::format::keyring::Keyring;
use crate::format::volume::{
    FIXED_HEADER, FRAME_BYTES, FRAME_HEADER, FrameHeader, FrameSeal, TAG, VolumeHeader,
};
use crate::model::{Codec, Fault, Kind};
use crate::system::fill_random;

/// What sealing has to know.
#[derive(Debug)]
pub struct SealAlone<'a> {
    /// The object's owner, which its key in the store ends with.
    pub owner: String,
    /// Compression.
    pub codec: Codec,
    /// The first key seals.
    pub keyring: &'a Keyring,
    /// The seal's public date, in seconds since 1970.
    pub now: u64,
}

/// Seals all that `source` gives into `target`. Returns how many bytes were written. Neither is flushed. Blocks.
pub fn seal_alone(
    plan: &SealAlone<'_>,
    mut source: impl Read,
    mut target: impl Write,
) -> anyhow::Result<u64> {
    let mut key = [0; 32];
    fill_random(&mut key)?;
    let header = VolumeHeader {
        number: 0,
        method: plan.codec.into(),
        owner: plan.owner.clone(),
        sealed_key: plan.keyring.seal_named(&key, plan.now)?.into_bytes(),
    };
    let header = header.encode()?;
    let seal = FrameSeal::new(&key, &header, 0)?;
    target.write_all(&header).context("write a sealed file")?;
    let mut size = header.len() as u64;
    let (mut plain, mut packed) = (Vec::with_capacity(FRAME_BYTES), Vec::new());
    for frame in 0_u32.. {
        plain.clear();
        source
            .by_ref()
            .take(FRAME_BYTES as u64)
            .read_to_end(&mut plain)
            .context("read what is to be sealed")?;
        let last = plain.is_empty();
        packed.clear();
        if !last {
            block::compress_into(plan.codec, &plain, &mut packed).context("compress a frame")?;
        }
        let raw = packed.len() >= plain.len();
        if raw {
            packed.clone_from(&plain);
        }
        let frame_header = FrameHeader {
            stored: u32::try_from(packed.len() + TAG)?,
            plain: u32::try_from(plain.len())?,
            raw,
            last,
        };
        seal.seal(frame, frame_header, &mut packed)?;
        target.write_all(&frame_header.encode()).context("write a sealed file")?;
        target.write_all(&packed).context("write a sealed file")?;
        size += (FRAME_HEADER + packed.len()) as u64;
        if last {
            break;
        }
    }
    Ok(size)
}

/// Opens what [`seal_alone`] made for this owner and writes the plain bytes into `target`; returns how many they are.
/// Blocks. What was written before an error is genuine, and not all.
///
/// No key that fits: [`Kind::Key`]. A newer format: [`Kind::NotInitialised`]. Anything that was changed, cut off or
/// put behind: [`Kind::Damaged`].
pub fn open_alone(
    owner: &str,
    keyring: &Keyring,
    mut source: impl Read,
    mut target: impl Write,
) -> anyhow::Result<u64> {
    let (volume, encoded) = read_header(&mut source)?;
    if volume.owner != owner || volume.number != 0 {
        return damaged(format!("it is {} and should be {owner}", volume.owner));
    }
    let key: [u8; 32] = match keyring.open_named(&volume.sealed_key)?.try_into() {
        Ok(key) => key,
        Err(_) => return damaged("its key has another length than a key"),
    };
    let seal = FrameSeal::new(&key, &encoded, 0)?;
    let (mut sealed, mut plain, mut size) = (Vec::new(), Vec::new(), 0);
    for frame in 0_u32.. {
        let mut bytes = [0; FRAME_HEADER];
        fill(&mut source, &mut bytes)?;
        let Some(header) = FrameHeader::decode(&bytes) else {
            return damaged(format!("frame {frame} begins with what is no frame"));
        };
        sealed.resize(header.stored as usize, 0);
        fill(&mut source, &mut sealed)?;
        let Ok(packed) = seal.open(frame, header, &mut sealed) else {
            return damaged(format!("frame {frame} does not fit its seal"));
        };
        if header.last {
            break;
        }
        plain.clear();
        let bytes: &[u8] = if header.raw {
            packed
        } else {
            block::decompress_into(volume.method, packed, header.plain as usize, &mut plain)
                .or_else(|error| damaged(format!("frame {frame}: {error}")))?;
            &plain
        };
        target.write_all(bytes).context("write what was opened")?;
        size += bytes.len() as u64;
    }
    let mut more = [0];
    if source.read(&mut more).context("read a sealed file")? > 0 {
        return damaged("it goes on behind its end");
    }
    Ok(size)
}

/// The header, and its bytes as they are stored.
fn read_header(source: &mut impl Read) -> anyhow::Result<(VolumeHeader, Vec<u8>)> {
    let mut bytes = vec![0; FIXED_HEADER];
    fill(source, &mut bytes)?;
    bytes.resize(VolumeHeader::length_in(&bytes), 0);
    fill(source, &mut bytes[FIXED_HEADER..])?;
    let (header, _) = VolumeHeader::decode(&bytes)?;
    Ok((header, bytes))
}

fn fill(source: &mut impl Read, bytes: &mut [u8]) -> anyhow::Result<()> {
    match source.read_exact(bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => damaged("it is cut short"),
        result => result.context("read a sealed file"),
    }
}

fn damaged<T>(why: impl Into<String>) -> anyhow::Result<T> {
    Fault::new(Kind::Damaged, why).err()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ring() -> Keyring {
        Keyring::parse([Keyring::generate().as_str()]).unwrap()
    }

    fn sealed(keyring: &Keyring, plain: &[u8]) -> Vec<u8> {
        let plan = SealAlone { owner: "catalog/a/1".into(), codec: Codec::Zstd(3), keyring, now: 1 };
        let mut bytes = Vec::new();
        let size = seal_alone(&plan, plain, &mut bytes).unwrap();
        assert_eq!(size, bytes.len() as u64);
        bytes
    }

    fn opened(keyring: &Keyring, owner: &str, bytes: &[u8]) -> Result<Vec<u8>, Kind> {
        let mut plain = Vec::new();
        let result = open_alone(owner, keyring, bytes, &mut plain);
        result.map(|_| plain).map_err(|error| error.downcast_ref::<Fault>().unwrap().kind)
    }

    #[test]
    fn what_is_sealed_alone_comes_back_with_nothing_but_the_key() {
        let keyring = ring();
        for length in [0, 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES + 7] {
            let plain: Vec<u8> = (0..length).map(|n| (n / 7) as u8).collect();
            let bytes = sealed(&keyring, &plain);
            assert_eq!(opened(&keyring, "catalog/a/1", &bytes).unwrap(), plain, "{length}");
        }
    }

    #[test]
    fn under_another_name_with_another_key_or_changed_it_does_not_open() {
        let keyring = ring();
        let bytes = sealed(&keyring, b"rows of runs");
        assert_eq!(opened(&keyring, "catalog/a/2", &bytes), Err(Kind::Damaged));
        assert_eq!(opened(&ring(), "catalog/a/1", &bytes), Err(Kind::Key));
        for cut in 0..bytes.len() {
            assert_eq!(opened(&keyring, "catalog/a/1", &bytes[..cut]), Err(Kind::Damaged), "cut at {cut}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(opened(&keyring, "catalog/a/1", &longer), Err(Kind::Damaged));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(opened(&keyring, "catalog/a/1", &flipped).is_err(), "byte {at}");
        }
    }
}
