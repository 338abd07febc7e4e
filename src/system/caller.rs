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
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}
