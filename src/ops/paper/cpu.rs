//! The CPU backend as paper imitates it.

use super::{Imitated, Op};
use crate::ops::cpu::{self, Cpu};
use crate::ops::linear::LinearSizes;
use crate::ops::lm_head::LmHead;
use crate::ops::{Backend, OpResult};
use crate::tensor::Device;

/// The CPU of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct OfCpu;

impl Imitated for OfCpu {
    type Compute = f32;
    const ROLLOUTS_EQUAL_TRAINING: bool = Cpu::ROLLOUTS_EQUAL_TRAINING;
    const ALIGNMENT: usize = 64;

    fn name(&self) -> String {
        Cpu.name()
    }

    fn weight_len(&self, sizes: LinearSizes) -> usize {
        cpu::linear::packed_len(sizes)
    }

    fn workers(&self) -> usize {
        Cpu.workers()
    }

    fn replay_size(&self, rows: usize) -> usize {
        Cpu.replay_size(rows)
    }

    fn logits_max(&self) -> Option<usize> {
        Cpu.logits_max()
    }

    fn kv_cache_budget(&self, weight_bytes: usize) -> usize {
        Cpu.kv_cache_budget(weight_bytes)
    }

    fn lm_head_chunk_rows(&self, sizes: LinearSizes) -> usize {
        Cpu.lm_head_chunk_rows(sizes)
    }

    fn lm_head_check_chunk(&self, chunk_rows: usize, sizes: LinearSizes) -> OpResult {
        Cpu.lm_head_check_chunk(chunk_rows, sizes)
    }

    fn kept_logits(&self, logits: usize) -> usize {
        logits
    }

    /// Beside the logits, ops take only what the caches of their threads hold.
    fn scratch(&self, _op: &Op<'_>) -> [usize; 2] {
        [0, 0]
    }
}
