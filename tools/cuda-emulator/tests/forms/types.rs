//! PTX types, for the references.

use super::exact::{BF16, F16, F32, F64, Format};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Unsigned integers or bits of this width.
    U(u32),
    S(u32),
    F16,
    Bf16,
    F32,
    F64,
    /// Two of them in 32 bits, the low half first.
    F16x2,
    Bf16x2,
    U16x2,
    S16x2,
}

impl Type {
    pub fn of(name: &str) -> Option<Type> {
        Some(match name {
            "u8" => Type::U(8),
            "s8" => Type::S(8),
            "u16" | "b16" => Type::U(16),
            "s16" => Type::S(16),
            "u32" | "b32" => Type::U(32),
            "s32" => Type::S(32),
            "u64" | "b64" => Type::U(64),
            "s64" => Type::S(64),
            "f16" => Type::F16,
            "bf16" => Type::Bf16,
            "f32" => Type::F32,
            "f64" => Type::F64,
            "f16x2" => Type::F16x2,
            "bf16x2" => Type::Bf16x2,
            "u16x2" => Type::U16x2,
            "s16x2" => Type::S16x2,
            _ => return None,
        })
    }

    pub fn bits(self) -> u32 {
        match self {
            Type::U(bits) | Type::S(bits) => bits,
            Type::F16 | Type::Bf16 => 16,
            Type::F64 => 64,
            _ => 32,
        }
    }

    pub fn ones(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    pub fn format(self) -> Option<Format> {
        Some(match self {
            Type::F16 => F16,
            Type::Bf16 => BF16,
            Type::F32 => F32,
            Type::F64 => F64,
            _ => return None,
        })
    }

    /// The element type of a packed pair.
    pub fn half(self) -> Option<Type> {
        Some(match self {
            Type::F16x2 => Type::F16,
            Type::Bf16x2 => Type::Bf16,
            Type::U16x2 => Type::U(16),
            Type::S16x2 => Type::S(16),
            _ => return None,
        })
    }

    /// The value of an integer.
    pub fn value(self, bits: u64) -> i128 {
        match self {
            Type::S(width) => ((bits << (64 - width)) as i64 >> (64 - width)) as i128,
            _ => (bits & self.ones()) as i128,
        }
    }

    /// The range of an integer type.
    pub fn range(self) -> (i128, i128) {
        match self {
            Type::S(width) => (-(1 << (width - 1)), (1 << (width - 1)) - 1),
            _ => (0, (1 << self.bits()) - 1),
        }
    }

    /// The low bits of a value.
    pub fn wrap(self, value: i128) -> u64 {
        value as u64 & self.ones()
    }
}
