//! A backup whose stored bytes somebody with the key has changed, and sealed and summed up again as they should be: nothing
//! but what was counted when it was made can tell.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pgkeep::format::block::compress_into;
use pgkeep::format::keyring::Keyring;
use pgkeep::format::manifest::Manifest;
use pgkeep::format::volume::{FRAME_BYTES, FRAME_HEADER, FrameHeader, FrameSeal, Method, TAG, VolumeHeader};
use pgkeep::model::{BackupId, Codec, Stage};
use pgkeep::pipeline::{Gather, Unpack, unpack};
use pgkeep::system::Stop;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::golden::{Files, open_with, reseal_with};

/// Rewrites the backup in this directory of a store: `change` is given each entry of the manifest with its plain bytes and
/// returns what is to be stored of it. The manifest says of tables what it said before.
pub(crate) fn rewrite(directory: &Path, key: &str, change: impl Fn(&Value, Vec<u8>) -> Vec<u8>) {
    let path = directory.join("manifest");
    let id = directory.file_name().unwrap().to_str().unwrap();
    let keyring = Keyring::parse([key]).unwrap();
    let manifest =
        Manifest::open(&fs::read(&path).unwrap(), &id.parse::<BackupId>().unwrap(), &keyring).unwrap();
    let manifest = Arc::new(manifest);
    let mut opened = open_with(&path, key);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut all = Vec::new();
    for (index, entry) in opened.body["entries"].as_array_mut().unwrap().iter_mut().enumerate() {
        let request = Unpack { manifest: Arc::clone(&manifest), entries: vec![index], stage: Stage::new(0) };
        let reader = Arc::new(Files(directory.to_owned()));
        let Gather(plain) =
            runtime.block_on(unpack(request, reader, Gather::default(), Stop::default())).unwrap();
        let plain = change(entry, plain);
        entry["extents"] = extents(all.len(), plain.len());
        entry["size"] = json!(plain.len());
        entry["sha256"] = json!(hex::encode(Sha256::digest(&plain)));
        all.extend(plain);
    }
    for volume in &manifest.volumes {
        fs::remove_file(directory.join(&volume.name)).unwrap();
    }
    let volume = Volume::of(id, manifest.codec, &all);
    let stored = directory.join("data.00000");
    fs::write(&stored, &volume.bytes).unwrap();
    crate::support::set_mode(&stored, 0o600);
    crate::support::give(&stored);
    let (size, sha256) = (volume.bytes.len(), hex::encode(Sha256::digest(&volume.bytes)));
    let body = &mut opened.body;
    body["key"] = json!(STANDARD.encode(volume.key));
    body["volumes"] =
        json!([{"name": "data.00000", "size": size, "sha256": sha256, "frames": volume.frames}]);
    body["original_size"] = json!(all.len());
    body["compressed_size"] = json!(volume.compressed);
    body["stored_size"] = json!(size);
    opened.head.retain(|line| !line.starts_with("volume "));
    opened.head.push(format!("volume data.00000 {size} {sha256}"));
    reseal_with(&path, &opened, key);
}

/// Without the second of the rows that `COPY` wrote.
pub(crate) fn without_a_row(rows: &[u8]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = rows.split_inclusive(|byte| *byte == b'\n').collect();
    assert!(lines.len() > 4, "too few rows to lose one");
    lines.remove(1);
    lines.concat()
}

/// Where the bytes lie when all entries are cut into frames end to end.
fn extents(begin: usize, length: usize) -> Value {
    let (mut at, end, mut found) = (begin, begin + length, Vec::new());
    while at < end {
        let offset = at % FRAME_BYTES;
        let part = (FRAME_BYTES - offset).min(end - at);
        found.push(json!([0, 0, at / FRAME_BYTES, offset, part]));
        at += part;
    }
    json!(found)
}

/// A volume as SPEC.md has it, sections 3 and 4.
struct Volume {
    bytes: Vec<u8>,
    frames: Vec<usize>,
    compressed: usize,
    key: [u8; 32],
}

impl Volume {
    fn of(owner: &str, codec: Codec, plain: &[u8]) -> Self {
        // Another key than before: under it nothing else was ever sealed.
        let key: [u8; 32] = Sha256::digest(plain).into();
        let header = VolumeHeader {
            number: 0,
            method: Method::from(codec),
            owner: owner.to_owned(),
            sealed_key: Vec::new(),
        };
        let header = header.encode().unwrap();
        let seal = FrameSeal::new(&key, &header, 0).unwrap();
        let mut volume = Self { bytes: header, frames: Vec::new(), compressed: 0, key };
        for plain in plain.chunks(FRAME_BYTES) {
            let mut packed = Vec::new();
            compress_into(codec, plain, &mut packed).unwrap();
            let raw = packed.len() >= plain.len();
            if raw {
                packed = plain.to_vec();
            }
            volume.compressed += packed.len();
            volume.frame(&seal, packed, plain.len(), raw, false);
        }
        volume.frame(&seal, Vec::new(), 0, true, true);
        volume
    }

    fn frame(&mut self, seal: &FrameSeal, mut packed: Vec<u8>, plain: usize, raw: bool, last: bool) {
        let stored = packed.len() + TAG;
        let header = FrameHeader { stored: stored as u32, plain: plain as u32, raw, last };
        seal.seal(self.frames.len() as u32, header, &mut packed).unwrap();
        let encoded: [u8; FRAME_HEADER] = header.encode();
        self.bytes.extend(encoded);
        self.bytes.extend(packed);
        self.frames.push(stored);
    }
}
