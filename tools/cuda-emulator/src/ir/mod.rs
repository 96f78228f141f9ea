//! The program that the machine runs: kernels of small instructions whose operands are all rows of a warp's register
//! file.
//!
//! A row contains one 32-bit value for each of the 32 lanes; a 64-bit register is two adjacent rows, read as `[u64;
//! 32]`. Immediates, special registers (`%tid.x` …) and addresses of symbols have rows too, filled before a warp runs
//! ([`Constant`]), so an instruction does not have to distinguish kinds of operands. 8- and 16-bit registers take one
//! row; the bits above their width are unspecified when read and zero after a write.

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

pub use error::{ErrorLocation, LoadError};
pub use operation::*;

use std::sync::Arc;

/// A module: the contents of one PTX text.
#[derive(Debug)]
pub struct Program {
    /// `.target sm_90a` is `(9, 0)`.
    pub target: (u32, u32),
    pub kernels: Vec<Kernel>,
    /// `.global` and `.const` variables, allocated in device memory when the module is loaded.
    pub symbols: Vec<Symbol>,
    /// Source lines of the instructions, indexed by `Instruction::line`. Entry 0 is "unknown".
    pub lines: Vec<SourceLine>,
}

impl Program {
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|k| k.name == name)
    }
}

/// A line of the `.cu` file (without `-lineinfo`, of the PTX).
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
    /// `size` initial bytes; None for a variable without an initialiser (CUDA zeroes it).
    pub bytes: Option<Vec<u8>>,
    /// `.const`: kernels must not write it.
    pub constant: bool,
}

/// One `.entry`.
#[derive(Debug)]
pub struct Kernel {
    pub name: String,
    pub parameters: Vec<Parameter>,
    pub parameter_bytes: u32,
    /// Size of the statically sized `.shared` variables; dynamic shared memory starts after them, at
    /// `dynamic_shared_offset`.
    pub static_shared: u32,
    pub dynamic_shared_offset: u32,
    /// Bytes of `.local` per thread.
    pub local_bytes: u32,
    /// `.maxntid` or `.reqntid` as the product of its dimensions; 1024 if the kernel declares neither.
    pub max_threads: u32,
    /// `.reqntid`: the block must have exactly this shape.
    pub required_block: Option<[u32; 3]>,
    /// Estimated registers per thread (the maximum number of live values), at most 255.
    pub registers: u32,
    /// Rows of the register file: registers first, then one or two rows for each of `constants`.
    pub rows: u32,
    /// Number of predicate masks; number 0 is [`Pred::TRUE`].
    pub predicates: u32,
    /// The constant rows and their values.
    pub constants: Vec<(Reg, Constant)>,
    pub code: Vec<Instruction>,
    /// Register lists of vector accesses, mma and ldmatrix ([`Regs`] is an index range).
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
    /// Byte offsets of values in the parameter that the kernel uses as pointers, as far as the PTX shows (`.ptr`, or a
    /// 64-bit load that reaches `cvta`). A launch checks that they are device addresses.
    pub pointers: Vec<u32>,
}

/// The first row of a register or constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(pub u32);

impl Reg {
    /// No operand, or the sink `_`.
    pub const NONE: Reg = Reg(u32::MAX);
}

/// A range of `Kernel::lists`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regs {
    pub start: u32,
    pub len: u8,
}

/// A predicate register: one mask of 32 lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pred(pub u16);

impl Pred {
    /// All ones, never written: the guard of unguarded instructions.
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

/// The value of a constant row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Constant {
    Bits32(u32),
    /// In two rows.
    Bits64(u64),
    Special(Special),
    /// Offset of a `.shared` variable as a 32-bit shared address. Dynamic shared memory: `dynamic_shared_offset`.
    Shared32(u32),
    /// The same in two rows.
    Shared64(u32),
    /// Offset of a `.local` variable in two rows; `Local32` in one.
    Local64(u32),
    Local32(u32),
    /// Device address of `Program::symbols[i]` plus a byte offset, in two rows.
    Symbol(u32, u32),
}

/// Special registers. All have 32 bits except `Clock64` and `GlobalTimer`, which take two rows and are read by
/// [`Op::ReadClock`] because they change while a warp runs.
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
