//! Pages: blocks of consecutive pool rows, given to sequences as they grow, shared by sequences that continue from the same rows,
//! and freed.

use std::ops::Range;

use crate::ops::attention::Run;

/// The pages of a pool, free or in use.
#[derive(Debug)]
pub struct Pages {
    page_size: usize,
    /// Free pages; the last one is given first.
    free: Vec<u32>,
    /// [total], the number of allocations that include each page
    reference_counts: Vec<u32>,
    /// [total], the rows of each page that an allocation has filled
    filled: Vec<u32>,
    /// The most pages that were in use at the same time.
    used_max: usize,
}

/// The rows of one sequence, in the order of its tokens: pages, and how many rows of each are the sequence's. A page in the
/// middle is not full if it was shared when another sequence continued in it.
#[derive(Debug, Default)]
pub struct PageAllocation {
    pages: Vec<(u32, u32)>,
    rows: usize,
}

impl PageAllocation {
    /// Rows of all pages.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

impl Pages {
    /// All pages of a pool of `rows` rows, free. Rows that do not fill a page are never used.
    pub fn new(rows: usize, page_size: usize) -> Self {
        assert!(page_size > 0, "a page must have at least one row");
        let total = rows / page_size;
        let free = (0..total as u32).rev().collect();
        Self { page_size, free, reference_counts: vec![0; total], filled: vec![0; total], used_max: 0 }
    }

    /// Pages that `tokens` tokens need.
    pub fn needed(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.page_size)
    }

    /// Pages of the pool, free or in use.
    pub fn total(&self) -> usize {
        self.filled.len()
    }

    /// Rows of all pages.
    pub fn rows(&self) -> usize {
        self.total() * self.page_size
    }

    /// Pages in use. A page that several sequences share counts once.
    pub fn used(&self) -> usize {
        self.total() - self.free.len()
    }

    /// Rows of the pages in use.
    pub fn used_rows(&self) -> usize {
        self.used() * self.page_size
    }

    /// The most pages that were in use at the same time.
    pub fn used_max(&self) -> usize {
        self.used_max
    }

    /// Free pages.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Adds `rows` rows to an allocation: the free ones of its last page, then new pages. Returns `false` and changes nothing if
    /// too few pages are free.
    pub fn extend(&mut self, allocation: &mut PageAllocation, rows: usize) -> bool {
        let in_last = self.extensible_rows(allocation).min(rows);
        let Some(keep) = self.free.len().checked_sub(self.needed(rows - in_last)) else { return false };
        if let Some((page, filled)) = allocation.pages.last_mut().filter(|_| in_last > 0) {
            *filled += in_last as u32;
            self.filled[*page as usize] = *filled;
        }
        let mut left = rows - in_last;
        for page in self.free.drain(keep..).rev() {
            let filled = left.min(self.page_size);
            left -= filled;
            self.reference_counts[page as usize] = 1;
            self.filled[page as usize] = filled as u32;
            allocation.pages.push((page, filled as u32));
        }
        allocation.rows += rows;
        self.used_max = self.used_max.max(self.used());
        true
    }

    /// Rows of the last page that this allocation may still fill. Of several that share the page, the first one that extends
    /// continues in it: its rows follow those that all share, and the others need a new page.
    fn extensible_rows(&self, allocation: &PageAllocation) -> usize {
        let Some((page, filled)) = allocation.pages.last() else { return 0 };
        let alone = self.reference_counts[*page as usize] == 1;
        if alone || self.filled[*page as usize] == *filled { self.page_size - *filled as usize } else { 0 }
    }

    /// Another allocation of the same rows.
    pub fn share(&mut self, allocation: &PageAllocation) -> PageAllocation {
        allocation.pages.iter().for_each(|(page, _)| self.reference_counts[*page as usize] += 1);
        PageAllocation { pages: allocation.pages.clone(), rows: allocation.rows }
    }

    /// Empties an allocation. The pages that no other allocation includes are free then.
    pub fn free(&mut self, allocation: &mut PageAllocation) {
        for (page, _) in std::mem::take(allocation).pages.into_iter().rev() {
            let reference_count = &mut self.reference_counts[page as usize];
            *reference_count -= 1;
            if *reference_count == 0 {
                self.free.push(page);
            }
        }
    }

    /// A range of an allocation's rows, in order; adjacent rows of the pool are one run.
    pub fn runs(&self, allocation: &PageAllocation, range: Range<usize>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut end = 0;
        for (page, filled) in &allocation.pages {
            let first = end;
            end += *filled as usize;
            let rows = range.start.max(first)..range.end.min(end);
            if rows.is_empty() {
                continue;
            }
            let start = *page * self.page_size as u32 + (rows.start - first) as u32;
            match runs.last_mut() {
                Some(last) if last.start + last.len == start => last.len += rows.len() as u32,
                _ => runs.push(Run { start, len: rows.len() as u32 }),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(pages: &Pages, allocation: &PageAllocation) -> Vec<u32> {
        let runs = pages.runs(allocation, 0..allocation.rows());
        runs.iter().flat_map(|run| run.start..run.start + run.len).collect()
    }

    #[test]
    fn rows_are_given_once_and_can_be_freed() {
        let mut pages = Pages::new(47, 8);
        assert_eq!((pages.total(), pages.rows(), pages.available()), (5, 40, 5));
        let (mut a, mut b) = (PageAllocation::default(), PageAllocation::default());
        assert!(pages.extend(&mut a, 9) && pages.extend(&mut b, 20) && pages.extend(&mut b, 4));
        assert!(!pages.extend(&mut b, 1), "the pool is full");
        assert!(!pages.extend(&mut a, 8) && pages.extend(&mut a, 7), "the last page has seven rows left");
        let mut given = [rows(&pages, &a), rows(&pages, &b)].concat();
        assert_eq!((given.len(), pages.used_rows()), (40, 40));
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 40);
        pages.free(&mut a);
        pages.free(&mut b);
        assert_eq!((a.rows(), pages.available(), pages.used_max()), (0, 5, 5));
    }

    #[test]
    fn shared_pages_are_free_when_their_last_allocation_is_freed() {
        let mut pages = Pages::new(40, 8);
        let mut own = PageAllocation::default();
        assert!(pages.extend(&mut own, 18));
        let mut shared = pages.share(&own);
        let mut again = pages.share(&shared);
        assert_eq!(pages.used(), 3);
        pages.free(&mut own);
        assert_eq!(pages.used(), 3);
        pages.free(&mut again);
        assert_eq!(pages.used(), 3);
        pages.free(&mut shared);
        assert_eq!(pages.used(), 0);
    }

    #[test]
    fn of_those_that_share_a_page_the_first_continues_in_it() {
        let mut pages = Pages::new(40, 8);
        let mut one = PageAllocation::default();
        assert!(pages.extend(&mut one, 10));
        let mut other = pages.share(&one);
        let common = rows(&pages, &one);
        assert!(pages.extend(&mut other, 1));
        assert_eq!(pages.used(), 2, "it fills the shared page");
        assert!(pages.extend(&mut one, 8));
        assert_eq!(pages.used(), 3, "the other one needs a new page");
        let (rows_one, rows_other) = (rows(&pages, &one), rows(&pages, &other));
        assert_eq!((&rows_one[..10], &rows_other[..10]), (&common[..], &common[..]));
        assert!(rows_one[10..].iter().all(|row| !rows_other.contains(row)));
        // Alone in the page, an allocation fills it whatever the freed ones had written there.
        let mut third = pages.share(&one);
        assert!(pages.extend(&mut third, 1));
        pages.free(&mut other);
        assert_eq!(pages.used(), 4);
        pages.free(&mut third);
        assert!(pages.extend(&mut one, 8));
        assert_eq!(pages.used(), 4);
    }

    #[test]
    fn runs_cover_a_range_of_the_rows_in_order() {
        let mut pages = Pages::new(64, 4);
        let (mut first, mut allocation) = (PageAllocation::default(), PageAllocation::default());
        assert!(pages.extend(&mut first, 2) && pages.extend(&mut allocation, 10));
        assert_eq!(pages.runs(&allocation, 0..10), [Run { start: 4, len: 10 }]);
        assert_eq!(pages.runs(&allocation, 3..9), [Run { start: 7, len: 6 }]);
        assert_eq!(pages.runs(&allocation, 5..5), []);
        let mut fork = pages.share(&first);
        assert!(pages.extend(&mut first, 1) && pages.extend(&mut fork, 3));
        // The fork's first page ends after two rows.
        assert_eq!(pages.runs(&fork, 1..5), [Run { start: 1, len: 1 }, Run { start: 16, len: 3 }]);
    }
}
