//! A single file as one sealed object that opens by itself: a volume whose header carries its key (SPEC.md, section 3).
//! For what has no manifest: the saved catalog, and WAL files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, PoisonError, mpsc};
use std::thread;

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
pub fn seal_alone(
    plan: &SealAlone<'_>,
    mut source: impl Read,
    target: impl Write,
) -> anyhow::Result<u64> {
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
    /// The SHA-256 of its bytes if that is known already.
    pub sha256: Option<Digest>,
    /// Compression.
    pub codec: Codec,
    /// The first key seals.
    pub keyring: &'a Keyring,
    /// The seal's public date, in seconds since 1970.
    pub now: u64,
    /// How many threads compress.
    pub threads: usize,
}

/// Seals the file for the owner that `owner` names when it is told the SHA-256 of the plain bytes. Returns that digest
/// and how many bytes were written. The target is not flushed. Blocks.
///
/// Several frames are compressed at once, while the bytes are still being summed up: what a single WAL segment waits
/// for is the slower of the two. Memory is bounded by the number of threads.
pub fn seal_file(
    plan: &SealFile<'_>,
    owner: impl FnOnce(&Digest) -> String,
    target: impl Write,
) -> anyhow::Result<(Digest, u64)> {
    let frames = plan.size.div_ceil(FRAME_BYTES as u64);
    let threads = plan.threads.clamp(1, usize::try_from(frames.max(1))?);
    let begin = |sha256: Digest, target| {
        let (codec, keyring, now) = (plan.codec, plan.keyring, plan.now);
        let sealer = Sealer::begin(&SealAlone { owner: owner(&sha256), codec, keyring, now }, target)?;
        anyhow::Ok((sha256, sealer))
    };
    let known = plan.sha256;
    let summed = || known.map_or_else(|| sha256_of(plan.file, plan.size), Ok);
    if threads == 1 {
        let (sha256, mut sealer) = begin(summed()?, target)?;
        let (mut plain, mut packed) = (Vec::new(), Vec::new());
        for number in 0..frames {
            let raw = compress_nth(plan, number, &mut plain, &mut packed)?;
            sealer.frame(&mut packed, plain.len(), raw)?;
        }
        return Ok((sha256, sealer.finish()?));
    }
    let turns = Turns::of(frames, 2 * threads as u64);
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        // Whatever ends this, the threads find out.
        let turns = Ending(&turns);
        let summing = scope.spawn(summed);
        for _ in 0..threads {
            let (done, turns) = (done.clone(), turns.0);
            scope.spawn(move || {
                while let Some(number) = turns.next() {
                    let (mut plain, mut packed) = (Vec::new(), Vec::new());
                    let result = compress_nth(plan, number, &mut plain, &mut packed);
                    let length = plain.len();
                    if done.send((number, result.map(|raw| (packed, length, raw)))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let sha256 = summing.join().map_err(|_| anyhow::anyhow!("the thread that hashes has died"))??;
        let (sha256, mut sealer) = begin(sha256, target)?;
        let mut early = BTreeMap::new();
        for wanted in 0..frames {
            while !early.contains_key(&wanted) {
                let (number, frame) = results.recv().context("the threads that compress have died")?;
                early.insert(number, frame?);
            }
            if let Some((mut packed, length, raw)) = early.remove(&wanted) {
                sealer.frame(&mut packed, length, raw)?;
            }
            turns.0.allow_one();
        }
        Ok((sha256, sealer.finish()?))
    })
}

/// Hands out the numbers of frames, not too far ahead of what is sealed.
struct Turns {
    end: u64,
    state: Mutex<(u64, u64)>,
    changed: Condvar,
}

impl Turns {
    fn of(end: u64, ahead: u64) -> Self {
        Self { end, state: Mutex::new((0, ahead)), changed: Condvar::new() }
    }

    /// The next number when its turn has come; `None` when there is none.
    fn next(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.0 < self.end && state.0 >= state.1 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let number = state.0;
        (number < self.end).then(|| state.0 += 1).map(|()| number)
    }

    fn allow_one(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 += 1;
        self.changed.notify_one();
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = self.end;
        self.changed.notify_all();
    }
}

struct Ending<'a>(&'a Turns);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
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

/// Reads and compresses one frame; whether it is raw.
fn compress_nth(
    plan: &SealFile<'_>,
    number: u64,
    plain: &mut Vec<u8>,
    packed: &mut Vec<u8>,
) -> anyhow::Result<bool> {
    let offset = number * FRAME_BYTES as u64;
    plain.resize((plan.size - offset).min(FRAME_BYTES as u64) as usize, 0);
    plan.file.read_exact_at(plain, offset).context("read what is to be sealed")?;
    compress(plan.codec, plain, packed)
}

/// Compresses a frame into `packed`, which is cleared first; true when it holds the plain bytes, because compressing did
/// not make them fewer.
fn compress(codec: Codec, plain: &[u8], packed: &mut Vec<u8>) -> anyhow::Result<bool> {
    packed.clear();
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
                let plan = SealFile { file: &file, size, sha256: None, codec, keyring, now, threads };
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
            let sha256 = Some(Digest::from_bytes([1; 32]));
            let plan = SealFile { file: &file, size, sha256, codec, keyring, now: 1, threads };
            assert!(seal_file(&plan, |_| "wal".to_owned(), &mut Vec::new()).is_err());
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
