//! The order of examples: one permutation for each epoch. A pure function of (seed, cursor), so a cursor is all that a
//! resumed run needs.

use std::sync::{Mutex, PoisonError};

use crate::random::{Purpose, Stream};

/// Endless epochs over `len` rows, each in a different order.
pub struct Order {
    len: usize,
    stream: Stream,
    /// The epoch that was last asked for, and its permutation.
    current: Mutex<Option<(u64, Vec<usize>)>>,
}

impl Order {
    /// `len` ≥ 1.
    pub fn new(len: usize, seed: u64) -> Self {
        assert!(len > 0, "an order of no rows");
        Self { len, stream: Stream::new(seed).fold(Purpose::Order as u64), current: Mutex::new(None) }
    }

    /// The row at a cursor that counts examples since the start of training.
    pub fn row(&self, cursor: u64) -> usize {
        let (epoch, index) = (cursor / self.len as u64, (cursor % self.len as u64) as usize);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match current.as_ref() {
            Some((known, permutation)) if *known == epoch => permutation[index],
            _ => {
                let permutation = self.stream.fold(epoch).permutation(self.len);
                let row = permutation[index];
                *current = Some((epoch, permutation));
                row
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_visits_every_row_once_in_a_different_order() {
        let order = Order::new(50, 3);
        let epoch = |e: u64| (0..50).map(|i| order.row(50 * e + i)).collect::<Vec<_>>();
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        assert_eq!(first, epoch(0), "the order does not depend on earlier calls");
        for mut rows in [first, second] {
            rows.sort_unstable();
            assert_eq!(rows, (0..50).collect::<Vec<_>>());
        }
    }
}
