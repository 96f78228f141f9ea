//! Pages: fixed runs of pool rows, lent to sequences, shared by those that go on from the same rows, and taken back.

use crate::ops::attention::Run;

/// The free pages of a pool.
#[derive(Debug)]
pub struct Pages {
    page_size: usize,
    total: usize,
    /// Free pages; the last one is lent first.
    free: Vec<u32>,
    /// [total], leases that hold each page
    holders: Vec<u32>,
}

/// Pages lent to one sequence, in the order of its tokens, and how many of their rows it has filled.
#[derive(Debug, Default)]
pub struct Lease {
    pages: Vec<u32>,
    filled: usize,
}

impl Pages {
    pub fn new(rows: usize, page_size: usize) -> Self {
        assert!(page_size > 0, "pages of no rows");
        let total = rows / page_size;
        Self { page_size, total, free: (0..total as u32).rev().collect(), holders: vec![0; total] }
    }

    /// Pages that `tokens` tokens need.
    pub fn needed(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.page_size)
    }

    pub fn total(&self) -> usize {
        self.total
    }

    /// Rows of all pages.
    pub fn rows(&self) -> usize {
        self.total * self.page_size
    }

    /// Rows of the pages that are lent.
    pub fn lent_rows(&self) -> usize {
        (self.total - self.free.len()) * self.page_size
    }

    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Room for `tokens` tokens, or `None` when too few pages are free.
    pub fn lend(&mut self, tokens: usize) -> Option<Lease> {
        let keep = self.free.len().checked_sub(self.needed(tokens))?;
        let mut pages = self.free.split_off(keep);
        pages.reverse();
        pages.iter().for_each(|page| self.holders[*page as usize] = 1);
        Some(Lease { pages, filled: 0 })
    }

    /// Another lease of the rows that are filled, to be read and not to be filled further.
    pub fn share(&mut self, lease: &Lease) -> Lease {
        let pages = lease.pages[..self.needed(lease.filled)].to_vec();
        pages.iter().for_each(|page| self.holders[*page as usize] += 1);
        Lease { pages, filled: lease.filled }
    }

    /// Pages that no other lease holds are free again.
    pub fn take_back(&mut self, lease: Lease) {
        for page in lease.pages.into_iter().rev() {
            let holders = &mut self.holders[page as usize];
            *holders -= 1;
            if *holders == 0 {
                self.free.push(page);
            }
        }
    }

    /// Fills the next row of a lease and returns it.
    pub fn next_row(&self, lease: &mut Lease) -> u32 {
        let page = lease.pages[lease.filled / self.page_size];
        let row = page * self.page_size as u32 + (lease.filled % self.page_size) as u32;
        lease.filled += 1;
        row
    }

    /// The filled rows of a lease, in order; pages that follow each other in the pool are one run.
    pub fn runs(&self, lease: &Lease) -> Vec<Run> {
        let size = self.page_size;
        let mut runs: Vec<Run> = Vec::new();
        for (index, page) in lease.pages.iter().enumerate() {
            let len = lease.filled.saturating_sub(index * size).min(size) as u32;
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
    fn rows_are_lent_once_and_come_back() {
        let mut pages = Pages::new(40, 8);
        assert_eq!((pages.total(), pages.available()), (5, 5));
        let mut a = pages.lend(9).unwrap();
        let mut b = pages.lend(24).unwrap();
        assert!(pages.lend(1).is_none());
        let mut rows: Vec<u32> = (0..9).map(|_| pages.next_row(&mut a)).collect();
        rows.extend((0..24).map(|_| pages.next_row(&mut b)));
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), 33);
        pages.take_back(a);
        pages.take_back(b);
        assert_eq!(pages.available(), 5);
    }

    #[test]
    fn shared_pages_are_free_when_the_last_lease_is_back() {
        let mut pages = Pages::new(40, 8);
        let mut own = pages.lend(24).unwrap();
        (0..10).for_each(|_| _ = pages.next_row(&mut own));
        let shared = pages.share(&own);
        let again = pages.share(&shared);
        let runs = pages.runs(&own);
        (0..6).for_each(|_| _ = pages.next_row(&mut own));
        assert_eq!((pages.runs(&shared), pages.runs(&again)), (runs.clone(), runs));
        assert_eq!(pages.available(), 2);
        pages.take_back(own);
        assert_eq!(pages.available(), 3, "two of three pages are held still");
        pages.take_back(again);
        assert_eq!(pages.available(), 3);
        pages.take_back(shared);
        assert_eq!(pages.available(), 5);
    }

    #[test]
    fn runs_cover_the_filled_rows_in_order() {
        let mut pages = Pages::new(64, 4);
        let first = pages.lend(4).unwrap();
        let mut lease = pages.lend(10).unwrap();
        pages.take_back(first);
        let rows: Vec<u32> = (0..10).map(|_| pages.next_row(&mut lease)).collect();
        let covered: Vec<u32> = pages.runs(&lease).iter().flat_map(|run| run.start..run.start + run.len).collect();
        assert_eq!(covered, rows);
        assert_eq!(pages.runs(&lease).len(), 1);
    }
}
