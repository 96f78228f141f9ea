//! SwiGLU on the CPU.

use super::Cpu;
use super::simd::{self, LANES, Simd, WithSimd};
use super::team;
use crate::ops::OpResult;
use crate::ops::swiglu::{Swiglu, SwigluBackward, SwigluForward};

/// Rows handed to a thread at a time.
const BLOCK: usize = 64;

impl Swiglu for Cpu {
    fn swiglu_forward(&self, args: SwigluForward<'_, Self>) -> OpResult {
        args.check()?;
        let SwigluForward { out, gate_up, rows, cols } = args;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let block = team::piece_rows(rows, BLOCK);
        let parts = out.chunks_mut(block * cols).zip(gate_up.chunks(2 * block * cols));
        team::each_of(parts, |(out, gate_up)| simd::run(Forward { out, gate_up, cols }));
        Ok(())
    }

    fn swiglu_backward(&self, args: SwigluBackward<'_, Self>) -> OpResult {
        args.check()?;
        let SwigluBackward { d_gate_up, d_out, gate_up, rows, cols } = args;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let inputs = d_out.chunks(BLOCK * cols).zip(gate_up.chunks(2 * BLOCK * cols));
        team::each_of(d_gate_up.chunks_mut(2 * BLOCK * cols).zip(inputs), |(d_gate_up, (d_out, gate_up))| {
            simd::run(Backward { d_gate_up, d_out, gate_up, cols });
        });
        Ok(())
    }
}

/// sigmoid(x) = 1 / (1 + e⁻ˣ).
#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, s.exp(s.sub(s.splat(0.0), x))))
}

#[inline(always)]
fn silu_up<S: Simd>(s: S, gate: S::V, up: S::V) -> S::V {
    s.mul(s.mul(gate, sigmoid(s, gate)), up)
}

struct Forward<'a> {
    out: &'a mut [f32],
    gate_up: &'a [f32],
    cols: usize,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (out, row) in self.out.chunks_exact_mut(self.cols).zip(self.gate_up.chunks_exact(2 * self.cols)) {
            let (gate, up) = row.split_at(self.cols);
            let (outs, tail) = out.as_chunks_mut::<LANES>();
            let whole = outs.len() * LANES;
            for ((out, g), u) in outs.iter_mut().zip(gate.as_chunks::<LANES>().0).zip(up.as_chunks::<LANES>().0) {
                s.store(out, silu_up(s, s.load(g), s.load(u)));
            }
            if !tail.is_empty() {
                s.store_part(tail, silu_up(s, s.load_part(&gate[whole..], 0.0), s.load_part(&up[whole..], 0.0)));
            }
        }
    }
}

struct Backward<'a> {
    d_gate_up: &'a mut [f32],
    d_out: &'a [f32],
    gate_up: &'a [f32],
    cols: usize,
}

/// (d_gate, d_up) of sixteen columns.
#[inline(always)]
fn gradients<S: Simd>(s: S, d: S::V, g: S::V, u: S::V) -> (S::V, S::V) {
    let sig = sigmoid(s, g);
    let one = s.splat(1.0);
    // silu' = s·(1 + g·(1 − s)): stable for any g.
    let slope = s.mul(sig, s.mul_add(g, s.sub(one, sig), one));
    (s.mul(s.mul(d, u), slope), s.mul(d, s.mul(g, sig)))
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.cols;
        let rows = self.d_gate_up.chunks_exact_mut(2 * cols).zip(self.gate_up.chunks_exact(2 * cols));
        for ((d_row, row), d_out) in rows.zip(self.d_out.chunks_exact(cols)) {
            let (d_gate, d_up) = d_row.split_at_mut(cols);
            let (gate, up) = row.split_at(cols);
            let mut i = 0;
            while i + LANES <= cols {
                let (dg, du) = gradients(s, s.load(&d_out[i..]), s.load(&gate[i..]), s.load(&up[i..]));
                s.store(&mut d_gate[i..], dg);
                s.store(&mut d_up[i..], du);
                i += LANES;
            }
            if i < cols {
                let part = |x: &[f32]| s.load_part(&x[i..], 0.0);
                let (dg, du) = gradients(s, part(d_out), part(gate), part(up));
                s.store_part(&mut d_gate[i..], dg);
                s.store_part(&mut d_up[i..], du);
            }
        }
    }
}
