//! Health of an RL run in plain words: each sign is compared with what the method wants, with a remedy where it fails.
//!
//! The signs are the failure signs of the method (margin below 0.5 on clear pairs, malformed answers growing, PAR going
//! all-or-nothing) and those any policy-gradient run has (entropy, KL, clipping, numbers that are not finite). Except
//! for the margin, the thresholds are this project's experience, not the paper's.

use serde_json::Value;

use super::html;
use crate::log::metrics::Record;

/// Most steps at each end of the run that are averaged; single steps are too noisy to judge by.
const WINDOW: usize = 10;

/// Steps averaged at each end of a run of `steps` steps; the ends do not overlap unless there is only one step.
fn window(steps: usize) -> usize {
    WINDOW.min(steps.div_ceil(2))
}

/// How a sign stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Good,
    Watch,
    Bad,
}

/// One sign of health.
#[derive(Clone, Debug)]
pub struct Finding {
    pub level: Level,
    /// What was looked at.
    pub sign: &'static str,
    /// What was found, with numbers.
    pub found: String,
    /// What to do about it; for healthy signs, what it means.
    pub advice: &'static str,
}

/// A metric at the two ends of the run: means over the first and the last RL steps, [`WINDOW`] at most.
struct Ends<'a> {
    first: &'a [&'a Record],
    last: &'a [&'a Record],
}

impl Ends<'_> {
    fn now(&self, key: &str) -> Option<f64> {
        mean(self.last, key)
    }

    fn then(&self, key: &str) -> Option<f64> {
        mean(self.first, key)
    }
}

fn mean(records: &[&Record], key: &str) -> Option<f64> {
    let values: Vec<f64> = records.iter().filter_map(|record| record.get(key).and_then(Value::as_f64)).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn rl_steps(records: &[Record]) -> Vec<&Record> {
    records.iter().filter(|record| record.get("stage").and_then(Value::as_str) == Some("rl")).collect()
}

/// All signs that the metrics allow to judge; empty if there are no RL steps.
pub fn findings(records: &[Record]) -> Vec<Finding> {
    let rl = rl_steps(records);
    let window = window(rl.len());
    let ends = Ends { first: &rl[..window], last: &rl[rl.len() - window..] };
    if window == 0 {
        return Vec::new();
    }
    let signs = [finite, margin, verdicts, truncation, tiers, dead_groups, entropy, kl, clipping, mismatch];
    signs.iter().filter_map(|sign| sign(&ends)).collect()
}

fn level(bad: bool, watch: bool) -> Level {
    match (bad, watch) {
        (true, _) => Level::Bad,
        (_, true) => Level::Watch,
        _ => Level::Good,
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn finite(ends: &Ends) -> Option<Finding> {
    let broken =
        |record: &&&Record| ["loss", "grad_norm"].iter().any(|key| record.get(*key).is_some_and(Value::is_null));
    let count = ends.last.iter().filter(broken).count();
    Some(Finding {
        level: level(count > 0, false),
        sign: "Numbers",
        found: match count {
            0 => "Loss and gradient norm are finite.".to_owned(),
            _ => format!("Loss or gradient norm was not finite in {count} of the last {} steps.", ends.last.len()),
        },
        advice: match count {
            0 => "Nothing diverged.",
            _ => "Go back to the last good checkpoint, lower the learning rate, and check the gradient clipping.",
        },
    })
}

fn margin(ends: &Ends) -> Option<Finding> {
    let now = ends.now("margin_mean")?;
    let then = ends.then("margin_mean").unwrap_or(now);
    let shrinking = now < then - 0.25;
    Some(Finding {
        level: level(now < 0.5, now < 1.0 || shrinking),
        sign: "Margin",
        found: format!("Chosen responses score {now:.2} points above rejected ones (at the start of RL: {then:.2})."),
        advice: match () {
            () if now < 0.5 => {
                "Below 0.5 the judge hardly tells good from bad. Are the pairs clear ones? Then train longer, take more rollouts per response, sharpen the rubrics, or start from a longer SFT."
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
    let keys = ["verdict_malformed", "verdict_out_of_range", "verdict_missing"];
    let sum = |at: &dyn Fn(&str) -> Option<f64>| keys.iter().filter_map(|key| at(key)).reduce(|a, b| a + b);
    let now = sum(&|key| ends.now(key))?;
    let then = sum(&|key| ends.then(key)).unwrap_or(now);
    let growing = now > then + 0.02;
    Some(Finding {
        level: level(now > 0.2 || (growing && now > 0.1), now > 0.05 || growing),
        sign: "Format",
        found: format!(
            "{} of the judgements have no usable verdict (at the start of RL: {}).",
            percent(now),
            percent(then)
        ),
        advice: match () {
            () if growing => {
                "Malformed answers grow: lower the learning rate, raise the KL coefficient or the format penalty, or go back to an earlier checkpoint."
            }
            () if now > 0.05 => "The format is not learned yet: run SFT longer before RL.",
            () => "The judge keeps to the format.",
        },
    })
}

fn truncation(ends: &Ends) -> Option<Finding> {
    let now = ends.now("truncated_share").or_else(|| ends.now("verdict_truncated"))?;
    let growth = ends.now("length_mean").zip(ends.then("length_mean")).map_or(1.0, |(now, then)| now / then.max(1.0));
    Some(Finding {
        level: level(now > 0.2, now > 0.05 || growth > 1.5),
        sign: "Length",
        found: format!(
            "{} of the rollouts hit the length limit; judgements are {growth:.2} times as long as at the start.",
            percent(now)
        ),
        advice: match () {
            () if now > 0.05 => "Raise the limit of new tokens, or penalise over-long judgements.",
            () if growth > 1.5 => "Judgements grow long without hitting the limit yet; watch the length curve.",
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
        level: level(share > 0.95, share > 0.85),
        sign: "PAR",
        found: format!("{} of the rollouts {}.", percent(share), names[largest]),
        advice: match largest {
            _ if share <= 0.85 => "Rewards are a mixture, so there is something to learn from.",
            0 => {
                "PAR is all-or-nothing at nothing: the judge does not rank the pairs. Use clearer pairs, or a longer SFT."
            }
            _ => "PAR is all-or-nothing at the top: the pairs are too easy now. Use harder ones, or stop here.",
        },
    })
}

fn dead_groups(ends: &Ends) -> Option<Finding> {
    let (chosen, rejected) = (ends.now("dead_groups_chosen")?, ends.now("dead_groups_rejected")?);
    let now = (chosen + rejected) / 2.0;
    Some(Finding {
        level: level(now > 0.75, now > 0.5),
        sign: "Dead groups",
        found: format!(
            "{} of the chosen and {} of the rejected groups give no gradient.",
            percent(chosen),
            percent(rejected)
        ),
        advice: match () {
            () if now > 0.5 => {
                "Most rollouts are computed for nothing: take more rollouts per response, a higher temperature, or turn on dynamic sampling."
            }
            () => "Most groups teach something.",
        },
    })
}

fn entropy(ends: &Ends) -> Option<Finding> {
    let now = ends.now("entropy_mean")?;
    let then = ends.then("entropy_mean").unwrap_or(now);
    let ratio = if then > 0.0 { now / then } else { 1.0 };
    Some(Finding {
        level: level(!(0.25..=2.0).contains(&ratio), !(0.5..=1.5).contains(&ratio)),
        sign: "Entropy",
        found: format!("{now:.3} nats per token (at the start of RL: {then:.3})."),
        advice: match () {
            () if ratio < 0.5 => {
                "The judge stops exploring: raise the temperature or the upper clip range, or lower the learning rate."
            }
            () if ratio > 1.5 => "The judge gets erratic: lower the learning rate or raise the KL coefficient.",
            () => "The judge still explores.",
        },
    })
}

fn kl(ends: &Ends) -> Option<Finding> {
    let now = ends.now("kl_mean")?;
    Some(Finding {
        level: level(now > 1.0, now > 0.2),
        sign: "KL",
        found: format!("{now:.4} nats per token away from the reference model."),
        advice: match () {
            () if now > 0.2 => "Far from where RL began: lower the learning rate or raise the KL coefficient.",
            () => "The judge stays near the model RL began with.",
        },
    })
}

fn clipping(ends: &Ends) -> Option<Finding> {
    let now = ends.now("clip_share")?;
    Some(Finding {
        level: level(now > 0.3, now > 0.1),
        sign: "Clipping",
        found: format!("{} of the tokens are clipped.", percent(now)),
        advice: match () {
            () if now > 0.1 => {
                "Updates are larger than the clip range allows: lower the learning rate, or take fewer updates per batch of rollouts."
            }
            () => "Updates stay within the trust region.",
        },
    })
}

fn mismatch(ends: &Ends) -> Option<Finding> {
    let values = ends.last.iter().filter_map(|record| record.get("mismatch_max").and_then(Value::as_f64));
    let now = values.reduce(f64::max)?;
    Some(Finding {
        level: level(now > 0.5, now > 0.0),
        sign: "Mismatch",
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

/// The panel of the page.
pub fn html(records: &[Record]) -> String {
    let findings = findings(records);
    let Some(worst) = findings.iter().map(|finding| finding.level).max() else {
        return html::note("No RL steps logged (yet), so there is nothing to judge.");
    };
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let verdict = match worst {
        Level::Good => "All signs are healthy.".to_owned(),
        _ => format!(
            "To act on: {}; to watch: {}; healthy: {}.",
            count(Level::Bad),
            count(Level::Watch),
            count(Level::Good)
        ),
    };
    let item = |finding: &Finding| {
        let (class, word) = match finding.level {
            Level::Good => ("good", "healthy"),
            Level::Watch => ("watch", "watch"),
            Level::Bad => ("bad", "act"),
        };
        format!(
            "<li class=\"{class}\"><span class=\"badge {class}\">{word}</span> <strong>{}</strong> {} \
             <span class=\"advice\">{}</span></li>\n",
            html::escape(finding.sign),
            html::escape(&finding.found),
            html::escape(finding.advice)
        )
    };
    let list: String = findings.iter().map(item).collect();
    let steps = window(rl_steps(records).len());
    let window = format!("Means over {steps} steps at the end of RL, compared with {steps} at its start. {verdict}");
    html::note(&window) + &format!("<ul class=\"health\">\n{list}</ul>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::html::tests::check_balanced;
    use serde_json::json;

    /// Twenty steps; `first` for the first half, `last` for the second.
    fn run(first: Value, last: Value) -> Vec<Record> {
        let line = |step: u64| {
            let mut record = if step < 10 { &first } else { &last }.as_object().unwrap().clone();
            record.insert("stage".to_owned(), json!("rl"));
            record.insert("step".to_owned(), json!(step));
            record
        };
        (0..20).map(line).collect()
    }

    fn level_of(records: &[Record], sign: &str) -> Option<Level> {
        findings(records).into_iter().find(|finding| finding.sign == sign).map(|finding| finding.level)
    }

    #[test]
    fn the_failure_signs_of_the_method_are_seen() {
        let healthy = json!({"loss": 0.1, "margin_mean": 1.5, "verdict_malformed": 0.01, "tier_none": 0.2, "tier_low": 0.4,
            "tier_high": 0.4, "dead_groups_chosen": 0.2, "dead_groups_rejected": 0.2, "truncated_share": 0.0,
            "length_mean": 100.0, "entropy_mean": 0.5, "kl_mean": 0.01, "clip_share": 0.01, "mismatch_max": 0.0});
        let good = run(healthy.clone(), healthy.clone());
        assert_eq!(findings(&good).len(), 10);
        assert!(findings(&good).iter().all(|finding| finding.level == Level::Good), "{:?}", findings(&good));
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
            let mut last = healthy.as_object().unwrap().clone();
            last.extend(change.as_object().unwrap().clone());
            let records = run(healthy.clone(), Value::Object(last));
            assert_eq!(level_of(&records, sign), Some(Level::Bad), "{sign}");
            let others = findings(&records).iter().filter(|finding| finding.level != Level::Good).count();
            assert_eq!(others, 1, "{sign} alone");
            check_balanced(&html(&records)).unwrap();
        }
    }

    #[test]
    fn without_numbers_nothing_is_judged() {
        assert!(findings(&[]).is_empty());
        let records = run(json!({"margin_mean": null}), json!({"margin_mean": null}));
        assert_eq!(level_of(&records, "Margin"), None);
        assert!(html(&[]).contains("nothing to judge"));
    }
}
