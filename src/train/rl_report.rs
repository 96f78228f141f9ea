//! What the report shows of RL: the charts of [`RlMetrics`], and the signs that tell whether the run is healthy.
//!
//! The signs are the failure signs of the method (margin below 0.5 on clear pairs, malformed answers growing, PAR going
//! all-or-nothing) and those of any policy-gradient run (entropy, KL, clipping, numbers that are not finite). Except for
//! the margin, the thresholds are this project's experience, not the paper's.

use super::rl_metrics::{RlMetrics, STAGE};
use crate::judge::JudgeMode;
use crate::log::RunConfig;
use crate::log::charts::{AxisRange, Chart, Stage, keys_of, largest, series};
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
        guides: |config| {
            let (fails, wanted) = margins(config);
            vec![(fails, format!("failure sign below {}", points(fails))), (wanted, format!("want above {}", points(wanted)))]
        },
        ..Chart::lines(
            "Score margin",
            "points (chosen − rejected)",
            AxisRange::FromZero,
            "Mean score of chosen minus mean score of rejected responses. Healthy: above the upper line and growing; below the \
             lower one, on clear pairs, the judge cannot tell them apart.",
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
            "Share of the step's training pairs whose chosen response has the higher mean score. Healthy: rising, and \
             above the line of the model that RL began from, where that was measured (one judgement a side, on held-out pairs).",
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
    Chart {
        applies: |config| !has_one_factor(config),
        ..Chart::shares(
            "Tiers of PAR",
            "share of rollouts",
            "Factor f that a rollout earned: none (wrong side, or a factor of 0), reward.low (margin up to reward.threshold), \
             reward.high (above). Healthy: a mixture; one band everywhere is all-or-nothing PAR, which teaches nothing.",
            &[series("tier_none", "none"), series("tier_low", "f low"), series("tier_high", "f high")],
        )
    },
    Chart {
        applies: has_one_factor,
        ..Chart::shares(
            "PAR earned",
            "share of rollouts",
            "Whether a rollout earned PAR, which has one factor in this run. Healthy: a mixture; one band everywhere teaches \
             nothing.",
            &[series("tier_none", "none"), series("tier_low", "earned")],
        )
    },
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
    Chart::gradient_norm("RL gradient norm", &[largest("grad_norm", "RL")]),
    Chart::learning_rate("RL learning rate", &[series("learning_rate", "RL")]),
    Chart::speed("RL speed", &[series("rollout_tokens_per_s", "rollouts"), series("train_tokens_per_s", "training")]),
    Chart::step_time("Time of an RL step", &[series("step_time_ms", "step")]),
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

/// Whether judgements are preferences: 1 or 0, and a right one is the reward.
fn is_pairwise(config: &RunConfig) -> bool {
    config.word("judge.mode") == Some(JudgeMode::Pairwise.name())
}

/// Whether all that PAR can give is the same: then the lower tier holds everything that was earned.
fn has_one_factor(config: &RunConfig) -> bool {
    let factor = |key| config.number(key);
    is_pairwise(config)
        || config.word("reward.shape") == Some("constant")
        || factor("reward.low").zip(factor("reward.high")).is_some_and(|(low, high)| low == high)
}

/// The margins below which a judge fails, and which are wanted: 0.5 and 1 points of the paper's scores from 1 to 10, and as much
/// of any other range.
fn margins(config: &RunConfig) -> (f64, f64) {
    let range = match is_pairwise(config) {
        true => Some((1.0, 0.0)),
        false => config.number("reward.verdict.max").zip(config.number("reward.verdict.min")),
    };
    let wanted = range.map_or(1.0, |(max, min)| (max - min) / 9.0);
    (0.5 * wanted, wanted)
}

/// Points of a score, to three digits.
fn points(points: f64) -> String {
    let digits = (2.0 - points.abs().log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{points:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn margin(ends: &Ends) -> Option<Finding> {
    let now = ends.now("margin_mean")?;
    let then = ends.then("margin_mean").unwrap_or(now);
    let (fails, wanted) = margins(ends.config);
    let shrinking = now < then - 0.25 * wanted;
    // Two digits of a point, more where the whole range is small.
    let digits = 2 + (-wanted.log10()).ceil().clamp(0.0, 9.0) as usize;
    Some(Finding {
        level: Level::of(now < fails, now < wanted || shrinking),
        found: format!(
            "Chosen responses score {} points above rejected ones (at the start of RL: {}; a failure sign below {}, wanted \
             above {}).",
            fixed(now, digits),
            fixed(then, digits),
            points(fails),
            points(wanted)
        ),
        advice: match () {
            () if now < fails => {
                "With so small a margin the judge hardly tells good from bad. If the pairs are clear, train longer, take more \
                 rollouts per response, sharpen the rubrics, or start from a longer SFT."
            }
            () if shrinking => {
                "The margin shrinks: lower the learning rate or raise the KL coefficient, and read the samples."
            }
            () if now < wanted => "On the way to the margin that is wanted on clear pairs. Train longer.",
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
    if has_one_factor(ends.config) {
        return Some(one_factor(shares[0], shares[1] + shares[2]));
    }
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

/// The same where PAR is the same for every margin: a judge that ranks most pairs rightly earns it nearly everywhere, which is
/// no fault before there is nothing else.
fn one_factor(none: f64, earned: f64) -> Finding {
    Finding {
        level: Level::of(none > 0.95, none > 0.85 || earned > 0.95),
        found: format!("{} of the rollouts earn PAR, which has one factor in this run.", percent(earned)),
        advice: match () {
            () if none > 0.85 => "The judge does not rank the pairs. Use clearer pairs, or a longer SFT.",
            () if earned > 0.95 => "The pairs are too easy now: use harder ones, a graded reward, or stop here.",
            () => "Some rollouts earn it and some do not, so there is something to learn from.",
        },
    }
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
            () if now > 0.5 && ends.config.number("rl.resample").is_some_and(|times| times > 0.0) => {
                "Most rollouts are computed for nothing, in spite of dynamic sampling: take more rollouts per response, a higher \
                 temperature, or more attempts (rl.resample)."
            }
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

    fn levels(records: &[Record], config: &RunConfig) -> Vec<(&'static str, Level)> {
        let steps: Vec<&Record> = records.iter().collect();
        let level = |sign: &Sign| Some((sign.name, (sign.judge)(&Ends::new(&steps, sign.keys, config))?.level));
        SIGNS.iter().filter_map(level).collect()
    }

    #[test]
    fn the_failure_signs_of_the_method_are_seen() {
        let healthy = json!({"loss": 0.1, "margin_mean": 1.5, "verdict_malformed": 0.01, "tier_none": 0.2,
            "tier_low": 0.4, "tier_high": 0.4, "dead_groups_chosen": 0.2, "dead_groups_rejected": 0.2,
            "truncated_share": 0.0, "length_mean": 100.0, "entropy_mean": 0.5, "kl_mean": 0.01, "clip_share": 0.01,
            "mismatch_max": 0.0});
        let config = &RunConfig::default();
        let good = levels(&run(&healthy, &healthy), config);
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
                levels(&run(&healthy, &last), config).into_iter().filter(|(_, level)| *level != Level::Good).collect();
            assert_eq!(not_good, [(sign, Level::Bad)], "{sign} alone");
        }
        let unknown = levels(&run(&json!({"margin_mean": null}), &json!({"margin_mean": null})), config);
        assert_eq!(unknown, [("Numbers", Level::Good)], "without numbers nothing else is judged");
    }

    /// What one sign says of a run that stays as it is.
    fn finding(name: &str, line: &Value, config: &str) -> Finding {
        let (records, config) = (run(line, line), RunConfig::parse(config));
        let steps: Vec<&Record> = records.iter().collect();
        let sign = SIGNS.iter().find(|sign| sign.name == name).unwrap();
        (sign.judge)(&Ends::new(&steps, sign.keys, &config)).unwrap()
    }

    #[test]
    fn a_reward_of_one_factor_is_not_judged_by_tiers() {
        let tiers = |none: f64, low: f64, high: f64| json!({"tier_none": none, "tier_low": low, "tier_high": high});
        let shapes = ["reward.shape = \"constant\"", "reward = {low = 1.2, high = 1.2}", "judge.mode = \"pairwise\""];
        for shape in shapes {
            for (none, level) in [(0.1, Level::Good), (0.02, Level::Watch), (0.9, Level::Watch), (0.99, Level::Bad)] {
                let finding = finding("PAR", &tiers(none, 1.0 - none, 0.0), shape);
                assert_eq!(finding.level, level, "{shape}: {none}");
                let said = format!("{} {}", finding.found, finding.advice);
                assert!(!said.contains("all-or-nothing") && !said.contains("low factor"), "{said}");
            }
        }
        assert_eq!(finding("PAR", &tiers(0.1, 0.9, 0.0), "").level, Level::Watch);
        let titles = |config: &str| -> Vec<&str> {
            let config = RunConfig::parse(config);
            CHARTS.iter().filter(|chart| (chart.applies)(&config)).map(|chart| chart.title).collect()
        };
        assert!(titles("").contains(&"Tiers of PAR") && !titles("").contains(&"PAR earned"));
        assert!(shapes.iter().all(|shape| titles(shape).contains(&"PAR earned")));
        assert!(shapes.iter().all(|shape| !titles(shape).contains(&"Tiers of PAR")));
    }

    #[test]
    fn a_margin_is_judged_by_the_range_of_the_scores() {
        let judged = |margin: f64, config| finding("Margin", &json!({"margin_mean": margin}), config);
        let (hundred, one) = ("reward.verdict = {min = 1, max = 100}", "reward.verdict = {min = 0.0, max = 1.0}");
        for (margin, config, level, said) in [
            (1.5, "", Level::Good, "1.50 points above"),
            (1.5, hundred, Level::Bad, "failure sign below 5.5, wanted above 11"),
            (8.0, hundred, Level::Watch, "8.00 points above"),
            (0.2, one, Level::Good, "wanted above 0.111"),
            (0.04, one, Level::Bad, "0.040 points above"),
        ] {
            let finding = judged(margin, config);
            assert!(finding.level == level && finding.found.contains(said), "{margin} {config}: {finding:?}");
        }
        let guides = |config| {
            let chart = CHARTS.iter().find(|chart| chart.title == "Score margin").unwrap();
            (chart.guides)(&RunConfig::parse(config)).into_iter().map(|(_, label)| label).collect::<Vec<_>>()
        };
        assert_eq!(guides(""), ["failure sign below 0.5", "want above 1"]);
        assert_eq!(guides(hundred), ["failure sign below 5.5", "want above 11"]);
    }

    #[test]
    fn advice_does_not_name_what_is_on_already() {
        let dead = json!({"dead_groups_chosen": 0.9, "dead_groups_rejected": 0.9});
        assert!(finding("Dead groups", &dead, "").advice.contains("turn on dynamic sampling"));
        assert!(finding("Dead groups", &dead, "rl.resample = 2").advice.contains("in spite of dynamic sampling"));
    }

    /// A key that no setting has would never change anything.
    #[test]
    fn the_settings_that_are_read_are_settings() {
        let config = RunConfig::parse(&toml::to_string(&crate::config::Settings::default()).unwrap());
        let numbers = ["reward.low", "reward.high", "reward.verdict.min", "reward.verdict.max", "rl.resample"];
        assert!(numbers.iter().all(|key| config.number(key).is_some()) && config.word("reward.shape").is_some());
        assert_eq!((margins(&config), has_one_factor(&config)), ((0.5, 1.0), false));
    }
}
