//! Signals that ask a command to stop: Ctrl-C, SIGTERM (what schedulers send) and SIGHUP (a terminal that closes).
//!
//! While there is nothing to save, the first one ends the program, and what was made until then is removed. From [`defer`] on
//! it sets a flag, so that work ends at the next safe point; the second one ends the program at once. Either way the exit code is
//! the shell's: 128 and the signal.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::train::run_folder::remove_traces;

/// The first signal that came; 0: none.
static RECEIVED: AtomicI32 = AtomicI32::new(0);
/// Whether a signal waits for the next safe point. Locked while one ends the program, so that nothing is begun meanwhile.
static DEFERRED: Mutex<bool> = Mutex::new(false);

/// Watches for signals, and returns the flag that the first one sets. A signal that the parent has set to be ignored, as
/// `nohup` does, stays ignored.
pub fn watch() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    let ignored = ignored_signals();
    let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = Signals::new(wanted).context("signals cannot be watched")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(|signal| received(signal, &seen)))
        .context("signals cannot be watched")?;
    Ok(flag)
}

/// From now on there is something to save: a signal waits for the next safe point.
pub fn defer() {
    *deferred() = true;
}

/// The exit code of a command that has failed: the shell's if a signal asked it to stop, else 1.
pub fn exit_code() -> u8 {
    match RECEIVED.load(Ordering::SeqCst) {
        0 => 1,
        signal => code(signal),
    }
}

fn received(signal: i32, flag: &AtomicBool) {
    let name = low_level::signal_name(signal).unwrap_or("a signal");
    let first = RECEIVED.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok();
    flag.store(true, Ordering::SeqCst);
    let deferred = deferred();
    if first && *deferred {
        say(&format!("{name}: stopping at the next safe point; a second signal (Ctrl-C again) stops at once"));
        return;
    }
    say(&match first {
        true => format!("stopped by {name}, before anything was begun"),
        false => format!("stopped at once by {name}"),
    });
    if !*deferred {
        remove_traces();
    }
    // Not through `exit`: a device may be in use by other threads, and nothing else of ours waits to be cleaned up.
    low_level::exit(i32::from(code(signal)));
}

fn deferred() -> MutexGuard<'static, bool> {
    DEFERRED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A closed stderr must not end the thread.
fn say(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
}

fn code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Signals that were ignored when this process began, as bits, signal 1 first (Linux; elsewhere none is known).
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
