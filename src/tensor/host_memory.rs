//! How much memory this machine has left: large allocations are held to it before they are made, because Linux grants more than
//! there is and then ends the program.

use super::DeviceError;

/// Allocations of fewer bytes are not looked at.
const LARGE: usize = 64 << 20;

/// An error if `bytes` more than there are left are asked for; `what` they are for.
pub fn check_available(bytes: usize, what: impl FnOnce() -> String) -> Result<(), DeviceError> {
    match (bytes >= LARGE).then(available_bytes).flatten() {
        Some(left) if bytes as u64 > left => Err(DeviceError(format!(
            "out of memory: {} needs {:.1} GB, and {:.1} GB are left",
            what(),
            bytes as f64 / 1e9,
            left as f64 / 1e9
        ))),
        _ => Ok(()),
    }
}

/// Bytes that this machine has in all, or its control group allows; `None` where the system does not say.
pub fn total_bytes() -> Option<usize> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let system = field(&read("/proc/meminfo")?, "MemTotal:")? * 1024;
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let group = limits.iter().find_map(|path| read(path)?.trim().parse::<u64>().ok());
    Some(group.map_or(system, |group| group.min(system)) as usize)
}

/// Bytes that this program can still use: what the system has available, and what its control group leaves of its limit.
/// `None` where the system does not say.
fn available_bytes() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let meminfo = read("/proc/meminfo")?;
    let system = field(&meminfo, "MemAvailable:")? * 1024;
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let limits = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
            "/sys/fs/cgroup/memory/memory.stat",
        ),
    ];
    let group = limits.iter().find_map(|(limit, usage, stat)| {
        // Pages of files that nobody uses are given back when memory is short.
        let idle = read(stat).and_then(|stat| field(&stat, "inactive_file")).unwrap_or(0);
        Some(number(limit)?.saturating_sub(number(usage)?.saturating_sub(idle)))
    });
    Some(group.map_or(system, |group| group.min(system)))
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut words = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_refused_and_what_it_has_is_not() {
        assert_eq!(field("MemTotal: 1 kB\nMemAvailable:   24 kB\n", "MemAvailable:"), Some(24));
        assert!(check_available(1, || unreachable!("nothing is wrong")).is_ok());
        if available_bytes().is_some() {
            let message = check_available(1 << 60, || "a test".into()).unwrap_err().to_string();
            assert!(message.contains("a test needs 1152921504.6 GB"), "{message}");
        }
    }
}
