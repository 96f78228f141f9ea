//! Supervised fine-tuning: cross-entropy on the tokens an assistant wrote.

use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use super::error::TrainError;
use super::guard::Guard;
use super::learner::Learner;
use super::run::{StepReport, Trainer};
use super::token_loss::{Targets, TokenObjective};
use crate::checkpoint::Progress;
use crate::config::SftSettings;
use crate::log::StageBar;
use crate::log::charts::{AxisRange, Chart, Stage, keys_of, largest, series};
use crate::log::signs::{Ends, Finding, Level, Sign, finite};
use crate::model::Batch;
use crate::ops::Backend;
use crate::setting::Valid;

/// A conversation as token ids, with a mark on each token that is learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    pub ids: Vec<u32>,
    /// As long as `ids`.
    pub mask: Vec<bool>,
}

/// Where examples come from: a pure function of the cursor, so a cursor is all a resume needs.
pub trait ExampleSource: Sync {
    fn example(&self, cursor: u64) -> Example;
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SftMetrics {
    pub stage: &'static str,
    pub step: u64,
    /// Mean over the target tokens of the step, in nats.
    pub loss: f64,
    pub grad_norm: f64,
    pub learning_rate: f64,
    /// Tokens of the step, and those that were learned.
    pub tokens: usize,
    pub target_tokens: usize,
    pub skipped: bool,
    pub tokens_per_s: f64,
    pub step_time_ms: f64,
}

/// Supervised fine-tuning, for the report.
pub const SFT: Stage = Stage { key: "sft", name: "SFT", charts: CHARTS, signs: SIGNS, keys: keys_of::<SftMetrics> };

const SIGNS: &[Sign] = &[
    Sign { name: "Numbers", keys: &["loss", "grad_norm"], judge: finite },
    Sign { name: "Loss", keys: &["loss"], judge: falling },
];

/// A loss that ends well above its start says that the rate is too high; the margin is for the noise of a step.
fn falling(ends: &Ends) -> Option<Finding> {
    // The very first step: those after it may have blown up already.
    let (now, then) = (ends.now("loss")?, ends.first("loss")?);
    let risen = now > 1.1 * then + 0.05;
    Some(Finding {
        level: Level::of(risen, false),
        found: format!("The loss is {now:.3} nats per token (at the start of SFT: {then:.3})."),
        advice: match risen {
            true => "It has risen: lower the learning rate, and read the training rows.",
            false => "The model takes the text on.",
        },
    })
}

const CHARTS: &[Chart] = &[
    Chart::lines(
        "SFT loss",
        "nats per token",
        AxisRange::Data,
        "Mean over the target tokens of the step. Healthy: falls fast, then flattens.",
        &[series("loss", "training")],
    ),
    Chart::gradient_norm("SFT gradient norm", &[largest("grad_norm", "SFT")]),
    Chart::learning_rate("SFT learning rate", &[series("learning_rate", "SFT")]),
    Chart::speed("SFT speed", &[series("tokens_per_s", "training")]),
    Chart::step_time("Time of an SFT step", &[series("step_time_ms", "step")]),
];

/// SFT as the loop of [`super::run`] sees it.
pub struct SftTrainer<'a, B: Backend> {
    pub learner: &'a mut Learner<B>,
    pub source: &'a dyn ExampleSource,
    pub settings: Valid<SftSettings>,
    pub guard: &'a mut Guard,
}

impl<B: Backend> Trainer<B> for SftTrainer<'_, B> {
    type Metrics = SftMetrics;
    /// There are none.
    type Sample = ();
    const STAGE: &'static Stage = &SFT;

    fn steps(&self) -> u64 {
        self.settings.steps
    }

    fn learner(&self) -> &Learner<B> {
        self.learner
    }

    fn release(&mut self) {
        self.learner.release();
    }

    fn step(&mut self, progress: &mut Progress, bar: &StageBar) -> Result<StepReport<SftMetrics, ()>, TrainError> {
        let metrics = sft_step(self.learner, self.source, &self.settings, self.guard, progress, Some(bar))?;
        let shown = vec![("loss", metrics.loss), ("lr", metrics.learning_rate), ("tokens/s", metrics.tokens_per_s)];
        Ok(StepReport { metrics, shown, samples: Vec::new() })
    }
}

/// Runs one step and moves `progress` on.
pub fn sft_step<B: Backend>(
    learner: &mut Learner<B>,
    source: &dyn ExampleSource,
    settings: &Valid<SftSettings>,
    guard: &mut Guard,
    progress: &mut Progress,
    bar: Option<&StageBar>,
) -> Result<SftMetrics, TrainError> {
    let start = Instant::now();
    let cursors = progress.cursor..progress.cursor + settings.examples_per_step as u64;
    let examples: Vec<Example> = cursors.into_par_iter().map(|cursor| source.example(cursor)).collect();
    let target_tokens: usize = examples.iter().map(|e| e.mask.iter().skip(1).filter(|m| **m).count()).sum();
    let tokens = examples.iter().map(|e| e.ids.len()).sum();
    let mut results = Vec::new();
    let micro_batches = micro_batches(&examples, learner.capacity())?;
    let count = micro_batches.len();
    for (index, (mut batch, targets)) in micro_batches.into_iter().enumerate() {
        bar.inspect(|bar| bar.within("micro-batches", index, count));
        let weights = vec![1.0 / target_tokens.max(1) as f32; targets.rows.len()];
        let objective = TokenObjective::cross_entropy(&targets, &weights);
        results.push(learner.accumulate(&mut batch, &objective)?);
    }
    let mut loss = 0.0;
    for micro_batch in results {
        loss += micro_batch.get()?.loss.iter().map(|x| f64::from(*x)).sum::<f64>();
    }
    loss /= target_tokens.max(1) as f64;
    let learning_rate = settings.schedule().rate(progress.step);
    let update = learner.update_if(loss.is_finite(), learning_rate)?;
    progress.step += 1;
    progress.cursor += settings.examples_per_step as u64;
    guard.check(progress.step, loss, &update, || examples.iter().map(|e| e.ids.clone()).collect())?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(SftMetrics {
        stage: SFT.key,
        step: progress.step,
        loss,
        grad_norm: update.gradient_norm,
        learning_rate,
        tokens,
        target_tokens,
        skipped: !update.applied,
        tokens_per_s: tokens as f64 / seconds,
        step_time_ms: 1e3 * seconds,
    })
}

/// Packs whole examples, in their order, into batches of at most `capacity` tokens. Tokens after the last target of an
/// example are left out: nothing depends on them.
pub fn micro_batches(examples: &[Example], capacity: usize) -> Result<Vec<(Batch, Targets)>, TrainError> {
    let mut batches = vec![(Batch::default(), Targets::default())];
    for example in examples {
        // The last token of a sequence predicts nothing.
        let Some(last) = example.mask.iter().rposition(|m| *m).filter(|last| *last > 0) else { continue };
        if last > capacity {
            return Err(TrainError::TooLong { tokens: last, capacity });
        }
        if batches.last().is_some_and(|(batch, _)| batch.tokens() + last > capacity) {
            batches.push(Default::default());
        }
        let (batch, targets) = batches.last_mut().expect("never empty");
        let first = batch.tokens();
        batch.push_sequence(&example.ids[..last]);
        for position in (0..last).filter(|position| example.mask[position + 1]) {
            targets.push(first + position, example.ids[position + 1]);
        }
    }
    batches.retain(|(batch, _)| batch.tokens() > 0);
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: std::ops::Range<u32>, learned: std::ops::Range<usize>) -> Example {
        let ids: Vec<u32> = ids.collect();
        let mask = (0..ids.len()).map(|i| learned.contains(&i)).collect();
        Example { ids, mask }
    }

    #[test]
    fn examples_are_packed_whole_and_cut_after_their_last_target() {
        let examples = [example(0..10, 6..9), example(10..15, 3..5), example(20..30, 0..0), example(30..36, 1..6)];
        let batches = micro_batches(&examples, 12).unwrap();
        let ids: Vec<_> = batches.iter().map(|(batch, _)| batch.ids.clone()).collect();
        assert_eq!(ids, [(0..8).chain(10..14).collect::<Vec<u32>>(), (30..35).collect()]);
        assert_eq!(batches[0].1.rows, [5, 6, 7, 10, 11]);
        assert_eq!(batches[0].1.ids, [6, 7, 8, 13, 14]);
        assert_eq!(batches[1].1.ids, [31, 32, 33, 34, 35]);
        assert!(matches!(micro_batches(&examples, 7), Err(TrainError::TooLong { tokens: 8, capacity: 7 })));
    }
}
