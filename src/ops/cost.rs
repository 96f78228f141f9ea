//! The least that an op must move and compute: the floor that benches and logs compare against.

use std::ops::AddAssign;

/// Bytes read and written once each, and floating-point operations (a multiply-add counts two).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub bytes: u64,
    pub flops: u64,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.flops += other.flops;
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::adamw::{AdamW, Prepared, Tensor};
    use crate::ops::attention::{AttentionBackward, AttentionForward, AttentionSizes, Run, SegmentTable};
    use crate::ops::linear::{Linear, LinearBackwardInput, LinearSizes};
    use crate::ops::qk_norm_rope::{HeadSizes, QkNormRopeForward};
    use crate::ops::sample::{Draw, Sample, Sampling};
    use crate::ops::{Cost, Cpu};
    use crate::random::Stream;

    /// A prompt of 10 tokens that three rollouts of 4 share; the pool has one row that is not read.
    fn shared_prompt() -> SegmentTable {
        let (mut table, prompt) = (SegmentTable::default(), Run { start: 0, len: 10 });
        table.push(10, [prompt]);
        for rollout in 0..3 {
            table.push(4, [prompt, Run { start: 10 + 4 * rollout, len: 4 }]);
        }
        table.group();
        table
    }

    #[test]
    fn attention_counts_a_shared_key_once_and_every_pair() {
        let (table, pool_rows) = (shared_prompt(), 23);
        assert_eq!(table.distinct_keys(), 22);
        let sizes = AttentionSizes { q_heads: 4, kv_heads: 2, head_dim: 16, pool_rows, scale: 1.0 };
        let (queries, keys) = (22 * 4 * 16, 22 * 2 * 16);
        // A prompt's triangle, and for each rollout 4 queries that see the prompt and their own triangle.
        let pairs = 55 + 3 * (4 * 10 + 10);
        let (q, pool, sums) = (vec![0.0; queries], vec![0.0; pool_rows * 2 * 16], vec![0.0; 22 * 4]);
        let (mut out, mut log_sum_exp) = (q.clone(), sums.clone());
        let mut forward = AttentionForward::<Cpu> {
            out: &mut out,
            log_sum_exp: Some(&mut log_sum_exp),
            q: &q,
            k_pool: &pool,
            v_pool: &pool,
            segments: &table,
            sizes,
        };
        let bytes = 4 * (2 * queries + 2 * keys);
        let flops = 4 * pairs * 4 * 16;
        assert_eq!(forward.cost(), Cost { bytes: (bytes + 4 * 22 * 4) as u64, flops });
        forward.log_sum_exp = None;
        assert_eq!(forward.cost(), Cost { bytes: bytes as u64, flops });
        let (mut d_q, mut d_k_pool, mut d_v_pool) = (q.clone(), pool.clone(), pool.clone());
        let backward = AttentionBackward::<Cpu> {
            d_q: &mut d_q,
            d_k_pool: &mut d_k_pool,
            d_v_pool: &mut d_v_pool,
            d_out: &q,
            out: &q,
            log_sum_exp: &sums,
            q: &q,
            k_pool: &pool,
            v_pool: &pool,
            segments: &table,
            sizes,
        };
        let bytes = 4 * (4 * queries + 6 * keys + 22 * 4);
        assert_eq!(backward.cost(), Cost { bytes: bytes as u64, flops: 10 * pairs * 4 * 16 });
    }

    #[test]
    fn keys_that_overlap_in_any_way_count_once_and_those_without_queries_not() {
        let mut table = SegmentTable::default();
        let run = |start, len| Run { start, len };
        table.push(1, [run(20, 5), run(0, 4)]);
        table.push(1, [run(2, 10)]);
        table.push(1, [run(3, 2)]);
        table.push(0, [run(100, 50)]);
        assert_eq!(table.distinct_keys(), 5 + 12);
    }

    #[test]
    fn accumulating_reads_what_it_adds_to() {
        let sizes = LinearSizes { out_features: 32, in_features: 16 };
        let weight = Cpu.linear_weight(sizes).unwrap();
        let (mut d_x, d_out) = (vec![0.0; 3 * 16], vec![0.0; 3 * 32]);
        let mut cost = |accumulate| {
            let (d_x, d_out, weight) = (&mut d_x[..], &d_out[..], &weight);
            LinearBackwardInput::<Cpu> { d_x, d_out, weight, rows: 3, sizes, accumulate }.cost()
        };
        let elements = 3 * (32 + 16) + 32 * 16;
        assert_eq!(cost(false), Cost { bytes: 4 * elements, flops: 2 * 3 * 32 * 16 });
        assert_eq!(cost(true), Cost { bytes: 4 * (elements + 3 * 16), flops: 2 * 3 * 32 * 16 });
    }

    #[test]
    fn only_queries_and_keys_are_rotated() {
        let sizes = HeadSizes { tokens: 5, q_heads: 4, kv_heads: 2, head_dim: 16, pool_rows: 5, rope_rows: 5 };
        let (mut q, mut k_pool, mut v_pool) = (vec![0.0; 5 * 64], vec![0.0; 5 * 32], vec![0.0; 5 * 32]);
        let (mut inv_rms, qkv, weight, rope) = (vec![0.0; 30], vec![0.0; 5 * 128], vec![0.0; 16], vec![0.0; 80]);
        let positions = [0, 1, 2, 3, 4];
        let args = QkNormRopeForward::<Cpu> {
            q: &mut q,
            k_pool: &mut k_pool,
            v_pool: &mut v_pool,
            inv_rms: &mut inv_rms,
            qkv: &qkv,
            q_weight: &weight,
            k_weight: &weight,
            rope: &rope,
            positions: &positions,
            kv_rows: &positions,
            sizes,
            epsilon: 1e-6,
        };
        args.check().unwrap();
        let small = 30 + 2 * 5 + 2 * 16;
        assert_eq!(args.cost(), Cost { bytes: 4 * (2 * 5 * 128 + small), flops: 7 * 5 * 96 });
    }

    #[test]
    fn a_row_that_is_drawn_from_twice_is_read_once() {
        let draw = |row| Draw { row, sampling: Sampling::GREEDY, stream: Stream::new(1), position: 0 };
        let draws = [draw(1), draw(0), draw(1)];
        let (mut ids, mut logprobs, logits) = ([0; 3], [0.0; 3], vec![0.0; 2 * 50]);
        let args = Sample::<Cpu> { ids: &mut ids, logprobs: &mut logprobs, logits: &logits, draws: &draws, vocab: 50 };
        assert_eq!(args.cost(), Cost { bytes: 4 * 2 * 50 + 8 * 3, flops: 8 * 3 * 50 });
    }

    #[test]
    fn adamw_counts_its_tensors_and_prepared_weights_alone() {
        let sizes = LinearSizes { out_features: 8, in_features: 16 };
        let (mut weight, mut prepared) = (vec![0.0; 200], Cpu.linear_weight(sizes).unwrap());
        let (mut moment1, mut moment2, gradient) = (weight.clone(), weight.clone(), weight.clone());
        let matrix = Some(Prepared { weight: &mut prepared, sizes });
        let args = AdamW::<Cpu> {
            weight: &mut weight,
            moment1: &mut moment1,
            moment2: &mut moment2,
            gradient: &gradient,
            tensors: vec![
                Tensor { range: 0..128, weight_decay: 0.1, prepared: matrix },
                Tensor { range: 150..200, weight_decay: 0.0, prepared: None },
            ],
            norm: &[1.0],
            clip_norm: 1.0,
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            step: 1,
        };
        args.check().unwrap();
        assert_eq!(args.cost(), Cost { bytes: 28 * 178 + 4 * 128 + 8, flops: 15 * 178 });
    }
}
