//! The registers that an instruction reads and writes.

use super::{Op, Reg, Regs};

/// How an instruction uses a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Read,
    Write,
}

/// Calls `see` for every register operand of an instruction, including lists but not [`Reg::NONE`].
pub fn each_register(op: &mut Op, lists: &mut [Reg], mut see: impl FnMut(&mut Reg, Use)) {
    use Use::{Read, Write};
    let mut see = |reg: &mut Reg, how: Use| {
        if *reg != Reg::NONE {
            see(reg, how);
        }
    };
    let range = |regs: &Regs| regs.start as usize..regs.start as usize + regs.len as usize;
    match op {
        Op::Compute { operands: o, .. } => {
            [&mut o.a, &mut o.b, &mut o.c, &mut o.e].into_iter().for_each(|reg| see(reg, Read));
            see(&mut o.d, Write);
        }
        Op::Compare { a, b, .. } => [a, b].into_iter().for_each(|reg| see(reg, Read)),
        Op::Select32 { d, a, b, .. } | Op::Select64 { d, a, b, .. } => {
            [a, b].into_iter().for_each(|reg| see(reg, Read));
            see(d, Write);
        }
        Op::LoadParameter { d, .. } => lists[range(d)].iter_mut().for_each(|reg| see(reg, Write)),
        Op::Load { d, address, .. } | Op::LoadMatrix { d, address, .. } => {
            see(&mut address.base, Read);
            lists[range(d)].iter_mut().for_each(|reg| see(reg, Write));
        }
        Op::Store { a, address, .. } | Op::StoreMatrix { a, address, .. } => {
            see(&mut address.base, Read);
            lists[range(a)].iter_mut().for_each(|reg| see(reg, Read));
        }
        Op::Atomic { d, address, b, c, .. } => {
            [&mut address.base, b, c].into_iter().for_each(|reg| see(reg, Read));
            see(d, Write);
        }
        Op::ConvertAddress { d, a, .. } => {
            see(a, Read);
            see(d, Write);
        }
        Op::CopyAsync { to, from, source_size, .. } => {
            [&mut to.base, &mut from.base, source_size].into_iter().for_each(|reg| see(reg, Read));
        }
        Op::Mma { shape, registers } => {
            let (d, sources) = lists[range(registers)].split_at_mut(shape.results());
            sources.iter_mut().for_each(|reg| see(reg, Read));
            d.iter_mut().for_each(|reg| see(reg, Write));
        }
        Op::BranchTable { index, .. } => see(index, Read),
        Op::Barrier { id, count } | Op::BarrierArrive { id, count } => {
            [id, count].into_iter().for_each(|reg| see(reg, Read));
        }
        Op::BarrierReduce { id, count, d, .. } => {
            [id, count].into_iter().for_each(|reg| see(reg, Read));
            see(d, Write);
        }
        Op::WarpBarrier { mask } => see(mask, Read),
        Op::Shuffle { d, a, b, c, mask, .. } => {
            [a, b, c, mask].into_iter().for_each(|reg| see(reg, Read));
            see(d, Write);
        }
        Op::Vote { d, mask, .. } => {
            see(mask, Read);
            see(d, Write);
        }
        Op::Match { d, a, mask, .. } | Op::Reduce { d, a, mask, .. } => {
            [a, mask].into_iter().for_each(|reg| see(reg, Read));
            see(d, Write);
        }
        Op::ActiveMask { d } | Op::ReadClock { d, .. } => see(d, Write),
        Op::PredicateLogic { .. }
        | Op::CommitGroup
        | Op::WaitGroup { .. }
        | Op::WaitAll
        | Op::Branch { .. }
        | Op::Exit
        | Op::Trap
        | Op::Fence
        | Op::Nothing => {}
    }
}
