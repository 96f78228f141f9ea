//! Sums of products in exact integer arithmetic: slow, and without floating point except for the model that uses it.

use cuda_emulator::tensor_core::Model;

/// A floating point type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    fraction: u32,
    exponent: u32,
    /// Unused low bits of a value in its register.
    unused: u32,
}

impl Input {
    pub const BF16: Input = Input { fraction: 7, exponent: 8, unused: 0 };
    pub const F16: Input = Input { fraction: 10, exponent: 5, unused: 0 };
    pub const TF32: Input = Input { fraction: 10, exponent: 8, unused: 13 };
    pub const F32: Input = Input { fraction: 23, exponent: 8, unused: 0 };

    /// The bits of a value that the type can represent exactly.
    pub fn bits(self, x: f32) -> u32 {
        match self {
            Input::BF16 => x.to_bits() >> 16,
            Input::F16 => half::f16::from_f32(x).to_bits() as u32,
            _ => x.to_bits(),
        }
    }

    /// Sign, exact digits, exponent of the last digit, and exponent of the leading digit of normal numbers.
    fn decode(self, bits: u32) -> Term {
        let bits = bits >> self.unused;
        let field = (bits >> self.fraction & ((1 << self.exponent) - 1)) as i32;
        let fraction = (bits & ((1 << self.fraction) - 1)) as i128;
        let negative = bits >> (self.fraction + self.exponent) & 1 != 0;
        let digits = if field == 0 { fraction } else { fraction | 1 << self.fraction };
        let top = field.max(1) - ((1 << (self.exponent - 1)) - 1);
        Term { digits: if negative { -digits } else { digits }, last: top - self.fraction as i32, top }
    }

    /// A finite random number whose exponent is at most `spread` from that of one; rarely a zero. Unused bits are not
    /// zero.
    pub fn draw(self, sequence: &mut Sequence, spread: u64) -> u32 {
        let draw = sequence.draw();
        if draw.is_multiple_of(29) {
            return 0;
        }
        let bias = (1_i64 << (self.exponent - 1)) - 1;
        let away = (draw >> 40) % (2 * spread + 1);
        let field = (bias + away as i64 - spread as i64).clamp(0, 2 * bias) as u32;
        let fraction = (draw >> 8) as u32 & ((1 << self.fraction) - 1);
        let sign = (draw & 1) as u32;
        let bits = (sign << self.exponent | field) << self.fraction | fraction;
        bits << self.unused | (draw >> 33) as u32 & ((1 << self.unused) - 1)
    }
}

/// `digits × 2^last`, aligned by `top`.
#[derive(Clone, Copy)]
struct Term {
    digits: i128,
    last: i32,
    top: i32,
}

/// A row times a column plus an accumulator. Returns the bits of the result; every NaN becomes the one that the crate
/// returns.
pub fn sum(model: Model, input: Input, block: usize, narrow: bool, a: &[u32], b: &[u32], c: u32) -> u32 {
    let sum_type = if narrow { Input::F16 } else { Input::F32 };
    let mut c = c;
    let (fraction, block) = match model {
        Model::Ampere => (24, block),
        Model::Hopper => (25, block),
        Model::Fma => {
            let value = |term: Term| term.digits as f64 * 2.0_f64.powi(term.last);
            let mut total = value(sum_type.decode(c)) as f32;
            for (a, b) in a.iter().zip(b) {
                total = (value(input.decode(*a)) as f32).mul_add(value(input.decode(*b)) as f32, total);
            }
            let bits = if total.is_nan() { 0x7fff_ffff } else { total.to_bits() };
            return if narrow { to_f16(bits) } else { bits };
        }
    };
    for (a, b) in a.chunks(block).zip(b.chunks(block)) {
        if sum_type.is_infinite(c) {
            return c;
        }
        let mut terms = vec![sum_type.decode(c)];
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (input.decode(*a), input.decode(*b));
            terms.push(Term { digits: a.digits * b.digits, last: a.last + b.last, top: a.top + b.top });
        }
        c = block_sum(&terms, fraction);
        if narrow {
            c = to_f16(c);
        }
    }
    c
}

impl Input {
    fn is_infinite(self, bits: u32) -> bool {
        bits >> self.fraction & ((1 << self.exponent) - 1) == (1 << self.exponent) - 1
    }
}

/// Aligns the terms to the largest exponent of the nonzero ones, truncates, adds, and truncates to f32.
fn block_sum(terms: &[Term], fraction: i32) -> u32 {
    let Some(top) = terms.iter().filter(|term| term.digits != 0).map(|term| term.top).max() else { return 0 };
    let unit = top - fraction;
    let mut total = 0_i128;
    for term in terms {
        let magnitude = term.digits.abs();
        let cut = match term.last - unit {
            up @ 0.. => {
                if magnitude == 0 {
                    0
                } else {
                    magnitude << up
                }
            }
            down => {
                if down < -100 {
                    0
                } else {
                    magnitude >> -down
                }
            }
        };
        total += if term.digits < 0 { -cut } else { cut };
    }
    cut_to_f32(total, unit)
}

/// `total × 2^unit`, rounded towards zero, but to infinity above the largest number.
fn cut_to_f32(total: i128, unit: i32) -> u32 {
    let sign = if total < 0 { 0x8000_0000 } else { 0 };
    let magnitude = total.unsigned_abs();
    if magnitude == 0 {
        return 0;
    }
    let leading = 127 - magnitude.leading_zeros() as i32 + unit;
    if leading > 127 {
        return sign | 0x7f80_0000;
    }
    let last = (leading - 23).max(-149);
    let kept = if last >= unit { magnitude >> (last - unit).min(127) } else { magnitude << (unit - last) } as u32;
    // The leading bit of a normal number adds one to its exponent field.
    let field = if kept >> 23 != 0 { (last + 149) as u32 } else { 0 };
    sign | ((field << 23) + kept)
}

/// Rounds an exact value to the nearest f16.
fn to_f16(bits: u32) -> u32 {
    let x = f32::from_bits(bits);
    if x.is_nan() { 0x7fff } else { half::f16::from_f32(x).to_bits() as u32 }
}

/// A fixed random sequence.
pub struct Sequence(u64);

impl Sequence {
    pub fn new(seed: u64) -> Sequence {
        Sequence(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = self.0 ^ self.0 >> 29;
        x.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ x >> 32
    }
}
