//! Counter-based random numbers: Philox4x32-10 by (seed, stream, position), the same on every backend.
//!
//! Nothing here has state: a number is a pure function of its key and counter, so splitting work over batches, threads or
//! devices changes no draw. (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.)

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// One block of Philox4x32-10: four 32-bit words from a 128-bit counter and a 64-bit key.
#[inline(always)]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let a = u64::from(MULTIPLIER[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIER[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
    }
    counter
}

/// What is drawn directly under a run's seed: `Stream::new(seed).fold(Purpose::… as u64)`.
///
/// The compiler refuses two purposes of one value. Every result depends on the values, so they never change.
///
/// Three kinds of streams have a number instead of a purpose under the seed: that of a weight matrix is folded from its index
/// in the parameter table (`model::parameters`); that of an RL rollout from step, attempt, pair, role and rollout
/// (`train::rl`); that of a completion of the commands `judge`, `annotate` and `generate` from its response and vote. Such a
/// number may equal a purpose. The streams still differ, because numbers are drawn only after the last fold and the two have
/// different numbers of folds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The synthetic suite: requests, responses and their mistakes in SFT examples, by index (`data::synthetic`).
    SftExample = 1,
    /// The same for training pairs.
    TrainPair = 2,
    /// The same for test pairs.
    TestPair = 3,
    /// What is wrong with judgements of the synthetic teacher, by index of the SFT example.
    Teacher = 4,
    /// Synthetic training pairs whose labels are swapped, by index.
    SuiteFlip = 5,
    /// Pairs from files whose labels are swapped (`data.flip`), by pair id ("flip" in ASCII).
    Flip = 0x666c_6970,
    /// The order of training rows, by epoch (`data::order`; "orde" in ASCII).
    Order = 0x6f72_6465,
    /// Prompts whose pairs are held out (`eval.share`), by a hash of the prompt ("held" in ASCII).
    HeldOut = 0x6865_6c64,
    /// Judgements of an evaluation in the demo or while training, by pair, role and vote.
    Evaluation = u64::MAX,
}

/// Seeds of the `bench` command, whose runs have none of their own.
pub mod bench_seeds {
    /// Token ids of training sequences, by sequence.
    pub const TRAIN: u64 = 1;
    /// Token ids of prompts, by prompt, and draws of their completions, by run and completion below it.
    pub const ROLLOUTS: u64 = 2;
}

/// A named source of random numbers: a seed, and a stream folded from what the draw is for.
///
/// `Stream::new(seed).fold(step).fold(attempt).fold(pair).fold(role).fold(rollout)` names the draws of one rollout;
/// `block(position, lane)` are its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Stream {
    pub seed: u64,
    pub id: u64,
}

impl Stream {
    /// The stream that all others of a seed are folded from.
    pub fn new(seed: u64) -> Self {
        Self { seed, id: 0 }
    }

    /// The stream with one more part of the key folded in. The order of the parts matters.
    pub fn fold(self, part: u64) -> Self {
        // The finaliser of splitmix64: a bijection of u64 that mixes every bit.
        let mut z = self.id.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self { seed: self.seed, id: z ^ (z >> 31) }
    }

    /// Four random words for (position, lane): the Philox counter is (lane, position, stream id).
    #[inline(always)]
    pub fn block(self, position: u32, lane: u32) -> [u32; 4] {
        let counter = [lane, position, self.id as u32, (self.id >> 32) as u32];
        philox4x32(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// A number in the open interval (0, 1).
    pub fn uniform(self, position: u32) -> f32 {
        unit(self.block(position, 0)[0])
    }

    /// A whole number in `0..n` (n ≥ 1), by multiplication; the bias is below n / 2^32.
    pub fn below(self, position: u32, n: usize) -> usize {
        assert!(n >= 1 && n <= u32::MAX as usize, "Stream::below: n must be in 1..=u32::MAX, got {n}");
        ((u64::from(self.block(position, 0)[0]) * n as u64) >> 32) as usize
    }

    /// A standard normal number (Box–Muller on two words of one block).
    pub fn normal(self, position: u64) -> f32 {
        let [a, b, ..] = self.block(position as u32, (position >> 32) as u32);
        let radius = (-2.0 * f64::from(unit(a)).ln()).sqrt();
        (radius * (std::f64::consts::TAU * f64::from(unit(b))).cos()) as f32
    }

    /// A permutation of `0..n` (Fisher–Yates).
    pub fn permutation(self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u32, i + 1));
        }
        order
    }
}

/// A random word as a number in the open interval (0, 1): (top 23 bits + ½) · 2⁻²³.
#[inline(always)]
pub fn unit(word: u32) -> f32 {
    // 23 bits keep `+ 0.5` exact in f32, so the result is never 0 and never 1.
    ((word >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of the reference implementation (Random123, kat_vectors).
    #[test]
    fn philox_matches_the_published_vectors() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    /// Results depend on these values: a changed one would change every number of a run.
    #[test]
    fn purposes_keep_their_values() {
        let values = [
            Purpose::SftExample,
            Purpose::TrainPair,
            Purpose::TestPair,
            Purpose::Teacher,
            Purpose::SuiteFlip,
            Purpose::Flip,
            Purpose::Order,
            Purpose::Evaluation,
        ]
        .map(|purpose| purpose as u64);
        assert_eq!(values, [1, 2, 3, 4, 5, 0x666c_6970, 0x6f72_6465, u64::MAX]);
        let ids: std::collections::BTreeSet<u64> = values.iter().map(|value| Stream::new(7).fold(*value).id).collect();
        assert_eq!(ids.len(), values.len(), "no two purposes share a stream");
        assert_ne!(bench_seeds::TRAIN, bench_seeds::ROLLOUTS);
    }

    #[test]
    fn unit_stays_inside_the_open_interval() {
        assert!(unit(0) > 0.0 && unit(u32::MAX) < 1.0);
    }

    #[test]
    fn permutation_holds_every_index_once_and_depends_on_the_stream() {
        let mut order = Stream::new(1).fold(2).permutation(100);
        assert_ne!(order, Stream::new(1).fold(3).permutation(100));
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
