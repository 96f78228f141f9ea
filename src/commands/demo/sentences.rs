//! What a demo's numbers mean, in sentences that the numbers decide: what was learnt, what was sharpened, and what of it the
//! controls have too.

use super::controls::CONTROLS;
use super::learn::Results;
use crate::config::Settings;
use crate::eval::interval::difference;
use crate::eval::pairs::MANY_VOTES;
use crate::eval::{Estimate, PairResults};
use crate::judge::JudgeMode;
use crate::train::rl_report::RL;
use crate::train::sft::SFT;

/// Keys of an evaluation.
const AT_ONE: &str = "accuracy";
const BEST: &str = "accuracy_best";
const GREEDY: &str = "accuracy_greedy";
const MANY: &str = "accuracy_many";

/// All that can be said of the results that there are.
pub fn all(settings: &Settings, results: &Results) -> Vec<String> {
    let mut said = vec![teacher(settings)];
    if settings.judge.mode == JudgeMode::Pairwise {
        said.push(
            "The judge compares two responses. A pair is right if the chosen one is preferred in both orders (guessing: a \
             quarter), and a tie if the orders contradict each other."
                .into(),
        );
    }
    if let Some((sft, rl)) = results.get(SFT.key).zip(results.get(RL.key)) {
        said.push(learnt(sft, rl));
        said.push(sharpened(sft, rl));
        said.extend(voted(sft, rl));
        said.extend(CONTROLS.iter().filter_map(|control| {
            let from = results.get(control.sft.unwrap_or(SFT.key))?;
            Some(controlled(control.name, from, results.get(control.key)?))
        }));
    }
    said
}

fn teacher(settings: &Settings) -> String {
    let (error, noise) = (100.0 * settings.data.teacher_error, 100.0 * settings.data.score_noise);
    format!(
        "The teacher of SFT makes one systematic error a task in {error:.0} % of its judgements (chat: mistakes in the last two \
         places are overlooked; math: an answer that begins right is believed to its end; code: the letters a to f are \
         always believed; safety: that harmful requests must be refused is forgotten), and {noise:.0} % of its scores are \
         drawn at random."
    )
}

/// One judgement of the trained judge against one of SFT's, each at its best.
fn learnt(sft: &PairResults, rl: &PairResults) -> String {
    let [(before, how), (after, its)] = [sft, rl].map(best_single);
    let gain = difference(&rl.values[after], &sft.values[before]);
    let numbers = format!(
        "one judgement a side, each judge as it is best ({its}, SFT's {how}), is right on {} of the pairs instead of {}: {}",
        percent(mean(rl, after)),
        percent(mean(sft, before)),
        points(gain)
    );
    match sign(gain) {
        1 => format!("Learnt from the pairs: {numbers}. No temperature gives SFT's judge that."),
        -1 => format!("Lost in RL: {numbers}."),
        _ => format!("Nothing is shown to be learnt that a colder SFT judge does not do: {numbers}."),
    }
}

/// How much of the gain at temperature 1 is had by lowering SFT's temperature alone.
fn sharpened(sft: &PairResults, rl: &PairResults) -> String {
    let (best, how) = best_single(sft);
    let whole = difference(&rl.values[AT_ONE], &sft.values[AT_ONE]);
    let sharper = difference(&sft.values[best], &sft.values[AT_ONE]);
    format!(
        "Sharpened: at temperature 1 RL gains {}; SFT's judge gains {} by being read {how} instead.",
        points(whole),
        points(sharper)
    )
}

/// Against many votes of SFT's judge.
fn voted(sft: &PairResults, rl: &PairResults) -> Option<String> {
    let many = sft.values.get(MANY)?;
    let gain = difference(&rl.values[GREEDY], many);
    let word = match sign(gain) {
        1 => "above",
        -1 => "below",
        _ => "not told apart from",
    };
    Some(format!(
        "Voting: the mean of {MANY_VOTES} judgements of SFT's judge is right on {}; one greedy judgement after RL, {}, is {word} \
         it: {}.",
        percent(mean(sft, MANY)),
        percent(mean(rl, GREEDY)),
        points(gain)
    ))
}

fn controlled(name: &str, before: &PairResults, after: &PairResults) -> String {
    let gain = |key: &str| points(difference(&after.values[key], &before.values[key]));
    format!("Control, {name}: RL changes accuracy at temperature 1 by {}, greedy by {}.", gain(AT_ONE), gain(GREEDY))
}

/// The way in which one judgement a side is right most often, and its name.
fn best_single(results: &PairResults) -> (&'static str, String) {
    match (mean(results, BEST), results.report.best_temperature) {
        (best, Some(temperature)) if best > mean(results, GREEDY) => (BEST, format!("at temperature {temperature}")),
        _ => (GREEDY, "greedily".into()),
    }
}

/// 0 of what was not measured.
fn mean(results: &PairResults, key: &str) -> f64 {
    let values = results.values.get(key).map_or(&[][..], Vec::as_slice);
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// 1 or −1 if the interval says which; 0 if it holds 0.
fn sign(change: Estimate) -> i32 {
    i32::from(change.low > 0.0) - i32::from(change.high < 0.0)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn points(change: Estimate) -> String {
    let [mean, low, high] = [change.mean, change.low, change.high].map(|value| 100.0 * value);
    format!("{mean:+.1} points [{low:+.1}, {high:+.1}]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::PairReport;

    /// Results on 100 pairs of which the first so many are right, by key.
    fn measured(right: &[(&'static str, usize)], best_temperature: Option<f64>) -> PairResults {
        let values = |count: &usize| (0..100).map(|i| f64::from(u8::from(i < *count))).collect();
        PairResults {
            report: PairReport { best_temperature, ..PairReport::default() },
            values: right.iter().map(|(key, count)| (*key, values(count))).collect(),
        }
    }

    fn said(sft: PairResults, rl: PairResults) -> Vec<String> {
        let mut results = Results::new();
        results.insert(SFT.key, sft);
        results.insert(RL.key, rl);
        all(&Settings::default(), &results)
    }

    #[test]
    fn what_no_temperature_gives_is_learnt() {
        let sft = measured(&[(AT_ONE, 55), (BEST, 64), (GREEDY, 60), (MANY, 80)], Some(0.5));
        let said = said(sft, measured(&[(AT_ONE, 88), (BEST, 89), (GREEDY, 93)], Some(0.25)));
        assert_eq!(said.len(), 4, "{said:#?}");
        let learnt = "Learnt from the pairs: one judgement a side, each judge as it is best (greedily, SFT's at temperature \
                      0.5), is right on 93.0 % of the pairs instead of 64.0 %: +29.0 points [+20.1, +37.9].";
        assert!(said[1].starts_with(learnt), "{}", said[1]);
        assert!(said[2].contains("RL gains +33.0 points") && said[2].contains("SFT's judge gains +9.0 points"));
        assert!(said[2].contains("read at temperature 0.5 instead"));
        assert!(said[3].contains("right on 80.0 %") && said[3].contains("is above it: +13.0 points"));
    }

    #[test]
    fn what_a_colder_judge_does_too_is_not_learnt() {
        let sft = || measured(&[(AT_ONE, 70), (BEST, 92), (GREEDY, 93)], Some(0.25));
        let same = said(sft(), measured(&[(AT_ONE, 90), (BEST, 93), (GREEDY, 94)], Some(0.25)));
        assert!(same[1].starts_with("Nothing is shown to be learnt"), "{}", same[1]);
        assert_eq!(same.len(), 3, "64 votes were not measured");
        let worse = said(sft(), measured(&[(AT_ONE, 60), (BEST, 60), (GREEDY, 61)], Some(0.25)));
        assert!(worse[1].starts_with("Lost in RL"), "{}", worse[1]);
    }

    #[test]
    fn a_control_is_compared_with_what_it_began_from() {
        let mut results = Results::new();
        results.insert(SFT.key, measured(&[(AT_ONE, 55), (GREEDY, 60)], None));
        results.insert(RL.key, measured(&[(AT_ONE, 88), (GREEDY, 93)], None));
        results.insert("inverted", measured(&[(AT_ONE, 30), (GREEDY, 25)], None));
        results.insert("clean_sft", measured(&[(AT_ONE, 80), (GREEDY, 95)], None));
        results.insert("clean_rl", measured(&[(AT_ONE, 90), (GREEDY, 95)], None));
        let said = all(&Settings::default(), &results);
        assert!(said[3].contains("inverted labels: RL changes accuracy at temperature 1 by -25.0 points"), "{said:#?}");
        assert!(said[4].contains("a clean teacher: RL changes accuracy at temperature 1 by +10.0 points"));
        assert!(said[4].contains("greedy by +0.0 points"));
    }
}
