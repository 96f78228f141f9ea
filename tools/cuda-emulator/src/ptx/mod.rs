//! PTX text → syntax tree. Names and opcodes stay words; nothing is checked against a declaration.
//!
//! The grammar is that of the PTX ISA (9.0, chapters 4, 5 and 11) as far as nvcc emits it and inline assembly uses it.
//! [`parse`] never panics: text that it does not understand gives a [`SyntaxError`] with the line.

mod body;
mod declarations;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;
mod tokens;

pub use parser::{parse, target_of};

/// The contents of a PTX text, in text order.
#[derive(Debug, Default)]
pub struct Module<'a> {
    /// `.version major.minor`.
    pub version: (u32, u32),
    pub target: Target,
    /// `.file number "path"`.
    pub files: Vec<(u32, &'a str)>,
    /// Source locations from `.loc`; [`Statement::location`] is an index into them.
    pub locations: Vec<Location>,
    /// Variables of module scope.
    pub variables: Vec<Variable<'a>>,
    pub entries: Vec<Entry<'a>>,
    pub functions: Vec<Function<'a>>,
}

/// `.target sm_90a`: 9, 0, accelerated (the `a`: code for this architecture only).
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
pub struct Location {
    /// The file's number from `.file`.
    pub file: u32,
    pub line: u32,
    /// The call at which the function of this line was inlined: an index into [`Module::locations`].
    pub inlined_at: Option<u32>,
}

/// A kernel.
#[derive(Debug)]
pub struct Entry<'a> {
    pub name: &'a str,
    pub parameters: Vec<Variable<'a>>,
    /// `.maxntid`: the product of the numbers limits the threads of a block.
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
    /// None for a declaration without a body, such as `vprintf`.
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
    /// `{` and `}` inside a body: names declared between them are visible only there.
    Open,
    Close,
}

/// `.reg .b32 %r<count>;` declares `%r0` … `%r(count-1)`; without a count, it declares the name itself.
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

/// A variable of any space, including parameters.
#[derive(Debug)]
pub struct Variable<'a> {
    pub space: Space,
    pub name: &'a str,
    /// Bytes of one element.
    pub element: u32,
    pub align: u32,
    /// Number of elements: 1 without brackets, None for `[]` (`.extern .shared`, whose size comes from the launch).
    pub count: Option<u64>,
    /// `.ptr`, or a 64-bit parameter of kind `.u64`/`.b64` that may hold an address.
    pub pointer: bool,
    pub external: bool,
    /// The bytes of the initialiser; the rest of the variable is zero.
    pub initial: Vec<u8>,
    pub line: u32,
}

impl Variable<'_> {
    /// Size of the whole variable in bytes (0 for `[]`).
    pub fn bytes(&self) -> u64 {
        self.count.unwrap_or(0).saturating_mul(self.element as u64)
    }
}

/// `@guard opcode operands;`
#[derive(Debug)]
pub struct Statement<'a> {
    pub guard: Option<Guard<'a>>,
    /// The mnemonic with modifiers and types, as written: `fma.rn.f32`.
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
    /// Index into [`Module::locations`]; None before the first `.loc` of the body.
    pub location: Option<u32>,
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
    /// As a 64-bit two's complement number.
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

/// The base of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base<'a> {
    /// A register or a variable.
    Name(&'a str),
    /// A number by itself: `[16]`; it is the offset.
    Zero,
}

/// The text is not PTX, or it uses PTX that this parser does not support.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the PTX text: {message}")]
pub struct SyntaxError {
    pub line: u32,
    pub message: String,
}
