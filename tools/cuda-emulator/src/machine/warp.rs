//! A warp: its registers, and the paths that its lanes are on.
//!
//! Lanes that take different sides of a branch go one side after the other and meet again at the branch's immediate
//! post-dominator. The path that runs is `path`; under it, on `stack`, wait the other side and what comes after both.

use super::launch::Launch;
use crate::forms::{Row, Rows};
use crate::ir::{Constant, Kernel, Reg, Special};
use crate::memory::local::LocalMemory;

/// Lanes that run together.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub pc: u32,
    pub mask: u32,
    /// Where it ends: the lanes go on in the path below.
    pub until: u32,
}

/// Nowhere: lanes of this path only meet at the exit.
pub const NEVER: u32 = u32::MAX;

pub struct Warp {
    pub rows: Vec<Row>,
    pub predicates: Vec<u32>,
    pub local: LocalMemory,
    pub path: Path,
    pub stack: Vec<Path>,
    /// Lanes that have not exited.
    pub live: u32,
    /// Number in the block.
    pub number: u32,
    /// Lanes that the block has.
    lanes: u32,
    /// Advanced by what synchronises the warp: orders its accesses to shared memory.
    pub sync: u32,
    pub instructions: u64,
}

impl Warp {
    pub fn new(launch: &Launch<'_>, number: u32, checks: bool) -> Self {
        let kernel = launch.kernel;
        let threads: u32 = launch.config.block.iter().product();
        let lanes = (threads - 32 * number).min(32);
        let mut warp = Warp {
            rows: vec![Row::ZERO; kernel.rows as usize],
            predicates: vec![0; kernel.predicates.max(1) as usize],
            local: LocalMemory::new(kernel.local_bytes, checks),
            path: Path { pc: 0, mask: 0, until: NEVER },
            stack: Vec::new(),
            live: 0,
            number,
            lanes: u32::MAX >> (32 - lanes),
            sync: 0,
            instructions: 0,
        };
        for (reg, constant) in &kernel.constants {
            warp.fill(*reg, *constant, launch, [0; 3]);
        }
        warp
    }

    /// At the first instruction, for another block.
    pub fn begin(&mut self, launch: &Launch<'_>, block: [u32; 3]) {
        self.live = self.lanes;
        self.path = Path { pc: 0, mask: self.lanes, until: NEVER };
        self.stack.clear();
        self.predicates.fill(0);
        self.predicates[0] = u32::MAX;
        self.local.reset();
        self.instructions = 0;
        self.fill_block_index(launch.kernel, launch, block);
    }

    fn fill_block_index(&mut self, kernel: &Kernel, launch: &Launch<'_>, block: [u32; 3]) {
        for (reg, constant) in &kernel.constants {
            if matches!(constant, Constant::Special(Special::BlockIndex(_))) {
                self.fill(*reg, *constant, launch, block);
            }
        }
    }

    fn fill(&mut self, reg: Reg, constant: Constant, launch: &Launch<'_>, block: [u32; 3]) {
        let wide = |x: u64| (x, true);
        let narrow = |x: u32| (u64::from(x), false);
        let (value, is_wide) = match constant {
            Constant::Bits32(x) | Constant::Shared32(x) | Constant::Local32(x) => narrow(x),
            Constant::Bits64(x) => wide(x),
            Constant::Shared64(x) | Constant::Local64(x) => wide(u64::from(x)),
            Constant::Symbol(i, offset) => wide(launch.symbols.0[i as usize].wrapping_add(u64::from(offset))),
            Constant::Special(special) => {
                let [bx, by, _] = launch.config.block;
                let number = self.number;
                *self.row(reg) = std::array::from_fn(|lane| {
                    let lane = lane as u32;
                    let thread = 32 * number + lane;
                    match special {
                        Special::ThreadIndex(0) => thread % bx,
                        Special::ThreadIndex(1) => thread / bx % by,
                        Special::ThreadIndex(_) => thread / bx / by,
                        Special::BlockSize(axis) => launch.config.block[axis as usize % 3],
                        Special::BlockIndex(axis) => block[axis as usize % 3],
                        Special::GridSize(axis) => launch.config.grid[axis as usize % 3],
                        Special::Lane => lane,
                        Special::Warp => number,
                        Special::WarpCount => launch.config.block.iter().product::<u32>().div_ceil(32),
                        Special::LaneMaskEqual => 1 << lane,
                        Special::LaneMaskLess => (1 << lane) - 1,
                        Special::LaneMaskLessEqual => u32::MAX >> (31 - lane),
                        Special::LaneMaskGreater => !(u32::MAX >> (31 - lane)),
                        Special::LaneMaskGreaterEqual => u32::MAX << lane,
                        Special::Multiprocessor => 0,
                        Special::MultiprocessorCount => 1,
                        Special::DynamicSharedBytes => launch.config.dynamic_shared,
                        Special::TotalSharedBytes => launch.kernel.dynamic_shared_offset + launch.config.dynamic_shared,
                    }
                });
                return;
            }
        };
        if is_wide { *self.row_pair(reg) = [value; 32] } else { *self.row(reg) = [value as u32; 32] }
    }

    /// The 32 values of a one-row register.
    #[inline(always)]
    pub fn row(&mut self, reg: Reg) -> &mut [u32; 32] {
        &mut self.rows[reg.0 as usize].0
    }

    /// The 32 values of a two-row register.
    #[inline(always)]
    pub fn row_pair(&mut self, reg: Reg) -> &mut [u64; 32] {
        let pair = &mut self.rows[reg.0 as usize..reg.0 as usize + 2];
        // Safety: two adjacent rows are 256 bytes of plain integers, aligned to 64 bytes, and borrowed by `pair`.
        unsafe { &mut *pair.as_mut_ptr().cast::<[u64; 32]>() }
    }

    pub fn file(&mut self) -> Rows {
        Rows::new(&mut self.rows)
    }

    /// The value of a register that must be the same in all these lanes; None where it is not.
    pub fn uniform(&mut self, reg: Reg, mask: u32) -> Option<u32> {
        let row = *self.row(reg);
        let value = row[mask.trailing_zeros() as usize % 32];
        (0..32).all(|l| mask >> l & 1 == 0 || row[l] == value).then_some(value)
    }

    /// Goes on with the path below while the one that runs has ended or has no lanes; false when none is left.
    #[inline(always)]
    pub fn settle(&mut self) -> bool {
        while self.path.pc == self.path.until || self.path.mask == 0 {
            let Some(below) = self.stack.pop() else { return false };
            self.path = Path { mask: below.mask & self.live, ..below };
        }
        true
    }

    /// `bra` of the lanes in `taken`; whether the lanes part.
    #[inline(always)]
    pub fn branch(&mut self, taken: u32, target: u32, meeting: u32) -> bool {
        let Path { pc, mask, .. } = self.path;
        let other = mask & !taken;
        if other == 0 {
            self.path.pc = target;
            return false;
        }
        if taken == 0 {
            self.path.pc = pc + 1;
            return false;
        }
        self.part([(target, taken), (pc + 1, other)], meeting);
        true
    }

    /// The lanes of the path go on at several places, (instruction, lanes), and meet again at `meeting`.
    pub fn part(&mut self, sides: impl IntoIterator<Item = (u32, u32)>, meeting: u32) {
        let Path { mask, until, .. } = self.path;
        // Lanes that are at the meeting point already wait in the path below; a path that ends there anyway needs none.
        if meeting != until {
            self.stack.push(Path { pc: meeting, mask, until });
        }
        let mut sides = sides.into_iter().filter(|(pc, _)| *pc != meeting);
        let side = |(pc, mask)| Path { pc, mask, until: meeting };
        self.path = sides.next().map_or(Path { pc: meeting, mask: 0, until: meeting }, side);
        self.stack.extend(sides.map(side));
    }

    /// The lanes leave for ever.
    pub fn exit(&mut self, lanes: u32) {
        self.live &= !lanes;
        self.path.mask &= !lanes;
    }
}
