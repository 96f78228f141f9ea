//! The numbers of an RL step: one line of metrics.jsonl.

use serde::Serialize;

use super::token_loss::RowResults;
use super::trajectory::{RowToken, Rows, Trajectory};
use crate::config::RlSettings;
use crate::loss::grpo::{GrpoLoss, KlEstimator};
use crate::optimizer::Update;
use crate::reward::Rewards;
use crate::rollout::FinishReason;

/// `stage` in the lines of RL.
pub const STAGE: &str = "rl";

/// One line of metrics.jsonl. Shares are of all judgements of the step unless said otherwise; `None` is "there was none".
#[derive(Clone, Debug, Default, Serialize)]
pub struct RlMetrics {
    pub stage: &'static str,
    pub step: u64,
    /// Aggregated loss, mean over the updates of the step.
    pub loss: f64,
    pub reward_mean: f64,
    pub par_mean: f64,
    pub penalty_mean: f64,
    /// Mean over pairs of mean chosen − mean rejected score, over pairs where both sides have a score.
    pub margin_mean: Option<f64>,
    pub score_chosen_mean: Option<f64>,
    pub score_rejected_mean: Option<f64>,
    /// Share of pairs whose mean chosen score is strictly higher.
    pub pair_accuracy: f64,
    pub verdict_valid: f64,
    pub verdict_malformed: f64,
    pub verdict_out_of_range: f64,
    pub verdict_truncated: f64,
    pub verdict_missing: f64,
    /// Judgements that could not be had (a failed rollout): not the doing of the policy, so neither rewarded nor punished.
    pub verdict_unavailable: f64,
    /// Shares of judgements that earned no, the lower and the higher Preference-Aware Reward.
    pub tier_none: f64,
    pub tier_low: f64,
    pub tier_high: f64,
    /// Shares of groups whose rewards are all equal: no gradient but the KL's.
    pub dead_groups_chosen: f64,
    pub dead_groups_rejected: f64,
    /// Pairs that dynamic sampling replaced.
    pub resampled_pairs: usize,
    pub truncated_share: f64,
    /// Mean over tokens, in nats.
    pub entropy_mean: f64,
    /// Share of tokens whose gradient clipping took away.
    pub clip_share: f64,
    /// Mean over tokens of the estimator in use, from the reference; `None` without one (`rl.policy.kl_coefficient = 0`).
    pub kl_mean: Option<f64>,
    /// Largest |log-probability while decoding − of the training forward|, at the first update on this rollout batch.
    pub mismatch_max: f64,
    /// KL from the policy that drew the tokens to the training forward's, by the same two (mean over tokens of k3).
    pub mismatch_kl: f64,
    /// Largest over the updates of the step, before clipping.
    pub grad_norm: f64,
    pub learning_rate: f64,
    pub skipped_updates: usize,
    pub length_mean: f64,
    pub length_valid_mean: Option<f64>,
    pub length_failed_mean: Option<f64>,
    pub rollout_tokens: usize,
    pub rollout_tokens_per_s: f64,
    pub train_tokens_per_s: f64,
    pub step_time_ms: f64,
}

/// Sums over the tokens of one update.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    loss: f64,
    entropy: f64,
    clipped: usize,
    /// `None` without a reference.
    kl: Option<f64>,
    tokens: usize,
}

/// Collects the numbers of a step as its updates run.
pub struct StepNumbers {
    loss: GrpoLoss,
    rewards: Rewards,
    resampled: usize,
    updates: Vec<Sums>,
    mismatch_max: f64,
    /// Sum over the tokens of the first update.
    mismatch_kl: f64,
    gradient_norm: f64,
    skipped: usize,
}

impl StepNumbers {
    /// A step without updates yet. `resampled`: pairs that dynamic sampling replaced.
    pub fn new(settings: &RlSettings, rewards: Rewards, resampled: usize) -> Self {
        Self {
            loss: settings.policy,
            rewards,
            resampled,
            updates: Vec::new(),
            mismatch_max: 0.0,
            mismatch_kl: 0.0,
            gradient_norm: 0.0,
            skipped: 0,
        }
    }

    /// Micro-batches added from now on belong to the next update.
    pub fn begin_update(&mut self) {
        self.updates.push(Sums::default());
    }

    /// Adds the rows of one micro-batch of the current update.
    pub fn add(&mut self, rows: &Rows, results: &RowResults) {
        let first_update = self.updates.len() == 1;
        let sums = self.updates.last_mut().expect("an update has begun");
        sums.loss += (results.loss.iter().zip(&rows.weight)).map(|(l, w)| f64::from(*l) * f64::from(*w)).sum::<f64>();
        for RowToken { row, rollout, advantage } in &rows.tokens {
            let logprob = results.logprob[*row];
            let old = rows.old.as_ref().map_or(logprob, |old| old[*row]);
            sums.entropy += f64::from(results.entropy[*row]);
            sums.clipped += usize::from(self.loss.clips(logprob, old, *advantage));
            if let Some(reference) = &rows.reference {
                let kl = f64::from(self.loss.kl.value_and_slope(logprob, reference[*row]).0);
                *sums.kl.get_or_insert(0.0) += kl;
            }
            if first_update {
                self.mismatch_kl += f64::from(KlEstimator::K3.value_and_slope(*rollout, logprob).0);
                let mismatch = f64::from((logprob - rollout).abs());
                // What is not a number must show.
                if mismatch > self.mismatch_max || mismatch.is_nan() {
                    self.mismatch_max = mismatch;
                }
            }
        }
        sums.tokens += rows.tokens.len();
    }

    /// Loss of the current update.
    pub fn last_loss(&self) -> f64 {
        self.updates.last().map_or(0.0, |sums| sums.loss)
    }

    /// Records what the optimizer did with the current update.
    pub fn end_update(&mut self, update: &Update) {
        self.gradient_norm = self.gradient_norm.max(update.gradient_norm);
        self.skipped += usize::from(!update.applied);
    }

    /// The step's record: the loss is the mean over updates, entropy and KL are over all their tokens. Times are in seconds.
    pub fn metrics(
        &self,
        step: u64,
        learning_rate: f64,
        trajectories: &[Trajectory],
        rollout_tokens: usize,
        rollout_s: f64,
        step_s: f64,
    ) -> RlMetrics {
        let health = &self.rewards.health;
        let tokens: usize = self.updates.iter().map(|u| u.tokens).sum();
        let per_token = |sum: f64| sum / tokens.max(1) as f64;
        let total = |f: fn(&Sums) -> f64| self.updates.iter().map(f).sum::<f64>();
        let mean = |f: &dyn Fn(&Trajectory) -> Option<f64>| {
            let values: Vec<f64> = trajectories.iter().filter_map(f).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let length = |t: &Trajectory| t.judged.completion.tokens.len() as f64;
        let failed = |t: &Trajectory| t.judged.verdict.score().is_none();
        let truncated = |t: &Trajectory| f64::from(u8::from(t.judged.completion.finish_reason == FinishReason::Length));
        let average = |f: &dyn Fn(&Trajectory) -> f64| mean(&|t| Some(f(t))).unwrap_or(0.0);
        RlMetrics {
            stage: STAGE,
            step,
            loss: total(|u| u.loss) / self.updates.len().max(1) as f64,
            reward_mean: average(&|t| f64::from(t.rewarded.reward)),
            par_mean: average(&|t| f64::from(t.rewarded.par)),
            penalty_mean: average(&|t| f64::from(t.rewarded.penalty)),
            margin_mean: health.margin_mean,
            score_chosen_mean: health.score_mean[0],
            score_rejected_mean: health.score_mean[1],
            pair_accuracy: health.pair_accuracy,
            verdict_valid: health.valid,
            verdict_malformed: health.malformed,
            verdict_out_of_range: health.out_of_range,
            verdict_truncated: health.truncated,
            verdict_missing: health.missing,
            verdict_unavailable: health.unavailable,
            tier_none: health.tier_none,
            tier_low: health.tier_low,
            tier_high: health.tier_high,
            dead_groups_chosen: health.dead_groups[0],
            dead_groups_rejected: health.dead_groups[1],
            resampled_pairs: self.resampled,
            truncated_share: average(&truncated),
            entropy_mean: per_token(total(|u| u.entropy)),
            clip_share: per_token(total(|u| u.clipped as f64)),
            kl_mean: self.updates.iter().filter_map(|u| u.kl).reduce(|a, b| a + b).map(per_token),
            mismatch_max: self.mismatch_max,
            mismatch_kl: self.mismatch_kl / self.updates.first().map_or(1, |u| u.tokens.max(1)) as f64,
            grad_norm: self.gradient_norm,
            learning_rate,
            skipped_updates: self.skipped,
            length_mean: average(&length),
            length_valid_mean: mean(&|t| (!failed(t)).then(|| length(t))),
            length_failed_mean: mean(&|t| failed(t).then(|| length(t))),
            rollout_tokens,
            rollout_tokens_per_s: rollout_tokens as f64 / rollout_s,
            train_tokens_per_s: tokens as f64 / (step_s - rollout_s).max(1e-9),
            step_time_ms: 1e3 * step_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::JudgeMode;
    use crate::ops::Cpu;
    use crate::reward::PairRewardManager;
    use crate::setting::Valid;

    /// The policy before the only update is the one of its results, and how far decoding was from it is measured all the same.
    #[test]
    fn the_only_update_of_a_step_measures_how_far_decoding_was_from_its_forward_pass() {
        let rewards = PairRewardManager::new(Valid::default(), JudgeMode::Pointwise, 1).finish(&Cpu).unwrap();
        let mut numbers = StepNumbers::new(&RlSettings::default(), rewards, 0);
        let token = |row, rollout, advantage| RowToken { row, rollout, advantage };
        let tokens = vec![token(0, -1.0, 1.0), token(1, -2.0, -1.0)];
        let results = RowResults { logprob: vec![-1.25, -2.0], entropy: vec![0.5; 2], loss: vec![0.0; 2] };
        numbers.begin_update();
        numbers.add(&Rows { weight: vec![0.5; 2], tokens, ..Rows::default() }, &results);
        let metrics = numbers.metrics(1, 0.1, &[], 2, 1.0, 2.0);
        assert_eq!((metrics.mismatch_max, metrics.clip_share), (0.25, 0.0));
        assert_eq!(metrics.kl_mean, None, "without a reference nothing is measured");
        let k3 = (-0.25f64).exp_m1() + 0.25;
        assert!((metrics.mismatch_kl - 0.5 * k3).abs() < 1e-7, "{}", metrics.mismatch_kl);
    }
}
