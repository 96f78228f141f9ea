//! Which stretches of the arena are free. Pure bookkeeping on the host: the same calls give the same addresses.

use std::collections::{BTreeMap, BTreeSet};

/// Free stretches of a set of chunks. Neighbours in one chunk are always joined.
#[derive(Debug, Default)]
pub(super) struct FreeList {
    /// Chunks: start → bytes.
    chunks: BTreeMap<u64, usize>,
    /// Free stretches: start → bytes.
    by_place: BTreeMap<u64, usize>,
    /// The same, as (bytes, start).
    by_size: BTreeSet<(usize, u64)>,
}

impl FreeList {
    /// Adds a chunk, all of it free.
    pub fn add_chunk(&mut self, start: u64, bytes: usize) {
        self.chunks.insert(start, bytes);
        self.insert(start, bytes);
    }

    /// Takes the beginning of the smallest stretch that has `bytes`; of equal ones the first.
    pub fn take(&mut self, bytes: usize) -> Option<u64> {
        let (found, start) = *self.by_size.range((bytes, 0)..).next()?;
        self.remove(start, found);
        if found > bytes {
            self.insert(start + bytes as u64, found - bytes);
        }
        Some(start)
    }

    /// Gives a stretch back that was taken.
    pub fn give_back(&mut self, start: u64, bytes: usize) {
        let (mut start, mut bytes) = (start, bytes);
        // Chunks may touch each other; what lies in two of them is no stretch that could be used.
        if let Some((&before, &length)) = self.by_place.range(..start).next_back()
            && before + length as u64 == start
            && !self.chunks.contains_key(&start)
        {
            self.remove(before, length);
            (start, bytes) = (before, length + bytes);
        }
        let end = start + bytes as u64;
        if let Some(&length) = self.by_place.get(&end)
            && !self.chunks.contains_key(&end)
        {
            self.remove(end, length);
            bytes += length;
        }
        self.insert(start, bytes);
    }

    /// Forgets the chunks that are wholly free, and answers their starts.
    pub fn drain_unused(&mut self) -> Vec<u64> {
        let unused =
            |(start, bytes): (&u64, &usize)| (self.by_place.get(start) == Some(bytes)).then_some((*start, *bytes));
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

    /// Bytes of all chunks.
    pub fn total_bytes(&self) -> usize {
        self.chunks.values().sum()
    }

    /// Bytes that are free, and those of the longest stretch.
    pub fn free_bytes(&self) -> (usize, usize) {
        (self.by_place.values().sum(), self.by_size.last().map_or(0, |(bytes, _)| *bytes))
    }

    fn insert(&mut self, start: u64, bytes: usize) {
        self.by_place.insert(start, bytes);
        self.by_size.insert((bytes, start));
    }

    fn remove(&mut self, start: u64, bytes: usize) {
        self.by_place.remove(&start);
        self.by_size.remove(&(bytes, start));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_smallest_stretch_that_fits_is_taken_and_neighbours_are_joined() {
        let mut list = FreeList::default();
        list.add_chunk(1000, 100);
        let [a, b, c] = [10, 30, 20].map(|bytes| list.take(bytes).unwrap());
        assert_eq!([a, b, c], [1000, 1010, 1040]);
        list.give_back(a, 10);
        list.give_back(c, 20);
        assert_eq!(list.free_bytes(), (70, 60), "c was joined to the rest");
        assert_eq!(list.take(8), Some(1000), "10 bytes fit better than 60");
        assert_eq!(list.take(61), None);
        list.give_back(1000, 8);
        list.give_back(b, 30);
        assert_eq!(list.free_bytes(), (100, 100));
    }

    #[test]
    fn chunks_that_touch_stay_apart_and_unused_ones_can_go() {
        let mut list = FreeList::default();
        list.add_chunk(0, 100);
        list.add_chunk(100, 50);
        let all = list.take(100).unwrap();
        assert_eq!(list.take(50), Some(100));
        list.give_back(100, 50);
        list.give_back(all, 100);
        assert_eq!(list.free_bytes(), (150, 100));
        assert_eq!(list.take(101), None);
        list.take(1).unwrap();
        assert_eq!(list.drain_unused(), [0], "the smaller chunk is in use");
        assert_eq!((list.total_bytes(), list.free_bytes()), (50, (49, 49)));
    }

    proptest! {
        #[test]
        fn stretches_never_overlap_and_all_comes_back(steps in prop::collection::vec((any::<bool>(), 1usize..60), 1..200)) {
            let mut list = FreeList::default();
            list.add_chunk(0, 300);
            list.add_chunk(300, 200);
            let mut taken: Vec<(u64, usize)> = Vec::new();
            for (take, number) in steps {
                if take {
                    if let Some(start) = list.take(number) {
                        let end = start + number as u64;
                        prop_assert!(end <= 300 || start >= 300 && end <= 500);
                        prop_assert!(taken.iter().all(|(s, b)| end <= *s || s + *b as u64 <= start));
                        taken.push((start, number));
                    }
                } else if !taken.is_empty() {
                    let (start, bytes) = taken.swap_remove(number % taken.len());
                    list.give_back(start, bytes);
                }
                let held: usize = taken.iter().map(|(_, bytes)| bytes).sum();
                prop_assert_eq!(list.free_bytes().0, 500 - held);
            }
            taken.into_iter().for_each(|(start, bytes)| list.give_back(start, bytes));
            prop_assert_eq!(list.free_bytes(), (500, 300));
        }
    }
}
