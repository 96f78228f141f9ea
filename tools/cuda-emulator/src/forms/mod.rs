//! The table of forms: every PTX instruction whose operands are registers only, one line each.
//!
//! A line contains the instruction's name, its operand types and what it does in one lane:
//!
//! ```text
//! "sad.u32" => (a: u32, b: u32, c: u32) -> u32 { c.wrapping_add(a.abs_diff(b)) }
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `integer`, `bits`, `float32`, `float64`, `half`, `approximate`, `convert`, `compare` | the lines, by family |
//! | `line` | the loop over the lanes, and the macros that make lines |
//! | `rounding` | rounding modes, NaN, flushing |
//! | `row` | rows of registers, and the types of lanes |
//!
//! A `mov` between registers is looked up as `mov.b16`, `mov.b32` or `mov.b64` for all types of that width. With
//! vectors it becomes `pack.b32.b16` (b16, b16) -> b32, `pack.b64.b32` (first part low), `unpack.b16.b32.low`,
//! `unpack.b16.b32.high`, `unpack.b32.b64.low`, `unpack.b32.b64.high`, which do not occur in PTX texts. `bfi` has four
//! sources; the fourth source of `lop3` is its table (a row with the same value in all lanes).
//!
//! The loader finds a form by its exact name ([`find`]), the machine runs it over a warp, and the tests require a
//! reference for each form. To add a form, add its line to the file of its family and its meaning to the reference in
//! `tests/forms` (`every_form_has_a_reference` fails until it is there), with a case or two in `by_hand`.
//!
//! Where the ISA leaves details open: NaN results are canonical (f32 0x7fffffff, 16-bit types 0x7fff, f64
//! 0xfff8000000000000); `.ftz` looks at the rounded result; approximations are nearly exact (see `approximate`);
//! integer division by zero returns all ones, and the dividend as the remainder.

mod approximate;
mod bits;
mod compare;
mod convert;
mod float32;
mod float64;
mod half;
mod integer;
mod line;
pub(crate) mod rounding;
mod row;

use std::collections::HashMap;
use std::sync::OnceLock;

pub use line::Level;
pub use row::{Kind, Lane, Row, Rows};

use self::line::{CompareLine, Line};
use crate::ir::Reg;

/// Operands of a form: destination and up to four sources ([`Reg::NONE`] for unused ones). Only `bfi` and `lop3` (its
/// table) use the fourth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operands {
    pub d: Reg,
    pub a: Reg,
    pub b: Reg,
    pub c: Reg,
    pub e: Reg,
}

/// Runs a form in the lanes of `mask`; the other lanes of `d` keep their value. `d` may be one of the sources.
///
/// # Safety
/// All operands must be inside the rows (two rows for 64-bit kinds), and the processor must support the chosen variant.
pub type Run = unsafe fn(rows: Rows, operands: Operands, mask: u32);

/// A `setp` test: the mask of the lanes in which it is true (lanes outside the active mask may have any value).
///
/// # Safety
/// See [`Run`].
pub type CompareRun = unsafe fn(rows: Rows, a: Reg, b: Reg) -> u32;

/// A line of the table, for this processor.
pub struct Form {
    /// Opcode with all modifiers, in PTX syntax.
    pub name: &'static str,
    /// Kinds of the destination and the sources, in order.
    pub operands: &'static [Kind],
    pub run: Run,
}

/// A `setp` form, by its name without a boolean operator: `setp.lt.f32`.
pub struct CompareForm {
    pub name: &'static str,
    pub operand: Kind,
    pub run: CompareRun,
}

/// Both tables, by name.
pub struct Table {
    forms: HashMap<&'static str, Form>,
    comparisons: HashMap<&'static str, CompareForm>,
}

impl Table {
    /// The forms for this level.
    ///
    /// # Safety
    /// The processor supports the level, or no form of the table is run.
    pub unsafe fn new(level: Level) -> Table {
        let of_line = |line: &Line| {
            let form = Form { name: line.name, operands: line.operands, run: line.run[level as usize] };
            (line.name, form)
        };
        let of_comparison = |line: &CompareLine| {
            let form = CompareForm { name: line.name, operand: line.operand, run: line.run[level as usize] };
            (line.name, form)
        };
        let comparisons = compare::COMPARISONS.iter().copied().flatten().map(of_comparison).collect();
        Table { forms: lines().map(of_line).collect(), comparisons }
    }

    pub fn find(&self, name: &str) -> Option<&Form> {
        self.forms.get(name)
    }

    pub fn find_compare(&self, name: &str) -> Option<&CompareForm> {
        self.comparisons.get(name)
    }

    /// Names of all forms, unordered.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.forms.keys().chain(self.comparisons.keys()).copied()
    }
}

fn lines() -> impl Iterator<Item = &'static Line> {
    let families = [
        integer::FAMILIES,
        bits::FAMILIES,
        float32::FAMILIES,
        float64::FAMILIES,
        half::FAMILIES,
        approximate::FAMILIES,
        approximate::MORE,
    ];
    families.into_iter().chain(convert::FAMILIES.iter().copied()).flatten().copied().flatten()
}

/// The table for this processor's highest level.
pub fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    // SAFETY: the processor supports the detected level.
    TABLE.get_or_init(|| unsafe { Table::new(Level::detect()) })
}

/// The form of this exact name.
pub fn find(name: &str) -> Option<&'static Form> {
    table().find(name)
}

/// The `setp` form of this exact name, without a boolean operator.
pub fn find_compare(name: &str) -> Option<&'static CompareForm> {
    table().find_compare(name)
}
