//! Sixteen f32 lanes on AVX-512, AVX2 + FMA or plain Rust: the same bits on all three.
//!
//! Inner loops are written once, generic over [`Simd`], and run at the level that this machine has:
//!
//! ```text
//! struct Scale<'a> { x: &'a mut [f32], by: f32 }
//! impl WithSimd for Scale<'_> {
//!     type Output = ();
//!     #[inline(always)]
//!     fn run<S: Simd>(self, s: S) { /* s.load(..), s.mul(..) */ }
//! }
//! simd::run(Scale { x, by });
//! ```
//!
//! Every operation is exactly rounded (`mul_add` rounds once at every level), and [`Simd::sum`] adds lanes in one fixed
//! tree, so a result never depends on the level. Keep inner loops `#[inline(always)]`, all the way down: the instructions of
//! a level may only be used inside the one function that enables them. A closure is a separate function that need not be
//! inlined: keep vector work out of closures (`from_fn` and `for_each` too), or every instruction is a call.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

/// Lanes of a vector, at every level.
pub const LANES: usize = 16;

/// What this machine can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Portable,
    Avx2,
    Avx512,
}

impl Level {
    /// The CPU features that it needs; `portable` for none.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2+fma",
            Self::Avx512 => "avx512f",
        }
    }

    /// Levels that this machine has, the best one last.
    pub fn available() -> Vec<Level> {
        #[allow(unused_mut)]
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                levels.push(Self::Avx2);
                if is_x86_feature_detected!("avx512f") {
                    levels.push(Self::Avx512);
                }
            }
        }
        levels
    }
}

/// The level in use: the best that the machine has, or the one named by `PATARM_SIMD` (portable, avx2, avx512) if lower.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let best = *Level::available().last().expect("the portable level is always there");
        match std::env::var("PATARM_SIMD").as_deref() {
            Ok("portable") => Level::Portable,
            Ok("avx2") => best.min(Level::Avx2),
            _ => best,
        }
    })
}

/// An inner loop, generic over the level it runs at.
pub trait WithSimd {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs an inner loop at the machine's level.
#[inline]
pub fn run<F: WithSimd>(f: F) -> F::Output {
    run_at(level(), f)
}

/// Runs an inner loop at a given level, which must be one of [`Level::available`]: for tests of bit-equality.
#[inline]
pub fn run_at<F: WithSimd>(level: Level, f: F) -> F::Output {
    match level {
        // Safety: `Level::available` found the instructions on this machine, and `level` is one of those.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::run_avx512(f) },
        // Safety: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::run_avx2(f) },
        _ => f.run(Portable),
    }
}

/// Prefetches the cache line at `at` into the first-level cache. Any address is valid: nothing is read.
#[inline(always)]
pub fn prefetch_l1(at: *const f32) {
    // Safety: a hint, which no address makes fault; SSE is part of x86-64.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Prefetches into the second-level cache.
#[inline(always)]
pub fn prefetch_l2(at: *const f32) {
    // Safety: as above.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Sixteen lanes of f32. Methods that take memory panic when the slice is shorter than sixteen.
pub trait Simd: Copy {
    type V: Copy;
    /// Vectors of sixteen lanes that the registers hold.
    const REGISTERS: usize;

    /// Runs an inner loop at this level as a separate function, so that the caller's constants hold none of its registers.
    fn call<F: WithSimd>(self, f: F) -> F::Output;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32]) -> Self::V;
    fn store(self, to: &mut [f32], v: Self::V);
    /// # Safety
    /// Sixteen f32 must be readable at `from`; no alignment is needed.
    unsafe fn load_ptr(self, from: *const f32) -> Self::V;
    /// # Safety
    /// Sixteen f32 must be writable at `to`; no alignment is needed.
    unsafe fn store_ptr(self, to: *mut f32, v: Self::V);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of each lane; `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each lane; `b` if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `value` if `x >= limit` or either is NaN, otherwise 0.
    fn zero_below(self, value: Self::V, x: Self::V, limit: Self::V) -> Self::V;
    /// The bits of `p` plus (the bits of `t` shifted left by 23): p · 2ⁿ where t = n + 1.5·2²³.
    fn add_exponent(self, p: Self::V, t: Self::V) -> Self::V;
    /// x = m · 2ᵉ with m in [√½, √2), exactly, for positive normal x: (m, e).
    fn split_exponent(self, x: Self::V) -> (Self::V, Self::V);
    fn to_array(self, v: Self::V) -> [f32; LANES];

    /// Transposes 16 × 16: element j of row i of `from` becomes element i of row j of `to`.
    ///
    /// # Safety
    /// Sixteen rows of sixteen f32, `from_row` and `to_row` elements apart, must be readable at `from` and writable at `to`.
    unsafe fn transpose(self, from: *const f32, from_row: usize, to: *mut f32, to_row: usize);

    /// The first `from.len()` ≤ 16 lanes from memory, the rest `fill`.
    #[inline(always)]
    fn load_part(self, from: &[f32], fill: f32) -> Self::V {
        let mut lanes = [fill; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    /// The first `to.len()` ≤ 16 lanes to memory.
    #[inline(always)]
    fn store_part(self, to: &mut [f32], v: Self::V) {
        let lanes = self.to_array(v);
        let n = to.len();
        to.copy_from_slice(&lanes[..n]);
    }

    /// Sum of the lanes in a fixed tree: halves folded onto each other, 16 → 8 → 4 → 2 → 1.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let a = self.to_array(v);
        let b: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
        let c: [f32; 4] = std::array::from_fn(|i| b[i] + b[i + 4]);
        (c[0] + c[2]) + (c[1] + c[3])
    }

    /// Scaled dot products of a vector with rows of its length: `out[i]` is of the row that begins `offsets[i]` after `from`.
    /// Each lane is one multiplication and then a chain of multiply-adds, then the tree of [`sum`](Self::sum), and the scale.
    /// Rows are taken sixteen at a time: `offsets` and `out` have whole blocks of them.
    ///
    /// # Safety
    /// As many f32 as `x` has must be readable from `from` plus every offset on.
    #[inline(always)]
    unsafe fn dots(self, x: &[[f32; LANES]], from: *const f32, offsets: &[usize], scale: f32, out: &mut [f32]) {
        for (out, offset) in out.iter_mut().zip(offsets) {
            // Safety: passed on.
            let mut lanes = self.mul(self.load(&x[0]), unsafe { self.load_ptr(from.add(*offset)) });
            for (c, x) in x.iter().enumerate().skip(1) {
                // Safety: passed on.
                lanes = self.mul_add(self.load(x), unsafe { self.load_ptr(from.add(offset + c * LANES)) }, lanes);
            }
            *out = self.sum(lanes) * scale;
        }
    }

    /// The largest lane, found in the tree of `sum`; of two lanes the later one if either is NaN.
    #[inline(always)]
    fn max_lane(self, v: Self::V) -> f32 {
        fn larger(a: f32, b: f32) -> f32 {
            if a > b { a } else { b }
        }
        let a = self.to_array(v);
        let b: [f32; 8] = std::array::from_fn(|i| larger(a[i], a[i + 8]));
        let c: [f32; 4] = std::array::from_fn(|i| larger(b[i], b[i + 4]));
        larger(larger(c[0], c[2]), larger(c[1], c[3]))
    }

    /// eˣ within 2 ulp; 0 below −87.3, at most e^88.3 above.
    ///
    /// x = n·ln 2 + r with |r| ≤ ln 2 / 2 (Cody–Waite), a polynomial of degree 6 for eʳ, then n into the exponent.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        let limit = self.splat(-87.3);
        // This order of operands lets NaN through.
        let clamped = self.min(self.splat(88.3), self.max(limit, x));
        let magic = self.splat(12_582_912.0);
        let t = self.mul_add(clamped, self.splat(std::f32::consts::LOG2_E), magic);
        let n = self.sub(t, magic);
        let r = self.mul_add(n, self.splat(-0.693_359_4), clamped);
        let r = self.mul_add(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.0 / 720.0);
        for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = self.mul_add(p, r, self.splat(c));
        }
        self.zero_below(self.add_exponent(p, t), x, limit)
    }

    /// ln x for positive normal x, within 3 ulp (near 1 too: the mantissa is exact there).
    ///
    /// x = m·2ᵉ with m in [√½, √2); ln m = 2·atanh(s), s = (m − 1)/(m + 1), an odd series in s.
    #[inline(always)]
    fn ln(self, x: Self::V) -> Self::V {
        let one = self.splat(1.0);
        let (m, e) = self.split_exponent(x);
        let s = self.div(self.sub(m, one), self.add(m, one));
        let s2 = self.mul(s, s);
        let mut p = self.splat(2.0 / 11.0);
        for c in [2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0] {
            p = self.mul_add(p, s2, self.splat(c));
        }
        self.mul_add(e, self.splat(std::f32::consts::LN_2), self.mul(p, s))
    }
}

/// The bits of √½: where a mantissa is split from its exponent.
const SQRT_HALF_BITS: u32 = 0x3f35_04f3;

/// Plain Rust, lane by lane.
#[derive(Clone, Copy)]
pub struct Portable;

#[inline(always)]
fn lanes(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

impl Simd for Portable {
    type V = [f32; LANES];
    const REGISTERS: usize = 4;

    #[inline(always)]
    fn call<F: WithSimd>(self, f: F) -> F::Output {
        f.run(self)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::V {
        lanes(|i| from[i])
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], v: Self::V) {
        to[..LANES].copy_from_slice(&v);
    }
    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> Self::V {
        // Safety: the caller guarantees sixteen readable f32.
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, v: Self::V) {
        // Safety: the caller guarantees sixteen writable f32.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        lanes(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        lanes(|i| a[i].sqrt())
    }
    #[inline(always)]
    fn zero_below(self, value: Self::V, x: Self::V, limit: Self::V) -> Self::V {
        lanes(|i| if x[i] < limit[i] { 0.0 } else { value[i] })
    }
    #[inline(always)]
    fn add_exponent(self, p: Self::V, t: Self::V) -> Self::V {
        lanes(|i| f32::from_bits(p[i].to_bits().wrapping_add(t[i].to_bits() << 23)))
    }
    #[inline(always)]
    fn split_exponent(self, x: Self::V) -> (Self::V, Self::V) {
        let exponent = |x: f32| x.to_bits().wrapping_sub(SQRT_HALF_BITS) as i32 >> 23;
        let m = lanes(|i| f32::from_bits(x[i].to_bits().wrapping_sub((exponent(x[i]) << 23) as u32)));
        (m, lanes(|i| exponent(x[i]) as f32))
    }
    #[inline(always)]
    fn to_array(self, v: Self::V) -> [f32; LANES] {
        v
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        for j in 0..LANES {
            for i in 0..LANES {
                // Safety: i and j are below sixteen.
                unsafe { *to.add(j * to_row + i) = *from.add(i * from_row + j) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Unary<'a> {
        x: &'a [f32],
        ln: bool,
    }

    impl WithSimd for Unary<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut out = vec![0.0; self.x.len()];
            for (to, from) in out.chunks_exact_mut(LANES).zip(self.x.chunks_exact(LANES)) {
                let v = s.load(from);
                s.store(to, if self.ln { s.ln(v) } else { s.exp(v) });
            }
            out
        }
    }

    fn assert_levels_agree_and_near(x: &[f32], ln: bool, exact: impl Fn(f64) -> f64, tolerance: f64) {
        let reference = run_at(Level::Portable, Unary { x, ln });
        for level in Level::available() {
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&run_at(level, Unary { x, ln })), bits(&reference), "{level:?}");
        }
        for (&x, &y) in x.iter().zip(&reference) {
            let want = exact(f64::from(x));
            let error = if y == 0.0 && want == 0.0 { 0.0 } else { (f64::from(y) - want).abs() / want.abs() };
            assert!(error <= tolerance, "f({x}) = {y}, expected {want}, error {error:e}");
        }
    }

    struct Lanes([f32; LANES]);

    impl WithSimd for Lanes {
        /// (sum, largest)
        type Output = (f32, f32);
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> (f32, f32) {
            let v = s.load(&self.0);
            (s.sum(v), s.max_lane(v))
        }
    }

    #[test]
    fn lanes_add_up_and_compare_in_the_same_tree_at_every_level() {
        let stream = crate::random::Stream::new(2);
        let numbers =
            |i: usize| -> [f32; LANES] { std::array::from_fn(|lane| stream.normal((i * LANES + lane) as u64)) };
        let with_nan = |i: usize| {
            let mut lanes = numbers(i);
            lanes[i % LANES] = f32::NAN;
            lanes
        };
        for lanes in (0..64).flat_map(|i| [numbers(i), with_nan(i), numbers(i).map(|x| x * 0.0)]) {
            // The bits of a NaN are left open.
            let bits = |(sum, largest): (f32, f32)| [sum, largest].map(|x| if x.is_nan() { 0 } else { x.to_bits() });
            let reference = run_at(Level::Portable, Lanes(lanes));
            if !lanes.iter().any(|x| x.is_nan()) {
                assert_eq!(reference.1, lanes.into_iter().fold(f32::NEG_INFINITY, f32::max));
            }
            for level in Level::available() {
                assert_eq!(bits(run_at(level, Lanes(lanes))), bits(reference), "{level:?}, {lanes:?}");
            }
        }
    }

    struct Transpose<'a> {
        from: &'a [f32],
        row: usize,
    }

    impl WithSimd for Transpose<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut to = vec![0.0; LANES * self.row];
            // Safety: both hold sixteen rows.
            unsafe { s.transpose(self.from.as_ptr(), self.row, to.as_mut_ptr(), self.row) };
            to
        }
    }

    #[test]
    fn a_block_is_transposed_and_nothing_beside_it_is_written() {
        for row in [LANES, 2 * LANES, 37] {
            let from: Vec<f32> = (1..=LANES * row).map(|i| i as f32).collect();
            let expected: Vec<f32> = (0..LANES * row)
                .map(|at| if at % row < LANES { from[at % row * row + at / row] } else { 0.0 })
                .collect();
            for level in Level::available() {
                assert_eq!(run_at(level, Transpose { from: &from, row }), expected, "{level:?}, rows of {row}");
            }
        }
    }

    struct Dots<'a> {
        x: &'a [[f32; LANES]],
        from: *const f32,
        offsets: &'a [usize],
    }

    impl WithSimd for Dots<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut out = vec![0.0; self.offsets.len()];
            // Safety: the test made the rows as long as `x`.
            unsafe { s.dots(self.x, self.from, self.offsets, 0.3, &mut out) };
            out
        }
    }

    #[test]
    fn dots_are_a_chain_a_lane_and_the_tree_of_sum_at_every_level() {
        // More than are folded at a time.
        const ROWS: usize = 5 * LANES;
        let stream = crate::random::Stream::new(1);
        for chunks in [1, 2, 3, 8] {
            let values: Vec<f32> = (0..(ROWS + 1) * chunks * LANES).map(|i| stream.normal(i as u64)).collect();
            let rows: Vec<&[[f32; LANES]]> = values.chunks(chunks * LANES).map(|row| row.as_chunks().0).collect();
            // Rows in no order, and some of them twice.
            let order: Vec<usize> = (0..ROWS).map(|i| i * 7 % 71).collect();
            let offsets: Vec<usize> = order.iter().map(|row| row * chunks * LANES).collect();
            let x = rows[ROWS];
            let dot = |row: &usize| {
                let mut lanes: [f32; LANES] = std::array::from_fn(|lane| x[0][lane] * rows[*row][0][lane]);
                for (x, row) in x.iter().zip(rows[*row]).skip(1) {
                    lanes = std::array::from_fn(|lane| x[lane].mul_add(row[lane], lanes[lane]));
                }
                Portable.sum(lanes) * 0.3
            };
            let expected: Vec<f32> = order.iter().map(dot).collect();
            for level in Level::available() {
                let dots = Dots { x, from: values.as_ptr(), offsets: &offsets };
                assert_eq!(run_at(level, dots), expected, "{level:?}, {chunks} vectors");
            }
        }
    }

    #[test]
    fn exp_is_accurate_and_the_same_bits_at_every_level() {
        let x: Vec<f32> = (0..16_000).map(|i| -87.0 + 175.0 * (i as f32) / 16_000.0).collect();
        assert_levels_agree_and_near(&x, false, f64::exp, 2.5e-7);
        let far =
            [f32::NEG_INFINITY, -1e30, -100.0, 0.0, -0.0, 1.0, 0.5, -0.5, 2.0, -2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let y = run(Unary { x: &far, ln: false });
        assert_eq!(&y[..5], &[0.0, 0.0, 0.0, 1.0, 1.0]);
        for level in Level::available() {
            assert!(run_at(level, Unary { x: &[f32::NAN; LANES], ln: false }).iter().all(|y| y.is_nan()), "{level:?}");
        }
    }

    #[test]
    fn ln_is_accurate_and_the_same_bits_at_every_level() {
        let x: Vec<f32> = (0..16_000).map(|i| (-80.0 + 0.01 * i as f32).exp()).filter(|x| x.is_normal()).collect();
        let x = &x[..x.len() / LANES * LANES];
        assert_levels_agree_and_near(x, true, f64::ln, 3e-7);
        let near_one: Vec<f32> = (0..1600).map(|i| 1.0 + (i as f32 - 800.0) * 6e-8).collect();
        assert_levels_agree_and_near(&near_one, true, f64::ln, 3e-7);
    }
}
