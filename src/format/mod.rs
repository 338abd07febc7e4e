//! What lies in a store, to the last byte: object names, volumes and frames, manifests.
//!
//! `SPEC.md` beside this file is the law; golden files hold it. Nothing here reads or writes anything: bytes come
//! in and go out. Version 1 is readable for ever; a change is a new version beside it.

pub mod backup_manifest;
pub mod block;
pub mod cluster;
pub mod config;
pub mod database;
pub mod identity;
pub mod keyring;
pub mod manifest;
pub mod names;
pub mod tenant;
pub mod volume;

/// The version of the format that is written.
pub const VERSION: u16 = 1;
