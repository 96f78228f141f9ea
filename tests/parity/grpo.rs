//! The GRPO loss fused into the LM head, against autograd in f64.

use patarm::loss::grpo::{GrpoLoss, KlEstimator};
use patarm::ops::Cpu;
use patarm::ops::linear::{Linear, LinearSizes};
use patarm::ops::lm_head::{LmHead, LmHeadGradient, LmHeadLoss, TokenLoss};

use crate::parity::golden::{Golden, assert_near, ids};

#[test]
fn losses_and_gradients_are_those_of_autograd() {
    let golden = Golden::load("grpo_loss");
    let number = |key: &str| golden.json[key].as_f64().unwrap();
    let (rows, vocab, hidden) = (number("rows") as usize, number("vocab") as usize, number("hidden") as usize);
    let sizes = LinearSizes { out_features: vocab, in_features: hidden };
    let mut weight = Cpu.linear_weight(sizes).unwrap();
    Cpu.linear_prepare(&mut weight, &golden.tensor("weight"), sizes).unwrap();
    let (hidden_rows, targets) = (golden.tensor("hidden"), ids(&golden.json["targets"]));
    let (advantage, row_weight) = (golden.tensor("advantage"), golden.tensor("row_weight"));
    let advantages: Vec<f32> = advantage.iter().flat_map(|a| [a.max(0.0), a.min(0.0)]).collect();
    let row_indices: Vec<u32> = (0..rows as u32).collect();
    for temperature in [0.7f32, 1.0] {
        for (name, kl) in [("k1", KlEstimator::K1), ("k2", KlEstimator::K2), ("k3", KlEstimator::K3)] {
            let at = format!("t{temperature:.1}");
            let loss = GrpoLoss {
                clip_low: number("clip_low") as f32,
                clip_high: number("clip_high") as f32,
                kl,
                kl_coefficient: number("kl_coefficient") as f32,
            };
            let (old, reference) =
                (golden.tensor(&format!("{at}.old_logprob")), golden.tensor(&format!("{at}.ref_logprob")));
            let (mut logprob, mut entropy, mut value) = (vec![0.0; rows], vec![0.0; rows], vec![0.0; rows]);
            let (mut d_hidden, mut d_weight) = (vec![0.0; rows * hidden], vec![0.0; vocab * hidden]);
            Cpu.lm_head_loss(LmHeadLoss {
                logprob: &mut logprob,
                entropy: &mut entropy,
                loss: &mut value,
                gradient: Some(LmHeadGradient {
                    d_hidden: &mut d_hidden,
                    d_weight: Some(&mut d_weight),
                    row_weight: &row_weight,
                    loss: TokenLoss::Grpo {
                        loss,
                        old_logprob: Some(&old),
                        reference_logprob: Some(&reference),
                        advantages: &advantages,
                    },
                }),
                hidden: &hidden_rows,
                weight: &weight,
                rows: &row_indices,
                targets: &targets,
                temperature,
                tokens: rows,
                chunk_rows: Cpu.lm_head_chunk_rows(sizes),
                sizes,
            })
            .unwrap();
            let check = |what: &str, got: &[f32]| {
                assert_near(&format!("{at} {name} {what}"), got, &golden.tensor(what), 2e-5);
            };
            check(&format!("{at}.logprob"), &logprob);
            check(&format!("{at}.entropy"), &entropy);
            check(&format!("{at}_{name}.loss"), &value);
            check(&format!("{at}_{name}.d_hidden"), &d_hidden);
            check(&format!("{at}_{name}.d_weight"), &d_weight);
            let clipped: Vec<bool> = (0..rows).map(|i| loss.clips(logprob[i], old[i], advantage[i])).collect();
            let expected: Vec<bool> =
                golden.json[format!("{at}.clipped")].as_array().unwrap().iter().map(|c| c.as_bool().unwrap()).collect();
            assert_eq!(clipped, expected, "{at}: clipped tokens");
        }
    }
}
