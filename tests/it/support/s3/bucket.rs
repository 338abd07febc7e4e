//! What is in a bucket, and the test's way to it behind the protocol's back.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use md5::{Digest, Md5};

use super::{Shared, State, lock};

/// One version of an object.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) id: String,
    pub(super) modified: SystemTime,
    /// The bytes; `None` marks a deletion.
    pub(super) bytes: Option<Bytes>,
    /// Hex, without quotes; as the client was told when it wrote, whatever happened to the bytes since.
    pub(super) etag: String,
}

/// A multipart upload that was begun.
#[derive(Debug, Clone)]
pub(super) struct Begun {
    pub(super) key: String,
    pub(super) initiated: SystemTime,
    /// Bytes and MD5 by the part's number.
    pub(super) parts: BTreeMap<i32, (Bytes, [u8; 16])>,
}

/// A bucket.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// The versions of each key, the newest last; never empty.
    pub(super) objects: BTreeMap<String, Vec<Version>>,
    /// By upload id.
    pub(super) uploads: BTreeMap<String, Begun>,
}

impl Contents {
    /// The version that a plain GET gets.
    pub(super) fn current(&self, key: &str) -> Option<&Version> {
        self.objects.get(key)?.last().filter(|version| version.bytes.is_some())
    }
}

impl State {
    /// Puts a version on top; without versions it is the only one. Returns its id.
    pub(super) fn add(&mut self, bucket: &str, key: &str, bytes: Option<Bytes>, etag: String) -> String {
        self.next += 1;
        // Versions sort by time of writing, so that a listing's marker can say where it ended.
        let id =
            if self.options.versions { format!("4_z{:012}_t0000", self.next) } else { "null".to_owned() };
        let version = Version { id: id.clone(), modified: SystemTime::now(), bytes, etag };
        let keep = self.options.versions;
        let contents = self.buckets.get_mut(bucket).expect("the bucket was looked for before");
        let versions = contents.objects.entry(key.to_owned()).or_default();
        if !keep {
            versions.clear();
        }
        versions.push(version);
        id
    }
}

/// The MD5 of some bytes.
pub(super) fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

/// A current object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) key: String,
    pub(crate) size: u64,
}

/// An upload that was neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upload {
    pub(crate) key: String,
    pub(crate) id: String,
    /// Parts that have arrived.
    pub(crate) parts: usize,
}

/// A bucket as the test sees it. Nothing here is counted as a request, and no right is asked for.
#[derive(Clone)]
pub(crate) struct Bucket {
    pub(super) state: Shared,
    pub(super) name: String,
}

impl Bucket {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    #[track_caller]
    fn look<T>(&self, look: impl FnOnce(&mut Contents) -> T) -> T {
        let mut state = lock(&self.state);
        look(state.buckets.get_mut(&self.name).unwrap_or_else(|| panic!("no bucket {}", self.name)))
    }

    /// The current objects, sorted by key.
    #[track_caller]
    pub(crate) fn objects(&self) -> Vec<Listed> {
        self.look(|contents| {
            let current = contents.objects.keys().filter_map(|key| {
                let bytes = contents.current(key)?.bytes.as_ref()?;
                Some(Listed { key: key.clone(), size: bytes.len() as u64 })
            });
            current.collect()
        })
    }

    /// Their keys.
    #[track_caller]
    pub(crate) fn keys(&self) -> Vec<String> {
        self.objects().into_iter().map(|object| object.key).collect()
    }

    /// How many versions there are of this key, markers of deletion included.
    #[track_caller]
    pub(crate) fn versions(&self, key: &str) -> usize {
        self.look(|contents| contents.objects.get(key).map_or(0, Vec::len))
    }

    /// What the service would charge for: the bytes of all versions, and of the parts of unfinished uploads.
    #[track_caller]
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.look(|contents| {
            let versions = contents.objects.values().flatten().filter_map(|version| version.bytes.as_ref());
            let parts = contents.uploads.values().flat_map(|begun| begun.parts.values().map(|part| &part.0));
            versions.chain(parts).map(|bytes| bytes.len() as u64).sum()
        })
    }

    /// The uploads that were neither completed nor aborted.
    #[track_caller]
    pub(crate) fn uploads(&self) -> Vec<Upload> {
        self.look(|contents| {
            let uploads = contents.uploads.iter();
            let upload = |(id, begun): (&String, &Begun)| Upload {
                key: begun.key.clone(),
                id: id.clone(),
                parts: begun.parts.len(),
            };
            uploads.map(upload).collect()
        })
    }

    /// The bytes of an object that must be there.
    #[track_caller]
    pub(crate) fn read(&self, key: &str) -> Vec<u8> {
        let bytes = self.look(|contents| contents.current(key).and_then(|version| version.bytes.clone()));
        bytes.unwrap_or_else(|| panic!("no object {key} in {}", self.name)).to_vec()
    }

    /// Puts an object there as if it had been sent.
    #[track_caller]
    pub(crate) fn write(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        let etag = hex::encode(md5(&bytes));
        let mut state = lock(&self.state);
        assert!(state.buckets.contains_key(&self.name), "no bucket {}", self.name);
        state.add(&self.name, key, Some(bytes.into()), etag);
    }

    /// Changes the stored bytes as a bad disk would: size as it was or not, `ETag` and time as they were.
    #[track_caller]
    pub(crate) fn change(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        self.look(|contents| {
            let version = contents.objects.get_mut(key).and_then(|versions| versions.last_mut());
            let bytes = version.and_then(|version| version.bytes.as_mut());
            let bytes = bytes.unwrap_or_else(|| panic!("no object {key}"));
            let mut changed = bytes.to_vec();
            change(&mut changed);
            *bytes = changed.into();
        });
    }

    /// Flips one bit in the middle.
    #[track_caller]
    pub(crate) fn damage(&self, key: &str) {
        self.change(key, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
    }

    /// Cuts the object off after so many bytes.
    #[track_caller]
    pub(crate) fn cut(&self, key: &str, length: usize) {
        self.change(key, |bytes| bytes.truncate(length));
    }

    /// Loses an object with all its versions.
    #[track_caller]
    pub(crate) fn lose(&self, key: &str) {
        let lost = self.look(|contents| contents.objects.remove(key));
        assert!(lost.is_some(), "no object {key} in {}", self.name);
    }

    /// Loses everything.
    #[track_caller]
    pub(crate) fn lose_all(&self) {
        self.look(|contents| *contents = Contents::default());
    }

    /// Makes all that is in the bucket older than it is: objects, versions, uploads.
    #[track_caller]
    pub(crate) fn age(&self, by: Duration) {
        self.look(|contents| {
            for version in contents.objects.values_mut().flatten() {
                version.modified -= by;
            }
            for upload in contents.uploads.values_mut() {
                upload.initiated -= by;
            }
        });
    }
}
