//! Allocations that their program hands out in stretches of its own: a sub-allocator that reuses addresses.
//!
//! From the first stretch that is lent, an allocation is an arena: only what is lent can be touched, each stretch within its
//! own bounds, and it counts as never written when it is lent. So a sub-allocator is checked as strictly as the driver's
//! allocations, but for one thing: an address may come back, and then a pointer that outlived its buffer goes unnoticed.

use super::global::{Allocation, GlobalMemory, State, illegal};
use crate::fault::Fault;

impl GlobalMemory {
    /// The allocation around an address, whatever became of it; a stretch that was lent is not one.
    pub(super) fn outer(&self, address: u64) -> Option<usize> {
        let after = self.allocations.partition_point(|a| a.start <= address);
        let found = self.allocations[..after].iter().rposition(|a| !a.lent)?;
        (address - self.allocations[found].start < self.allocations[found].size).then_some(found)
    }

    /// What was lent of the arena `outer`: the places in the list.
    fn stretches(&self, outer: usize) -> std::ops::Range<usize> {
        let count = self.allocations[outer + 1..].iter().take_while(|a| a.lent).count();
        outer + 1..outer + 1 + count
    }

    /// Lends a stretch of an allocation out.
    ///
    /// # Errors
    /// When it leaves its allocation or touches what is lent.
    pub fn lend(&mut self, address: u64, bytes: u64) -> Result<(), Fault> {
        let inside = |a: &Allocation| a.state != State::Freed && bytes <= a.size - (address - a.start);
        let Some(outer) = self.outer(address).filter(|i| inside(&self.allocations[*i])) else {
            let message = format!("lend: {bytes} bytes are not inside one allocation; {}", self.near(address));
            return Err(illegal(address, message));
        };
        let touches = |a: &Allocation| a.start < address + bytes && address < a.start + a.size;
        let range = self.stretches(outer);
        if let Some(taken) = self.allocations[range.clone()].iter().find(|a| a.state == State::Live && touches(a)) {
            return Err(illegal(address, format!("lend: {bytes} bytes touch the {}", taken.what())));
        }
        if self.allocations[outer].state == State::Live {
            self.allocations[outer].close(State::Arena);
        }
        let forgotten: Vec<usize> = range.filter(|i| touches(&self.allocations[*i])).collect();
        forgotten.into_iter().rev().for_each(|i| drop(self.allocations.remove(i)));
        let range = self.stretches(outer);
        let place = range.start + self.allocations[range].partition_point(|a| a.start < address);
        let lent = Allocation { lent: true, ..Allocation::fresh(address, bytes as usize, self.checks) };
        self.allocations.insert(place, lent);
        Ok(())
    }

    /// Takes a stretch back: nobody may touch it from here on.
    ///
    /// # Errors
    /// When none that is lent begins there.
    pub fn take_back(&mut self, address: u64) -> Result<(), Fault> {
        let first = self.allocations.partition_point(|a| a.start < address);
        let mut here = self.allocations[first..].iter_mut().take_while(|a| a.start == address);
        match here.find(|a| a.lent && a.state == State::Live) {
            Some(a) => {
                a.close(State::Freed);
                Ok(())
            }
            None => Err(illegal(address, format!("take back: nothing lent begins here; {}", self.near(address)))),
        }
    }

    /// Forgets the stretches of an arena that is freed.
    pub(super) fn close_arena(&mut self, outer: usize) -> Result<(), Fault> {
        let range = self.stretches(outer);
        if let Some(lent) = self.allocations[range.clone()].iter().find(|a| a.state == State::Live) {
            return Err(illegal(lent.start, format!("free: the {} in this allocation is still lent", lent.what())));
        }
        self.allocations.drain(range);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultKind;

    #[test]
    fn only_what_is_lent_can_be_touched_each_stretch_within_its_bounds() {
        let mut m = GlobalMemory::new(1 << 20, 0, true);
        let other = m.allocate(64).unwrap();
        let arena = m.allocate(4096).unwrap();
        let after = m.allocate(64).unwrap();
        m.write(arena, &[1; 4096]).unwrap();
        m.lend(arena, 100).unwrap();
        m.lend(arena + 512, 10).unwrap();
        m.lend(arena + 256, 256).unwrap();
        assert_eq!(m.read(arena, &mut [0]).unwrap_err().kind, FaultKind::Uninitialised, "a stretch begins unwritten");
        m.write(arena + 256, &[7; 256]).unwrap();
        m.write(arena + 512, &[8; 10]).unwrap();
        let crossing = m.write(arena + 256, &[7; 257]).unwrap_err();
        assert_eq!(crossing.kind, FaultKind::IllegalAddress, "into the neighbour");
        assert!(m.write(arena + 100, &[0]).unwrap_err().to_string().contains("just past the end of the buffer of 100"));
        let mut back = [0; 10];
        m.read(arena + 512, &mut back).unwrap();
        assert_eq!(back, [8; 10]);
        m.write(other, &[0; 64]).unwrap();
        m.write(after, &[0; 64]).unwrap();
        assert_eq!(m.live().collect::<Vec<_>>(), [(other, 64), (arena, 4096), (after, 64)]);
        assert_eq!(m.allocation(arena + 300), Some((arena, 4096)));
    }

    #[test]
    fn addresses_come_back_and_mistakes_of_the_lender_are_faults() {
        let mut m = GlobalMemory::new(1 << 20, 0, true);
        let arena = m.allocate(4096).unwrap();
        m.lend(arena, 100).unwrap();
        m.write(arena, &[1; 100]).unwrap();
        assert!(m.lend(arena + 99, 10).unwrap_err().to_string().contains("touch the buffer of 100 bytes"));
        assert!(m.lend(arena + 4090, 7).unwrap_err().to_string().contains("not inside one allocation"));
        assert!(m.take_back(arena + 1).is_err());
        assert!(m.free(arena).unwrap_err().to_string().contains("still lent"));
        m.take_back(arena).unwrap();
        assert!(m.take_back(arena).is_err(), "twice");
        assert!(m.read(arena + 3, &mut [0]).unwrap_err().to_string().contains("which was freed"));
        assert!(m.read(arena + 200, &mut [0]).is_err(), "an arena itself cannot be touched");
        m.lend(arena + 50, 100).unwrap();
        assert_eq!(m.read(arena + 60, &mut [0]).unwrap_err().kind, FaultKind::Uninitialised);
        m.write(arena + 50, &[2; 100]).unwrap();
        m.take_back(arena + 50).unwrap();
        m.free(arena).unwrap();
        assert!(m.free(arena).is_err());
        assert_eq!(m.live().count(), 0);
        assert!(m.allocate(1 << 20).is_ok(), "all of it came back");
    }
}
