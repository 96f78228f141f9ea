//! Loads and stores of a warp.
//!
//! Most accesses of good kernels are to 32 adjacent elements, or of all lanes to the same address: these take one check
//! and one copy. All others are handled lane by lane.

use super::step::{Core, first, lanes};
use super::{LOCAL_WINDOW, SHARED_WINDOW, WINDOW};
use crate::fault::{FaultKind, LaneFault};
use crate::ir::{Access, Address, Reg, Space};
use crate::memory::race::BlockAccess;
use crate::memory::shared::{Accessor, bank_conflicts};

/// Size of the widest access of a lane in bytes.
const WIDEST: usize = 32;

impl Core<'_> {
    /// Addresses of all lanes.
    #[inline(always)]
    pub fn addresses(&mut self, address: Address) -> [u64; 32] {
        if address.wide {
            let offset = i64::from(address.offset) as u64;
            self.warp.row_pair(address.base).map(|base| base.wrapping_add(offset))
        } else {
            let offset = address.offset as u32;
            self.warp.row(address.base).map(|base| u64::from(base.wrapping_add(offset)))
        }
    }

    /// The space that the lanes of `mask` access, their addresses within it, and these lanes. For generic addresses,
    /// only the lanes with the same space as the first lane are returned.
    fn resolve(&self, space: Space, at: &mut [u64; 32], mask: u32) -> (Space, u32) {
        if space != Space::Generic {
            return (space, mask);
        }
        let of = |address: u64| match address {
            a if (SHARED_WINDOW..SHARED_WINDOW + WINDOW).contains(&a) => (Space::Shared, SHARED_WINDOW),
            a if (LOCAL_WINDOW..LOCAL_WINDOW + WINDOW).contains(&a) => (Space::Local, LOCAL_WINDOW),
            _ => (Space::Global, 0),
        };
        let (space, window) = of(at[first(mask) as usize]);
        let same = lanes(mask).filter(|l| of(at[*l as usize]).0 == space).fold(0, |m, l| m | 1 << l);
        lanes(same).for_each(|l| at[l as usize] -= window);
        (space, same)
    }

    #[inline(always)]
    fn aligned(&self, at: &[u64; 32], len: usize, mask: u32) -> Result<(), LaneFault> {
        let low = len as u64 - 1;
        if (0..32).all(|l| mask >> l & 1 == 0 || at[l] & low == 0) {
            return Ok(());
        }
        let lane = lanes(mask).find(|l| at[*l as usize] & low != 0).unwrap_or(0);
        let message = format!("an access of {len} bytes at an address that is not a multiple of {len}");
        Err(LaneFault::new(FaultKind::Misaligned, message).at(lane, at[lane as usize]))
    }

    /// This thread, for the shadow of shared memory.
    #[inline(always)]
    pub fn accessor(&self, lane: u32) -> Accessor {
        Accessor { thread: 32 * self.warp.number + lane, sync: self.warp.sync }
    }

    /// This block, for the race shadow.
    #[inline(always)]
    fn block_access(&self, access: Access) -> BlockAccess {
        BlockAccess { atomic: access.strong, ..self.who }
    }

    pub fn load_parameter(&mut self, access: Access, d: &[Reg], offset: u32, mask: u32) {
        for (i, reg) in d.iter().enumerate() {
            let at = offset as usize + i * access.bytes as usize;
            // The loader checked the offset against the parameter size.
            let value = extend(number(&self.launch.parameters[at..at + access.bytes as usize]), access);
            self.put_all(*reg, access, mask, value);
        }
    }

    /// Sets a register to one value in the lanes of `mask`.
    #[inline(always)]
    fn put_all(&mut self, reg: Reg, access: Access, mask: u32, value: u64) {
        if reg == Reg::NONE {
            return;
        }
        if access.register == 8 {
            let row = self.warp.row_pair(reg);
            (0..32).for_each(|l| row[l] = if mask >> l & 1 == 1 { value } else { row[l] });
        } else {
            let row = self.warp.row(reg);
            (0..32).for_each(|l| row[l] = if mask >> l & 1 == 1 { value as u32 } else { row[l] });
        }
    }

    #[inline(always)]
    pub fn put(&mut self, reg: Reg, access: Access, lane: u32, value: u64) {
        if reg == Reg::NONE {
        } else if access.register == 8 {
            self.warp.row_pair(reg)[lane as usize] = value;
        } else {
            self.warp.row(reg)[lane as usize] = value as u32;
        }
    }

    /// `ld`.
    pub fn load(&mut self, access: Access, d: &[Reg], address: Address, mask: u32) -> Result<(), LaneFault> {
        let len = d.len() * access.bytes as usize;
        let mut at = self.addresses(address);
        let mut rest = mask;
        while rest != 0 {
            let (space, mask) = self.resolve(access.space, &mut at, rest);
            rest &= !mask;
            self.aligned(&at, len, mask)?;
            match space {
                Space::Global | Space::Constant | Space::Generic => self.load_global(access, d, &at, len, mask)?,
                Space::Shared => self.load_shared(access, d, &at, len, mask)?,
                Space::Local => {
                    for lane in lanes(mask) {
                        let mut bytes = [0; WIDEST];
                        bytes[..len].copy_from_slice(self.warp.local.load(lane, at[lane as usize], len)?);
                        self.scatter(access, d, lane, &bytes);
                    }
                }
            }
        }
        Ok(())
    }

    /// Distributes the elements of one lane to its registers.
    #[inline(always)]
    fn scatter(&mut self, access: Access, d: &[Reg], lane: u32, bytes: &[u8]) {
        for (reg, element) in d.iter().zip(bytes.chunks_exact(access.bytes as usize)) {
            self.put(*reg, access, lane, extend(number(element), access));
        }
    }

    fn load_global(
        &mut self,
        access: Access,
        d: &[Reg],
        at: &[u64; 32],
        len: usize,
        mask: u32,
    ) -> Result<(), LaneFault> {
        let who = self.block_access(access);
        self.counts.load_instructions += 1;
        self.counts.load_bytes += u64::from(mask.count_ones()) * len as u64;
        if mask == u32::MAX && adjacent(at, len) {
            self.counts.load_sectors += sectors_of_range(at[0], 32 * len);
            if let Ok(bytes) = self.memory.load(at[0], 32 * len as u64, who) {
                if let ([reg], 4, 4) = (d, access.bytes, access.register)
                    && *reg != Reg::NONE
                {
                    let row = &mut self.warp.rows[reg.0 as usize].0;
                    row.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(to, from)| *to = u32::from_le_bytes(*from));
                    return Ok(());
                }
                let mut copy = [0; 32 * WIDEST];
                copy[..32 * len].copy_from_slice(bytes);
                for lane in 0..32 {
                    self.scatter(access, d, lane, &copy[lane as usize * len..][..len]);
                }
                return Ok(());
            }
            // One of the lanes is wrong: find out which.
        } else {
            self.counts.load_sectors += sectors(at, mask);
        }
        let address = at[first(mask) as usize];
        if lanes(mask).all(|l| at[l as usize] == address) {
            let mut bytes = [0; WIDEST];
            let found = self.memory.load(address, len as u64, who).map_err(|t| t.at(first(mask), address))?;
            bytes[..len].copy_from_slice(found);
            for (reg, element) in d.iter().zip(bytes.chunks_exact(access.bytes as usize)) {
                self.put_all(*reg, access, mask, extend(number(element), access));
            }
            return Ok(());
        }
        for lane in lanes(mask) {
            let address = at[lane as usize];
            let mut bytes = [0; WIDEST];
            let found = self.memory.load(address, len as u64, who).map_err(|t| t.at(lane, address))?;
            bytes[..len].copy_from_slice(found);
            self.scatter(access, d, lane, &bytes[..len]);
        }
        Ok(())
    }

    fn load_shared(
        &mut self,
        access: Access,
        d: &[Reg],
        at: &[u64; 32],
        len: usize,
        mask: u32,
    ) -> Result<(), LaneFault> {
        if !adjacent(at, len) {
            self.counts.bank_conflicts += bank_conflicts(mask, at, len as u32);
        }
        for lane in lanes(mask) {
            let who = self.accessor(lane);
            let address = at[lane as usize];
            let mut bytes = [0; WIDEST];
            let found = self.shared.load(who, address, len).map_err(|t| t.at(lane, address))?;
            bytes[..len].copy_from_slice(found);
            self.scatter(access, d, lane, &bytes[..len]);
        }
        Ok(())
    }

    /// `st`.
    pub fn store(&mut self, access: Access, a: &[Reg], address: Address, mask: u32) -> Result<(), LaneFault> {
        let len = a.len() * access.bytes as usize;
        let mut at = self.addresses(address);
        let mut rest = mask;
        while rest != 0 {
            let (space, mask) = self.resolve(access.space, &mut at, rest);
            rest &= !mask;
            self.aligned(&at, len, mask)?;
            match space {
                Space::Global | Space::Constant | Space::Generic => self.store_global(access, a, &at, len, mask)?,
                Space::Shared => self.store_shared(access, a, &at, len, mask)?,
                Space::Local => {
                    for lane in lanes(mask) {
                        let bytes = self.gather(access, a, lane);
                        self.warp.local.store(lane, at[lane as usize], len)?.copy_from_slice(&bytes[..len]);
                    }
                }
            }
        }
        Ok(())
    }

    /// Collects the elements of one lane from its registers.
    #[inline(always)]
    fn gather(&mut self, access: Access, a: &[Reg], lane: u32) -> [u8; WIDEST] {
        let mut bytes = [0; WIDEST];
        for (reg, to) in a.iter().zip(bytes.chunks_exact_mut(access.bytes as usize)) {
            let value = match access.register {
                8 => self.warp.row_pair(*reg)[lane as usize],
                _ => u64::from(self.warp.row(*reg)[lane as usize]),
            };
            to.copy_from_slice(&value.to_le_bytes()[..access.bytes as usize]);
        }
        bytes
    }

    fn store_global(
        &mut self,
        access: Access,
        a: &[Reg],
        at: &[u64; 32],
        len: usize,
        mask: u32,
    ) -> Result<(), LaneFault> {
        let who = self.block_access(access);
        self.counts.store_bytes += u64::from(mask.count_ones()) * len as u64;
        if mask == u32::MAX && adjacent(at, len) {
            self.counts.store_sectors += sectors_of_range(at[0], 32 * len);
            let mut copy = [0; 32 * WIDEST];
            if let ([reg], 4, 4) = (a, access.bytes, access.register) {
                let row = self.warp.row(*reg);
                copy.as_chunks_mut::<4>().0.iter_mut().zip(row).for_each(|(to, x)| *to = x.to_le_bytes());
            } else {
                for lane in 0..32 {
                    let bytes = self.gather(access, a, lane);
                    copy[lane as usize * len..][..len].copy_from_slice(&bytes[..len]);
                }
            }
            if let Ok(to) = self.memory.store(at[0], 32 * len as u64, who) {
                to.copy_from_slice(&copy[..32 * len]);
                return Ok(());
            }
            // One of the lanes is wrong: find out which.
        } else {
            self.counts.store_sectors += sectors(at, mask);
        }
        for lane in lanes(mask) {
            let bytes = self.gather(access, a, lane);
            let address = at[lane as usize];
            let to = self.memory.store(address, len as u64, who).map_err(|t| t.at(lane, address))?;
            to.copy_from_slice(&bytes[..len]);
        }
        Ok(())
    }

    fn store_shared(
        &mut self,
        access: Access,
        a: &[Reg],
        at: &[u64; 32],
        len: usize,
        mask: u32,
    ) -> Result<(), LaneFault> {
        if !adjacent(at, len) {
            self.counts.bank_conflicts += bank_conflicts(mask, at, len as u32);
        }
        for lane in lanes(mask) {
            let bytes = self.gather(access, a, lane);
            let who = self.accessor(lane);
            let address = at[lane as usize];
            let to = self.shared.store(who, address, len).map_err(|t| t.at(lane, address))?;
            to.copy_from_slice(&bytes[..len]);
        }
        Ok(())
    }
}

/// Whether the lanes access adjacent elements without gaps.
#[inline(always)]
pub fn adjacent(at: &[u64; 32], len: usize) -> bool {
    (0..32).all(|l| at[l] == at[0].wrapping_add((l * len) as u64))
}

/// 32-byte sectors of a range.
#[inline(always)]
pub fn sectors_of_range(at: u64, len: usize) -> u64 {
    at.wrapping_add(len as u64 - 1) / 32 - at / 32 + 1
}

/// Number of 32-byte sectors that the lanes touch; accesses are aligned, so each touches one.
pub fn sectors(at: &[u64; 32], mask: u32) -> u64 {
    let (mut touched, mut count) = ([0; 32], 0);
    for lane in lanes(mask) {
        touched[count] = at[lane as usize] / 32;
        count += 1;
    }
    let touched = &mut touched[..count];
    if !touched.is_sorted() {
        touched.sort_unstable();
    }
    touched.chunk_by(|a, b| a == b).count() as u64
}

/// A little-endian number of up to eight bytes.
#[inline(always)]
pub fn number(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)),
    }
}

/// An element as stored in a register: sign-extended to the register's width if the access says so.
#[inline(always)]
fn extend(value: u64, access: Access) -> u64 {
    if !access.signed {
        return value;
    }
    let unused = 64 - 8 * u32::from(access.bytes);
    let signed = ((value << unused) as i64 >> unused) as u64;
    if access.register == 8 { signed } else { signed & (u64::MAX >> (64 - 8 * u32::from(access.register))) }
}
