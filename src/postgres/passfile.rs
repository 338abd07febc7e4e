//! The password file (manual, chapter "libpq", section "The Password File").

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::endpoint::{Endpoint, Host};

/// What looking into the password file came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The password of the first line that matches.
    pub(super) password: Option<String>,
    /// Why the file was not used, as a sentence, if it is there.
    pub(super) warning: Option<String>,
}

/// Looks for the password of this endpoint. A file that is not there is no password and no warning.
pub(super) fn look_up(path: &Path, endpoint: &Endpoint) -> Found {
    let ignored =
        |why: &str| Found { password: None, warning: Some(format!("{} is ignored: {why}", path.display())) };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Found::default();
        }
        Err(error) => return ignored(&error.to_string()),
    };
    if !metadata.is_file() {
        return ignored("it is not a plain file");
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return ignored("others can read it; its mode must be 0600 or less");
    }
    match std::fs::read_to_string(path) {
        Ok(text) => Found { password: find(&text, endpoint), warning: None },
        Err(error) => ignored(&error.to_string()),
    }
}

/// The password of the first line that matches.
fn find(text: &str, endpoint: &Endpoint) -> Option<String> {
    let port = endpoint.port.to_string();
    let hosts: Vec<&str> = match &endpoint.host {
        Host::Name(name) => vec![name],
        // The default directory is `localhost`, but a line that spells it out is meant as well.
        Host::Socket(directory) => {
            let mut names = vec![directory.to_str()?];
            if endpoint.is_default_socket() {
                names.push("localhost");
            }
            names
        }
    };
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split(line)?;
        let [host, line_port, database, user] = &fields.0;
        let matches = |field: &Field, value: &str| field.any || field.text == value;
        let fits = hosts.iter().any(|name| matches(host, name))
            && matches(line_port, &port)
            && matches(database, &endpoint.database)
            && matches(user, &endpoint.user);
        fits.then_some(fields.1)
    })
}

struct Field {
    text: String,
    any: bool,
}

/// The four fields and the password; `None` for a line with fewer.
fn split(line: &str) -> Option<([Field; 4], String)> {
    let mut rest = line;
    let mut next = || {
        let mut text = String::new();
        let mut characters = rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                ':' => {
                    let any = &rest[..at] == "*";
                    rest = &rest[at + 1..];
                    return Some(Field { text, any });
                }
                '\\' => text.extend(characters.next().map(|(_, escaped)| escaped)),
                plain => text.push(plain),
            }
        }
        None
    };
    let fields = [next()?, next()?, next()?, next()?];
    // The password ends at the next colon; what follows is kept for later versions of the file.
    let mut password = String::new();
    let mut characters = rest.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' => break,
            '\\' => password.extend(characters.next()),
            plain => password.push(plain),
        }
    }
    Some((fields, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str) -> Endpoint {
        let host = match host.strip_prefix('/') {
            Some(_) => Host::Socket(host.into()),
            None => Host::Name(host.to_owned()),
        };
        Endpoint { host, port: 5432, user: "me".to_owned(), database: "a:b\\c".to_owned() }
    }

    #[test]
    fn the_first_line_that_matches_gives_the_password() {
        let text = "# *:*:*:*:comment\nbroken\nother:*:*:*:no\ndb:5433:*:*:no\ndb:*:*:me:yes\n*:*:*:*:late\n";
        assert_eq!(find(text, &endpoint("db")).as_deref(), Some("yes"));
        assert_eq!(find(text, &endpoint("elsewhere")).as_deref(), Some("late"));
    }

    #[test]
    fn escapes_are_undone_in_fields_and_in_the_password() {
        assert_eq!(find(r"db:5432:a\:b\\c:me:pa\:ss\\word", &endpoint("db")).as_deref(), Some(r"pa:ss\word"));
        assert_eq!(find(r"db:5432:\*:me:no", &endpoint("db")), None);
    }

    #[test]
    fn localhost_means_the_default_socket_too() {
        let text = "localhost:*:*:*:secret";
        assert_eq!(find(text, &endpoint("/var/run/postgresql")).as_deref(), Some("secret"));
        assert_eq!(find(text, &endpoint("/srv/other")), None);
        assert_eq!(find("/srv/other:*:*:*:there", &endpoint("/srv/other")).as_deref(), Some("there"));
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored_with_a_warning() {
        let directory = tempfile::tempdir().expect("make a directory");
        let path = directory.path().join("pgpass");
        assert_eq!(look_up(&path, &endpoint("db")), Found::default());
        std::fs::write(&path, "*:*:*:*:secret\n").expect("write");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("chmod");
        let found = look_up(&path, &endpoint("db"));
        assert_eq!(found.password, None);
        assert!(found.warning.expect("a warning").contains("0600"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("chmod");
        assert_eq!(look_up(&path, &endpoint("db")).password.as_deref(), Some("secret"));
    }
}
