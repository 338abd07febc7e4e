//! Reads files that hold secrets, after looking at who else could have read or written them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::model::{Fault, Kind};
use crate::system::caller::user_name;

/// The most that is read; nothing that belongs into such a file is longer.
const LONGEST: u64 = 1024 * 1024;

/// Reads the whole file if it is ours (or root's) alone. `kind` becomes the fault's.
pub(super) fn read(path: &Path, kind: Kind) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let shown = path.display();
    let cannot = |error: std::io::Error| {
        let fault = Fault::new(kind, format!("cannot read {shown}: {error}"));
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                fault.hint("Run pgkeep as the user whom the file belongs to, or name another file.")
            }
            _ => fault,
        }
    };
    let mut file = File::open(path).map_err(cannot)?;
    // Asked of the open file: the name could be given to another one in between.
    let metadata = file.metadata().map_err(cannot)?;
    // /dev/null is open to everybody and keeps no secret.
    if !metadata.file_type().is_char_device() {
        let us = rustix::process::geteuid().as_raw();
        owned_by_us_or_root(path, metadata.uid(), us, kind)?;
        if metadata.mode() & 0o077 != 0 {
            return Err(Fault::new(kind, format!("{shown} is open to other users"))
                .hint(format!("Take their rights with `chmod 600 {shown}`.")));
        }
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.by_ref().take(LONGEST + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Fault::new(kind, format!("{shown} is longer than 1 MiB")));
    }
    Ok(bytes)
}

fn owned_by_us_or_root(path: &Path, owner: u32, us: u32, kind: Kind) -> Result<(), Fault> {
    if owner == us || owner == 0 {
        return Ok(());
    }
    let name = |uid: u32| user_name(uid).unwrap_or_else(|| uid.to_string());
    let (owner, us, shown) = (name(owner), name(us), path.display());
    Err(Fault::new(kind, format!("{shown} belongs to {owner}, and this is {us}"))
        .hint(format!("Run pgkeep as {owner}, or, if its content is to be trusted, `chown {us} {shown}`.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_somebody_else_is_refused_and_one_of_root_is_not() {
        let of = |owner, us| owned_by_us_or_root(Path::new("/etc/pgkeep.env"), owner, us, Kind::Settings);
        assert_eq!((of(1000, 1000), of(0, 1000)), (Ok(()), Ok(())));
        let refused = of(4_000_000_001, 0).map_err(|fault| fault.message);
        assert_eq!(refused, Err("/etc/pgkeep.env belongs to 4000000001, and this is root".to_owned()));
    }
}
