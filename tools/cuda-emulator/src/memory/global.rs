//! Device memory: its own address range with guard gaps between allocations, addresses that are never reused, and one
//! bit per byte that says whether the byte was ever written. Programs with their own sub-allocator: see `arena.rs`.

use std::cell::Cell;

use super::race::{BlockAccess, Races, Releases};
use crate::fault::{Fault, FaultKind, LaneFault};

/// Start of device memory; context number `n` starts `n << 36` higher.
pub const BASE: u64 = 0x7000_4000_0000;
/// End of the address range of all contexts.
pub const END: u64 = 0x7f00_0000_0000;
const ALIGN: u64 = 512;
/// Unmapped bytes between allocations.
const GUARD: u64 = 4096;

#[derive(Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// One allocation, or a buffer inside one (see `arena.rs`). It stays in the list after it is freed, so that a report
/// can name it.
pub(super) struct Allocation {
    pub start: u64,
    pub size: u64,
    pub bytes: Vec<u8>,
    /// One bit per byte.
    pub written: Vec<u64>,
    pub races: Races,
    pub state: State,
    /// Kernels must not write it (`.const`).
    pub constant: bool,
    /// It is inside another allocation, which is an arena.
    pub is_buffer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Live,
    Freed,
    /// It has buffers, and only those can be accessed.
    Arena,
}

impl Allocation {
    /// `size` bytes that were never written.
    pub fn fresh(start: u64, size: usize, checks: bool) -> Self {
        Allocation {
            start,
            size: size as u64,
            bytes: vec![0; size],
            written: vec![0; if checks { size.div_ceil(64) } else { 0 }],
            races: Races::default(),
            state: State::Live,
            constant: false,
            is_buffer: false,
        }
    }

    /// Drops the contents.
    pub fn close(&mut self, state: State) {
        (self.bytes, self.written, self.races, self.state) = (Vec::new(), Vec::new(), Races::default(), state);
    }

    pub fn what(&self) -> String {
        let kind = if self.is_buffer { "buffer" } else { "allocation" };
        format!("{kind} of {} bytes at {:#x}", self.size, self.start)
    }
}

pub struct GlobalMemory {
    /// In address order; an arena comes before its buffers.
    pub(super) allocations: Vec<Allocation>,
    next: u64,
    used: u64,
    limit: u64,
    pub(super) checks: bool,
    /// Index of the last allocation accessed: most accesses hit the same one again.
    last: Cell<usize>,
    /// Synchronisation between the blocks of the running launch.
    pub releases: Releases,
}

impl GlobalMemory {
    /// `limit` bytes; the start address depends on `number`.
    pub fn new(limit: u64, number: u16, checks: bool) -> Self {
        let next = BASE + (u64::from(number) << 36);
        GlobalMemory {
            allocations: Vec::new(),
            next,
            used: 0,
            limit,
            checks,
            last: Cell::new(0),
            releases: Releases::default(),
        }
    }

    pub fn allocate(&mut self, bytes: u64) -> Result<u64, OutOfMemory> {
        if bytes > self.limit - self.used {
            return Err(OutOfMemory);
        }
        let size = usize::try_from(bytes).map_err(|_| OutOfMemory)?;
        let start = self.next;
        self.next = (start + bytes + GUARD).next_multiple_of(ALIGN);
        self.used += bytes;
        self.allocations.push(Allocation::fresh(start, size, self.checks));
        Ok(start)
    }

    /// Frees an allocation. The buffers of an arena must all be freed first.
    pub fn free(&mut self, address: u64) -> Result<(), Fault> {
        let first = self.allocations.partition_point(|a| a.start < address);
        let Some(a) = self.allocations.get(first).filter(|a| a.start == address && !a.is_buffer) else {
            return Err(illegal(address, format!("free: no allocation starts here; {}", self.describe(address))));
        };
        match a.state {
            State::Freed => return Err(illegal(address, format!("free: the {} was freed before", a.what()))),
            State::Arena => self.close_arena(first)?,
            State::Live => {}
        }
        self.allocations[first].close(State::Freed);
        self.used -= self.allocations[first].size;
        Ok(())
    }

    /// From now on, kernels must not write this allocation.
    pub fn make_constant(&mut self, address: u64) {
        if let Ok(i) = self.find(address, 1) {
            self.allocations[i].constant = true;
        }
    }

    pub fn free_bytes(&self) -> u64 {
        self.limit - self.used
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Live allocations as (address, bytes).
    pub fn live(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.allocations.iter().filter(|a| a.state != State::Freed && !a.is_buffer).map(|a| (a.start, a.size))
    }

    /// Start and size of the live allocation that contains this address.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        let i = self.outer(address).filter(|i| self.allocations[*i].state != State::Freed)?;
        Some((self.allocations[i].start, self.allocations[i].size))
    }

    /// Copies to the host; bytes that were never written are a fault.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let (i, at) = self.locate(address, bytes.len() as u64)?;
        let a = &self.allocations[i];
        if let Some(byte) = self.first_unwritten(i, at, bytes.len()) {
            let message = format!("a copy back reads byte {byte} of the {}, which was never written", a.what());
            return Err(Fault::host(FaultKind::Uninitialised, Some(a.start + byte as u64), message));
        }
        bytes.copy_from_slice(&a.bytes[at..at + bytes.len()]);
        Ok(())
    }

    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let (i, at) = self.locate(address, bytes.len() as u64)?;
        let a = &mut self.allocations[i];
        a.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        mark(&mut a.written, at, bytes.len());
        Ok(())
    }

    pub fn fill(&mut self, address: u64, byte: u8, n: u64) -> Result<(), Fault> {
        let (i, at) = self.locate(address, n)?;
        let a = &mut self.allocations[i];
        a.bytes[at..at + n as usize].fill(byte);
        mark(&mut a.written, at, n as usize);
        Ok(())
    }

    /// Copies within the device; bytes that were never written stay marked as such.
    pub fn copy(&mut self, to: u64, from: u64, n: u64) -> Result<(), Fault> {
        let (i, at) = self.locate(from, n)?;
        let (j, to_at) = self.locate(to, n)?;
        let n = n as usize;
        let source = &self.allocations[i];
        let bytes = source.bytes[at..at + n].to_vec();
        let written: Vec<bool> =
            if self.checks { (at..at + n).map(|b| bit(&source.written, b)).collect() } else { vec![] };
        let target = &mut self.allocations[j];
        target.bytes[to_at..to_at + n].copy_from_slice(&bytes);
        for (b, was) in written.into_iter().enumerate() {
            let (word, mask) = ((to_at + b) / 64, 1 << ((to_at + b) % 64));
            if was { target.written[word] |= mask } else { target.written[word] &= !mask }
        }
        Ok(())
    }

    fn locate(&self, address: u64, len: u64) -> Result<(usize, usize), Fault> {
        if len == 0 {
            // An empty range: any live allocation or none is fine.
            return match self.find(address, 0) {
                Ok(i) => Ok((i, (address - self.allocations[i].start) as usize)),
                Err(message) => Err(illegal(address, message)),
            };
        }
        match self.find(address, len) {
            Ok(i) => Ok((i, (address - self.allocations[i].start) as usize)),
            Err(message) => Err(illegal(address, message)),
        }
    }

    /// Index of the allocation that contains the `len` bytes at `address`; otherwise a description of that address.
    #[inline(always)]
    fn find(&self, address: u64, len: u64) -> Result<usize, String> {
        if let Some(a) = self.allocations.get(self.last.get()) {
            let at = address.wrapping_sub(a.start);
            if at < a.size && len <= a.size - at && a.state == State::Live {
                return Ok(self.last.get());
            }
        }
        self.search(address, len)
    }

    fn search(&self, address: u64, len: u64) -> Result<usize, String> {
        let after = self.allocations.partition_point(|a| a.start <= address);
        let Some(i) = after.checked_sub(1) else { return Err(self.describe(address)) };
        let a = &self.allocations[i];
        let at = address - a.start;
        if a.state == State::Freed && at < a.size.max(1) {
            return Err(format!("{at} bytes into the {}, which was freed", a.what()));
        }
        if a.state != State::Live || at > a.size || len > a.size - at {
            return Err(self.describe(address));
        }
        self.last.set(i);
        Ok(i)
    }

    pub(super) fn describe(&self, address: u64) -> String {
        let after = self.allocations.partition_point(|a| a.start <= address);
        let distance = |a: &Allocation| {
            let freed = match a.state {
                State::Live => "",
                State::Freed => " (freed)",
                State::Arena => " (an arena without a buffer there)",
            };
            match address.checked_sub(a.start + a.size) {
                Some(0) => format!("just past the end of the {}{freed}", a.what()),
                Some(beyond) => format!("{beyond} bytes past the end of the {}{freed}", a.what()),
                None if address >= a.start => format!("{} bytes into the {}{freed}", address - a.start, a.what()),
                None => format!("{} bytes before the {}{freed}", a.start - address, a.what()),
            }
        };
        let before = after.checked_sub(1).map(|i| &self.allocations[i]);
        match before.or(self.allocations.get(after)) {
            Some(a) => distance(a),
            None => "where there are no allocations".to_owned(),
        }
    }

    fn first_unwritten(&self, i: usize, at: usize, len: usize) -> Option<usize> {
        if !self.checks {
            return None;
        }
        let written = &self.allocations[i].written;
        if all_set(written, at, len) { None } else { (at..at + len).find(|b| !bit(written, *b)) }
    }

    /// Bytes for a warp to read: in bounds, written before, without a race.
    #[inline(always)]
    pub fn load(&mut self, address: u64, len: u64, who: BlockAccess) -> Result<&[u8], LaneFault> {
        let i = match self.find(address, len) {
            Ok(i) => i,
            Err(message) => {
                return Err(LaneFault::new(FaultKind::IllegalAddress, format!("a read of {len} bytes {message}")));
            }
        };
        let a = &mut self.allocations[i];
        let at = (address - a.start) as usize;
        if self.checks {
            if !all_set(&a.written, at, len as usize) {
                let first = (at..at + len as usize).find(|b| !bit(&a.written, *b)).unwrap_or(at);
                let message = format!("a read of byte {first} of the {}, which was never written", a.what());
                return Err(LaneFault::new(FaultKind::Uninitialised, message));
            }
            if who.tracked
                && let Err(message) = a.races.read(a.bytes.len(), at, len as usize, who, &self.releases)
            {
                return Err(LaneFault::new(FaultKind::Race, format!("{message} ({})", a.what())));
            }
        }
        Ok(&a.bytes[at..at + len as usize])
    }

    /// Bytes for a warp to write.
    #[inline(always)]
    pub fn store(&mut self, address: u64, len: u64, who: BlockAccess) -> Result<&mut [u8], LaneFault> {
        let i = match self.find(address, len) {
            Ok(i) => i,
            Err(message) => {
                return Err(LaneFault::new(FaultKind::IllegalAddress, format!("a write of {len} bytes {message}")));
            }
        };
        let a = &mut self.allocations[i];
        if a.constant {
            return Err(LaneFault::new(
                FaultKind::IllegalAddress,
                format!("a write to constant memory: the {}", a.what()),
            ));
        }
        let at = (address - a.start) as usize;
        if self.checks {
            if who.tracked
                && let Err(message) = a.races.write(a.bytes.len(), at, len as usize, who, &self.releases)
            {
                return Err(LaneFault::new(FaultKind::Race, format!("{message} ({})", a.what())));
            }
            mark(&mut a.written, at, len as usize);
        }
        Ok(&mut a.bytes[at..at + len as usize])
    }

    /// Bytes of an atomic operation; they must have been written before.
    pub fn update(&mut self, address: u64, len: u64, who: BlockAccess) -> Result<&mut [u8], LaneFault> {
        self.load(address, len, BlockAccess { tracked: false, ..who })?;
        if who.tracked {
            self.releases.atomic(address);
        }
        self.store(address, len, who)
    }
}

pub(super) fn illegal(address: u64, message: String) -> Fault {
    Fault::host(FaultKind::IllegalAddress, Some(address), message)
}

#[inline(always)]
fn bit(bits: &[u64], at: usize) -> bool {
    bits[at / 64] >> (at % 64) & 1 == 1
}

/// The bits of word `w` that lie in `at..at + len`.
#[inline(always)]
fn word_mask(w: usize, at: usize, len: usize) -> u64 {
    let (first, end) = (at.max(w * 64) - w * 64, (at + len).min(w * 64 + 64) - w * 64);
    (u64::MAX << first) & (u64::MAX >> (64 - end))
}

#[inline(always)]
fn all_set(bits: &[u64], at: usize, len: usize) -> bool {
    if len == 0 {
        return true;
    }
    (at / 64..=(at + len - 1) / 64).all(|w| !bits[w] & word_mask(w, at, len) == 0)
}

#[inline(always)]
fn mark(bits: &mut [u64], at: usize, len: usize) {
    if len == 0 || bits.is_empty() {
        return;
    }
    (at / 64..=(at + len - 1) / 64).for_each(|w| bits[w] |= word_mask(w, at, len));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GlobalMemory {
        GlobalMemory::new(1 << 20, 0, true)
    }

    #[test]
    fn written_bytes_are_read_back_and_the_rest_is_a_fault() {
        let mut m = memory();
        let a = m.allocate(100).unwrap();
        m.write(a + 10, &[1, 2, 3]).unwrap();
        let mut three = [0; 3];
        m.read(a + 10, &mut three).unwrap();
        assert_eq!(three, [1, 2, 3]);
        let fault = m.read(a + 11, &mut three).unwrap_err();
        assert_eq!((fault.kind, fault.address), (FaultKind::Uninitialised, Some(a + 13)));
        assert!(fault.to_string().contains("never written"));
    }

    #[test]
    fn addresses_outside_and_after_free_are_named() {
        let mut m = memory();
        let a = m.allocate(100).unwrap();
        let past = m.write(a + 98, &[0; 4]).unwrap_err();
        assert_eq!(past.kind, FaultKind::IllegalAddress);
        assert!(m.read(a + 104, &mut [0]).unwrap_err().to_string().contains("4 bytes past the end"));
        m.free(a).unwrap();
        assert!(m.read(a + 1, &mut [0]).unwrap_err().to_string().contains("freed"));
        assert!(m.free(a).unwrap_err().to_string().contains("freed before"));
        let b = m.allocate(100).unwrap();
        assert!(b > a, "addresses are never reused");
        assert_eq!(m.live().collect::<Vec<_>>(), [(b, 100)]);
    }

    #[test]
    fn memory_is_limited() {
        let mut m = memory();
        let a = m.allocate(1 << 20).unwrap();
        assert_eq!(m.allocate(1), Err(OutOfMemory));
        m.free(a).unwrap();
        assert!(m.allocate(1 << 20).is_ok());
    }

    #[test]
    fn a_copy_preserves_which_bytes_were_written() {
        let mut m = memory();
        let (a, b) = (m.allocate(200).unwrap(), m.allocate(200).unwrap());
        m.write(a, &[7; 130]).unwrap();
        m.fill(b, 1, 200).unwrap();
        m.copy(b + 3, a, 150).unwrap();
        let mut bytes = [0; 133];
        m.read(b, &mut bytes).unwrap();
        assert_eq!((bytes[2], bytes[3], bytes[132]), (1, 7, 7));
        assert_eq!(m.read(b + 133, &mut [0]).unwrap_err().kind, FaultKind::Uninitialised);
        m.read(b + 153, &mut [0; 47]).unwrap();
    }
}
