//! A single file as one sealed object that opens by itself: a volume whose header carries its key (SPEC.md, section 3).
//! For what has no manifest: the saved catalog, and WAL files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
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

/// Plain bytes of a frame of a sealed file: small enough that one fits the processor's own memory and its buffers are
/// soon used again, large enough that it compresses as well.
const FILE_FRAME: usize = 1 << 20;
/// Up to this size of a file all of its compressed frames may wait in memory.
const IN_MEMORY: u64 = 64 << 20;

/// Seals the file for the owner that `owner` names when it is told the SHA-256 of the plain bytes. Returns that digest
/// and how many bytes were written. The target is not flushed. Blocks.
///
/// Each frame is read once: it is summed up here while other threads compress it. Sealing begins when the digest is
/// known, so what is compressed waits until then: in memory for files of ordinary size, larger ones are read twice.
pub fn seal_file<W: Write>(
    plan: &SealFile<'_>,
    owner: impl FnOnce(&Digest) -> String,
    target: W,
) -> anyhow::Result<(Digest, u64)> {
    let begin = |sha256: Digest| {
        let (codec, keyring, now) = (plan.codec, plan.keyring, plan.now);
        let sealer = Sealer::begin(&SealAlone { owner: owner(&sha256), codec, keyring, now }, target)?;
        anyhow::Ok((sha256, sealer))
    };
    let frames = plan.size.div_ceil(FILE_FRAME as u64);
    let known = match plan.sha256 {
        None if plan.threads <= 1 || plan.size > IN_MEMORY => Some(sha256_of(plan.file, plan.size)?),
        known => known,
    };
    if plan.threads <= 1
        && let Some(sha256) = known
    {
        let (sha256, mut sealer) = begin(sha256)?;
        let (mut plain, mut packed) = (Vec::new(), Vec::new());
        for number in 0..frames {
            read_nth(plan, number, &mut plain)?;
            let raw = compress(plan.codec, &plain, &mut packed)?;
            sealer.frame(&mut packed, plain.len(), raw)?;
        }
        return Ok((sha256, sealer.finish()?));
    }
    let (work, waiting) = mpsc::sync_channel::<(u64, Arc<Vec<u8>>)>(plan.threads);
    let (done, compressed) = mpsc::channel();
    let waiting = Mutex::new(waiting);
    thread::scope(|scope| {
        // Moved in here, so that the threads find out however this ends.
        let (work, compressed) = (work, compressed);
        for _ in 0..plan.threads {
            let (waiting, done) = (&waiting, done.clone());
            scope.spawn(move || {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((number, plain)) = next else { return };
                    let mut packed = Vec::new();
                    let raw = compress(plan.codec, &plain, &mut packed);
                    let length = plain.len();
                    // Before its frame is told to be done: its buffer is read into again.
                    drop(plain);
                    if done.send((number, raw.map(|raw| (packed, length, raw)))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut begun = None;
        let mut begin = Some(begin);
        if let (Some(sha256), Some(begin)) = (known, begin.take_if(|_| known.is_some())) {
            begun = Some(begin(sha256)?);
        }
        let mut ordered = InOrder { compressed, early: BTreeMap::new(), next: 0 };
        let (mut hasher, mut buffers) = (Sha256::new(), Buffers::default());
        for number in 0..frames {
            let mut plain = buffers.take();
            if let Some(plain) = Arc::get_mut(&mut plain) {
                read_nth(plan, number, plain)?;
            }
            work.send((number, Arc::clone(&plain))).context("the threads that compress have died")?;
            match &mut begun {
                None => hasher.update(&*plain),
                Some((_, sealer)) => ordered.seal_ready(sealer)?,
            }
            buffers.give(plain);
        }
        drop(work);
        let (sha256, mut sealer) = match (begun, begin) {
            (Some(begun), _) => begun,
            (None, Some(begin)) => begin(Digest::from_bytes(hasher.finalize().into()))?,
            (None, None) => anyhow::bail!("sealing was not begun"),
        };
        ordered.seal_up_to(frames, &mut sealer)?;
        Ok((sha256, sealer.finish()?))
    })
}

/// A compressed frame: its bytes, how many plain ones there are, and whether it is raw.
type CompressedFrame = (Vec<u8>, usize, bool);

/// Frames come as they are done and are sealed in their order.
struct InOrder {
    compressed: mpsc::Receiver<(u64, anyhow::Result<CompressedFrame>)>,
    early: BTreeMap<u64, CompressedFrame>,
    next: u64,
}

impl InOrder {
    fn seal_ready<W: Write>(&mut self, sealer: &mut Sealer<W>) -> anyhow::Result<()> {
        while let Ok((number, frame)) = self.compressed.try_recv() {
            self.early.insert(number, frame?);
        }
        self.seal(sealer)
    }

    fn seal_up_to<W: Write>(&mut self, end: u64, sealer: &mut Sealer<W>) -> anyhow::Result<()> {
        self.seal(sealer)?;
        while self.next < end {
            let (number, frame) = self.compressed.recv().context("the threads that compress have died")?;
            self.early.insert(number, frame?);
            self.seal(sealer)?;
        }
        Ok(())
    }

    fn seal<W: Write>(&mut self, sealer: &mut Sealer<W>) -> anyhow::Result<()> {
        while let Some((mut packed, length, raw)) = self.early.remove(&self.next) {
            sealer.frame(&mut packed, length, raw)?;
            self.next += 1;
        }
        Ok(())
    }
}

/// Buffers that are shared with the threads that compress, and used again when those have let go of them.
#[derive(Default)]
struct Buffers(Vec<Arc<Vec<u8>>>);

impl Buffers {
    fn take(&mut self) -> Arc<Vec<u8>> {
        let free = self.0.iter().position(|buffer| Arc::strong_count(buffer) == 1);
        free.map_or_else(Arc::default, |free| self.0.swap_remove(free))
    }

    fn give(&mut self, buffer: Arc<Vec<u8>>) {
        self.0.push(buffer);
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
