//! `atom` and `red`: lane by lane, lowest first.

use half::{bf16, f16};

use super::access::{number, sectors};
use super::step::{Core, lanes};
use super::{LOCAL_WINDOW, SHARED_WINDOW, WINDOW};
use crate::fault::{FaultKind, LaneFault};
use crate::ir::{Access, Address, Atomic, AtomicKind, Reg, Space};
use crate::memory::race::BlockAccess;

impl Core<'_> {
    #[allow(clippy::too_many_arguments)] // the operands of the instruction
    pub fn atomic(
        &mut self,
        f: Atomic,
        kind: AtomicKind,
        space: Space,
        d: Reg,
        address: Address,
        [b, c]: [Reg; 2],
        mask: u32,
    ) -> Result<(), LaneFault> {
        let bytes = bytes(kind);
        let at = self.addresses(address);
        if space == Space::Global {
            let asked = u64::from(mask.count_ones()) * bytes as u64;
            self.counts.store_bytes += asked;
            self.counts.store_sectors += sectors(&at, mask);
        }
        let register = if bytes == 8 { 8 } else { 4 };
        let access = Access { space, bytes: bytes as u8, signed: false, register, strong: true, read_only: false };
        for lane in lanes(mask) {
            let address = at[lane as usize];
            if !address.is_multiple_of(bytes as u64) {
                let message =
                    format!("an atomic operation on {bytes} bytes at an address that is not a multiple of the size");
                return Err(LaneFault::new(FaultKind::Misaligned, message).at(lane, address));
            }
            let mut value = |reg: Reg| match (reg, bytes) {
                (Reg::NONE, _) => 0,
                (_, 8) => self.warp.row_pair(reg)[lane as usize],
                _ => u64::from(self.warp.row(reg)[lane as usize]),
            };
            let (b, c) = (value(b), value(c));
            let who = self.accessor(lane);
            let global = BlockAccess { atomic: true, ..self.who };
            let is_shared = (SHARED_WINDOW..SHARED_WINDOW + WINDOW).contains(&address);
            let target = match space {
                Space::Shared => self.shared.update(who, address, bytes),
                Space::Generic if is_shared => self.shared.update(who, address - SHARED_WINDOW, bytes),
                Space::Local => Err(LaneFault::new(FaultKind::Unsupported, "an atomic operation on local memory")),
                Space::Generic if (LOCAL_WINDOW..LOCAL_WINDOW + WINDOW).contains(&address) => {
                    Err(LaneFault::new(FaultKind::Unsupported, "an atomic operation on local memory"))
                }
                Space::Global | Space::Constant | Space::Generic => self.memory.update(address, bytes as u64, global),
            };
            let target = target.map_err(|t| t.at(lane, address))?;
            let old = number(target);
            let new = combine(f, kind, old, b, c);
            target.copy_from_slice(&new.to_le_bytes()[..bytes]);
            self.put(d, access, lane, old);
        }
        Ok(())
    }
}

fn bytes(kind: AtomicKind) -> usize {
    use AtomicKind as K;
    match kind {
        K::B16 | K::F16 | K::Bf16 => 2,
        K::B32 | K::U32 | K::S32 | K::F32 | K::F16x2 | K::Bf16x2 => 4,
        K::B64 | K::U64 | K::S64 | K::F64 => 8,
    }
}

/// The new value in memory.
fn combine(f: Atomic, kind: AtomicKind, old: u64, b: u64, c: u64) -> u64 {
    use AtomicKind as K;
    let mask = if bytes(kind) == 8 { u64::MAX } else { (1 << (8 * bytes(kind))) - 1 };
    let (b, c) = (b & mask, c & mask);
    let less = |x: u64, y: u64| match kind {
        K::S32 => (x as i32) < y as i32,
        K::S64 => (x as i64) < y as i64,
        K::F32 => f32::from_bits(x as u32) < f32::from_bits(y as u32),
        K::F64 => f64::from_bits(x) < f64::from_bits(y),
        _ => x < y,
    };
    let new = match f {
        Atomic::Add => add(kind, old, b),
        Atomic::Min => {
            if less(b, old) {
                b
            } else {
                old
            }
        }
        Atomic::Max => {
            if less(old, b) {
                b
            } else {
                old
            }
        }
        Atomic::And => old & b,
        Atomic::Or => old | b,
        Atomic::Xor => old ^ b,
        Atomic::Exchange => b,
        Atomic::CompareAndSwap => {
            if old == b {
                c
            } else {
                old
            }
        }
        Atomic::Increment => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        Atomic::Decrement => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    };
    new & mask
}

fn add(kind: AtomicKind, old: u64, b: u64) -> u64 {
    use AtomicKind as K;
    let half = |x: u64, y: u64| u64::from((f16::from_bits(x as u16) + f16::from_bits(y as u16)).to_bits());
    let brain = |x: u64, y: u64| u64::from((bf16::from_bits(x as u16) + bf16::from_bits(y as u16)).to_bits());
    match kind {
        K::F32 => u64::from((f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits()),
        K::F64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        K::F16 => half(old, b),
        K::Bf16 => brain(old, b),
        K::F16x2 => half(old, b) | half(old >> 16, b >> 16) << 16,
        K::Bf16x2 => brain(old, b) | brain(old >> 16, b >> 16) << 16,
        _ => old.wrapping_add(b),
    }
}
