//! Sampling on the CPU: Gumbel-max, a draw at a time.

use super::Cpu;
use super::log_softmax::{Stats, log_softmax_stats};
use super::simd::{self, LANES, Simd, WithSimd};
use super::team;
use crate::ops::OpResult;
use crate::ops::sample::{Draw, Sample, Sampler, Sampling};
use crate::random::{Stream, philox4x32, unit};

/// Logits below which draws stay on the caller's thread.
const SERIAL_LOGITS: usize = 8192;

impl Sampler for Cpu {
    fn sample(&self, args: Sample<'_, Self>) -> OpResult {
        args.check()?;
        let Sample { ids, logprobs, logits, draws, vocab } = args;
        let outs = ids.iter_mut().zip(logprobs).zip(draws);
        let draw = |((id, logprob), draw): ((&mut u32, &mut f32), &Draw)| {
            (*id, *logprob) = simd::run(Row { logits: &logits[draw.row as usize * vocab..][..vocab], draw });
        };
        if draws.len() * vocab <= SERIAL_LOGITS {
            outs.for_each(draw);
        } else {
            team::each_of(outs, draw);
        }
        Ok(())
    }
}

struct Row<'a> {
    logits: &'a [f32],
    draw: &'a Draw,
}

impl WithSimd for Row<'_> {
    /// (token, its log-probability)
    type Output = (u32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (u32, f32) {
        let Self { logits, draw } = self;
        let Sampling { temperature, top_k, top_p, min_p } = draw.sampling;
        let inverse = 1.0 / draw.sampling.logprob_temperature();
        let stats = log_softmax_stats(s, logits, inverse);
        if stats.log_sum_exp().is_nan() {
            return (0, f32::NAN);
        }
        let token = if temperature == 0.0 {
            argmax(logits.iter().copied())
        } else if top_k == 0 && top_p >= 1.0 && min_p == 0.0 {
            gumbel_argmax(s, logits, inverse, draw)
        } else {
            let kept = kept_tokens(logits, inverse, &stats, &draw.sampling);
            let value = |id: &u32| logits[*id as usize] * inverse + gumbel(draw.stream, draw.position, *id);
            kept[argmax(kept.iter().map(value)) as usize]
        };
        (token, stats.logprob(logits[token as usize], inverse))
    }
}

/// Index of the first of the largest values.
#[inline(always)]
fn argmax(values: impl Iterator<Item = f32>) -> u32 {
    let (mut best, mut at) = (f32::NEG_INFINITY, 0);
    for (index, value) in values.enumerate() {
        if value > best {
            (best, at) = (value, index as u32);
        }
    }
    at
}

/// −ln(−ln u) of one token, with the bits that `gumbel_argmax` gives it.
fn gumbel(stream: Stream, position: u32, id: u32) -> f32 {
    struct One(f32);
    impl WithSimd for One {
        type Output = f32;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> f32 {
            s.to_array(gumbel_of(s, s.splat(self.0)))[0]
        }
    }
    let word = stream.block(position, id / 4)[id as usize % 4];
    simd::run(One(unit(word)))
}

#[inline(always)]
fn gumbel_of<S: Simd>(s: S, u: S::V) -> S::V {
    let zero = s.splat(0.0);
    let exponential = s.sub(zero, s.ln(u));
    s.sub(zero, s.ln(exponential))
}

/// argmax over all tokens of z/T + g, sixty-four tokens (sixteen Philox blocks) at a time.
#[inline(always)]
fn gumbel_argmax<S: Simd>(s: S, logits: &[f32], inverse: f32, draw: &Draw) -> u32 {
    const TOKENS: usize = 4 * LANES;
    let Stream { seed, id } = draw.stream;
    let key = [seed as u32, (seed >> 32) as u32];
    let (mut best, mut at) = (f32::NEG_INFINITY, 0);
    for (group, part) in logits.chunks(TOKENS).enumerate() {
        let mut uniform = [0.0f32; TOKENS];
        for (lane, out) in uniform.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let block = (group * LANES + lane) as u32;
            *out = philox4x32([block, draw.position, id as u32, (id >> 32) as u32], key).map(unit);
        }
        let mut values = [f32::NEG_INFINITY; TOKENS];
        for (i, out) in values.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let from = i * LANES;
            if from >= part.len() {
                break;
            }
            let z = s.load_part(&part[from..part.len().min(from + LANES)], f32::NEG_INFINITY);
            let g = gumbel_of(s, s.load(&uniform[from..]));
            s.store(out, s.add(s.mul(z, s.splat(inverse)), g));
        }
        let mut lanes = s.splat(f32::NEG_INFINITY);
        for part in values.as_chunks::<LANES>().0 {
            lanes = s.max(lanes, s.load(part));
        }
        let largest = s.max_lane(lanes);
        if largest > best {
            let lane = values.iter().position(|value| *value == largest).expect("the largest is one of them");
            (best, at) = (largest, (group * TOKENS + lane) as u32);
        }
    }
    at
}

/// Tokens that pass top-k, then top-p, then min-p, in no particular order; the most probable one always does.
fn kept_tokens(logits: &[f32], inverse: f32, stats: &Stats, sampling: &Sampling) -> Vec<u32> {
    let by_rank = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let mut kept: Vec<u32> = (0..logits.len() as u32).collect();
    let k = sampling.top_k as usize;
    if k > 0 && k < kept.len() {
        kept.select_nth_unstable_by(k - 1, by_rank);
        kept.truncate(k);
    }
    let probability = |id: u32| f64::from(stats.logprob(logits[id as usize], inverse)).exp();
    if sampling.top_p < 1.0 {
        // The mass is taken over the tokens that top-k has kept, as if they were the whole vocabulary.
        kept.sort_unstable_by(by_rank);
        let mass: f64 = kept.iter().map(|id| probability(*id)).sum();
        let mut sum = 0.0;
        let reached = kept.iter().position(|id| {
            sum += probability(*id);
            sum >= f64::from(sampling.top_p) * mass
        });
        kept.truncate(reached.map_or(kept.len(), |last| last + 1));
    }
    if sampling.min_p > 0.0 {
        let least = kept.iter().map(|id| probability(*id)).fold(0.0, f64::max) * f64::from(sampling.min_p);
        kept.retain(|id| probability(*id) >= least);
    }
    kept
}
