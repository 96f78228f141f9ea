//! The speed that matmuls on this machine are compared with.

use super::micro::{Packed, Piece, max_rows, row_block};
use super::panels::{PANEL, Panels, ZERO_ROW};
use crate::ops::cpu::simd::{self, Simd, WithSimd};

/// Speed of the micro-kernel on one thread with everything in the first-level cache, in GFLOP/s: the peak that matmuls
/// on this machine are compared with. Takes about 20 ms.
pub fn peak_gflops() -> f64 {
    const K: usize = 128;
    let mut b = Panels { rows: vec![ZERO_ROW; K], n: PANEL, k: K, _entry: None };
    b.rows.iter_mut().enumerate().for_each(|(i, row)| row.0 = [1.0 / (i + 1) as f32; PANEL]);
    let (a, mut c) = (vec![0.5f32; 12 * K], vec![0.0f32; 12 * PANEL]);
    let flops = (2 * 12 * K * PANEL * 200) as f64;
    let timed = (0..20).map(|_| {
        let start = std::time::Instant::now();
        simd::run(Peak { a: &a, b: &b, c: &mut c });
        flops / start.elapsed().as_secs_f64() / 1e9
    });
    timed.fold(0.0, f64::max)
}

/// 200 matmuls of 12 rows with one panel.
struct Peak<'a> {
    a: &'a [f32],
    b: &'a Panels,
    c: &'a mut [f32],
}

impl WithSimd for Peak<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for _ in 0..200 {
            let rows = max_rows::<S>();
            for at in (0..12).step_by(rows) {
                let piece = Piece {
                    a: self.a[at * self.b.k..].as_ptr(),
                    a_row: 1,
                    b: self.b.rows.as_ptr().cast(),
                    b_panel: 0,
                    c: self.c[at * PANEL..].as_mut_ptr(),
                    c_row: PANEL,
                    columns: PANEL,
                    k: self.b.k,
                    add: false,
                };
                // Safety: 12 rows of A and C, one panel of B.
                unsafe { row_block::<S, Packed>(s, rows, piece) };
            }
            std::hint::black_box(&mut *self.c);
        }
    }
}
