//! Benches of the op `score_margin`.

use criterion::{Criterion, Throughput};
use patarm::ops::Cpu;
use patarm::ops::score_margin::{
    AdvantageNorm, MarginKind, PreferenceReward, RewardShape, ScoreMargin, ScoreMargins, VALID,
};

/// A step of RL at the usual size (32 pairs of 8), and a large one.
fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("score_margin");
    for (pairs, n) in [(32, 8), (1024, 8), (256, 64)] {
        let size = 2 * pairs * n;
        let scores: Vec<f32> = (0..size).map(|i| (1 + i * 7 % 10) as f32).collect();
        let (state, penalty) = (vec![VALID; size], vec![0.0; size]);
        let (mut means, mut valid_count) = (vec![0.0; 2 * pairs], vec![0; 2 * pairs]);
        let [mut delta, mut par, mut reward, mut advantage] = [(); 4].map(|()| vec![0.0; size]);
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(format!("{pairs}x2x{n}"), |bencher| {
            bencher.iter(|| {
                let args: ScoreMargin<Cpu> = ScoreMargin {
                    means: &mut means,
                    valid_count: &mut valid_count,
                    delta: &mut delta,
                    par: &mut par,
                    reward: &mut reward,
                    advantage: &mut advantage,
                    scores: &scores,
                    state: &state,
                    penalty: &penalty,
                    pairs,
                    n,
                    preference: PreferenceReward {
                        shape: RewardShape::Graded { low: 1.2, high: 1.4, threshold: 2.0 },
                        margin: MarginKind::Rollout,
                    },
                    norm: AdvantageNorm::Group,
                    epsilon: 1e-6,
                };
                Cpu.score_margin(args).expect("sizes fit");
            });
        });
    }
    group.finish();
}

criterion::criterion_group!(benches, bench);
