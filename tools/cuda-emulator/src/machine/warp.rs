//! A warp: its registers, and the paths of its lanes.
//!
//! Lanes that diverge at a branch run one side after the other and reconverge at the branch's immediate post-dominator.
//! `path` is the running path; below it, `stack` contains the other side and the path after both.

use super::launch::Launch;
use crate::forms::{Row, Rows};
use crate::ir::{Constant, Kernel, Reg, Special};
use crate::memory::local::LocalMemory;

/// Lanes that run together.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub pc: u32,
    pub mask: u32,
    /// The instruction at which the path ends; its lanes then continue in the path below.
    pub until: u32,
}

/// No instruction: the lanes of this path reconverge only at the exit.
pub const NEVER: u32 = u32::MAX;

pub struct Warp {
    pub rows: Vec<Row>,
    pub predicates: Vec<u32>,
    pub local: LocalMemory,
    pub path: Path,
    pub stack: Vec<Path>,
    /// Lanes that have not exited.
    pub live: u32,
    /// Index in the block.
    pub number: u32,
    /// Lanes that exist in the block.
    lanes: u32,
    /// Incremented by instructions that synchronise the warp; it orders accesses to shared memory.
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

    /// Starts another block at the first instruction.
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

    /// The value of a register that must be the same in all these lanes; None if it is not.
    pub fn uniform(&mut self, reg: Reg, mask: u32) -> Option<u32> {
        let row = *self.row(reg);
        let value = row[mask.trailing_zeros() as usize % 32];
        (0..32).all(|l| mask >> l & 1 == 0 || row[l] == value).then_some(value)
    }

    /// Pops paths until one has lanes and has not ended; false if none is left.
    #[inline(always)]
    pub fn pop_ended_paths(&mut self) -> bool {
        while self.path.pc == self.path.until || self.path.mask == 0 {
            let Some(below) = self.stack.pop() else { return false };
            self.path = Path { mask: below.mask & self.live, ..below };
        }
        true
    }

    /// `bra`, taken by the lanes in `taken`; returns whether the lanes diverge.
    #[inline(always)]
    pub fn branch(&mut self, taken: u32, target: u32, reconvergence: u32) -> bool {
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
        self.diverge([(target, taken), (pc + 1, other)], reconvergence);
        true
    }

    /// Splits the lanes of the path into `sides`, (instruction, lanes), which reconverge at `reconvergence`.
    pub fn diverge(&mut self, sides: impl IntoIterator<Item = (u32, u32)>, reconvergence: u32) {
        let Path { mask, until, .. } = self.path;
        // Lanes already at the reconvergence point wait in the path below; a path that ends there anyway needs no
        // entry.
        if reconvergence != until {
            self.stack.push(Path { pc: reconvergence, mask, until });
        }
        let mut sides = sides.into_iter().filter(|(pc, _)| *pc != reconvergence);
        let side = |(pc, mask)| Path { pc, mask, until: reconvergence };
        self.path = sides.next().map_or(Path { pc: reconvergence, mask: 0, until: reconvergence }, side);
        self.stack.extend(sides.map(side));
    }

    /// The lanes exit.
    pub fn exit(&mut self, lanes: u32) {
        self.live &= !lanes;
        self.path.mask &= !lanes;
    }
}
