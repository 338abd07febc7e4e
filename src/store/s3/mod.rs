//! A bucket of an S3 service: Cloudflare R2, Backblaze B2, AWS, Ceph, `MinIO`, Garage.
//!
//! Path style; no header newer than signature version 4. Every request is bounded in size (16 MiB, or a part) and has
//! limits for connecting, for standing still and for its whole time. No answer is believed that is not whole: status,
//! range, length and tag are compared with what must come. Nothing is repeated here; that is [`super::Retried`]'s.

mod answer;
mod client;
mod deleting;
mod objects;
mod parts;
mod versions;
mod xml;

use std::time::Duration;

use crate::model::StoreName;
use crate::store::{PartBuffers, StoreError, StoreErrorKind};
use crate::system::Secret;
use answer::Trouble;
use client::Client;

/// Where a bucket is and how to get in.
#[derive(Debug, Clone)]
pub struct S3Place {
    /// Which store of the settings it is.
    pub name: StoreName,
    /// URL of the service, without the bucket: https, or http to this machine.
    pub endpoint: String,
    /// The region that requests are signed for; `auto` for R2.
    pub region: String,
    /// The bucket's name.
    pub bucket: String,
    /// The public half of the credentials.
    pub access_key: String,
    /// The secret half.
    pub secret_key: Secret,
    /// Whether the bucket keeps the versions of what is overwritten or deleted, as B2's always do: then deleting
    /// means to delete all versions, for otherwise no space is freed.
    pub keeps_versions: bool,
}

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until there is a connection, TLS included.
    pub connect: Duration,
    /// Without a byte going either way; while a body is sent, longer by what the system's buffers may still hold.
    pub idle: Duration,
    /// The whole of a request without a body; one with a body has more, as if it went at 16 KiB per second.
    pub total: Duration,
    /// Bytes per second at which a body is sent, so that a large part does not take the whole line for itself. It is
    /// [`super::Throttled`] that keeps several requests together within a rate.
    pub pace: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(20),
            total: Duration::from_mins(1),
            pace: None,
        }
    }
}

/// A bucket as a store.
#[derive(Debug)]
pub struct S3Store {
    name: StoreName,
    keeps_versions: bool,
    client: Client,
    buffers: PartBuffers,
}

impl S3Store {
    /// Makes the store; asks nothing of it. An error when the place cannot be one.
    pub fn new(place: S3Place) -> Result<Self, StoreError> {
        Self::with_limits(place, Limits::default())
    }

    /// The same with other limits.
    pub fn with_limits(place: S3Place, limits: Limits) -> Result<Self, StoreError> {
        let (name, keeps_versions) = (place.name, place.keeps_versions);
        let bucket = place.bucket.clone();
        match Client::new(place, limits) {
            Ok(client) => Ok(Self { name, keeps_versions, client, buffers: PartBuffers::default() }),
            Err(cause) => Err(StoreError {
                store: name,
                operation: "use",
                place: format!("bucket {bucket}"),
                kind: StoreErrorKind::NoPlace,
                cause,
            }),
        }
    }

    /// Says what was being done, to what.
    fn error(&self, operation: &'static str, key: &str, trouble: Trouble) -> StoreError {
        StoreError {
            store: self.name,
            operation,
            place: self.client.locate(key),
            kind: trouble.kind,
            cause: trouble.cause,
        }
    }
}
