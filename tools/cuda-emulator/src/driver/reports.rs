//! What the emulator has to say: printed on stderr as it happens, and kept for tests of the same thread.
//!
//! Reports are kept per thread, because a fault shows in the call that waits for the work, in the thread of the test
//! that made it: tests that run side by side do not see each other's reports.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_char;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::entry;

thread_local! {
    static REPORTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

static QUIET: AtomicBool = AtomicBool::new(false);
static SETTINGS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Prints a report and keeps it.
pub fn add(report: String) {
    if !QUIET.load(Ordering::Relaxed) && std::env::var_os("PATARM_EMULATOR_QUIET").is_none() {
        eprintln!("cuda-emulator: {report}");
    }
    REPORTS.with_borrow_mut(|reports| reports.push(report));
}

/// The value of a setting: what `patarm_emulator_configure` said last, else the environment variable
/// `PATARM_EMULATOR_<KEY>`. Contexts read their settings when they are made.
pub fn setting(key: &str) -> Option<String> {
    let configured = SETTINGS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(key).cloned();
    configured.or_else(|| std::env::var(format!("PATARM_EMULATOR_{}", key.to_uppercase().replace('-', "_"))).ok())
}

/// Copies the reports of this thread, oldest first and one a paragraph, into `buffer`, forgets them, and returns how
/// many bytes they take (a caller whose buffer was too short gets the beginning). With a null buffer only counts.
#[unsafe(no_mangle)]
extern "C" fn patarm_emulator_reports(buffer: *mut u8, length: usize) -> usize {
    let text = REPORTS.with_borrow(|reports| reports.join("\n\n"));
    if !buffer.is_null() {
        let copied = text.len().min(length);
        // Safety: the caller owns `length` bytes at `buffer`; the text is a string of ours.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), buffer, copied) };
        REPORTS.with_borrow_mut(Vec::clear);
    }
    text.len()
}

/// Sets a setting for the contexts made from now on: `quiet`, `checks`, `seed`, `target`, `memory`, `tensor-core`,
/// `stats` (see README.md). An empty value takes it back.
#[unsafe(no_mangle)]
extern "C" fn patarm_emulator_configure(key: *const c_char, value: *const c_char) -> u32 {
    entry::entry("patarm_emulator_configure", || {
        let (key, value) = (entry::text(key)?, entry::text(value)?);
        if key == "quiet" {
            QUIET.store(value == "1", Ordering::Relaxed);
            return Ok(());
        }
        let mut settings = SETTINGS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match value {
            "" => settings.remove(key),
            _ => settings.insert(key.to_owned(), value.to_owned()),
        };
        Ok(())
    })
}
