//! Who runs this process, from where: for the audit.

/// The person or job behind this run.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The operating system's user.
    pub user: String,
    /// Who called sudo, if it was sudo.
    pub sudo_user: Option<String>,
    /// This machine's name.
    pub host: String,
    /// The terminal, or `none`: cron and `archive_command` have none.
    pub terminal: String,
}

impl Caller {
    /// Asks the operating system.
    pub fn find() -> Self {
        let uid = rustix::process::getuid().as_raw();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let terminal = rustix::termios::ttyname(std::io::stdin(), Vec::new())
            .map_or_else(|_| "none".to_owned(), |name| name.to_string_lossy().into_owned());
        Self {
            user: user_name(uid).unwrap_or_else(|| uid.to_string()),
            sudo_user: std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty()),
            host,
            terminal,
        }
    }
}

/// The name of a user in `/etc/passwd`; users known elsewhere only (LDAP) are shown by their number.
pub fn user_name(uid: u32) -> Option<String> {
    named("/etc/passwd", |_, number| number == uid).map(|(name, _)| name)
}

/// The name of a group in `/etc/group`.
pub fn group_name(gid: u32) -> Option<String> {
    named("/etc/group", |_, number| number == gid).map(|(name, _)| name)
}

/// The number of the user of this name, and that of the group.
pub fn numbers(user: &str, group: &str) -> (Option<u32>, Option<u32>) {
    let number = |file, wanted: &str| named(file, |name, _| name == wanted).map(|(_, number)| number);
    (number("/etc/passwd", user), number("/etc/group", group))
}

/// The first line of a file with names and numbers (`passwd(5)`, `group(5)`) that is the wanted one.
fn named(file: &str, wanted: impl Fn(&str, u32) -> bool) -> Option<(String, u32)> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number = fields.nth(1)?.parse().ok()?;
        wanted(name, number).then(|| (name.to_owned(), number))
    })
}
