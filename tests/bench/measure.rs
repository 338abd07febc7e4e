//! Measuring programs: wall time, processor time of all their children, peak memory.

use std::process::Command;
use std::time::{Duration, Instant};

/// What a program cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

/// Runs a program that must succeed.
pub(crate) fn cost(command: &mut Command) -> Cost {
    let (begun, before) = (Instant::now(), children());
    let run = crate::support::run(command);
    assert_eq!(run.code, 0, "{command:?}\n{}{}", run.stdout, run.stderr);
    Cost { wall: begun.elapsed().as_secs_f64(), cpu: children() - before }
}

/// Seconds of processor time of this process's children that have ended, and theirs.
pub(crate) fn children() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("read /proc/self/stat");
    // The fields after the program's name, which may hold spaces: cutime and cstime are the 14th and 15th of them.
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks: f64 = fields[13].parse::<f64>().unwrap() + fields[14].parse::<f64>().unwrap();
    ticks / 100.0
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
