//! The program as the machine runs it: kernels of small instructions whose operands are all rows of a warp's register file.
//!
//! A row holds one 32-bit value for each of the 32 lanes; a 64-bit register is two adjacent rows, read as `[u64; 32]`.
//! Immediates, special registers (`%tid.x` …) and addresses of symbols have rows of their own, filled before a warp runs
//! ([`Constant`]): an instruction never asks what kind its operand is. 8- and 16-bit registers take one row; what is above
//! their width is unspecified on reading and zero after writing.

pub mod control_flow;
mod error;
#[cfg(test)]
mod fuzz;
mod inline;
mod load;
mod lower;
mod operation;
mod registers;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod values;

pub use error::{LoadError, Where};
pub use operation::*;

use std::sync::Arc;

/// A module: what one PTX text holds.
#[derive(Debug)]
pub struct Program {
    /// `.target sm_90a` is `(9, 0)`.
    pub target: (u32, u32),
    pub kernels: Vec<Kernel>,
    /// `.global` and `.const` variables, to be placed in device memory when the module is loaded.
    pub symbols: Vec<Symbol>,
    /// Where instructions come from; `Instruction::line` indexes it. Entry 0 is "unknown".
    pub lines: Vec<SourceLine>,
}

impl Program {
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|k| k.name == name)
    }
}

/// A line of the `.cu` (or, without `-lineinfo`, of the PTX).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLine {
    pub file: Arc<str>,
    pub line: u32,
}

/// A module-scope variable.
#[derive(Clone, Debug)]
pub struct Symbol {
    pub name: String,
    pub size: u64,
    pub align: u64,
    /// Initial bytes, `size` of them; None for a variable without initialiser (CUDA zeroes it).
    pub bytes: Option<Vec<u8>>,
    /// `.const`: kernels may not write it.
    pub constant: bool,
}

/// One `.entry`.
#[derive(Debug)]
pub struct Kernel {
    pub name: String,
    pub parameters: Vec<Parameter>,
    pub parameter_bytes: u32,
    /// Bytes of `.shared` variables with a size; dynamic shared memory begins after them, at `dynamic_shared_offset`.
    pub static_shared: u32,
    pub dynamic_shared_offset: u32,
    /// Bytes of `.local` per thread.
    pub local_bytes: u32,
    /// `.maxntid` or `.reqntid`, as the product of its dimensions; 1024 where the kernel says nothing.
    pub max_threads: u32,
    /// `.reqntid`: the block must have exactly this shape.
    pub required_block: Option<[u32; 3]>,
    /// Registers a thread would need: an estimate (the most values live at once), at most 255.
    pub registers: u32,
    /// Rows of the register file: registers first, then one or two for each of `constants`.
    pub rows: u32,
    /// Predicate masks; number 0 is [`Pred::TRUE`].
    pub predicates: u32,
    /// The rows that are not registers, with what they hold.
    pub constants: Vec<(Reg, Constant)>,
    pub code: Vec<Instruction>,
    /// Register lists of vector accesses, mma and ldmatrix ([`Regs`] points into it).
    pub lists: Vec<Reg>,
    /// Jump tables of `brx.idx` ([`Op::BranchTable`]).
    pub targets: Vec<u32>,
}

impl Kernel {
    pub fn list(&self, regs: Regs) -> &[Reg] {
        &self.lists[regs.start as usize..][..regs.len as usize]
    }
}

#[derive(Clone, Debug)]
pub struct Parameter {
    pub offset: u32,
    pub size: u32,
    pub align: u32,
    /// Byte offsets in the parameter of values used as pointers, as far as the PTX shows (`.ptr`, or a 64-bit load that
    /// reaches `cvta`): the launch checks that they are device addresses.
    pub pointers: Vec<u32>,
}

/// First row of a register (or of a constant).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(pub u32);

impl Reg {
    /// No operand, or the sink `_`.
    pub const NONE: Reg = Reg(u32::MAX);
}

/// A run of `Kernel::lists`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regs {
    pub start: u32,
    pub len: u8,
}

/// A predicate register: one mask of 32 lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pred(pub u16);

impl Pred {
    /// All ones, never written: the guard of what is not guarded.
    pub const TRUE: Pred = Pred(0);
    /// No operand, or the sink `_`.
    pub const NONE: Pred = Pred(u16::MAX);
}

/// `@p` or `@!p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    pub predicate: Pred,
    pub negated: bool,
}

impl Guard {
    pub const ALWAYS: Guard = Guard { predicate: Pred::TRUE, negated: false };
}

#[derive(Clone, Debug)]
pub struct Instruction {
    pub op: Op,
    pub guard: Guard,
    /// Index into `Program::lines`.
    pub line: u32,
}

/// What a constant row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Constant {
    Bits32(u32),
    /// Two rows.
    Bits64(u64),
    Special(Special),
    /// Offset of a `.shared` variable, as the 32-bit shared address. Dynamic shared memory: `dynamic_shared_offset`.
    Shared32(u32),
    /// The same in two rows.
    Shared64(u32),
    /// Offset of a `.local` variable in two rows; `Local32` in one.
    Local64(u32),
    Local32(u32),
    /// Device address of `Program::symbols[i]` plus a byte offset, in two rows.
    Symbol(u32, u32),
}

/// Special registers. All 32 bits wide but `Clock64` and `GlobalTimer`, which take two rows and are read by
/// [`Op::ReadClock`] (they change while a warp runs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Special {
    /// Axis 0, 1, 2 = x, y, z.
    ThreadIndex(u8),
    BlockSize(u8),
    BlockIndex(u8),
    GridSize(u8),
    Lane,
    Warp,
    WarpCount,
    LaneMaskEqual,
    LaneMaskLess,
    LaneMaskLessEqual,
    LaneMaskGreater,
    LaneMaskGreaterEqual,
    Multiprocessor,
    MultiprocessorCount,
    DynamicSharedBytes,
    TotalSharedBytes,
}
