//! PTX as text → syntax tree: names and opcodes are still words, nothing is checked against a declaration.
//!
//! The grammar is that of the PTX ISA (9.0, chapters 4, 5 and 11) as far as nvcc emits it and inline assembly uses it.
//! [`parse`] never panics: whatever it does not understand is a [`SyntaxError`] with the line of the PTX text.

mod body;
mod declarations;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;
mod tokens;

pub use parser::{parse, target_of};

/// What a PTX text holds, in the order of the text.
#[derive(Debug, Default)]
pub struct Module<'a> {
    /// `.version major.minor`.
    pub version: (u32, u32),
    pub target: Target,
    /// `.file number "path"`.
    pub files: Vec<(u32, &'a str)>,
    /// Places in the source that `.loc` names; [`Statement::place`] is an index into it.
    pub places: Vec<Place>,
    /// Variables of module scope.
    pub variables: Vec<Variable<'a>>,
    pub entries: Vec<Entry<'a>>,
    pub functions: Vec<Function<'a>>,
}

/// `.target sm_90a`: 9, 0, accelerated (the `a`: code for this architecture alone).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub major: u32,
    pub minor: u32,
    pub accelerated: bool,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sm_{}{}{}", self.major, self.minor, if self.accelerated { "a" } else { "" })
    }
}

/// `.loc file line column [, function_name …, inlined_at file line column]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number that `.file` gave the file.
    pub file: u32,
    pub line: u32,
    /// Where the function that holds this line was inlined: an index into [`Module::places`].
    pub inlined_at: Option<u32>,
}

/// A kernel.
#[derive(Debug)]
pub struct Entry<'a> {
    pub name: &'a str,
    pub parameters: Vec<Variable<'a>>,
    /// `.maxntid`: the product of its numbers bounds the threads of a block.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: the block must have this shape.
    pub required_threads: Option<[u32; 3]>,
    pub body: Vec<Item<'a>>,
    /// Line of the PTX text.
    pub line: u32,
}

/// `.func (results) name (parameters)`, declared or defined.
#[derive(Debug)]
pub struct Function<'a> {
    pub name: &'a str,
    pub results: Vec<Variable<'a>>,
    pub parameters: Vec<Variable<'a>>,
    /// None for a declaration, such as that of `vprintf`.
    pub body: Option<Vec<Item<'a>>>,
}

/// A part of a body.
#[derive(Debug)]
pub enum Item<'a> {
    Label {
        name: &'a str,
        line: u32,
    },
    Registers(Registers<'a>),
    Variable(Variable<'a>),
    Statement(Statement<'a>),
    /// `name: .branchtargets label, …;`
    BranchTargets {
        name: &'a str,
        labels: Vec<&'a str>,
    },
    /// `{` and `}` inside a body: names declared between them are known only there.
    Open,
    Close,
}

/// `.reg .b32 %r<count>;` declares `%r0` … `%r(count-1)`; without a count the name itself.
#[derive(Debug)]
pub struct Registers<'a> {
    pub ty: &'a str,
    pub name: &'a str,
    pub count: Option<u32>,
    pub line: u32,
}

/// The state space of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Param,
    Global,
    Const,
    Shared,
    Local,
}

/// A variable of any space, parameters included.
#[derive(Debug)]
pub struct Variable<'a> {
    pub space: Space,
    pub name: &'a str,
    /// Bytes of one element.
    pub element: u32,
    pub align: u32,
    /// Elements: 1 without brackets, None for `[]` (`.extern .shared`: sized by the launch).
    pub count: Option<u64>,
    /// `.ptr`, or a 64-bit parameter of kind `.u64`/`.b64` that may hold an address.
    pub pointer: bool,
    pub external: bool,
    /// The bytes the initialiser gives; shorter than the variable where it leaves the rest zero.
    pub initial: Vec<u8>,
    pub line: u32,
}

impl Variable<'_> {
    /// Bytes of the whole variable (0 for `[]`).
    pub fn bytes(&self) -> u64 {
        self.count.unwrap_or(0).saturating_mul(self.element as u64)
    }
}

/// `@guard opcode operands;`
#[derive(Debug)]
pub struct Statement<'a> {
    pub guard: Option<Guard<'a>>,
    /// The mnemonic with its modifiers and types as written: `fma.rn.f32`.
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
    /// Index into [`Module::places`]; None before the first `.loc` of the body.
    pub place: Option<u32>,
    /// Line of the PTX text.
    pub line: u32,
}

/// `@%p` or `@!%p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard<'a> {
    pub predicate: &'a str,
    pub negated: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operand<'a> {
    /// A register, special register, variable or label; `_` is the sink.
    Name(&'a str),
    /// `!%p`.
    Not(&'a str),
    /// `%r1|%p1`: two results.
    Pair(&'a str, &'a str),
    /// As two's complement of 64 bits.
    Integer(i64),
    /// `0f` and eight hexadecimal digits.
    Float(u32),
    /// `0d` and sixteen hexadecimal digits, or a decimal number with a point.
    Double(u64),
    /// `{a, b, …}`.
    Vector(Vec<Operand<'a>>),
    /// `[base+offset]`.
    Address(Base<'a>, i64),
    /// `name+offset` outside brackets.
    Offset(&'a str, i64),
    /// `(a, b)`: results and arguments of a call.
    List(Vec<Operand<'a>>),
}

/// What an address counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base<'a> {
    /// A register or a variable.
    Name(&'a str),
    /// A number alone: `[16]`; it is the offset.
    Zero,
}

/// The text is not PTX, or PTX of a kind that this parser does not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the PTX text: {message}")]
pub struct SyntaxError {
    pub line: u32,
    pub message: String,
}
