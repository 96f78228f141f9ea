//! The registers of a warp: rows of 32 lanes.

use half::{bf16, f16};

use crate::ir::Reg;

/// One 32-bit value per lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Row(pub [u32; 32]);

impl Row {
    pub const ZERO: Row = Row([0; 32]);
}

/// An operand type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 16 bits in the low half of a row.
    Bits16,
    /// One row.
    Bits32,
    /// Two rows.
    Bits64,
}

impl Kind {
    pub fn rows(self) -> u32 {
        if self == Kind::Bits64 { 2 } else { 1 }
    }
}

/// A value that fits into one lane of a register.
pub trait Lane: Copy {
    const KIND: Kind;
    /// The storage type in the register file: u32 (one row) or u64 (two rows).
    type Bits: Copy + Default;
    fn from_bits(bits: Self::Bits) -> Self;
    fn to_bits(self) -> Self::Bits;
}

macro_rules! lanes {
    ($($type:ty, $kind:ident, $bits:ty, |$from:ident| $value:expr, |$to:ident| $back:expr;)*) => {$(
        impl Lane for $type {
            const KIND: Kind = Kind::$kind;
            type Bits = $bits;
            #[inline(always)]
            fn from_bits($from: $bits) -> Self {
                $value
            }
            #[inline(always)]
            fn to_bits(self) -> $bits {
                let $to = self;
                $back
            }
        }
    )*};
}

lanes! {
    u8, Bits16, u32, |x| x as u8, |x| x as u32;
    i8, Bits16, u32, |x| x as i8, |x| x as i16 as u16 as u32;
    u16, Bits16, u32, |x| x as u16, |x| x as u32;
    i16, Bits16, u32, |x| x as i16, |x| x as u16 as u32;
    f16, Bits16, u32, |x| f16::from_bits(x as u16), |x| f16::to_bits(x) as u32;
    bf16, Bits16, u32, |x| bf16::from_bits(x as u16), |x| bf16::to_bits(x) as u32;
    u32, Bits32, u32, |x| x, |x| x;
    i32, Bits32, u32, |x| x as i32, |x| x as u32;
    f32, Bits32, u32, |x| f32::from_bits(x), |x| f32::to_bits(x);
    u64, Bits64, u64, |x| x, |x| x;
    i64, Bits64, u64, |x| x as i64, |x| x as u64;
    f64, Bits64, u64, |x| f64::from_bits(x), |x| f64::to_bits(x);
}

/// A warp's register file, for the forms.
#[derive(Clone, Copy)]
pub struct Rows {
    first: *mut Row,
    len: u32,
}

impl Rows {
    pub fn new(rows: &mut [Row]) -> Self {
        Rows { first: rows.as_mut_ptr(), len: rows.len() as u32 }
    }

    /// The 32 values of a register, as stored.
    ///
    /// # Safety
    /// The register (both rows of a 64-bit kind) is inside the file, the file is alive, and no other reference to it is
    /// in use.
    #[inline(always)]
    pub unsafe fn read<T: Lane>(self, reg: Reg) -> [T::Bits; 32] {
        debug_assert!(reg.0 + T::KIND.rows() <= self.len);
        // SAFETY: guaranteed by the caller; rows are aligned to 64 bytes, and a row pair is 256 bytes of plain
        // integers.
        unsafe { *(self.first.add(reg.0 as usize) as *const [T::Bits; 32]) }
    }

    /// A pointer to the 32 values of a register.
    ///
    /// # Safety
    /// As for [`Rows::read`].
    #[inline(always)]
    pub unsafe fn at<T: Lane>(self, reg: Reg) -> *mut [T::Bits; 32] {
        debug_assert!(reg.0 + T::KIND.rows() <= self.len);
        // SAFETY: guaranteed by the caller.
        unsafe { self.first.add(reg.0 as usize) as *mut [T::Bits; 32] }
    }
}
