//! The Fernet keys: from the variable or from a file, each checked, none ever shown.

use std::path::Path;

use fernet::Fernet;
use zeroize::Zeroizing;

use super::private_file;
use super::values::{Value, Values};
use crate::model::{Fault, Kind};
use crate::system::Secret;

/// 32 bytes in base64 with its padding. The padding could be done without, but not everywhere: Python wants it.
const KEY_LENGTH: usize = 44;

/// The keys, or why they can't be had.
pub(super) type Keys = Result<Vec<Secret>, Fault>;

/// Reads the keys in their order, each once; none at all is no fault here. A file that can't be had is one for whoever
/// needs a key, and the others go on: who watches must be able to say that it is gone.
pub(super) fn read(values: &Values, current_dir: &Path) -> Result<Keys, Fault> {
    match (values.get("BACKUP_ENCRYPTION_KEY"), values.get("BACKUP_ENCRYPTION_KEY_FILE")) {
        (None, None) => Ok(Ok(Vec::new())),
        (Some(_), Some(file)) => Err(about_key(file, "BACKUP_ENCRYPTION_KEY is set too")
            .hint("Set one of the two, so that it is certain which key seals.")),
        (Some(value), None) => parse(value, &value.text).map(Ok),
        (None, Some(value)) => {
            let path = current_dir.join(value.text.as_str());
            let bytes = match private_file::read(&path, Kind::Key) {
                Ok(bytes) => bytes,
                Err(wrong) => return Ok(Err(Fault { hint: wrong.hint, ..about_key(value, &wrong.message) })),
            };
            let Ok(text) = std::str::from_utf8(&bytes) else {
                return Ok(Err(about_key(value, "the file is not text")));
            };
            let text = Zeroizing::new(text.to_owned());
            let keys = parse(value, &text);
            Ok(match keys {
                Ok(keys) if keys.is_empty() => Err(about_key(value, "there is no key in the file")
                    .hint("Write a key into it that `pgkeep key new` has made.")),
                keys => keys,
            })
        }
    }
}

fn parse(value: &Value, text: &str) -> Result<Vec<Secret>, Fault> {
    let texts: Vec<&str> = text.split([',', '\n']).map(str::trim).filter(|key| !key.is_empty()).collect();
    let mut keys: Vec<Secret> = Vec::new();
    for (index, key) in texts.iter().enumerate() {
        if key.len() != KEY_LENGTH || Fernet::new(key).is_none() {
            let which = match texts.len() {
                1 => "the key".to_owned(),
                count => format!("key {} of {count}", index + 1),
            };
            return Err(about_key(value, &format!("{which} is not a Fernet key")).hint(
                "A key is 44 characters, url-safe base64 of 32 bytes; `pgkeep key new` makes one, but to read \
                 existing backups it must be the one that sealed them.",
            ));
        }
        if keys.iter().all(|known| known.expose() != *key) {
            keys.push(Secret::new((*key).to_owned()));
        }
    }
    Ok(keys)
}

fn about_key(value: &Value, what: &str) -> Fault {
    Fault { kind: Kind::Key, ..value.fault(what) }
}
