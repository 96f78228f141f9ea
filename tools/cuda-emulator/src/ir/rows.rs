//! Row allocation: registers that never hold a value at the same time share a row.
//!
//! nvcc uses a new register for almost every value. A medium kernel has a thousand of them, of which a few dozen are
//! live at once. A warp's rows should fit into a core's cache, so this file does roughly what ptxas does: data-flow
//! liveness over the blocks, then a linear scan over the live ranges (Poletto and Sarkar, "Linear scan register
//! allocation", 1999). Diverged lanes do not interfere: a write does not change the inactive lanes of its row.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::control_flow::{self, Block, EXIT};
use super::lower::Virtual;
use super::registers::{Use, each_register};
use super::{Guard, Instruction, Kernel, Op, Reg};
use crate::forms::Kind;

/// The registers that an instruction reads and writes, without constants.
pub struct Uses {
    pub reads: Vec<u32>,
    pub writes: Vec<u32>,
    /// The instruction is unguarded, so every thread that gets here writes.
    pub always: bool,
    /// A result may use the row of an operand that is read here for the last time.
    pub in_place: bool,
}

impl Uses {
    pub fn of(instruction: &Instruction, lists: &mut [Reg], virtuals: &[Virtual]) -> Uses {
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        each_register(&mut instruction.op.clone(), lists, |reg, how| {
            if virtuals[reg.0 as usize].constant.is_none() {
                if how == Use::Read { reads.push(reg.0) } else { writes.push(reg.0) }
            }
        });
        let always = instruction.guard == Guard::ALWAYS;
        let in_place = matches!(instruction.op, Op::Compute { .. } | Op::Select32 { .. } | Op::Select64 { .. });
        Uses { reads, writes, always, in_place }
    }
}

/// Assigns rows to the virtual registers and rewrites the code: registers first, then constants.
pub fn assign(kernel: &mut Kernel, virtuals: &[Virtual]) {
    let blocks = control_flow::blocks(&kernel.code, &kernel.targets);
    let lists = &mut kernel.lists;
    let uses: Vec<Uses> = kernel.code.iter().map(|instruction| Uses::of(instruction, lists, virtuals)).collect();
    let live_in = live_in(&blocks, &uses, virtuals.len());
    kernel.registers = most_live(&blocks, &uses, &live_in, virtuals).min(255);

    let ranges = ranges(&blocks, &uses, &live_in, virtuals.len());
    let of_kind = |wide: bool| {
        let all = (0..virtuals.len()).filter(|&v| virtuals[v].constant.is_none());
        all.filter(|&v| (virtuals[v].kind == Kind::Bits64) == wide).collect::<Vec<_>>()
    };
    let mut rows = vec![Reg::NONE; virtuals.len()];
    let pairs = scan(of_kind(true), &ranges, |v, slot| rows[v] = Reg(2 * slot));
    let singles = scan(of_kind(false), &ranges, |v, slot| rows[v] = Reg(2 * pairs + slot));
    kernel.rows = 2 * pairs + singles;
    kernel.constants = Vec::new();
    for (row, virtual_register) in rows.iter_mut().zip(virtuals) {
        if let Some(constant) = virtual_register.constant {
            *row = Reg(kernel.rows);
            kernel.rows += virtual_register.kind.rows();
            kernel.constants.push((*row, constant));
        }
    }
    for instruction in &mut kernel.code {
        each_register(&mut instruction.op, &mut kernel.lists, |reg, _| *reg = rows[reg.0 as usize]);
    }
}

/// A set of virtual registers.
#[derive(Clone, PartialEq, Eq)]
pub struct Set(Vec<u64>);

impl Set {
    fn empty(n: usize) -> Set {
        Set(vec![0; n.div_ceil(64)])
    }

    pub fn contains(&self, v: u32) -> bool {
        self.0[v as usize / 64] >> (v % 64) & 1 == 1
    }

    fn insert(&mut self, v: u32) {
        self.0[v as usize / 64] |= 1 << (v % 64);
    }

    fn remove(&mut self, v: u32) {
        self.0[v as usize / 64] &= !(1 << (v % 64));
    }

    fn extend(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let bits = |word: u64| (0..64).filter(move |bit| word >> bit & 1 == 1);
        self.0.iter().enumerate().flat_map(move |(at, word)| bits(*word).map(move |bit| (at * 64 + bit) as u32))
    }

    /// Updates the set from what is live after an instruction to what is live before it.
    fn step_back(&mut self, uses: &Uses) {
        if uses.always {
            uses.writes.iter().for_each(|v| self.remove(*v));
        }
        uses.reads.iter().for_each(|v| self.insert(*v));
    }
}

fn live_out(block: &Block, live_in: &[Set], n: usize) -> Set {
    let mut out = Set::empty(n);
    for successor in block.successors.iter().filter(|successor| **successor != EXIT) {
        out.extend(&live_in[*successor as usize]);
    }
    out
}

/// The live set at the start of each block.
fn live_in(blocks: &[Block], uses: &[Uses], n: usize) -> Vec<Set> {
    let mut live_in = vec![Set::empty(n); blocks.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for (at, block) in blocks.iter().enumerate().rev() {
            let mut live = live_out(block, &live_in, n);
            uses[block.start as usize..block.end as usize].iter().rev().for_each(|uses| live.step_back(uses));
            changed |= live != live_in[at];
            live_in[at] = live;
        }
    }
    live_in
}

/// The maximum number of simultaneously live rows.
fn most_live(blocks: &[Block], uses: &[Uses], live_in: &[Set], virtuals: &[Virtual]) -> u32 {
    let rows = |v: u32| virtuals[v as usize].kind.rows();
    let mut most = 0;
    for block in blocks {
        let mut live = live_out(block, live_in, virtuals.len());
        let mut now: u32 = live.iter().map(rows).sum();
        for uses in uses[block.start as usize..block.end as usize].iter().rev() {
            let unread: u32 = uses.writes.iter().filter(|v| !live.contains(**v)).map(|v| rows(*v)).sum();
            most = most.max(now + unread);
            if uses.always {
                now -= uses.writes.iter().filter(|v| live.contains(**v)).map(|v| rows(*v)).sum::<u32>();
                uses.writes.iter().for_each(|v| live.remove(*v));
            }
            for v in &uses.reads {
                if !live.contains(*v) {
                    live.insert(*v);
                    now += rows(*v);
                }
            }
        }
        most = most.max(now);
    }
    most
}

/// First and last moment at which each register is live. Instruction i reads at moment 2i and writes at 2i + 1.
fn ranges(blocks: &[Block], uses: &[Uses], live_in: &[Set], n: usize) -> Vec<Option<(u32, u32)>> {
    let mut ranges: Vec<Option<(u32, u32)>> = vec![None; n];
    let mut hold = |v: u32, moment: u32| {
        let range = ranges[v as usize].get_or_insert((moment, moment));
        *range = (range.0.min(moment), range.1.max(moment));
    };
    for (at, block) in blocks.iter().enumerate() {
        live_in[at].iter().for_each(|v| hold(v, 2 * block.start));
        live_out(block, live_in, n).iter().for_each(|v| hold(v, 2 * block.end - 1));
        for (at, uses) in (block.start..).zip(&uses[block.start as usize..block.end as usize]) {
            let last_read = if uses.in_place { 2 * at } else { 2 * at + 1 };
            uses.reads.iter().for_each(|v| hold(*v, last_read));
            uses.writes.iter().for_each(|v| hold(*v, 2 * at + 1));
        }
    }
    ranges
}

/// Assigns each register a slot that no other register uses in its range; returns the number of slots.
fn scan(mut registers: Vec<usize>, ranges: &[Option<(u32, u32)>], mut assign: impl FnMut(usize, u32)) -> u32 {
    registers.retain(|&v| ranges[v].is_some());
    registers.sort_by_key(|&v| ranges[v]);
    let mut free: BinaryHeap<Reverse<u32>> = BinaryHeap::new();
    let mut taken: BinaryHeap<Reverse<(u32, u32)>> = BinaryHeap::new();
    let mut slots = 0;
    for v in registers {
        let Some((start, end)) = ranges[v] else { continue };
        while let Some(&Reverse((last, slot))) = taken.peek()
            && last < start
        {
            taken.pop();
            free.push(Reverse(slot));
        }
        let slot = match free.pop() {
            Some(Reverse(slot)) => slot,
            None => {
                slots += 1;
                slots - 1
            }
        };
        taken.push(Reverse((end, slot)));
        assign(v, slot);
    }
    slots
}

#[cfg(test)]
mod tests;
