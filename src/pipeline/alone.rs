//! A single file as one sealed object that opens by itself: a volume whose header carries its key (SPEC.md, section 3).
//! For what has no manifest: the saved catalog, and WAL files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::SystemTime;

use anyhow::Context;
use sha2::{Digest as _, Sha256};

use crate::format::block;
use crate::format::keyring::Keyring;
use crate::format::volume::{
    FIXED_HEADER, FRAME_BYTES, FRAME_HEADER, FrameHeader, FrameSeal, TAG, VolumeHeader,
};
use crate::model::{Codec, Digest, Fault, Kind};
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
pub fn seal_alone(plan: &SealAlone<'_>, mut source: impl Read, target: impl Write) -> anyhow::Result<u64> {
    let mut sealer = Sealer::begin(plan, target)?;
    let mut plain = Vec::with_capacity(FRAME_BYTES);
    let mut packed = Vec::new();
    loop {
        plain.clear();
        source
            .by_ref()
            .take(FRAME_BYTES as u64)
            .read_to_end(&mut plain)
            .context("read what is to be sealed")?;
        if plain.is_empty() {
            return sealer.finish();
        }
        let raw = compress(plan.codec, &plain, &mut packed)?;
        sealer.frame(&mut packed, plain.len(), raw)?;
    }
}

/// A file that is to be sealed under a name that holds its own SHA-256.
#[derive(Debug)]
pub struct SealFile<'a> {
    /// The file, read at its offsets; its position does not matter.
    pub file: &'a File,
    /// Its length in bytes.
    pub size: u64,
    /// Compression.
    pub codec: Codec,
    /// The first key seals.
    pub keyring: &'a Keyring,
    /// The seal's public date, in seconds since 1970.
    pub now: u64,
    /// How many threads compress.
    pub threads: usize,
}

/// Plain bytes of a frame of a sealed file: small enough that one fits the processor's own memory and its buffers are
/// soon used again, large enough that it compresses as well.
const FILE_FRAME: usize = 1 << 20;
/// Up to this size of a file all of its compressed frames may wait in memory.
const IN_MEMORY: u64 = 64 << 20;

/// Seals the file for the owner that `owner` names when it is told the SHA-256 of the plain bytes. Returns that digest
/// and how many bytes were written. The target is not flushed. Blocks.
///
/// Sealing begins when the digest is known; where several threads compress, what they have done by then waits in memory.
/// Parts of the file are read twice, and one that was written to in between is refused ([`Kind::Refused`]).
pub fn seal_file<W: Write>(
    plan: &SealFile<'_>,
    owner: impl FnOnce(&Digest) -> String,
    target: W,
) -> anyhow::Result<(Digest, u64)> {
    let before = Stamp::of(plan.file)?;
    let begin = |sha256: Digest| {
        let (codec, keyring, now) = (plan.codec, plan.keyring, plan.now);
        let sealer = Sealer::begin(&SealAlone { owner: owner(&sha256), codec, keyring, now }, target)?;
        anyhow::Ok((sha256, sealer))
    };
    let (sha256, sealer) =
        if plan.threads <= 1 { seal_by_one(plan, begin)? } else { seal_by_several(plan, begin)? };
    if Stamp::of(plan.file)? != before {
        return Fault::new(Kind::Refused, "it was written to while it was sealed").err();
    }
    Ok((sha256, sealer.finish()?))
}

/// What changes when a file is written to.
#[derive(PartialEq, Eq)]
struct Stamp(u64, SystemTime);

impl Stamp {
    fn of(file: &File) -> anyhow::Result<Self> {
        let metadata = file.metadata().context("look at what is to be sealed")?;
        Ok(Self(metadata.len(), metadata.modified()?))
    }
}

/// This thread does everything.
fn seal_by_one<W: Write>(
    plan: &SealFile<'_>,
    begin: impl FnOnce(Digest) -> anyhow::Result<(Digest, Sealer<W>)>,
) -> anyhow::Result<(Digest, Sealer<W>)> {
    let (sha256, mut sealer) = begin(sha256_of(plan.file, plan.size)?)?;
    let (mut plain, mut packed) = (Vec::new(), Vec::new());
    for number in 0..frames(plan) {
        read_nth(plan, number, &mut plain)?;
        let raw = compress(plan.codec, &plain, &mut packed)?;
        sealer.frame(&mut packed, plain.len(), raw)?;
    }
    Ok((sha256, sealer))
}

/// Several threads read and compress, this one sums up and seals. While it sums up there is one less of them than cores,
/// so that the digest is known soon and sealing goes on beside compressing. Reading twice out of the kernel's memory takes
/// less than handing what was read to another core.
fn seal_by_several<W: Write>(
    plan: &SealFile<'_>,
    begin: impl FnOnce(Digest) -> anyhow::Result<(Digest, Sealer<W>)>,
) -> anyhow::Result<(Digest, Sealer<W>)> {
    let frames = frames(plan);
    // What is compressed waits until the file is summed up: a large one is summed up before.
    let (known, waiting) = if plan.size > IN_MEMORY {
        (Some(sha256_of(plan.file, plan.size)?), 2 * plan.threads)
    } else {
        (None, frames as usize)
    };
    let (done, compressed) = mpsc::sync_channel(waiting);
    let (next, used) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let compress_frames = |done: mpsc::SyncSender<(u64, anyhow::Result<CompressedFrame>)>| {
        let mut plain = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= frames {
                return;
            }
            let mut packed = lock(&used).pop().unwrap_or_default();
            let raw =
                read_nth(plan, number, &mut plain).and_then(|()| compress(plan.codec, &plain, &mut packed));
            let frame = raw.map(|raw| (packed, plain.len(), raw));
            if done.send((number, frame)).is_err() {
                return;
            }
        }
    };
    thread::scope(|scope| {
        // Moved in here, so that the threads find out however this ends.
        let (done, compressed) = (done, compressed);
        let spawn = |done| scope.spawn(|| compress_frames(done));
        for _ in 1..plan.threads {
            spawn(done.clone());
        }
        let sha256 = known.map_or_else(|| sha256_of(plan.file, plan.size), Ok)?;
        spawn(done);
        let (sha256, mut sealer) = begin(sha256)?;
        let mut early: BTreeMap<u64, CompressedFrame> = BTreeMap::new();
        for number in 0..frames {
            while !early.contains_key(&number) {
                let (number, frame) = compressed.recv().context("the threads that compress have died")?;
                early.insert(number, frame?);
            }
            let Some((mut packed, length, raw)) = early.remove(&number) else { continue };
            sealer.frame(&mut packed, length, raw)?;
            lock(&used).push(packed);
        }
        Ok((sha256, sealer))
    })
}

/// A compressed frame: its bytes, how many plain ones there are, and whether it is raw.
type CompressedFrame = (Vec<u8>, usize, bool);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The SHA-256 of a file's first `size` bytes.
pub fn sha256_of(file: &File, size: u64) -> anyhow::Result<Digest> {
    const PIECE: u64 = 256 * 1024;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE as usize];
    let mut offset = 0;
    while offset < size {
        let bytes = &mut buffer[..PIECE.min(size - offset) as usize];
        file.read_exact_at(bytes, offset).context("read what is to be sealed")?;
        hasher.update(&*bytes);
        offset += bytes.len() as u64;
    }
    Ok(Digest::from_bytes(hasher.finalize().into()))
}

fn frames(plan: &SealFile<'_>) -> u64 {
    plan.size.div_ceil(FILE_FRAME as u64)
}

/// Reads one frame.
fn read_nth(plan: &SealFile<'_>, number: u64, plain: &mut Vec<u8>) -> anyhow::Result<()> {
    let offset = number * FILE_FRAME as u64;
    plain.resize((plan.size - offset).min(FILE_FRAME as u64) as usize, 0);
    plan.file.read_exact_at(plain, offset).context("read what is to be sealed")
}

/// Compresses a frame into `packed`, which is cleared first; true when it holds the plain bytes, because compressing did
/// not make them fewer.
fn compress(codec: Codec, plain: &[u8], packed: &mut Vec<u8>) -> anyhow::Result<bool> {
    block::compress_into(codec, plain, packed).context("compress a frame")?;
    let raw = packed.len() >= plain.len();
    if raw {
        packed.clear();
        packed.extend_from_slice(plain);
    }
    Ok(raw)
}

/// Seals frames in their order and writes them.
struct Sealer<W> {
    seal: FrameSeal,
    target: W,
    frame: u32,
    size: u64,
}

impl<W: Write> Sealer<W> {
    /// Makes the object's own key and writes the header, which carries it.
    fn begin(plan: &SealAlone<'_>, mut target: W) -> anyhow::Result<Self> {
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
        Ok(Self { seal, target, frame: 0, size: header.len() as u64 })
    }

    fn frame(&mut self, packed: &mut Vec<u8>, plain: usize, raw: bool) -> anyhow::Result<()> {
        self.write(packed, plain, raw, false)
    }

    /// Writes the empty last frame; returns how many bytes there are.
    fn finish(mut self) -> anyhow::Result<u64> {
        self.write(&mut Vec::new(), 0, true, true)?;
        Ok(self.size)
    }

    fn write(&mut self, packed: &mut Vec<u8>, plain: usize, raw: bool, last: bool) -> anyhow::Result<()> {
        let stored = u32::try_from(packed.len() + TAG)?;
        let header = FrameHeader { stored, plain: u32::try_from(plain)?, raw, last };
        self.seal.seal(self.frame, header, packed)?;
        self.target.write_all(&header.encode()).context("write a sealed file")?;
        self.target.write_all(packed).context("write a sealed file")?;
        self.frame += 1;
        self.size += (FRAME_HEADER + packed.len()) as u64;
        Ok(())
    }
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
    fn a_file_is_sealed_by_one_thread_or_several_under_a_name_with_its_own_digest() {
        let keyring = ring();
        for length in [0, 1, FRAME_BYTES, 3 * FRAME_BYTES, 5 * FRAME_BYTES + 7] {
            let plain: Vec<u8> = (0..length).map(|n| (n / 7 * n) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&plain).unwrap();
            for threads in [1, 2, 3, 8] {
                let (size, codec, keyring, now) = (length as u64, Codec::Zstd(1), &keyring, 1);
                let plan = SealFile { file: &file, size, codec, keyring, now, threads };
                let mut bytes = Vec::new();
                let (sha256, stored) = seal_file(&plan, |it| format!("wal/{it}"), &mut bytes).unwrap();
                assert_eq!(sha256.as_bytes()[..], Sha256::digest(&plain)[..]);
                assert_eq!(stored, bytes.len() as u64);
                assert_eq!(opened(keyring, &format!("wal/{sha256}"), &bytes).unwrap(), plain, "{length}");
            }
        }
    }

    #[test]
    fn a_file_that_ends_too_early_is_no_sealed_one() {
        let keyring = ring();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100]).unwrap();
        for threads in [1, 4] {
            let size = 3 * FRAME_BYTES as u64;
            let (codec, keyring) = (Codec::Zstd(1), &keyring);
            let plan = SealFile { file: &file, size, codec, keyring, now: 1, threads };
            assert!(seal_file(&plan, |_| "wal".to_owned(), &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn a_file_that_is_written_to_meanwhile_is_not_sealed() {
        let keyring = ring();
        for threads in [1, 4] {
            let file = tempfile::tempfile().unwrap();
            let size = 3 * FRAME_BYTES as u64;
            file.set_len(size).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            let (codec, keyring) = (Codec::Zstd(1), &keyring);
            let plan = SealFile { file: &file, size, codec, keyring, now: 1, threads };
            let owner = |_: &Digest| {
                file.write_all_at(b"row", 2 * FRAME_BYTES as u64).unwrap();
                "wal".to_owned()
            };
            let error = seal_file(&plan, owner, &mut Vec::new()).unwrap_err();
            assert_eq!(error.downcast_ref::<Fault>().unwrap().kind, Kind::Refused);
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
