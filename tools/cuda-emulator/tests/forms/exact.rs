//! Exact arithmetic for the references: numbers of any length, rounded once. Slow and simple; shares no code with the
//! crate.

use std::cmp::Ordering;

/// Rounding modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    NearestEven,
    NearestAway,
    Zero,
    Down,
    Up,
}

/// A binary floating point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bits of the stored fraction.
    pub fraction: u32,
    /// Bits of the exponent.
    pub exponent: u32,
    pub nan: u64,
}

pub const F16: Format = Format { fraction: 10, exponent: 5, nan: 0x7fff };
pub const BF16: Format = Format { fraction: 7, exponent: 8, nan: 0x7fff };
pub const F32: Format = Format { fraction: 23, exponent: 8, nan: 0x7fff_ffff };
pub const F64: Format = Format { fraction: 52, exponent: 11, nan: 0xfff8_0000_0000_0000 };
/// The top bits of an f32.
pub const TF32: Format = Format { fraction: 10, exponent: 8, nan: 0x3ffff };

impl Format {
    fn bias(self) -> i64 {
        (1 << (self.exponent - 1)) - 1
    }

    /// Exponent of the last bit of subnormals.
    fn least(self) -> i64 {
        1 - self.bias() - self.fraction as i64
    }

    pub fn sign(self) -> u64 {
        1 << (self.fraction + self.exponent)
    }

    pub fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }

    pub fn one(self) -> u64 {
        (self.bias() as u64) << self.fraction
    }

    pub fn is_nan(self, bits: u64) -> bool {
        bits & (self.sign() - 1) > self.infinity()
    }

    pub fn is_subnormal(self, bits: u64) -> bool {
        let magnitude = bits & (self.sign() - 1);
        magnitude != 0 && magnitude < 1 << self.fraction
    }

    /// Flushes a subnormal to a zero with the same sign.
    pub fn flush(self, bits: u64) -> u64 {
        if self.is_subnormal(bits) { bits & self.sign() } else { bits }
    }

    pub fn decode(self, bits: u64) -> Number {
        let negative = bits & self.sign() != 0;
        let field = (bits >> self.fraction & ((1 << self.exponent) - 1)) as i64;
        let fraction = bits & ((1 << self.fraction) - 1);
        if field == (1 << self.exponent) - 1 {
            return if fraction == 0 { Number::Infinity(negative) } else { Number::Nan };
        }
        let whole = if field == 0 { fraction } else { fraction | 1 << self.fraction };
        Number::Finite(Real { negative, digits: Digits::of(whole as u128), exponent: self.least() + field.max(1) - 1 })
    }

    pub fn encode(self, number: Number, mode: Mode) -> u64 {
        match number {
            Number::Nan => self.nan,
            Number::Infinity(negative) => self.infinity() | if negative { self.sign() } else { 0 },
            Number::Finite(real) => self.round(&real, mode),
        }
    }

    /// Rounds to one of the two nearest numbers of the format, according to the mode.
    fn round(self, x: &Real, mode: Mode) -> u64 {
        let sign = if x.negative { self.sign() } else { 0 };
        let length = x.digits.length() as i64;
        if length == 0 {
            return sign;
        }
        // The last bit of the result, and the bits below it.
        let last = (x.exponent + length - 1 - self.fraction as i64).max(self.least());
        let below = last - x.exponent;
        let (kept, half, rest) = if below <= 0 {
            (x.digits.shifted_left(-below as usize).to_u64(), false, false)
        } else {
            let below = below as usize;
            (x.digits.bits(below, below + 64), x.digits.bit(below - 1), x.digits.any_below(below - 1))
        };
        let up = match mode {
            Mode::NearestEven => half && (rest || kept % 2 == 1),
            Mode::NearestAway => half,
            Mode::Zero => false,
            Mode::Down => x.negative && (half || rest),
            Mode::Up => !x.negative && (half || rest),
        };
        let (mut kept, mut last) = (kept + up as u64, last);
        if kept == 1 << (self.fraction + 1) {
            (kept, last) = (kept / 2, last + 1);
        }
        let is_normal = kept >= 1 << self.fraction;
        let field = if is_normal { (last - self.least() + 1) as u64 } else { 0 };
        let magnitude = (field << self.fraction) + (kept & ((1 << self.fraction) - 1));
        if field < (1 << self.exponent) - 1 {
            return sign | magnitude;
        }
        let to_infinity = match mode {
            Mode::NearestEven | Mode::NearestAway => true,
            Mode::Zero => false,
            Mode::Down => x.negative,
            Mode::Up => !x.negative,
        };
        sign | if to_infinity { self.infinity() } else { self.infinity() - 1 }
    }
}

/// A value of a floating point type.
#[derive(Clone, Debug)]
pub enum Number {
    Nan,
    /// Whether it is negative.
    Infinity(bool),
    Finite(Real),
}

/// `± digits × 2^exponent`, exact; zeros have signs.
#[derive(Clone, Debug)]
pub struct Real {
    pub negative: bool,
    pub digits: Digits,
    pub exponent: i64,
}

impl Real {
    pub fn integer(x: i128) -> Real {
        Real { negative: x < 0, digits: Digits::of(x.unsigned_abs()), exponent: 0 }
    }

    pub fn is_zero(&self) -> bool {
        self.digits.length() == 0
    }

    pub fn times(&self, other: &Real) -> Real {
        Real {
            negative: self.negative != other.negative,
            digits: Digits::of(self.digits.to_u64() as u128 * other.digits.to_u64() as u128),
            exponent: self.exponent + other.exponent,
        }
    }

    /// Both as multiples of the same power of two.
    fn aligned(&self, other: &Real) -> (Digits, Digits, i64) {
        let exponent = self.exponent.min(other.exponent);
        let shift = |x: &Real| x.digits.shifted_left((x.exponent - exponent) as usize);
        (shift(self), shift(other), exponent)
    }

    /// An exact zero from operands of different signs is -0 when rounding down, else +0.
    pub fn plus(&self, other: &Real, mode: Mode) -> Real {
        if self.is_zero() && other.is_zero() {
            let negative = if self.negative == other.negative { self.negative } else { mode == Mode::Down };
            return Real { negative, digits: Digits::of(0), exponent: 0 };
        }
        let (a, b, exponent) = self.aligned(other);
        if self.negative == other.negative {
            return Real { negative: self.negative, digits: a.plus(&b), exponent };
        }
        match a.compare(&b) {
            Ordering::Greater => Real { negative: self.negative, digits: a.minus(&b), exponent },
            Ordering::Less => Real { negative: other.negative, digits: b.minus(&a), exponent },
            Ordering::Equal => Real { negative: mode == Mode::Down, digits: Digits::of(0), exponent },
        }
    }

    /// The quotient to 130 bits plus a sticky bit; neither operand is zero.
    pub fn over(&self, other: &Real) -> Real {
        let (mut rest, divisor) = (self.digits.to_u64() as u128, other.digits.to_u64() as u128);
        let mut quotient = Digits::of(rest / divisor);
        rest %= divisor;
        for _ in 0..130 {
            rest *= 2;
            let digit = (rest >= divisor) as u128;
            rest -= digit * divisor;
            quotient = quotient.shifted_left(1).plus(&Digits::of(digit));
        }
        let digits = quotient.shifted_left(1).plus(&Digits::of((rest != 0) as u128));
        Real { negative: self.negative != other.negative, digits, exponent: self.exponent - other.exponent - 131 }
    }

    /// The square root of a positive number, also with a sticky bit; the digits are searched bit by bit.
    pub fn root(&self) -> Real {
        // 119 or 120 bits, so that the root has 60 bits; the exponent must be even.
        let mut shift = 120 - self.digits.length() as i64;
        shift -= (self.exponent - shift).rem_euclid(2);
        let square = (self.digits.to_u64() as u128) << shift;
        let mut root = 0_u128;
        for bit in (0..64).rev() {
            let tried = root | 1 << bit;
            if tried.checked_mul(tried).is_some_and(|x| x <= square) {
                root = tried;
            }
        }
        let digits = Digits::of(root << 1 | (root * root != square) as u128);
        Real { negative: false, digits, exponent: (self.exponent - shift) / 2 - 1 }
    }

    pub fn compare(&self, other: &Real) -> Ordering {
        if self.is_zero() && other.is_zero() {
            return Ordering::Equal;
        }
        let (a, b, _) = self.aligned(other);
        match (self.negative && !self.is_zero(), other.negative && !other.is_zero()) {
            (false, false) => a.compare(&b),
            (true, true) => b.compare(&a),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }

    /// Rounds to an integer and clamps to the range.
    pub fn to_integer(&self, mode: Mode, range: (i128, i128)) -> i128 {
        let magnitude = if self.exponent >= 0 {
            // Far outside every range, but inside that of i128.
            if self.digits.length() as i64 + self.exponent > 100 {
                1 << 100
            } else {
                (self.digits.to_u64() as i128) << self.exponent
            }
        } else {
            let below = -self.exponent as usize;
            let kept = self.digits.bits(below, below + 64) as i128;
            let (half, rest) = (self.digits.bit(below - 1), self.digits.any_below(below - 1));
            let up = match mode {
                Mode::NearestEven => half && (rest || kept % 2 == 1),
                Mode::NearestAway => half,
                Mode::Zero => false,
                Mode::Down => self.negative && (half || rest),
                Mode::Up => !self.negative && (half || rest),
            };
            kept + up as i128
        };
        (if self.negative { -magnitude } else { magnitude }).clamp(range.0, range.1)
    }
}

/// A natural number, lowest 32 bits first, without leading zeros.
#[derive(Clone, Debug)]
pub struct Digits(Vec<u32>);

impl Digits {
    pub fn of(mut x: u128) -> Digits {
        let mut limbs = Vec::new();
        while x != 0 {
            limbs.push(x as u32);
            x >>= 32;
        }
        Digits(limbs)
    }

    fn length(&self) -> usize {
        self.0.last().map_or(0, |top| self.0.len() * 32 - top.leading_zeros() as usize)
    }

    fn bit(&self, at: usize) -> bool {
        self.0.get(at / 32).is_some_and(|limb| limb >> (at % 32) & 1 != 0)
    }

    fn any_below(&self, end: usize) -> bool {
        let whole = (end / 32).min(self.0.len());
        self.0[..whole].iter().any(|limb| *limb != 0) || (32 * whole..end).any(|at| self.bit(at))
    }

    /// At most 64 bits from `start`.
    fn bits(&self, start: usize, end: usize) -> u64 {
        (start..end.min(self.length())).rev().fold(0, |x, at| x << 1 | self.bit(at) as u64)
    }

    fn to_u64(&self) -> u64 {
        assert!(self.0.len() <= 2);
        self.bits(0, 64)
    }

    fn shifted_left(&self, n: usize) -> Digits {
        if self.0.is_empty() {
            return self.clone();
        }
        let mut limbs = vec![0; n / 32];
        let mut carry = 0_u64;
        for limb in &self.0 {
            let x = (*limb as u64) << (n % 32) | carry;
            limbs.push(x as u32);
            carry = x >> 32;
        }
        limbs.push(carry as u32);
        Digits(limbs).trimmed()
    }

    fn trimmed(mut self) -> Digits {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    fn plus(&self, other: &Digits) -> Digits {
        let mut limbs = Vec::new();
        let mut carry = 0_u64;
        for i in 0..self.0.len().max(other.0.len()) + 1 {
            let limb = |x: &Digits| x.0.get(i).copied().unwrap_or(0) as u64;
            let x = limb(self) + limb(other) + carry;
            limbs.push(x as u32);
            carry = x >> 32;
        }
        Digits(limbs).trimmed()
    }

    /// The difference; `other` must be smaller.
    fn minus(&self, other: &Digits) -> Digits {
        let mut limbs = Vec::new();
        let mut borrow = 0_i64;
        for (i, limb) in self.0.iter().enumerate() {
            let x = *limb as i64 - other.0.get(i).copied().unwrap_or(0) as i64 - borrow;
            limbs.push(x as u32);
            borrow = (x < 0) as i64;
        }
        Digits(limbs).trimmed()
    }

    fn compare(&self, other: &Digits) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }
}
