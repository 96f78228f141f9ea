//! Pages: blocks of consecutive pool rows, allocated to sequences, shared by sequences that continue from the same rows, and
//! freed.

use crate::ops::attention::Run;

/// The free pages of a pool.
#[derive(Debug)]
pub struct Pages {
    page_size: usize,
    total: usize,
    /// Free pages; the last one is allocated first.
    free: Vec<u32>,
    /// [total], the number of allocations that include each page
    reference_counts: Vec<u32>,
}

/// The pages of one sequence, in the order of its tokens, and the number of rows that it has filled.
#[derive(Debug, Default)]
pub struct PageAllocation {
    pages: Vec<u32>,
    filled: usize,
}

impl Pages {
    /// All pages of a pool of `rows` rows, free. Rows that do not fill a page are never used.
    pub fn new(rows: usize, page_size: usize) -> Self {
        assert!(page_size > 0, "a page must have at least one row");
        let total = rows / page_size;
        Self { page_size, total, free: (0..total as u32).rev().collect(), reference_counts: vec![0; total] }
    }

    /// Pages that `tokens` tokens need.
    pub fn needed(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.page_size)
    }

    /// Pages of the pool, allocated or not.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Rows of all pages.
    pub fn rows(&self) -> usize {
        self.total * self.page_size
    }

    /// Rows of the allocated pages.
    pub fn allocated_rows(&self) -> usize {
        (self.total - self.free.len()) * self.page_size
    }

    /// Pages that can be allocated now.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Allocates pages for `tokens` tokens; `None` if too few are free.
    pub fn allocate(&mut self, tokens: usize) -> Option<PageAllocation> {
        let keep = self.free.len().checked_sub(self.needed(tokens))?;
        let mut pages = self.free.split_off(keep);
        pages.reverse();
        pages.iter().for_each(|page| self.reference_counts[*page as usize] = 1);
        Some(PageAllocation { pages, filled: 0 })
    }

    /// Another allocation of the same filled rows, to be read but not extended.
    pub fn share(&mut self, allocation: &PageAllocation) -> PageAllocation {
        let pages = allocation.pages[..self.needed(allocation.filled)].to_vec();
        pages.iter().for_each(|page| self.reference_counts[*page as usize] += 1);
        PageAllocation { pages, filled: allocation.filled }
    }

    /// Frees the pages that no other allocation includes.
    pub fn free(&mut self, allocation: PageAllocation) {
        for page in allocation.pages.into_iter().rev() {
            let reference_count = &mut self.reference_counts[page as usize];
            *reference_count -= 1;
            if *reference_count == 0 {
                self.free.push(page);
            }
        }
    }

    /// Fills the next row of an allocation and returns it.
    pub fn next_row(&self, allocation: &mut PageAllocation) -> u32 {
        let page = allocation.pages[allocation.filled / self.page_size];
        let row = page * self.page_size as u32 + (allocation.filled % self.page_size) as u32;
        allocation.filled += 1;
        row
    }

    /// The filled rows of an allocation, in order; adjacent pages of the pool are one run.
    pub fn runs(&self, allocation: &PageAllocation) -> Vec<Run> {
        let size = self.page_size;
        let mut runs: Vec<Run> = Vec::new();
        for (index, page) in allocation.pages.iter().enumerate() {
            let len = allocation.filled.saturating_sub(index * size).min(size) as u32;
            if len == 0 {
                break;
            }
            let start = page * size as u32;
            match runs.last_mut() {
                Some(last) if last.start + last.len == start => last.len += len,
                _ => runs.push(Run { start, len }),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_allocated_once_and_can_be_freed() {
        let mut pages = Pages::new(40, 8);
        assert_eq!((pages.total(), pages.available()), (5, 5));
        let mut a = pages.allocate(9).unwrap();
        let mut b = pages.allocate(24).unwrap();
        assert!(pages.allocate(1).is_none());
        let mut rows: Vec<u32> = (0..9).map(|_| pages.next_row(&mut a)).collect();
        rows.extend((0..24).map(|_| pages.next_row(&mut b)));
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), 33);
        pages.free(a);
        pages.free(b);
        assert_eq!(pages.available(), 5);
    }

    #[test]
    fn shared_pages_are_free_when_their_last_allocation_is_freed() {
        let mut pages = Pages::new(40, 8);
        let mut own = pages.allocate(24).unwrap();
        (0..10).for_each(|_| _ = pages.next_row(&mut own));
        let shared = pages.share(&own);
        let again = pages.share(&shared);
        let runs = pages.runs(&own);
        (0..6).for_each(|_| _ = pages.next_row(&mut own));
        assert_eq!((pages.runs(&shared), pages.runs(&again)), (runs.clone(), runs));
        assert_eq!(pages.available(), 2);
        pages.free(own);
        assert_eq!(pages.available(), 3, "two of the three pages are still shared");
        pages.free(again);
        assert_eq!(pages.available(), 3);
        pages.free(shared);
        assert_eq!(pages.available(), 5);
    }

    #[test]
    fn runs_cover_the_filled_rows_in_order() {
        let mut pages = Pages::new(64, 4);
        let first = pages.allocate(4).unwrap();
        let mut allocation = pages.allocate(10).unwrap();
        pages.free(first);
        let rows: Vec<u32> = (0..10).map(|_| pages.next_row(&mut allocation)).collect();
        let covered: Vec<u32> = pages.runs(&allocation).iter().flat_map(|run| run.start..run.start + run.len).collect();
        assert_eq!(covered, rows);
        assert_eq!(pages.runs(&allocation).len(), 1);
    }
}
