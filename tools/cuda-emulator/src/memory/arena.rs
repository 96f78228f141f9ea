//! Buffers inside an allocation, for programs with their own sub-allocator that reuses addresses.
//!
//! The first buffer turns its allocation into an arena: from then on only buffers can be accessed, each within its own
//! bounds, and a new buffer is uninitialised. A sub-allocator is therefore checked as strictly as allocations of the
//! driver, with one gap: an address can be reused, and then a pointer to an older buffer at that address goes
//! unnoticed.

use super::global::{Allocation, GlobalMemory, State, illegal};
use crate::fault::Fault;

impl GlobalMemory {
    /// The allocation that holds an address, live or freed; buffers are skipped.
    pub(super) fn outer(&self, address: u64) -> Option<usize> {
        let after = self.allocations.partition_point(|a| a.start <= address);
        let found = self.allocations[..after].iter().rposition(|a| !a.is_buffer)?;
        (address - self.allocations[found].start < self.allocations[found].size).then_some(found)
    }

    /// Indices of the buffers of the arena `outer`.
    fn buffers(&self, outer: usize) -> std::ops::Range<usize> {
        let count = self.allocations[outer + 1..].iter().take_while(|a| a.is_buffer).count();
        outer + 1..outer + 1 + count
    }

    /// Makes a range of an allocation a buffer.
    ///
    /// # Errors
    /// The range leaves its allocation or overlaps a live buffer.
    pub fn allocate_buffer(&mut self, address: u64, bytes: u64) -> Result<(), Fault> {
        let inside = |a: &Allocation| a.state != State::Freed && bytes <= a.size - (address - a.start);
        let Some(outer) = self.outer(address).filter(|i| inside(&self.allocations[*i])) else {
            let message =
                format!("allocate_buffer: {bytes} bytes are not inside one allocation; {}", self.describe(address));
            return Err(illegal(address, message));
        };
        let overlaps = |a: &Allocation| a.start < address + bytes && address < a.start + a.size;
        let range = self.buffers(outer);
        if let Some(taken) = self.allocations[range.clone()].iter().find(|a| a.state == State::Live && overlaps(a)) {
            return Err(illegal(address, format!("allocate_buffer: {bytes} bytes overlap the {}", taken.what())));
        }
        if self.allocations[outer].state == State::Live {
            self.allocations[outer].close(State::Arena);
        }
        let replaced: Vec<usize> = range.filter(|i| overlaps(&self.allocations[*i])).collect();
        replaced.into_iter().rev().for_each(|i| drop(self.allocations.remove(i)));
        let range = self.buffers(outer);
        let index = range.start + self.allocations[range].partition_point(|a| a.start < address);
        let buffer = Allocation { is_buffer: true, ..Allocation::fresh(address, bytes as usize, self.checks) };
        self.allocations.insert(index, buffer);
        Ok(())
    }

    /// Frees a buffer: any later access is a fault.
    ///
    /// # Errors
    /// No live buffer starts at the address.
    pub fn free_buffer(&mut self, address: u64) -> Result<(), Fault> {
        let first = self.allocations.partition_point(|a| a.start < address);
        let mut here = self.allocations[first..].iter_mut().take_while(|a| a.start == address);
        match here.find(|a| a.is_buffer && a.state == State::Live) {
            Some(a) => {
                a.close(State::Freed);
                Ok(())
            }
            None => {
                Err(illegal(address, format!("free_buffer: no live buffer starts here; {}", self.describe(address))))
            }
        }
    }

    /// Removes the buffers of an arena that is freed.
    pub(super) fn close_arena(&mut self, outer: usize) -> Result<(), Fault> {
        let range = self.buffers(outer);
        if let Some(live) = self.allocations[range.clone()].iter().find(|a| a.state == State::Live) {
            return Err(illegal(live.start, format!("free: the {} in this allocation was not freed", live.what())));
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
    fn only_buffers_can_be_accessed_each_within_its_bounds() {
        let mut m = GlobalMemory::new(1 << 20, 0, true);
        let other = m.allocate(64).unwrap();
        let arena = m.allocate(4096).unwrap();
        let after = m.allocate(64).unwrap();
        m.write(arena, &[1; 4096]).unwrap();
        m.allocate_buffer(arena, 100).unwrap();
        m.allocate_buffer(arena + 512, 10).unwrap();
        m.allocate_buffer(arena + 256, 256).unwrap();
        assert_eq!(
            m.read(arena, &mut [0]).unwrap_err().kind,
            FaultKind::Uninitialised,
            "a new buffer is uninitialised"
        );
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
    fn addresses_are_reused_and_mistakes_of_the_sub_allocator_are_faults() {
        let mut m = GlobalMemory::new(1 << 20, 0, true);
        let arena = m.allocate(4096).unwrap();
        m.allocate_buffer(arena, 100).unwrap();
        m.write(arena, &[1; 100]).unwrap();
        assert!(m.allocate_buffer(arena + 99, 10).unwrap_err().to_string().contains("overlap the buffer of 100 bytes"));
        assert!(m.allocate_buffer(arena + 4090, 7).unwrap_err().to_string().contains("not inside one allocation"));
        assert!(m.free_buffer(arena + 1).is_err());
        assert!(m.free(arena).unwrap_err().to_string().contains("was not freed"));
        m.free_buffer(arena).unwrap();
        assert!(m.free_buffer(arena).is_err(), "twice");
        assert!(m.read(arena + 3, &mut [0]).unwrap_err().to_string().contains("which was freed"));
        assert!(m.read(arena + 200, &mut [0]).is_err(), "the arena itself cannot be accessed");
        m.allocate_buffer(arena + 50, 100).unwrap();
        assert_eq!(m.read(arena + 60, &mut [0]).unwrap_err().kind, FaultKind::Uninitialised);
        m.write(arena + 50, &[2; 100]).unwrap();
        m.free_buffer(arena + 50).unwrap();
        m.free(arena).unwrap();
        assert!(m.free(arena).is_err());
        assert_eq!(m.live().count(), 0);
        assert!(m.allocate(1 << 20).is_ok(), "all of the memory is free again");
    }
}
