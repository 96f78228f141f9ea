//! Calls of the parquet crate, which may panic on a damaged file.
//!
//! Its decoders are written for files of trusted writers: some of them assert, index and cast what the file says. Such a panic is
//! an error of the file here, and nothing that it leaves behind is used again.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is caught, and so is nothing to print.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs code of the crate; a panic in it is an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CAUGHT.get() {
                print(info);
            }
        }));
    });
    CAUGHT.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(false);
    result.unwrap_or_else(|_| Err("its data is damaged".to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        let damaged = guarded(|| if std::hint::black_box(true) { panic!("of the crate") } else { Ok(()) });
        assert_eq!(damaged, Err("its data is damaged".to_string()));
        assert_eq!(guarded(|| Ok(3)), Ok(3));
        assert!(panic::catch_unwind(|| panic!("of others")).is_err());
    }
}
