//! The table of forms: every PTX instruction whose operands are registers only, one line each.
//!
//! A line holds the instruction's name, the types of its operands and its meaning for one lane:
//!
//! ```text
//! binary "add.f32" (f32, f32) -> f32 = |a, b| a + b;
//! ```
//!
//! The loader finds a form by its exact name ([`find`]), the machine runs it over a warp, and the tests demand a case for
//! each. To add a form, add its line here and its case in `tests/forms`.

mod row;

pub use row::{Kind, Lane, Row, Rows};

use crate::ir::Reg;

/// Operands of a form: destination and up to three sources ([`Reg::NONE`] where a form has fewer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operands {
    pub d: Reg,
    pub a: Reg,
    pub b: Reg,
    pub c: Reg,
}

/// Runs a form over the lanes of `mask`; the other lanes of `d` keep their value. `d` may be any of the sources.
///
/// # Safety
/// Every operand lies in the rows (two rows for 64-bit kinds), and the processor has the features of the chosen variant.
pub type Run = unsafe fn(rows: Rows, operands: Operands, mask: u32);

/// A `setp` test: the mask of the lanes for which it holds (lanes outside the active mask: anything).
///
/// # Safety
/// As [`Run`].
pub type CompareRun = unsafe fn(rows: Rows, a: Reg, b: Reg) -> u32;

/// A line of the table.
pub struct Form {
    /// Opcode with all its modifiers, as PTX writes it.
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
