//! How much of a Parquet file may be in memory.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes of pages that all columns together hold at once, and those that one row may load. A row that takes a page from
/// each of ten columns usually needs ten megabytes.
const BYTES_MAX: usize = 1 << 30;

/// Counts the bytes of pages. A column holds one page and its dictionary; a row that goes over several pages keeps them all until
/// it is done.
#[derive(Default)]
pub(super) struct Budget {
    held: AtomicUsize,
    of_row: AtomicUsize,
}

impl Budget {
    /// Counts a page that a column takes in place of one of `before` bytes.
    pub fn take(&self, bytes: usize, before: usize) -> Result<(), String> {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let of_row = self.of_row.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.give_back(before);
        if held.max(of_row) > BYTES_MAX {
            return Err(format!("one row needs more than {BYTES_MAX} bytes of pages"));
        }
        Ok(())
    }

    /// A column has let go of a page.
    pub fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The next row begins.
    pub fn begin_row(&self) {
        self.of_row.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_let_go_of_count_until_the_row_is_done() {
        let budget = Budget::default();
        let half = BYTES_MAX / 2;
        assert!(budget.take(half, 0).is_ok());
        assert!(budget.take(half, half).is_ok());
        assert!(budget.take(1, 0).is_err(), "the row has loaded too much");
        budget.begin_row();
        assert!(budget.take(half - 1, 1).is_ok());
        budget.begin_row();
        assert!(budget.take(2, 0).is_err(), "the columns hold too much");
    }
}
