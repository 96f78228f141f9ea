//! The algorithms for a shape. Here an algorithm is an order of summation, and the workspace that it needs.

use crate::problem::Problem;

/// Identifies an algorithm of this library, in the first word of `cublasLtMatmulAlgo_t`.
const MARK: u64 = 0x7061_7461_726d_6c74;
/// The number of algorithms for every shape.
pub const COUNT: usize = 5;
const SEGMENTS: [u32; 6] = [32, 64, 96, 128, 256, 512];
const SPLITS: [u32; 4] = [1, 1, 2, 4];
/// Numbers of parts for a sum that is split because too few blocks would have work otherwise.
const MANY_SPLITS: [u32; 4] = [16, 8, 4, 2];
/// The fewest terms of each part of such a split. Sums of fewer than four times as many are not split.
const PART_MIN: u64 = 256;
/// The rows and columns of an output tile, and the multiprocessors that need one block each (an A100 has 108).
const TILE: u64 = 128;
const MULTIPROCESSORS: u64 = 108;

/// How the parts of a split sum are added up (`cublasLtReductionScheme_t`; the values are the bits of its mask).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// There is one part.
    None = 0,
    /// Each part is added to the output, in the output's type.
    InPlace = 1,
    /// The workspace holds the parts in f32.
    ComputeType = 2,
    /// The workspace holds the parts in the output's type.
    OutputType = 4,
}

impl Reduction {
    const ALL: [Reduction; 4] = [Reduction::None, Reduction::InPlace, Reduction::ComputeType, Reduction::OutputType];
    /// Allows all schemes, which is the default of a preference.
    pub const MASK: u32 = 7;

    /// The first of `schemes` that a mask allows.
    fn first(schemes: [Reduction; 3], mask: u32) -> Reduction {
        schemes.into_iter().find(|scheme| *scheme as u32 & mask != 0).unwrap_or(Reduction::None)
    }
}

/// An order of summation over k: `splits` contiguous parts, each summed in segments of `segment` terms. A segment is summed
/// term by term from zero, then the segments of a part are added in order, then the parts as `reduction` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm {
    pub segment: u32,
    pub splits: u32,
    pub reduction: Reduction,
}

/// `cublasLtMatmulAlgo_t`: opaque to the host, which may copy it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Opaque([u64; 8]);

impl Algorithm {
    /// The algorithm at this index of the heuristic's list. It depends on everything that the choice of a GPU would depend on
    /// (shape, types, transposes, batch, the reductions in `mask`) and on the seed.
    ///
    /// For a long sum with a small output, as in a decode step, the first algorithm has many parts. The workspace holds them in
    /// the output's type if the mask allows it, because that moves the fewest bytes; a caller that wants f32 must ask for it.
    pub fn choose(problem: &Problem, seed: u64, index: usize, mask: u32) -> Algorithm {
        let key = [problem.rows, problem.cols, problem.depth, problem.batch, problem.signature(), seed, index as u64];
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for word in key {
            hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
        }
        let segment = SEGMENTS[hash as usize % SEGMENTS.len()];
        if index == 0
            && let Some(splits) = Self::many_splits(problem)
        {
            let reduction = Reduction::first([Reduction::OutputType, Reduction::ComputeType, Reduction::InPlace], mask);
            return Self::new(segment, splits, reduction);
        }
        let splits = SPLITS[(hash >> 20) as usize % SPLITS.len()];
        // A GPU would not split into parts shorter than two segments either.
        let splits = if problem.depth < 2 * segment as u64 * splits as u64 { 1 } else { splits };
        let reduction = Reduction::first([Reduction::ComputeType, Reduction::OutputType, Reduction::InPlace], mask);
        Self::new(segment, splits, reduction)
    }

    /// A sum with one part if no reduction is allowed.
    fn new(segment: u32, splits: u32, reduction: Reduction) -> Algorithm {
        match (splits, reduction) {
            (1, _) | (_, Reduction::None) => Algorithm { segment, splits: 1, reduction: Reduction::None },
            _ => Algorithm { segment, splits, reduction },
        }
    }

    /// The same algorithm in one part, which needs no workspace.
    pub fn whole(self) -> Algorithm {
        Self::new(self.segment, 1, Reduction::None)
    }

    /// The number of parts for a long sum whose output has too few tiles for all multiprocessors.
    fn many_splits(problem: &Problem) -> Option<u32> {
        let tiles = problem.rows.div_ceil(TILE) * problem.cols.div_ceil(TILE) * problem.batch;
        let long = problem.depth >= 4 * PART_MIN;
        let fits = |splits: &u32| {
            let splits = u64::from(*splits);
            tiles * splits <= MULTIPROCESSORS && problem.depth / splits >= PART_MIN
        };
        MANY_SPLITS.into_iter().find(fits).filter(|_| long)
    }

    /// The workspace in bytes: the parts of a split sum, unless they are added in place.
    pub fn workspace(&self, problem: &Problem) -> u64 {
        let part_bytes = match self.reduction {
            Reduction::None | Reduction::InPlace => 0,
            Reduction::ComputeType => 4,
            Reduction::OutputType => problem.d.element.bytes() as u64,
        };
        part_bytes * self.splits as u64 * problem.rows * problem.cols * problem.batch
    }

    /// The opaque form for the host. It includes the alignments, in bytes, of the addresses of A, B, C and D.
    pub fn encode(self, alignments: [u32; 4]) -> Opaque {
        let [a, b, c, d] = alignments.map(u64::from);
        Opaque([MARK, self.segment as u64, self.splits as u64, a, b, c, d, self.reduction as u64])
    }

    /// Decodes the opaque form; `None` if it does not come from this library.
    pub fn decode(opaque: &Opaque) -> Option<Algorithm> {
        let [mark, segment, splits, .., reduction] = opaque.0;
        let (segment, splits) = (segment as u32, splits as u32);
        let reduction = Reduction::ALL.into_iter().find(|scheme| *scheme as u64 == reduction)?;
        let known = mark == MARK && SEGMENTS.contains(&segment);
        let split = SPLITS.contains(&splits) || MANY_SPLITS.contains(&splits);
        (known && split && (splits == 1) == (reduction == Reduction::None)).then_some(Algorithm {
            segment,
            splits,
            reduction,
        })
    }

    /// The alignments that the host promised when it asked for the algorithm.
    pub fn alignments(opaque: &Opaque) -> [u64; 4] {
        let [_, _, _, alignments @ .., _] = opaque.0;
        alignments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{Element, Epilogue, Operand};

    fn problem(rows: u64, cols: u64, depth: u64, out: Element) -> Problem {
        let operand = |element, rows, cols| Operand { element, rows, cols, leading: rows, stride: 0 };
        Problem {
            rows,
            cols,
            depth,
            batch: 1,
            a: operand(Element::Bf16, rows, depth),
            b: operand(Element::Bf16, depth, cols),
            c: operand(out, rows, cols),
            d: operand(out, rows, cols),
            transpose_a: false,
            transpose_b: false,
            tf32: false,
            epilogue: Epilogue { bias: None, relu: false },
        }
    }

    #[test]
    fn a_long_sum_for_a_small_output_is_split_as_the_mask_allows() {
        let long = problem(1024, 8, 12_288, Element::Bf16);
        let first = |problem: &Problem, mask| Algorithm::choose(problem, 0, 0, mask);
        let scheme = |mask| (first(&long, mask).splits, first(&long, mask).reduction);
        assert_eq!(scheme(Reduction::MASK), (8, Reduction::OutputType));
        assert_eq!(scheme(2), (8, Reduction::ComputeType));
        assert_eq!(scheme(1), (8, Reduction::InPlace));
        assert_eq!(scheme(0), (1, Reduction::None));
        assert_eq!(first(&long, Reduction::MASK).workspace(&long), 2 * 8 * 1024 * 8);
        assert_eq!(first(&long, 2).workspace(&long), 4 * 8 * 1024 * 8);
        // Other algorithms, short sums and large outputs have f32 parts if these are allowed.
        for problem in [problem(64, 8, 512, Element::Bf16), problem(4096, 4096, 4096, Element::Bf16)] {
            assert!((0..COUNT).all(|index| {
                let reduction = Algorithm::choose(&problem, 0, index, Reduction::MASK).reduction;
                matches!(reduction, Reduction::None | Reduction::ComputeType)
            }));
        }
    }

    #[test]
    fn algorithms_are_decoded_and_invented_ones_are_not() {
        let algorithm = Algorithm { segment: 64, splits: 16, reduction: Reduction::OutputType };
        let opaque = algorithm.encode([16, 32, 64, 128]);
        assert_eq!(Algorithm::decode(&opaque), Some(algorithm));
        assert_eq!(Algorithm::alignments(&opaque), [16, 32, 64, 128]);
        for splits_without_reduction in [2, 16] {
            let invented = Algorithm { splits: splits_without_reduction, reduction: Reduction::None, ..algorithm };
            assert_eq!(Algorithm::decode(&invented.encode([1; 4])), None);
        }
    }
}
