//! [`Simd`] on AVX-512 and on AVX2 with FMA. The functions that enable a level's instructions are never inlined, for
//! `Simd::call`.

use std::arch::x86_64::*;

use super::{LANES, SQRT_HALF_BITS, Simd, WithSimd};

/// # Safety
/// The machine must have AVX-512F, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx2,fma")]
#[inline(never)]
pub unsafe fn run_avx512<F: WithSimd>(f: F) -> F::Output {
    f.run(Avx512(()))
}

/// # Safety
/// The machine must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
#[inline(never)]
pub unsafe fn run_avx2<F: WithSimd>(f: F) -> F::Output {
    f.run(Avx2(()))
}

/// One 512-bit register. Only `run_avx512` makes one, so code that holds one runs on a machine with these instructions.
#[derive(Clone, Copy)]
pub struct Avx512(());

// Safety of every block below: an `Avx512` exists only inside `run_avx512`; memory is checked, or guaranteed by the
// caller of an unsafe method.
impl Simd for Avx512 {
    type V = __m512;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn call<F: WithSimd>(self, f: F) -> F::Output {
        unsafe { run_avx512(f) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        unsafe { _mm512_loadu_ps(from[..LANES].as_ptr()) }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], v: __m512) {
        unsafe { _mm512_storeu_ps(to[..LANES].as_mut_ptr(), v) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn zero_below(self, value: __m512, x: __m512, limit: __m512) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(!_mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, limit), value) }
    }
    #[inline(always)]
    fn add_exponent(self, p: __m512, t: __m512) -> __m512 {
        unsafe {
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(t));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), shifted))
        }
    }
    #[inline(always)]
    fn split_exponent(self, x: __m512) -> (__m512, __m512) {
        unsafe {
            let bits = _mm512_castps_si512(x);
            let above = _mm512_sub_epi32(bits, _mm512_set1_epi32(SQRT_HALF_BITS as i32));
            let exponent = _mm512_srai_epi32::<23>(above);
            let mantissa = _mm512_sub_epi32(bits, _mm512_slli_epi32::<23>(exponent));
            (_mm512_castsi512_ps(mantissa), _mm512_cvtepi32_ps(exponent))
        }
    }
    #[inline(always)]
    unsafe fn dots(self, x: &[[f32; LANES]], from: *const f32, offsets: &[usize], scale: f32, out: &mut [f32]) {
        let (offsets, out) = (offsets.as_chunks::<LANES>().0, out.as_chunks_mut::<LANES>().0);
        for (offsets, out) in offsets.iter().zip(out) {
            let mut lanes = [self.splat(0.0); LANES];
            let first = self.load(&x[0]);
            for i in 0..LANES {
                lanes[i] = self.mul(first, unsafe { self.load_ptr(from.add(offsets[i])) });
            }
            for (c, x) in x.iter().enumerate().skip(1) {
                let x = self.load(x);
                for i in 0..LANES {
                    lanes[i] = self.mul_add(x, unsafe { self.load_ptr(from.add(offsets[i] + c * LANES)) }, lanes[i]);
                }
            }
            self.store(out, self.mul(sum_each_avx512(lanes), self.splat(scale)));
        }
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        for j in (0..LANES).step_by(4) {
            // Columns j..j + 4 of rows i, i + 4, i + 8 and i + 12 side by side: loads that merge leave the shuffle unit free.
            let quarter = |i: usize| unsafe { _mm_loadu_ps(from.add(i * from_row + j)) };
            let rows = |i: usize| unsafe {
                let v = _mm512_castps128_ps512(quarter(i));
                let v = _mm512_mask_broadcast_f32x4(v, 0x00f0, quarter(i + 4));
                let v = _mm512_mask_broadcast_f32x4(v, 0x0f00, quarter(i + 8));
                _mm512_mask_broadcast_f32x4(v, 0xf000, quarter(i + 12))
            };
            unsafe {
                let (a, b, c, d) = (rows(0), rows(1), rows(2), rows(3));
                let (low_ab, high_ab) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let (low_cd, high_cd) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                let columns = [
                    _mm512_shuffle_ps::<0b01_00_01_00>(low_ab, low_cd),
                    _mm512_shuffle_ps::<0b11_10_11_10>(low_ab, low_cd),
                    _mm512_shuffle_ps::<0b01_00_01_00>(high_ab, high_cd),
                    _mm512_shuffle_ps::<0b11_10_11_10>(high_ab, high_cd),
                ];
                for (i, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(to.add((j + i) * to_row), column);
                }
            }
        }
    }
    #[inline(always)]
    fn to_array(self, v: __m512) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes, v);
        lanes
    }
}

/// The tree of `Simd::sum` on sixteen vectors at once: at each level two vectors are shuffled into one that holds their
/// lower halves and one that holds their upper halves, and those are added.
#[inline(always)]
fn sum_each_avx512(v: [__m512; LANES]) -> __m512 {
    // Safety: only called by methods of `Avx512`, which exists only where these instructions do.
    unsafe {
        // Lane i + lane i+8: [v[i] folded to 8 | v[i+8] folded to 8].
        let a: [__m512; 8] = std::array::from_fn(|i| {
            let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(v[i], v[i + 8]);
            let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(v[i], v[i + 8]);
            _mm512_add_ps(low, high)
        });
        // Lane i + lane i+4: quarters of v[i], v[i+8], v[i+4], v[i+12].
        let b: [__m512; 4] = std::array::from_fn(|i| {
            let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(a[i], a[i + 4]);
            let high = _mm512_shuffle_f32x4::<0b11_01_11_01>(a[i], a[i + 4]);
            _mm512_add_ps(low, high)
        });
        // Lane i + lane i+2.
        let c: [__m512; 2] = std::array::from_fn(|i| {
            let low = _mm512_shuffle_ps::<0b01_00_01_00>(b[i], b[i + 2]);
            let high = _mm512_shuffle_ps::<0b11_10_11_10>(b[i], b[i + 2]);
            _mm512_add_ps(low, high)
        });
        let low = _mm512_shuffle_ps::<0b10_00_10_00>(c[0], c[1]);
        let high = _mm512_shuffle_ps::<0b11_01_11_01>(c[0], c[1]);
        // Vectors are now in the order 0 2 1 3 | 8 10 9 11 | 4 6 5 7 | 12 14 13 15: back to 0 … 15.
        let order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
        _mm512_permutexvar_ps(order, _mm512_add_ps(low, high))
    }
}

/// Two 256-bit registers. Only `run_avx2` makes one.
#[derive(Clone, Copy)]
pub struct Avx2(());

type Pair = (__m256, __m256);

#[inline(always)]
fn both(a: Pair, b: Pair, f: impl Fn(__m256, __m256) -> __m256) -> Pair {
    (f(a.0, b.0), f(a.1, b.1))
}

// Safety of every block below: an `Avx2` exists only inside `run_avx2`; memory as for `Avx512`.
impl Simd for Avx2 {
    type V = Pair;
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn call<F: WithSimd>(self, f: F) -> F::Output {
        unsafe { run_avx2(f) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        let v = unsafe { _mm256_set1_ps(x) };
        (v, v)
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> Pair {
        unsafe { self.load_ptr(from[..LANES].as_ptr()) }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], v: Pair) {
        unsafe { self.store_ptr(to[..LANES].as_mut_ptr(), v) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> Pair {
        unsafe { (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, v: Pair) {
        unsafe {
            _mm256_storeu_ps(to, v.0);
            _mm256_storeu_ps(to.add(8), v.1);
        }
    }
    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        both(a, b, |a, b| unsafe { _mm256_add_ps(a, b) })
    }
    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        both(a, b, |a, b| unsafe { _mm256_sub_ps(a, b) })
    }
    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        both(a, b, |a, b| unsafe { _mm256_mul_ps(a, b) })
    }
    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        both(a, b, |a, b| unsafe { _mm256_div_ps(a, b) })
    }
    #[inline(always)]
    fn mul_add(self, a: Pair, b: Pair, c: Pair) -> Pair {
        unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        both(a, b, |a, b| unsafe { _mm256_max_ps(a, b) })
    }
    #[inline(always)]
    fn min(self, a: Pair, b: Pair) -> Pair {
        both(a, b, |a, b| unsafe { _mm256_min_ps(a, b) })
    }
    #[inline(always)]
    fn sqrt(self, a: Pair) -> Pair {
        unsafe { (_mm256_sqrt_ps(a.0), _mm256_sqrt_ps(a.1)) }
    }
    #[inline(always)]
    fn zero_below(self, value: Pair, x: Pair, limit: Pair) -> Pair {
        let below = both(x, limit, |a, b| unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) });
        both(below, value, |a, b| unsafe { _mm256_andnot_ps(a, b) })
    }
    #[inline(always)]
    fn add_exponent(self, p: Pair, t: Pair) -> Pair {
        both(p, t, |p, t| unsafe {
            let shifted = _mm256_slli_epi32::<23>(_mm256_castps_si256(t));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), shifted))
        })
    }
    #[inline(always)]
    fn split_exponent(self, x: Pair) -> (Pair, Pair) {
        let above = |x: __m256| unsafe {
            let bits = _mm256_sub_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(SQRT_HALF_BITS as i32));
            _mm256_srai_epi32::<23>(bits)
        };
        let mantissa = both(x, x, |x, _| unsafe {
            let shifted = _mm256_slli_epi32::<23>(above(x));
            _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_castps_si256(x), shifted))
        });
        let exponent = both(x, x, |x, _| unsafe { _mm256_cvtepi32_ps(above(x)) });
        (mantissa, exponent)
    }
    #[inline(always)]
    unsafe fn dots(self, x: &[[f32; LANES]], from: *const f32, offsets: &[usize], scale: f32, out: &mut [f32]) {
        // Two loops: in a single one, the long latency from a row to its sum limits how many rows the processor overlaps.
        let mut folded = [[[0.0f32; 8]; 4]; 8];
        for (offsets, out) in offsets.chunks(64).zip(out.chunks_mut(64)) {
            for (offsets, folded) in offsets.as_chunks().0.iter().zip(&mut folded) {
                // Safety: passed on.
                unsafe { self.fold_eight(x, from, offsets, folded) };
            }
            for (folded, out) in folded.iter().zip(out.as_chunks_mut::<8>().0) {
                // Safety: all parts have eight elements.
                unsafe {
                    let [a, b, c, d] = folded;
                    let low = fold_to_two(_mm256_loadu_ps(a.as_ptr()), _mm256_loadu_ps(b.as_ptr()));
                    let high = fold_to_two(_mm256_loadu_ps(c.as_ptr()), _mm256_loadu_ps(d.as_ptr()));
                    let sums = fold_to_one(low, high);
                    _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(sums, _mm256_set1_ps(scale)));
                }
            }
        }
    }
    #[inline(always)]
    fn sum(self, v: Pair) -> f32 {
        unsafe {
            let b = _mm256_add_ps(v.0, v.1);
            let c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_add_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    fn max_lane(self, v: Pair) -> f32 {
        unsafe {
            let b = _mm256_max_ps(v.0, v.1);
            let c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
            let d = _mm_max_ps(c, _mm_movehl_ps(c, c));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        for (i, j) in [(0, 0), (0, 4), (0, 8), (0, 12), (8, 0), (8, 4), (8, 8), (8, 12)] {
            unsafe { transpose_avx2(from.add(i * from_row + j), from_row, to.add(j * to_row + i), to_row) };
        }
    }
    #[inline(always)]
    fn to_array(self, v: Pair) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes, v);
        lanes
    }
}

impl Avx2 {
    /// Products with eight rows, each folded to four lanes. Rows four apart share a register: its halves are never mixed
    /// again, and the sums come out in order.
    ///
    /// # Safety
    /// As for `dots`.
    #[inline(always)]
    unsafe fn fold_eight(self, x: &[[f32; LANES]], from: *const f32, offsets: &[usize; 8], folded: &mut [[f32; 8]; 4]) {
        for (i, folded) in folded.iter_mut().enumerate() {
            // Safety: passed on; `folded` has eight elements.
            unsafe {
                let both = self.dot_two(x, from.add(offsets[i]), from.add(offsets[i + 4]));
                _mm256_storeu_ps(folded.as_mut_ptr(), both);
            }
        }
    }

    /// Sums of two rows, each folded to four lanes: [of a | of b].
    ///
    /// # Safety
    /// As for `dots`.
    #[inline(always)]
    unsafe fn dot_two(self, x: &[[f32; LANES]], a: *const f32, b: *const f32) -> __m256 {
        let first = self.load(&x[0]);
        // Safety: passed on.
        let (mut of_a, mut of_b) = unsafe { (self.mul(first, self.load_ptr(a)), self.mul(first, self.load_ptr(b))) };
        for (c, x) in x.iter().enumerate().skip(1) {
            let x = self.load(x);
            // Safety: passed on.
            unsafe {
                of_a = self.mul_add(x, self.load_ptr(a.add(c * LANES)), of_a);
                of_b = self.mul_add(x, self.load_ptr(b.add(c * LANES)), of_b);
            }
        }
        fold_to_four(of_a, of_b)
    }
}

/// Transposes 8 rows × 4 columns.
///
/// # Safety
/// As for `Simd::transpose`. Called by methods of `Avx2` alone.
#[inline(always)]
unsafe fn transpose_avx2(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
    unsafe {
        // Row i and row i + 4 side by side: loads that merge leave the shuffle unit free.
        let rows = |i: usize| {
            let (low, high) = (_mm_loadu_ps(from.add(i * from_row)), _mm_loadu_ps(from.add((i + 4) * from_row)));
            _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
        };
        let (a, b, c, d) = (rows(0), rows(1), rows(2), rows(3));
        let (low_ab, high_ab) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (low_cd, high_cd) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let columns = [
            _mm256_shuffle_ps::<0b01_00_01_00>(low_ab, low_cd),
            _mm256_shuffle_ps::<0b11_10_11_10>(low_ab, low_cd),
            _mm256_shuffle_ps::<0b01_00_01_00>(high_ab, high_cd),
            _mm256_shuffle_ps::<0b11_10_11_10>(high_ab, high_cd),
        ];
        for (i, column) in columns.into_iter().enumerate() {
            _mm256_storeu_ps(to.add(i * to_row), column);
        }
    }
}

/// Two vectors, each folded to four lanes: [a | b]. Called by methods of `Avx2` alone.
#[inline(always)]
fn fold_to_four(a: Pair, b: Pair) -> __m256 {
    // Safety: as above.
    unsafe {
        let (a, b) = (_mm256_add_ps(a.0, a.1), _mm256_add_ps(b.0, b.1));
        _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b))
    }
}

/// Two lanes of each half folded to one: the sums of four rows, in each half its own.
#[inline(always)]
fn fold_to_one(low: __m256, high: __m256) -> __m256 {
    // Safety: as above.
    unsafe {
        let even = _mm256_shuffle_ps::<0b10_00_10_00>(low, high);
        let odd = _mm256_shuffle_ps::<0b11_01_11_01>(low, high);
        _mm256_add_ps(even, odd)
    }
}

/// Four lanes of each half folded to two: [a, b | a, b] of [a | a] and [b | b]. Called by methods of `Avx2` alone.
#[inline(always)]
fn fold_to_two(a: __m256, b: __m256) -> __m256 {
    // Safety: as above.
    unsafe {
        let low = _mm256_shuffle_ps::<0b01_00_01_00>(a, b);
        let high = _mm256_shuffle_ps::<0b11_10_11_10>(a, b);
        _mm256_add_ps(low, high)
    }
}
