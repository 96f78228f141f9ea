//! Reports of the emulator: printed on stderr when they happen, and kept for tests of the same thread.
//!
//! Reports are kept per thread, because a fault occurs in the call that waits for the work, which runs in the test's
//! own thread. Parallel tests therefore do not see each other's reports.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_char;

use super::{engine, entry};

thread_local! {
    static REPORTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static SETTINGS: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
}

/// Prints a report and stores it.
pub fn add(report: String) {
    if setting("quiet").as_deref() != Some("1") {
        eprintln!("cuda-emulator: {report}");
    }
    REPORTS.with_borrow_mut(|reports| reports.push(report));
}

/// The value of a setting: the latest `patarm_emulator_configure` of this thread, otherwise the environment variable
/// `PATARM_EMULATOR_<KEY>`. Contexts read their settings when they are created.
pub fn setting(key: &str) -> Option<String> {
    let configured = SETTINGS.with_borrow(|settings| settings.get(key).cloned());
    configured.or_else(|| std::env::var(format!("PATARM_EMULATOR_{}", key.to_uppercase().replace('-', "_"))).ok())
}

/// Copies the reports of this thread into `buffer`, oldest first and one paragraph each, clears them, and returns their
/// size in bytes (a buffer that is too short gets the beginning). With a null buffer it only returns the size.
#[unsafe(no_mangle)]
extern "C" fn patarm_emulator_reports(buffer: *mut u8, length: usize) -> usize {
    let text = REPORTS.with_borrow(|reports| reports.join("\n\n"));
    if !buffer.is_null() {
        copy_out(&text, buffer, length);
        REPORTS.with_borrow_mut(Vec::clear);
    }
    text.len()
}

fn copy_out(text: &str, buffer: *mut u8, length: usize) {
    let copied = text.len().min(length);
    // Safety: the caller owns `length` bytes at `buffer`, which is not null; the text is a valid string.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), buffer, copied) };
}

/// The same for the counters of all contexts with the setting `stats`. They are cleared only if the buffer holds all of
/// them.
#[unsafe(no_mangle)]
extern "C" fn patarm_emulator_counters(buffer: *mut u8, length: usize) -> usize {
    let counters = engine::take_totals();
    let text = counters.to_text();
    if buffer.is_null() || length < text.len() {
        engine::add_totals(&counters);
    } else {
        copy_out(&text, buffer, length);
    }
    text.len()
}

/// Changes a setting for contexts that this thread creates from now on: `quiet` (effective at once), `checks`, `seed`,
/// `target`, `memory`, `tensor-core`, `stats` (see README.md). An empty value resets it.
#[unsafe(no_mangle)]
extern "C" fn patarm_emulator_configure(key: *const c_char, value: *const c_char) -> u32 {
    entry::entry("patarm_emulator_configure", || {
        let (key, value) = (entry::text(key)?, entry::text(value)?);
        SETTINGS.with_borrow_mut(|settings| match value {
            "" => settings.remove(key),
            _ => settings.insert(key.to_owned(), value.to_owned()),
        });
        Ok(())
    })
}
