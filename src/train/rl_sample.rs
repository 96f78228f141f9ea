//! A judgement in samples.jsonl, with all that its reward and its advantage were computed from.

use serde::Serialize;

use super::rl_metrics::STAGE;
use super::trajectory::Trajectory;
use crate::data::{Message, Role, RowId};
use crate::judge::{Failure, JudgeMode, JudgePair};

/// A line of samples.jsonl. With the `[reward]` settings in config.toml, `par` follows from `score`, the means and `delta`,
/// `reward` is `par` + `penalty`, and `advantage` follows from `group_rewards` (with `reward.advantage = "batch"` its divisor
/// is of the whole step). In pairwise mode the score of a preference is 1 for `response` and 0 for `second`, `par` is 1 for a
/// right preference, and `delta` its distance from ½ to the right side.
#[derive(Serialize)]
pub struct RlSample {
    stage: &'static str,
    step: u64,
    pair: RowId,
    /// The pair's file, where there are several: their ids may be the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    role: Role,
    rollout: usize,
    task: String,
    prompt: String,
    response: String,
    /// In pairwise mode, the other response, which is shown second.
    #[serde(skip_serializing_if = "Option::is_none")]
    second: Option<String>,
    judgement: String,
    /// The rubrics that the judge wrote.
    rubrics: Vec<String>,
    verdict: &'static str,
    score: Option<f64>,
    /// Scores of all judgements of either response, by rollout; null where a judgement has none.
    scores_chosen: Vec<Option<f64>>,
    scores_rejected: Vec<Option<f64>>,
    /// Means of the scores of this response and of the other one; null where no judgement has a score.
    own_mean: Option<f64>,
    other_mean: Option<f64>,
    /// The margin that f is applied to; null for a failure, or if the other side has no score.
    delta: Option<f32>,
    /// Preference-Aware Reward: 0 on the wrong side of the other mean, else f(delta).
    par: f32,
    /// Format penalty of the verdict, at most 0.
    penalty: f32,
    reward: f32,
    /// Rewards of all judgements of this response, by rollout; null for one that could not be had, which takes no part.
    group_rewards: Vec<Option<f32>>,
    advantage: f32,
}

impl RlSample {
    /// `all`: the trajectories of the step, those of each side in the order of their rollouts.
    pub fn new(step: u64, mode: JudgeMode, pair: &JudgePair, t: &Trajectory, all: &[Trajectory]) -> Self {
        let verdict = t.judged.verdict;
        let side = |role: Role| all.iter().filter(move |other| other.pair == t.pair && other.role == role);
        let scores = |role: Role| side(role).map(|other| other.judged.verdict.score()).collect::<Vec<_>>();
        let mean = |scores: &[Option<f64>]| {
            let scores: Vec<f64> = scores.iter().flatten().copied().collect();
            (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
        };
        let [scores_chosen, scores_rejected] = Role::BOTH.map(scores);
        let (own, other) = match t.role {
            Role::Chosen => (&scores_chosen, &scores_rejected),
            Role::Rejected => (&scores_rejected, &scores_chosen),
        };
        Self {
            stage: STAGE,
            step,
            pair: pair.pair.id.clone(),
            file: pair.pair.id.file().map(str::to_string),
            role: t.role,
            rollout: t.rollout,
            task: pair.pair.task.clone(),
            prompt: pair.pair.prompt.iter().map(Message::text).collect::<Vec<_>>().join("\n"),
            response: pair.pair.response(t.role).to_string(),
            second: (mode == JudgeMode::Pairwise).then(|| pair.pair.response(t.role.other()).to_string()),
            judgement: t.judged.text.clone(),
            rubrics: t.judged.sections.rubrics.clone(),
            verdict: verdict.name(),
            score: verdict.score(),
            own_mean: mean(own),
            other_mean: mean(other),
            scores_chosen,
            scores_rejected,
            delta: t.rewarded.delta,
            par: t.rewarded.par,
            penalty: t.rewarded.penalty,
            reward: t.rewarded.reward,
            group_rewards: side(t.role).map(present_reward).collect(),
            advantage: t.rewarded.advantage,
        }
    }
}

fn present_reward(t: &Trajectory) -> Option<f32> {
    (t.judged.verdict.failure() != Some(Failure::Unavailable)).then_some(t.rewarded.reward)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::data::{Pair, TaskBy};
    use crate::judge::{Judged, Verdict};
    use crate::ops::Cpu;
    use crate::reward::RewardSettings;
    use crate::rollout::{Completion, FinishReason};
    use crate::setting::Valid;
    use crate::train::rl::reward;
    use crate::train::trajectory::join;

    fn judged(verdict: Verdict) -> Judged {
        let completion = Completion { tokens: vec![1], logprobs: vec![-1.0], finish_reason: FinishReason::Stop };
        Judged { completion, text: String::new(), verdict, sections: Default::default() }
    }

    fn failed(failure: Failure) -> Verdict {
        Verdict::Failed(failure)
    }

    fn numbers(line: &Value, key: &str) -> Vec<Option<f64>> {
        line[key].as_array().unwrap().iter().map(Value::as_f64).collect()
    }

    fn mean(values: &[Option<f64>]) -> Option<f64> {
        let values: Vec<f64> = values.iter().flatten().copied().collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// The definitions, in f64, from a line and the settings alone: PAR, penalty and advantage.
    fn recomputed(line: &Value) -> [f64; 3] {
        let s = RewardSettings::default();
        let other = if line["role"] == "chosen" { "scores_rejected" } else { "scores_chosen" };
        let sign = if line["role"] == "chosen" { 1.0 } else { -1.0 };
        let margin = line["score"].as_f64().zip(mean(&numbers(line, other))).map(|(score, mean)| sign * (score - mean));
        let par = match margin {
            Some(margin) if margin > s.threshold => s.high,
            Some(margin) if margin > 0.0 => s.low,
            _ => 0.0,
        };
        let penalty = match line["verdict"].as_str().unwrap() {
            "out_of_range" => s.penalty.invalid_score,
            "malformed" | "truncated" | "missing" => s.penalty.malformed,
            _ => 0.0,
        };
        let group: Vec<f64> = numbers(line, "group_rewards").into_iter().flatten().collect();
        let center = group.iter().sum::<f64>() / group.len() as f64;
        let variance = group.iter().map(|r| (r - center).powi(2)).sum::<f64>() / (group.len() as f64 - 1.0);
        let advantage = if line["verdict"] == "unavailable" {
            0.0
        } else {
            (par + penalty - center) / (variance.sqrt() + s.epsilon)
        };
        [par, penalty, advantage]
    }

    #[test]
    fn a_line_alone_gives_its_reward_again() {
        let score = Verdict::Score;
        let sides = [
            [score(9.0), score(6.0), score(3.0), failed(Failure::Malformed)],
            [score(5.0), score(7.0), failed(Failure::OutOfRange), failed(Failure::Unavailable)],
        ];
        // Of the second pair, one side has no score at all.
        let mute = [[failed(Failure::Truncated); 4], [score(2.0), score(4.0), score(4.0), failed(Failure::Missing)]];
        let pair = |id: u64| JudgePair {
            pair: Pair {
                id: RowId::from(id),
                task: "chat".into(),
                task_by: TaskBy::Own,
                prompt: vec![Message::user("q")],
                chosen: "a".into(),
                rejected: "b".into(),
                source: None,
                gap: None,
                arguments: Default::default(),
            },
            prompts: [vec![1], vec![2]],
        };
        let pairs = [pair(3), pair(8)];
        let all = [sides, mute].map(|pair| pair.map(|side| side.map(judged).to_vec())).to_vec();
        let rewards = reward(&Cpu, &Valid::default(), JudgeMode::Pointwise, 4, &pairs, &all).unwrap();
        let trajectories = join(&pairs, all, &rewards);
        let mut earned = std::collections::BTreeSet::new();
        for t in &trajectories {
            let line =
                serde_json::to_value(RlSample::new(1, JudgeMode::Pointwise, &pairs[t.pair], t, &trajectories)).unwrap();
            let had = ["par", "penalty", "advantage"].map(|key| line[key].as_f64().unwrap());
            for (had, again) in had.into_iter().zip(recomputed(&line)) {
                // f32, and a sum over four of them.
                assert!((had - again).abs() < 1e-5, "{had} is not {again}: {line}");
            }
            assert!((line["reward"].as_f64().unwrap() - had[0] - had[1]).abs() < 1e-6, "{line}");
            let own = if line["role"] == "chosen" { "scores_chosen" } else { "scores_rejected" };
            assert_eq!(line["own_mean"].as_f64(), mean(&numbers(&line, own)), "{line}");
            earned.insert(line["reward"].to_string());
        }
        assert!(earned.len() >= 4, "rewards that are all alike test nothing: {earned:?}");
    }
}
