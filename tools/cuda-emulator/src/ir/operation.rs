//! Operations: what an instruction does. There is one variant per shape; the arithmetic is a [`Form`] of the table in
//! `crate::forms`.

use super::{Pred, Reg, Regs};
use crate::forms::{CompareRun, Operands, Run};

/// An operation with its operands. It is small (32 bytes), because the machine steps over millions of them.
#[derive(Clone, Debug)]
pub enum Op {
    /// Any form with only register operands: `add.f32`, `cvt.rn.bf16.f32`, `mov.b64`, `lop3.b32` …
    Compute {
        run: Run,
        operands: Operands,
    },
    /// `setp`: the test gives a mask; `p = test [op r]`, `q = !test [op r]`.
    Compare {
        run: CompareRun,
        a: Reg,
        b: Reg,
        p: Pred,
        q: Pred,
        combine: Combine,
    },
    /// `selp`: `d = p ? a : b`.
    Select32 {
        d: Reg,
        a: Reg,
        b: Reg,
        p: Pred,
    },
    Select64 {
        d: Reg,
        a: Reg,
        b: Reg,
        p: Pred,
    },
    /// `and.pred` …; for `not.pred` and `mov.pred`, b is [`Pred::TRUE`].
    PredicateLogic {
        f: PredicateLogic,
        d: Pred,
        a: Pred,
        b: Pred,
    },

    /// `ld.param`: the same bytes for all lanes.
    LoadParameter {
        access: Access,
        d: Regs,
        offset: u32,
    },
    Load {
        access: Access,
        d: Regs,
        address: Address,
    },
    Store {
        access: Access,
        a: Regs,
        address: Address,
    },
    /// `atom` and, with `d` = [`Reg::NONE`], `red`. Only compare-and-swap uses `c` (`b` = compare, `c` = new).
    Atomic {
        f: Atomic,
        kind: AtomicKind,
        space: Space,
        d: Reg,
        address: Address,
        b: Reg,
        c: Reg,
    },
    /// `cvta.SPACE` (to generic) and `cvta.to.SPACE`; a `.global` one is a move, so it is a Compute.
    ConvertAddress {
        d: Reg,
        a: Reg,
        space: Space,
        to_space: bool,
    },
    /// `cp.async`: `size` is 4, 8 or 16 bytes; `source_size` ([`Reg::NONE`] = all) bytes are copied and the rest is
    /// zeroed.
    CopyAsync {
        to: Address,
        from: Address,
        size: u8,
        source_size: Reg,
    },
    CommitGroup,
    /// `cp.async.wait_group n`.
    WaitGroup {
        pending: u32,
    },
    /// `cp.async.wait_all`.
    WaitAll,
    /// `ldmatrix.sync.aligned.m8n8.xN[.trans].shared.b16`; N = `d.len`.
    LoadMatrix {
        d: Regs,
        transposed: bool,
        address: Address,
    },
    /// `stmatrix` (sm_90).
    StoreMatrix {
        a: Regs,
        transposed: bool,
        address: Address,
    },
    /// `mma.sync`: the registers of d, a, b, c in this order.
    Mma {
        shape: MmaShape,
        registers: Regs,
    },

    /// `bra`; a guard makes it conditional. `reconvergence`: index of the instruction where the paths reconverge (the
    /// immediate post-dominator); `u32::MAX` if they reconverge only at the exit.
    Branch {
        target: u32,
        reconvergence: u32,
    },
    /// `brx.idx`: jumps to `Kernel::targets[first + index]`; index must be below `count`.
    BranchTable {
        index: Reg,
        first: u32,
        count: u32,
        reconvergence: u32,
    },
    Exit,
    /// `trap`, or a failed `assert`.
    Trap,
    /// `bar.sync id[, count]`, `barrier.sync`: `count` [`Reg::NONE`] = all threads of the block.
    Barrier {
        id: Reg,
        count: Reg,
    },
    /// `bar.arrive`.
    BarrierArrive {
        id: Reg,
        count: Reg,
    },
    /// `bar.red` over the block: popc into `d`, or and/or into `p_out`.
    BarrierReduce {
        f: BarrierReduction,
        id: Reg,
        count: Reg,
        d: Reg,
        p_out: Pred,
        p: Pred,
        negated: bool,
    },
    /// `bar.warp.sync`.
    WarpBarrier {
        mask: Reg,
    },
    /// `membar`, `fence`.
    Fence,

    /// `shfl.sync`: `p` ([`Pred::NONE`]) says whether the source lane was in range.
    Shuffle {
        mode: Shuffle,
        d: Reg,
        p: Pred,
        a: Reg,
        b: Reg,
        c: Reg,
        mask: Reg,
    },
    /// `vote.sync`: ballot writes `d`, the others `p_out`.
    Vote {
        mode: Vote,
        d: Reg,
        p_out: Pred,
        p: Pred,
        negated: bool,
        mask: Reg,
    },
    /// `match.any.sync`, `match.all.sync` (which also writes `p`).
    Match {
        all: bool,
        wide: bool,
        d: Reg,
        p: Pred,
        a: Reg,
        mask: Reg,
    },
    /// `redux.sync`.
    Reduce {
        f: Reduction,
        d: Reg,
        a: Reg,
        mask: Reg,
    },
    ActiveMask {
        d: Reg,
    },
    /// `mov %clock`, `%clock64`, `%globaltimer`: `wide` writes two rows. It counts instructions of the warp, not time.
    ReadClock {
        d: Reg,
        wide: bool,
    },
    /// `nanosleep`, `prefetch`, `pragma`: supported forms without an effect here.
    Nothing,
}

/// How a predicate result is combined with a third predicate: `setp.lt.and.f32 p, a, b, r`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combine {
    pub f: PredicateLogic,
    /// [`Pred::TRUE`] with And: no combination.
    pub with: Pred,
    pub negated: bool,
}

impl Combine {
    pub const PLAIN: Combine = Combine { f: PredicateLogic::And, with: Pred::TRUE, negated: false };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredicateLogic {
    And,
    Or,
    Xor,
    /// `!a`, b ignored.
    Not,
    /// `a`, b ignored.
    Move,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Global,
    Shared,
    Local,
    /// Reads of `.const`, which is in device memory.
    Constant,
    /// Depends on the address: the windows of shared and local memory, otherwise global.
    Generic,
}

/// Size and kind of a memory access; `d.len` or `a.len` registers are transferred (1, 2 or 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub space: Space,
    /// Size of one element in bytes: 1, 2, 4, 8.
    pub bytes: u8,
    /// For a load: sign-extend to the register's width.
    pub signed: bool,
    /// Size of a register in bytes: 2 and 4 are one row, 8 is two.
    pub register: u8,
    /// `.volatile`, `.relaxed`, `.acquire`, `.release`: a strong access, which races only with plain ones.
    pub strong: bool,
    /// `.nc`: read-only during the whole launch.
    pub read_only: bool,
}

/// `[base + offset]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub base: Reg,
    pub offset: i32,
    /// The base has 64 bits (two rows).
    pub wide: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomic {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    /// `inc`: wraps to 0 above b.
    Increment,
    /// `dec`.
    Decrement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicKind {
    B16,
    B32,
    U32,
    S32,
    B64,
    U64,
    S64,
    F32,
    F64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
}

/// Shapes and types of `mma.sync.aligned.SHAPE.row.col`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmaShape {
    /// f32.bf16.bf16.f32: d 4, a 4, b 2, c 4 registers.
    M16N8K16Bf16,
    /// f32.f16.f16.f32.
    M16N8K16F16,
    /// f16.f16.f16.f16: d 2, a 4, b 2, c 2.
    M16N8K16F16Accumulate16,
    /// f32.bf16.bf16.f32: d 4, a 2, b 1, c 4.
    M16N8K8Bf16,
    M16N8K8F16,
    /// f32.tf32.tf32.f32: d 4, a 4, b 2, c 4.
    M16N8K8Tf32,
    /// f32.tf32.tf32.f32: d 4, a 2, b 1, c 4.
    M16N8K4Tf32,
}

impl MmaShape {
    /// Number of registers of d, which come first in the list.
    pub fn results(self) -> usize {
        if self == MmaShape::M16N8K16F16Accumulate16 { 2 } else { 4 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierReduction {
    Count,
    And,
    Or,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    AddU32,
    MinU32,
    MaxU32,
    MinS32,
    MaxS32,
    And,
    Or,
    Xor,
}
