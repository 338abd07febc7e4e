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

impl Caller {
    /// Who it is: the user, and who called sudo by their own account, which anybody can set.
    pub fn person(&self) -> String {
        match &self.sudo_user {
            Some(sudo_user) => format!("{sudo_user} (as {})", self.user),
            None => self.user.clone(),
        }
    }

    /// Whether this person is one of those named: users, and groups with `%` in front. root is always one, except when
    /// it is somebody else's sudo. Anybody can set `SUDO_USER`: it takes a right away and never gives one.
    pub fn is_among(&self, named: &[String]) -> bool {
        let is_root = rustix::process::getuid().is_root();
        let is_real = is_root || is_named(&self.user, named, &own_groups());
        is_real && self.sudo_user.as_ref().is_none_or(|user| user == "root" || is_named(user, named, &[]))
    }
}

/// Whether a user is named, or is a member of a group that is: by `/etc/group`, or by one of these numbers.
fn is_named(user: &str, named: &[String], groups: &[u32]) -> bool {
    named.iter().any(|name| match name.strip_prefix('%') {
        Some(group) => is_member(user, group, groups),
        None => name == user,
    })
}

fn is_member(user: &str, group: &str, groups: &[u32]) -> bool {
    let Ok(text) = std::fs::read_to_string("/etc/group") else { return false };
    let Some((number, members)) = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == group).then_some(())?;
        Some((fields.nth(1)?.parse::<u32>().ok()?, fields.next().unwrap_or_default()))
    }) else {
        return false;
    };
    groups.contains(&number)
        || members.split(',').any(|member| member == user)
        || primary(user) == Some(number)
}

/// The number of a user's own group.
fn primary(user: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(user))?;
    line.split(':').nth(3)?.parse().ok()
}

/// The groups that this process has.
fn own_groups() -> Vec<u32> {
    let more = rustix::process::getgroups().unwrap_or_default();
    more.into_iter().chain([rustix::process::getgid()]).map(rustix::process::Gid::as_raw).collect()
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
