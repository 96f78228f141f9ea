//! The free ranges of the arena. It only keeps accounts on the host: the same calls always give the same addresses.

use std::collections::{BTreeMap, BTreeSet};

/// The free ranges of a set of chunks. Adjacent ranges of one chunk are always merged.
#[derive(Debug, Default)]
pub struct FreeList {
    /// Chunks: start → bytes.
    chunks: BTreeMap<u64, usize>,
    /// Free ranges: start → bytes.
    by_address: BTreeMap<u64, usize>,
    /// The same, as (bytes, start).
    by_size: BTreeSet<(usize, u64)>,
    /// The address after the highest that was ever allocated.
    high_water: u64,
}

impl FreeList {
    /// Adds a chunk, all of it free.
    pub fn add_chunk(&mut self, start: u64, bytes: usize) {
        self.chunks.insert(start, bytes);
        self.insert(start, bytes);
    }

    /// Allocates the start of the smallest range that has `bytes`; of equal ones, the one with the lowest address.
    pub fn allocate(&mut self, bytes: usize) -> Option<u64> {
        let (found, start) = *self.by_size.range((bytes, 0)..).next()?;
        self.remove(start, found);
        self.high_water = self.high_water.max(start + bytes as u64);
        if found > bytes {
            self.insert(start + bytes as u64, found - bytes);
        }
        Some(start)
    }

    /// Frees an allocated range.
    pub fn free(&mut self, start: u64, bytes: usize) {
        let (mut start, mut bytes) = (start, bytes);
        // Two chunks may be adjacent, but no allocation may span both.
        if let Some((&before, &length)) = self.by_address.range(..start).next_back()
            && before + length as u64 == start
            && !self.chunks.contains_key(&start)
        {
            self.remove(before, length);
            (start, bytes) = (before, length + bytes);
        }
        let end = start + bytes as u64;
        if let Some(&length) = self.by_address.get(&end)
            && !self.chunks.contains_key(&end)
        {
            self.remove(end, length);
            bytes += length;
        }
        self.insert(start, bytes);
    }

    /// Removes the chunks that are wholly free, and returns their starts.
    pub fn drain_unused(&mut self) -> Vec<u64> {
        let unused =
            |(start, bytes): (&u64, &usize)| (self.by_address.get(start) == Some(bytes)).then_some((*start, *bytes));
        let unused: Vec<_> = self.chunks.iter().filter_map(unused).collect();
        for (start, bytes) in &unused {
            self.chunks.remove(start);
            self.remove(*start, *bytes);
        }
        unused.into_iter().map(|(start, _)| start).collect()
    }

    /// Starts of all chunks.
    pub fn chunks(&self) -> impl Iterator<Item = u64> + '_ {
        self.chunks.keys().copied()
    }

    /// The address after the highest that was ever allocated.
    pub fn high_water(&self) -> u64 {
        self.high_water
    }

    /// Bytes of all chunks.
    pub fn total_bytes(&self) -> usize {
        self.chunks.values().sum()
    }

    /// The free bytes, and the bytes of the largest free range.
    pub fn free_bytes(&self) -> (usize, usize) {
        (self.by_address.values().sum(), self.by_size.last().map_or(0, |(bytes, _)| *bytes))
    }

    fn insert(&mut self, start: u64, bytes: usize) {
        self.by_address.insert(start, bytes);
        self.by_size.insert((bytes, start));
    }

    fn remove(&mut self, start: u64, bytes: usize) {
        self.by_address.remove(&start);
        self.by_size.remove(&(bytes, start));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_smallest_range_that_fits_is_allocated_and_adjacent_ranges_are_merged() {
        let mut list = FreeList::default();
        list.add_chunk(1000, 100);
        let [a, b, c] = [10, 30, 20].map(|bytes| list.allocate(bytes).unwrap());
        assert_eq!([a, b, c], [1000, 1010, 1040]);
        list.free(a, 10);
        list.free(c, 20);
        assert_eq!(list.free_bytes(), (70, 60), "c was merged with the rest");
        assert_eq!(list.allocate(8), Some(1000), "10 bytes fit better than 60");
        assert_eq!(list.allocate(61), None);
        list.free(1000, 8);
        list.free(b, 30);
        assert_eq!(list.free_bytes(), (100, 100));
    }

    #[test]
    fn adjacent_chunks_are_not_merged_and_unused_ones_can_be_removed() {
        let mut list = FreeList::default();
        list.add_chunk(0, 100);
        list.add_chunk(100, 50);
        let all = list.allocate(100).unwrap();
        assert_eq!(list.allocate(50), Some(100));
        list.free(100, 50);
        list.free(all, 100);
        assert_eq!(list.free_bytes(), (150, 100));
        assert_eq!(list.allocate(101), None);
        list.allocate(1).unwrap();
        assert_eq!(list.drain_unused(), [0], "the smaller chunk is in use");
        assert_eq!((list.total_bytes(), list.free_bytes()), (50, (49, 49)));
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_and_all_can_be_freed(steps in prop::collection::vec((any::<bool>(), 1usize..60), 1..200)) {
            let mut list = FreeList::default();
            list.add_chunk(0, 300);
            list.add_chunk(300, 200);
            let mut allocated: Vec<(u64, usize)> = Vec::new();
            for (allocate, number) in steps {
                if allocate {
                    if let Some(start) = list.allocate(number) {
                        let end = start + number as u64;
                        prop_assert!(end <= 300 || start >= 300 && end <= 500);
                        prop_assert!(allocated.iter().all(|(s, b)| end <= *s || s + *b as u64 <= start));
                        allocated.push((start, number));
                    }
                } else if !allocated.is_empty() {
                    let (start, bytes) = allocated.swap_remove(number % allocated.len());
                    list.free(start, bytes);
                }
                let held: usize = allocated.iter().map(|(_, bytes)| bytes).sum();
                prop_assert_eq!(list.free_bytes().0, 500 - held);
            }
            allocated.into_iter().for_each(|(start, bytes)| list.free(start, bytes));
            prop_assert_eq!(list.free_bytes(), (500, 300));
        }
    }
}
