//! Algorithms on offer for a shape: here an algorithm *is* an order of summation, and the workspace that it needs.

use crate::problem::Problem;

/// Marks an algorithm of this library, in the first word of `cublasLtMatmulAlgo_t`.
const MARK: u64 = 0x7061_7461_726d_6c74;
/// Algorithms that the heuristic knows for every shape.
pub const COUNT: usize = 5;
const SEGMENTS: [u32; 6] = [32, 64, 96, 128, 256, 512];
const SPLITS: [u32; 4] = [1, 1, 2, 4];

/// An order of summation over k: `splits` contiguous parts, each summed in segments of `segment` terms. A segment is
/// summed term by term from zero; segments are added one after the other; at last the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm {
    pub segment: u32,
    pub splits: u32,
}

/// `cublasLtMatmulAlgo_t`: opaque to the host, which may copy it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Opaque([u64; 8]);

impl Algorithm {
    /// The algorithm at this place of the heuristic's list. It depends on everything that a device's choice would
    /// depend on (shape, types, transposes, batch) and on the seed.
    pub fn choose(problem: &Problem, seed: u64, place: usize) -> Algorithm {
        let key = [problem.rows, problem.cols, problem.depth, problem.batch, problem.signature(), seed, place as u64];
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for word in key {
            hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
        }
        let segment = SEGMENTS[hash as usize % SEGMENTS.len()];
        let splits = SPLITS[(hash >> 20) as usize % SPLITS.len()];
        // Parts shorter than two segments would not be split on a device either.
        let splits = if problem.depth < 2 * segment as u64 * splits as u64 { 1 } else { splits };
        Algorithm { segment, splits }
    }

    /// Workspace in bytes: the parts of a split sum, in f32.
    pub fn workspace(&self, problem: &Problem) -> u64 {
        match self.splits {
            1 => 0,
            splits => 4 * splits as u64 * problem.rows * problem.cols * problem.batch,
        }
    }

    /// What the host gets, for addresses of A, B, C and D that are multiples of `alignments` bytes.
    pub fn encode(self, alignments: [u32; 4]) -> Opaque {
        let [a, b, c, d] = alignments.map(u64::from);
        Opaque([MARK, self.segment as u64, self.splits as u64, a, b, c, d, 0])
    }

    /// Reads what the host gives back; `None` when it is not of this library.
    pub fn decode(opaque: &Opaque) -> Option<Algorithm> {
        let [mark, segment, splits, ..] = opaque.0;
        let known = mark == MARK && SEGMENTS.contains(&(segment as u32)) && SPLITS.contains(&(splits as u32));
        known.then_some(Algorithm { segment: segment as u32, splits: splits as u32 })
    }

    /// The alignments that the host promised when it asked for the algorithm.
    pub fn alignments(opaque: &Opaque) -> [u64; 4] {
        let [_, _, _, alignments @ .., _] = opaque.0;
        alignments
    }
}
