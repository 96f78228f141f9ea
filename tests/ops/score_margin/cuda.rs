//! Score margins on the CUDA device: bit for bit the CPU's.

use patarm::cuda::Cuda;
use patarm::ops::score_margin::{
    ABSENT, AdvantageNorm, FAILED, MarginKind, PreferenceReward, ROLLOUTS_MAX, RewardShape, ScoreMargin, ScoreMargins,
    VALID,
};
use patarm::random::Stream;
use patarm::tensor::Device;

use super::{Case, GRADED, every_way};
use crate::common::devices::{devices, download, upload};

/// [`Case::run`] on the device.
fn run(device: &Cuda, case: &mut Case, shape: RewardShape, margin: MarginKind, norm: AdvantageNorm) {
    let (sides, size) = (2 * case.pairs, 2 * case.pairs * case.n);
    let floats = [&case.means, &case.delta, &case.par, &case.reward, &case.advantage];
    let [mut means, mut delta, mut par, mut reward, mut advantage] = floats.map(|values| upload(device, values));
    let mut valid_count = upload(device, &case.valid_count);
    let (scores, state, penalty) =
        (upload(device, &case.scores), upload(device, &case.state), upload(device, &case.penalty));
    let args = ScoreMargin::<Cuda> {
        means: device.view_mut(&mut means, 0..sides),
        valid_count: device.view_mut(&mut valid_count, 0..sides),
        delta: device.view_mut(&mut delta, 0..size),
        par: device.view_mut(&mut par, 0..size),
        reward: device.view_mut(&mut reward, 0..size),
        advantage: device.view_mut(&mut advantage, 0..size),
        scores: device.view(&scores, 0..size),
        state: device.view(&state, 0..size),
        penalty: device.view(&penalty, 0..size),
        pairs: case.pairs,
        n: case.n,
        preference: PreferenceReward { shape, margin },
        norm,
        epsilon: 1e-6,
    };
    device.score_margin(args).unwrap();
    case.valid_count = download(device, &valid_count);
    for (to, from) in [
        (&mut case.means, &means),
        (&mut case.delta, &delta),
        (&mut case.par, &par),
        (&mut case.reward, &reward),
        (&mut case.advantage, &advantage),
    ] {
        *to = download(device, from);
    }
}

/// All outputs of both, compared by bits.
#[track_caller]
fn assert_equal(case: &Case, shape: RewardShape, margin: MarginKind, norm: AdvantageNorm) {
    for device in devices() {
        assert_equal_on(device, case, shape, margin, norm);
    }
}

/// Uneven groups with gaps and failures, in every way.
pub fn assert_pairs_equal_the_cpus(device: &Cuda, pairs: usize, n: usize) {
    every_way(|shape, margin, norm| assert_equal_on(device, &Case::random(pairs, n, 1), shape, margin, norm));
}

#[track_caller]
fn assert_equal_on(device: &Cuda, case: &Case, shape: RewardShape, margin: MarginKind, norm: AdvantageNorm) {
    let mut cpu = case.clone();
    cpu.run(shape, margin, norm).unwrap();
    let outputs = |case: &Case| {
        let Case { means, delta, par, reward, advantage, .. } = case.clone();
        [("means", means), ("delta", delta), ("par", par), ("reward", reward), ("advantage", advantage)]
    };
    let mut ours = case.clone();
    run(device, &mut ours, shape, margin, norm);
    assert_eq!(ours.valid_count, cpu.valid_count);
    for ((name, got), (_, expected)) in outputs(&ours).into_iter().zip(outputs(&cpu)) {
        for (slot, (g, e)) in got.iter().zip(&expected).enumerate() {
            let what = || format!("{name}[{slot}] of {}×2×{}, {margin:?}, {norm:?}", case.pairs, case.n);
            assert_eq!(g.to_bits(), e.to_bits(), "{device:?}: {}: expected {e}, got {g}", what());
        }
    }
}

#[test]
fn equals_the_cpu_for_uneven_groups() {
    let sizes = [(1, 1), (1, 2), (7, 8), (3, 5), (2, 33), (4, ROLLOUTS_MAX), (0, 4), (19, 3)];
    for (key, (pairs, n)) in sizes.into_iter().enumerate() {
        every_way(|shape, margin, norm| {
            assert_equal(&Case::random(pairs, n, key as u64), shape, margin, norm);
        });
    }
}

/// Rewards of many magnitudes, so that every sum rounds, and to a different result in every order.
#[test]
fn sums_that_round_equal_the_cpus() {
    for (key, (pairs, n)) in [(1, ROLLOUTS_MAX), (9, 16)].into_iter().enumerate() {
        let size = 2 * pairs * n;
        let stream = Stream::new(100 + key as u64);
        let draw = |i: usize| stream.block(i as u32, 0);
        let penalty = (0..size).map(|i| -f32::from_bits((draw(i)[0] % (80 << 23)) + (90 << 23))).collect();
        let state = (0..size).map(|i| [VALID, VALID, FAILED, ABSENT][draw(i)[1] as usize % 4]).collect();
        let scores = (0..size).map(|i| (draw(i)[2] % 20_000) as f32 / 1999.0).collect();
        let case = Case::new(pairs, n, scores, state, penalty);
        every_way(|shape, margin, norm| assert_equal(&case, shape, margin, norm));
    }
}

#[test]
fn edges_equal_the_cpus() {
    let one_sided = |chosen: u32, rejected: u32| {
        let state = [vec![chosen; 3], vec![rejected; 3]].concat();
        Case::new(1, 3, vec![5.0, 6.0, 7.0, 4.0, 5.0, 6.0], state, vec![-1.0; 6])
    };
    let huge = [f32::MAX, f32::INFINITY, f32::NAN, f32::MIN, -1e30, 0.0];
    // Halves of a thousandth, whose rounding decides ties, of both signs.
    let halves = [0.0005, 0.0015, 2.0005, -0.0005, -0.0015, -2.0005];
    let cases = [
        Case::valid(1, 3, &huge),
        Case::valid(1, 3, &halves),
        one_sided(VALID, FAILED),
        one_sided(ABSENT, VALID),
        one_sided(ABSENT, ABSENT),
        one_sided(FAILED, FAILED),
        Case::valid(2, 1, &[9.0, 1.0, 1.0, 9.0]),
    ];
    for case in &cases {
        every_way(|shape, margin, norm| assert_equal(case, shape, margin, norm));
    }
    assert_equal(&Case::valid(1, 2, &[7.1, 7.1, 7.0, 7.2]), GRADED, MarginKind::Rollout, AdvantageNorm::Group);
}
