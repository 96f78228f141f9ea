//! AdamW on the CPU: tensor by tensor, each packed for matmuls while its new weights are in cache.

use rayon::prelude::*;

use super::Cpu;
use super::simd::{self, LANES, Simd, WithSimd};
use crate::ops::OpResult;
use crate::ops::adamw::{AdamW, AdamWStep, Constants, Prepared, Tensor};
use crate::ops::linear::Linear;

/// Elements handed to a thread at a time.
const CHUNK: usize = 16_384;

impl AdamWStep for Cpu {
    fn adamw(&self, args: AdamW<'_, Self>) -> OpResult {
        args.check()?;
        for Prepared { weight, sizes } in args.tensors.iter().filter_map(|tensor| tensor.prepared.as_ref()) {
            weight.check("adamw", *sizes)?;
        }
        let Some(scale) = args.gradient_scale(args.norm[0]) else {
            return Ok(());
        };
        let constants = args.constants();
        let keep: Vec<f32> = args.tensors.iter().map(|tensor| args.keep(tensor.weight_decay)).collect();
        let AdamW { weight, moment1, moment2, gradient, tensors, .. } = args;
        for (Tensor { range, prepared, .. }, keep) in tensors.into_iter().zip(keep) {
            let (weight, gradient) = (&mut weight[range.clone()], &gradient[range.clone()]);
            let (moment1, moment2) = (&mut moment1[range.clone()], &mut moment2[range]);
            weight
                .par_chunks_mut(CHUNK)
                .zip(moment1.par_chunks_mut(CHUNK).zip(moment2.par_chunks_mut(CHUNK)))
                .zip(gradient.par_chunks(CHUNK))
                .for_each(|((w, (m, v)), g)| simd::run(Chunk { w, m, v, g, scale, keep, constants }));
            if let Some(Prepared { weight: packed, sizes }) = prepared {
                self.linear_prepare(packed, weight, sizes)?;
            }
        }
        Ok(())
    }
}

struct Chunk<'a> {
    w: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    g: &'a [f32],
    scale: f32,
    keep: f32,
    constants: Constants,
}

/// New (w, m, v) of sixteen parameters.
#[inline(always)]
fn update<S: Simd>(s: S, c: &Constants, keep: f32, [w, m, v, g]: [S::V; 4]) -> [S::V; 3] {
    let m = s.mul_add(s.splat(c.beta1), m, s.mul(s.splat(1.0 - c.beta1), g));
    let v = s.mul_add(s.splat(c.beta2), v, s.mul(s.splat(1.0 - c.beta2), s.mul(g, g)));
    let root = s.mul_add(s.sqrt(v), s.splat(c.inverse_root_correction), s.splat(c.epsilon));
    let step = s.mul(s.splat(-c.step_size), s.div(m, root));
    [s.mul_add(w, s.splat(keep), step), m, v]
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { w, m, v, g, scale, keep, constants } = self;
        let clipped = |g: S::V| s.mul(g, s.splat(scale));
        let mut i = 0;
        while i + LANES <= w.len() {
            let old = [s.load(&w[i..]), s.load(&m[i..]), s.load(&v[i..]), clipped(s.load(&g[i..]))];
            let [nw, nm, nv] = update(s, &constants, keep, old);
            s.store(&mut w[i..], nw);
            s.store(&mut m[i..], nm);
            s.store(&mut v[i..], nv);
            i += LANES;
        }
        if i < w.len() {
            let part = |x: &[f32]| s.load_part(&x[i..], 0.0);
            let [nw, nm, nv] = update(s, &constants, keep, [part(w), part(m), part(v), clipped(part(g))]);
            s.store_part(&mut w[i..], nw);
            s.store_part(&mut m[i..], nm);
            s.store_part(&mut v[i..], nv);
        }
    }
}
