//! What the report shows of RL: the charts of [`RlMetrics`], and the signs that tell whether the run is healthy.
//!
//! The signs are the failure signs of the method (margin below 0.5 on clear pairs, malformed answers growing, PAR going
//! all-or-nothing) and those of any policy-gradient run (entropy, KL, clipping, numbers that are not finite). Except for
//! the margin, the thresholds are this project's experience, not the paper's.

use super::rl_metrics::{RlMetrics, STAGE};
use crate::log::charts::{AxisRange, Chart, Stage, captions, keys_of, largest, series};
use crate::log::progress::fixed;
use crate::log::signs::{Ends, Finding, Level, Sign, finite};

/// Reinforcement learning, for the report.
pub const RL: Stage = Stage { key: STAGE, name: "RL", charts: CHARTS, signs: SIGNS, keys: keys_of::<RlMetrics> };

const CHARTS: &[Chart] = &[
    Chart::lines(
        "RL reward",
        "reward per rollout",
        AxisRange::FromZero,
        "PAR plus format penalty, averaged over rollouts. Healthy: climbs slowly, and the penalty reaches 0 first.",
        &[series("reward_mean", "reward"), series("par_mean", "PAR"), series("penalty_mean", "format penalty")],
    ),
    Chart {
        guides: &[(0.5, "failure sign below 0.5"), (1.0, "want above 1")],
        ..Chart::lines(
            "Score margin",
            "points (chosen − rejected)",
            AxisRange::FromZero,
            "Mean score of chosen minus mean score of rejected responses. Healthy: above 1 and growing; below 0.5 on clear \
             pairs the judge cannot tell them apart.",
            &[series("margin_mean", "margin")],
        )
    },
    Chart::lines(
        "Scores",
        "points",
        AxisRange::Data,
        "Healthy: the two curves drift apart. If both climb together, the judge only becomes more generous.",
        &[series("score_chosen_mean", "chosen"), series("score_rejected_mean", "rejected")],
    ),
    Chart {
        before: Some("accuracy"),
        ..Chart::lines(
            "Accuracy during RL",
            "share of pairs",
            AxisRange::Unit,
            "Share of the step's training pairs whose chosen response has the higher mean score. Healthy: above the \
             line of the model that RL began from (one judgement a side, on held-out pairs), and rising.",
            &[series("pair_accuracy", "training pairs")],
        )
    },
    Chart::shares(
        "Verdicts",
        "share of rollouts",
        "How judgements ended. Healthy: the lowest band (valid) fills the chart. Malformed answers that grow during RL are \
         a failure sign.",
        &[
            series("verdict_valid", "valid"),
            series("verdict_malformed", "malformed"),
            series("verdict_out_of_range", "out of range"),
            series("verdict_truncated", "truncated"),
            series("verdict_missing", "missing"),
            series("verdict_unavailable", "unavailable"),
        ],
    ),
    Chart::shares(
        "Tiers of PAR",
        "share of rollouts",
        "Factor f that a rollout earned: none (wrong side), reward.low (margin up to reward.threshold), reward.high (above). \
         Healthy: a mixture; one band everywhere is all-or-nothing PAR, which teaches nothing.",
        &[series("tier_none", "none"), series("tier_low", "f low"), series("tier_high", "f high")],
    ),
    Chart::lines(
        "Dead groups",
        "share of groups",
        AxisRange::Unit,
        "Groups whose rollouts all earned the same reward and so give no gradient. Healthy: below a half on both sides.",
        &[series("dead_groups_chosen", "chosen"), series("dead_groups_rejected", "rejected")],
    ),
    Chart::lines(
        "Entropy",
        "nats per token",
        AxisRange::FromZero,
        "Uncertainty of the judge about its next token. Healthy: falls gently; near 0 all rollouts are the same text, a \
         rise means that it is losing its language.",
        &[series("entropy_mean", "entropy")],
    ),
    Chart::lines(
        "KL to the reference",
        "nats per token",
        AxisRange::FromZero,
        "Distance from the model that RL started with; measured only where rl.policy.kl_coefficient is above 0. Healthy: grows \
         slowly and stays small; a jump means that the learning rate is too high.",
        &[series("kl_mean", "KL")],
    ),
    Chart::lines(
        "Judgement length",
        "tokens",
        AxisRange::FromZero,
        "Healthy: steady. Growth towards the limit ends in truncated verdicts. Failed judgements much longer than valid \
         ones are rambling.",
        &[series("length_mean", "all"), series("length_valid_mean", "valid"), series("length_failed_mean", "failed")],
    ),
    Chart::lines(
        "Clipped and truncated",
        "share",
        AxisRange::FromZero,
        "Tokens whose probability ratio was clipped, and rollouts cut at the length limit. Healthy: both a few percent at \
         most.",
        &[series("clip_share", "clipped tokens"), series("truncated_share", "truncated rollouts")],
    ),
    Chart::lines(
        "Rollout–training mismatch",
        "nats, largest of the step",
        AxisRange::FromZero,
        "Largest difference between a token's log-probability while decoding and in training. Healthy: exactly 0 on the \
         CPU, small and flat elsewhere.",
        &[largest("mismatch_max", "mismatch")],
    ),
    Chart::lines(
        "RL gradient norm",
        "norm before clipping",
        AxisRange::FromZero,
        captions::GRADIENT_NORM,
        &[largest("grad_norm", "RL")],
    )
    .folded(),
    Chart::lines(
        "RL learning rate",
        "rate",
        AxisRange::FromZero,
        captions::LEARNING_RATE,
        &[series("learning_rate", "RL")],
    )
    .folded(),
    Chart::lines(
        "RL speed",
        "tokens per second",
        AxisRange::FromZero,
        captions::SPEED,
        &[series("rollout_tokens_per_s", "rollouts"), series("train_tokens_per_s", "training")],
    )
    .folded(),
    Chart::lines(
        "Time of an RL step",
        "milliseconds",
        AxisRange::FromZero,
        captions::STEP_TIME,
        &[series("step_time_ms", "step")],
    )
    .folded(),
    Chart::lines(
        "RL loss",
        "loss",
        AxisRange::Data,
        "The surrogate loss of GRPO stays near 0 and says little by itself: read reward and margin. Healthy: no drift, no \
         spikes.",
        &[series("loss", "loss")],
    )
    .folded(),
];

const SIGNS: &[Sign] = &[
    Sign { name: "Numbers", keys: &["loss", "grad_norm"], judge: finite },
    Sign { name: "Margin", keys: &["margin_mean"], judge: margin },
    Sign {
        name: "Format",
        keys: &["verdict_malformed", "verdict_out_of_range", "verdict_missing", "verdict_truncated"],
        judge: verdicts,
    },
    Sign { name: "Length", keys: &["truncated_share", "length_mean"], judge: truncation },
    Sign { name: "PAR", keys: &["tier_none", "tier_low", "tier_high"], judge: tiers },
    Sign { name: "Dead groups", keys: &["dead_groups_chosen", "dead_groups_rejected"], judge: dead_groups },
    Sign { name: "Entropy", keys: &["entropy_mean"], judge: entropy },
    Sign { name: "KL", keys: &["kl_mean"], judge: kl },
    Sign { name: "Clipping", keys: &["clip_share"], judge: clipping },
    Sign { name: "Mismatch", keys: &["mismatch_max"], judge: mismatch },
];

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn margin(ends: &Ends) -> Option<Finding> {
    let now = ends.now("margin_mean")?;
    let then = ends.then("margin_mean").unwrap_or(now);
    let shrinking = now < then - 0.25;
    Some(Finding {
        level: Level::of(now < 0.5, now < 1.0 || shrinking),
        found: format!(
            "Chosen responses score {} points above rejected ones (at the start of RL: {}).",
            fixed(now, 2),
            fixed(then, 2)
        ),
        advice: match () {
            () if now < 0.5 => {
                "Below 0.5 the judge hardly tells good from bad. If the pairs are clear, train longer, take more rollouts per \
                 response, sharpen the rubrics, or start from a longer SFT."
            }
            () if shrinking => {
                "The margin shrinks: lower the learning rate or raise the KL coefficient, and read the samples."
            }
            () if now < 1.0 => "On the way: above 1 is wanted on clear pairs. Train longer.",
            () => "The judge separates the two sides.",
        },
    })
}

fn verdicts(ends: &Ends) -> Option<Finding> {
    let keys = ["verdict_malformed", "verdict_out_of_range", "verdict_missing", "verdict_truncated"];
    let sum = |at: &dyn Fn(&'static str) -> Option<f64>| keys.iter().filter_map(|key| at(key)).reduce(|a, b| a + b);
    let now = sum(&|key| ends.now(key))?;
    let then = sum(&|key| ends.then(key)).unwrap_or(now);
    let growing = now > then + 0.02;
    Some(Finding {
        level: Level::of(now > 0.2 || (growing && now > 0.1), now > 0.05 || growing),
        found: format!(
            "{} of the judgements have no usable verdict (at the start of RL: {}).",
            percent(now),
            percent(then)
        ),
        advice: match () {
            () if growing => {
                "Malformed answers grow: lower the learning rate, raise the KL coefficient or the format penalty, or go back \
                 to an earlier checkpoint."
            }
            () if now > 0.05 => "The format is not learned yet: run SFT longer before RL.",
            () => "The judge keeps to the format.",
        },
    })
}

fn truncation(ends: &Ends) -> Option<Finding> {
    let now = ends.now("truncated_share")?;
    let growth = ends.now("length_mean").zip(ends.then("length_mean")).map_or(1.0, |(now, then)| now / then.max(1.0));
    Some(Finding {
        level: Level::of(now > 0.2, now > 0.05 || growth > 1.5),
        found: format!(
            "{} of the rollouts hit the length limit; judgements are {growth:.2} times as long as at the start.",
            percent(now)
        ),
        advice: match () {
            () if now > 0.05 => "Raise the limit of new tokens, or penalise over-long judgements.",
            () if growth > 1.5 => "Judgements grow longer and do not reach the limit yet: watch the length curve.",
            () => "Judgements fit.",
        },
    })
}

fn tiers(ends: &Ends) -> Option<Finding> {
    let shares = [ends.now("tier_none")?, ends.now("tier_low")?, ends.now("tier_high")?];
    let names = ["earn nothing", "earn the low factor", "earn the high factor"];
    let largest =
        if shares[0] >= shares[1] && shares[0] >= shares[2] { 0 } else { 1 + usize::from(shares[2] > shares[1]) };
    let share = shares[largest];
    Some(Finding {
        level: Level::of(share > 0.95, share > 0.85),
        found: format!("{} of the rollouts {}.", percent(share), names[largest]),
        advice: match largest {
            _ if share <= 0.85 => "Rewards are a mixture, so there is something to learn from.",
            0 => {
                "PAR is all-or-nothing, and mostly nothing: the judge does not rank the pairs. Use clearer pairs, or a longer \
                 SFT."
            }
            _ => "PAR is all-or-nothing, and mostly all: the pairs are too easy now. Use harder ones, or stop here.",
        },
    })
}

fn dead_groups(ends: &Ends) -> Option<Finding> {
    let (chosen, rejected) = (ends.now("dead_groups_chosen")?, ends.now("dead_groups_rejected")?);
    let now = (chosen + rejected) / 2.0;
    Some(Finding {
        level: Level::of(now > 0.75, now > 0.5),
        found: format!(
            "{} of the chosen and {} of the rejected groups give no gradient.",
            percent(chosen),
            percent(rejected)
        ),
        advice: match () {
            () if now > 0.5 => {
                "Most rollouts are computed for nothing: take more rollouts per response, a higher temperature, or turn on \
                 dynamic sampling."
            }
            () => "Most groups teach something.",
        },
    })
}

fn entropy(ends: &Ends) -> Option<Finding> {
    let now = ends.now("entropy_mean")?;
    let then = ends.then("entropy_mean").unwrap_or(now);
    // Below a hundredth of a nat both are nothing.
    let ratio = if then.max(now) > 0.01 { now / then.max(1e-6) } else { 1.0 };
    Some(Finding {
        level: Level::of(!(0.25..=2.0).contains(&ratio), !(0.5..=1.5).contains(&ratio)),
        found: format!("{} nats per token (at the start of RL: {}).", fixed(now, 3), fixed(then, 3)),
        advice: match () {
            () if ratio < 0.5 => {
                "The judge stops exploring: raise the temperature or the upper clip range, or lower the learning rate."
            }
            () if ratio > 1.5 => "The judge becomes erratic: lower the learning rate or raise the KL coefficient.",
            () => "The judge still explores.",
        },
    })
}

fn kl(ends: &Ends) -> Option<Finding> {
    let now = ends.now("kl_mean")?;
    Some(Finding {
        level: Level::of(now > 1.0, now > 0.2),
        found: format!("{} nats per token away from the reference model.", fixed(now, 4)),
        advice: match () {
            () if now > 0.2 => "Far from where RL began: lower the learning rate or raise the KL coefficient.",
            () => "The judge stays near the model RL began with.",
        },
    })
}

fn clipping(ends: &Ends) -> Option<Finding> {
    let now = ends.now("clip_share")?;
    Some(Finding {
        level: Level::of(now > 0.3, now > 0.1),
        found: format!("{} of the tokens are clipped.", percent(now)),
        advice: match () {
            () if now > 0.1 => {
                "Updates are larger than the clip range allows: lower the learning rate, or take fewer updates per batch of \
                 rollouts."
            }
            () => "Updates stay within the trust region.",
        },
    })
}

fn mismatch(ends: &Ends) -> Option<Finding> {
    let now = ends.largest("mismatch_max")?;
    Some(Finding {
        level: Level::of(now > 0.5, now > 0.0),
        found: match () {
            () if now > 0.0 => format!("Log-probabilities of rollouts and training differ by up to {now:.1e} nats."),
            () => "Log-probabilities of rollouts and training are equal.".to_owned(),
        },
        advice: match () {
            () if now > 0.5 => {
                "Decoding and training do not compute the same model; this is a bug or a wrong precision setting."
            }
            () if now > 0.0 => "Must be exactly 0 on the CPU backend; on a GPU, small values are rounding.",
            () => "Decoding and training agree bit for bit.",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::metrics::Record;
    use serde_json::{Value, json};

    /// Twenty steps; `first` for the first half, `last` for the second.
    fn run(first: &Value, last: &Value) -> Vec<Record> {
        (0..20).map(|step| if step < 10 { first } else { last }.as_object().unwrap().clone()).collect()
    }

    fn levels(records: &[Record]) -> Vec<(&'static str, Level)> {
        let steps: Vec<&Record> = records.iter().collect();
        let level = |sign: &Sign| Some((sign.name, (sign.judge)(&Ends::new(&steps, sign.keys))?.level));
        SIGNS.iter().filter_map(level).collect()
    }

    #[test]
    fn the_failure_signs_of_the_method_are_seen() {
        let healthy = json!({"loss": 0.1, "margin_mean": 1.5, "verdict_malformed": 0.01, "tier_none": 0.2,
            "tier_low": 0.4, "tier_high": 0.4, "dead_groups_chosen": 0.2, "dead_groups_rejected": 0.2,
            "truncated_share": 0.0, "length_mean": 100.0, "entropy_mean": 0.5, "kl_mean": 0.01, "clip_share": 0.01,
            "mismatch_max": 0.0});
        let good = levels(&run(&healthy, &healthy));
        assert!(good.len() == 10 && good.iter().all(|(_, level)| *level == Level::Good), "{good:?}");
        let cases = [
            ("Numbers", json!({"loss": null})),
            ("Margin", json!({"margin_mean": 0.4})),
            ("Format", json!({"verdict_malformed": 0.15})),
            ("Length", json!({"truncated_share": 0.3})),
            ("PAR", json!({"tier_none": 0.0, "tier_low": 0.01, "tier_high": 0.99})),
            ("Dead groups", json!({"dead_groups_chosen": 0.9, "dead_groups_rejected": 0.8})),
            ("Entropy", json!({"entropy_mean": 0.01})),
            ("KL", json!({"kl_mean": 3.0})),
            ("Clipping", json!({"clip_share": 0.5})),
            ("Mismatch", json!({"mismatch_max": 1.0})),
        ];
        for (sign, change) in cases {
            let mut last = healthy.clone();
            last.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let not_good: Vec<_> =
                levels(&run(&healthy, &last)).into_iter().filter(|(_, level)| *level != Level::Good).collect();
            assert_eq!(not_good, [(sign, Level::Bad)], "{sign} alone");
        }
        let unknown = levels(&run(&json!({"margin_mean": null}), &json!({"margin_mean": null})));
        assert_eq!(unknown, [("Numbers", Level::Good)], "without numbers nothing else is judged");
    }
}
