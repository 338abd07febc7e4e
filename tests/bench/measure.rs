//! Measuring programs: wall time, processor time of all their children, peak memory.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a program cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

/// Runs a program that must succeed. It is waited for in the kernel: looking now and then whether it has ended would be
/// some milliseconds of what is measured.
pub(crate) fn cost(command: &mut Command) -> Cost {
    let mut command = without_setpriv(command);
    let (begun, before) = (Instant::now(), children());
    let run = command.output().expect("start a program");
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), children() - before);
    let said = || [&*run.stdout, &*run.stderr].map(String::from_utf8_lossy).concat();
    assert!(run.status.success(), "{command:?}\n{}", said());
    Cost { wall, cpu }
}

/// The same command, with the user changed by this process instead of by `setpriv`, which takes some milliseconds itself:
/// more than a quarter of what is measured where a program is done in twenty.
pub(crate) fn without_setpriv(command: &Command) -> Command {
    let mut words = command.get_args();
    let own =
        |id: &std::ffi::OsStr, option: &str| id.to_str().and_then(|it| it.strip_prefix(option)).map(id_of);
    let mut straight = if command.get_program() == "setpriv" {
        let user = own(words.next().expect("a user"), "--reuid=").expect("a user");
        let group = own(words.next().expect("a group"), "--regid=").expect("a group");
        let program = words.find(|word| *word != "--init-groups" && *word != "--").expect("a program");
        let mut straight = Command::new(program);
        straight.uid(user.0).gid(group.1);
        straight
    } else {
        Command::new(command.get_program())
    };
    straight.args(words).env_clear().stdin(std::process::Stdio::null());
    straight.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(directory) = command.get_current_dir() {
        straight.current_dir(directory);
    }
    straight
}

/// A user's number and that of the user's group.
fn id_of(name: &str) -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let of = fields.into_iter().find(|fields| fields[0] == name).expect("a user of that name");
    (of[2].parse().expect("a number"), of[3].parse().expect("a number"))
}

/// Seconds of processor time of this process's children that have ended, and theirs.
pub(crate) fn children() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)
        .expect("ask for the usage");
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Seconds of processor time of this process's own threads.
pub(crate) fn own() -> f64 {
    of_process(std::process::id())
}

/// Seconds of processor time of a running process's threads.
pub(crate) fn of_process(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("read a process's stat");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Runs each in turn, several times, and returns each one's median wall and processor time.
pub(crate) fn in_turns(times: usize, contenders: &mut [&mut dyn FnMut() -> Cost]) -> Vec<Cost> {
    let mut costs = vec![Vec::new(); contenders.len()];
    for _ in 0..times {
        for (contender, costs) in contenders.iter_mut().zip(&mut costs) {
            costs.push(contender());
        }
    }
    costs.into_iter().map(|costs| median(&costs)).collect()
}

fn median(costs: &[Cost]) -> Cost {
    let middle = |pick: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Cost { wall: middle(|cost| cost.wall), cpu: middle(|cost| cost.cpu) }
}

/// The most memory that a program ever had resident, in MB; it must succeed.
pub(crate) fn peak_memory(command: &mut Command, program: &str) -> f64 {
    let mut running = crate::support::Running::start(command);
    let status = format!("/proc/{}/status", running.pid());
    let mut peak = 0.0;
    while running.is_running() {
        // The high-water mark only grows; setpriv in front of the program becomes it.
        if let Ok(text) = std::fs::read_to_string(&status)
            && text.lines().next().is_some_and(|line| line.ends_with(program))
            && let Some(line) = text.lines().find(|line| line.starts_with("VmHWM:"))
        {
            peak = line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1000.0;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    running.wait().ok();
    assert!(peak > 0.0, "{program} ended before it could be looked at");
    peak
}
