//! Evaluation on held-out pairs while a judge learns: every so many steps, into metrics.jsonl and the report's charts.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::checkpoint;
use crate::config::Settings;
use crate::data::{LoadOptions, OnBadRow, Tasks, check_judged, load_pairs};
use crate::eval::{PairQuestions, PairReport, evaluate_pairs};
use crate::file::{console, say};
use crate::judge::{Judge, JudgePair, JudgeSampling};
use crate::log::StageBar;
use crate::log::charts::{AxisRange, Chart, Stage, keys_of, series};
use crate::log::metrics::read_records;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::ops::sample::Sampling;
use crate::random::{Purpose, Stream};
use crate::rollout::{Engine, EngineError, EngineLimits};
use crate::train::Learner;
use crate::train::dataset::report_skipped;
use crate::train::run::Look;
use crate::train::run_folder::RunFolder;

/// A line of metrics.jsonl: the judge on held-out pairs after a step.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HeldOutMetrics {
    pub stage: &'static str,
    /// The stage of training that is looked at.
    pub of: &'static str,
    pub step: u64,
    pub pairs: usize,
    /// Sampled judgements of each response.
    pub votes: usize,
    /// Share of pairs whose chosen response scores strictly higher, by one judgement a side: greedy, and at temperature 1.
    pub accuracy_greedy: f64,
    pub accuracy: f64,
    /// The same by the mean of the sampled judgements.
    pub accuracy_mean: f64,
    pub tie_rate: f64,
    pub margin_mean: f64,
    pub format_valid: f64,
    pub length_mean: f64,
    /// Whether no earlier step had a higher greedy accuracy.
    pub best: bool,
    pub wall_ms: f64,
}

/// Held-out pairs, for the report.
pub const HELD_OUT: Stage =
    Stage { key: "eval", name: "Held-out pairs", charts: CHARTS, signs: &[], keys: keys_of::<HeldOutMetrics> };

const CHARTS: &[Chart] = &[
    Chart::lines(
        "Accuracy on held-out pairs",
        "share of pairs",
        AxisRange::Unit,
        "How often the chosen response scores strictly higher: by one greedy judgement a side, by one at temperature 1, and by \
         the mean of several. The checkpoint with the best greedy accuracy is kept. A gap that opens between the training \
         reward and these lines is over-fitting.",
        &[
            series("accuracy_greedy", "greedy"),
            series("accuracy", "temperature 1"),
            series("accuracy_mean", "mean of the votes"),
        ],
    ),
    Chart::lines(
        "Ties and verdicts on held-out pairs",
        "share",
        AxisRange::Unit,
        "Pairs that score the same, and judgements with a valid verdict, at temperature 1.",
        &[series("tie_rate", "ties"), series("format_valid", "valid verdicts")],
    ),
];

/// The pairs, and how they are judged.
pub struct HeldOutPairs<'a> {
    judge: &'a Judge,
    pairs: Vec<JudgePair>,
    how: JudgeSampling,
    every: u64,
    stop: &'a AtomicBool,
    /// What is looked at.
    of: &'static str,
}

impl<'a> HeldOutPairs<'a> {
    /// The pairs of `eval.data`, or those that training held out; `None` where `eval.every` is 0. An error if none fits.
    pub fn load(
        settings: &Settings,
        judge: &'a Judge,
        held_out: Vec<JudgePair>,
        of: &'static str,
        stop: &'a AtomicBool,
    ) -> anyhow::Result<Option<Self>> {
        let s = &settings.eval;
        if s.every == 0 {
            return Ok(None);
        }
        let mut pairs = if s.data.is_empty() { held_out } else { read(settings, judge)? };
        let limit = s.max_prompt_tokens;
        let before = pairs.len();
        pairs.retain(|pair| pair.prompts.iter().all(|prompt| prompt.len() <= limit));
        let (fit, too_long) = (pairs.len(), before - pairs.len());
        pairs.truncate(s.pairs);
        ensure!(
            !pairs.is_empty(),
            "eval.every = {}: there are no held-out pairs ({before} read, {too_long} of more than eval.max_prompt_tokens = \
             {limit} tokens): give eval.data, or for rl a larger eval.share",
            s.every
        );
        say!("held out: {} of {fit} pairs that fit, looked at every {} steps", pairs.len(), s.every);
        let how = JudgeSampling {
            sampling: Sampling::temperature(1.0),
            votes: s.votes,
            max_new_tokens: s.max_new_tokens,
            stream: Stream::new(settings.run.seed).fold(Purpose::Evaluation as u64),
        };
        Ok(Some(Self { judge, pairs, how, every: s.every, stop, of }))
    }

    /// Judges all pairs; `None` if it was stopped.
    fn evaluate<B: Backend>(&self, learner: &Learner<B>, limits: EngineLimits) -> anyhow::Result<Option<PairReport>> {
        let mut engine = Engine::new(&learner.model, limits).context("no room to judge held-out pairs")?;
        let questions = PairQuestions { pairs: &self.pairs, tuning: &[], sampling: self.how };
        let (mut bar, mut done) = (StageBar::new(HELD_OUT.key, questions.judgements(), 0), 0);
        let judged = evaluate_pairs(self.judge, &mut engine, &learner.model, &questions, Some(self.stop), |ended| {
            done += ended as u64;
            bar.update(done, &[]);
        });
        bar.finish();
        match judged {
            Err(EngineError::Interrupted) => Ok(None),
            judged => Ok(Some(judged?.report)),
        }
    }
}

fn read(settings: &Settings, judge: &Judge) -> anyhow::Result<Vec<JudgePair>> {
    let files: Vec<PathBuf> = settings.eval.data.iter().map(PathBuf::from).collect();
    let tasks = Tasks::given(&settings.data.task, judge.settings().prompt.tasks.keys().cloned());
    let on_bad_row = if settings.data.skip_bad { OnBadRow::Skip } else { OnBadRow::Refuse };
    let loaded = load_pairs(&files, &LoadOptions { tasks, on_bad_row, format: None })?.try_map(|pair| {
        check_judged(&pair.arguments)?;
        judge.encode_pair(pair).map_err(|error| error.to_string())
    })?;
    report_skipped(&loaded.skipped, 0, 0);
    Ok(loaded.rows)
}

/// Looks at the judge between steps, and knows which step was the best.
pub struct HeldOut<'a> {
    pairs: HeldOutPairs<'a>,
    limits: EngineLimits,
    /// Steps that have been looked at, in this process or before a resume.
    seen: Vec<u64>,
    /// The step with the best greedy accuracy, the earliest of equal ones.
    best: Option<(u64, f64)>,
}

impl<'a> HeldOut<'a> {
    /// After what an earlier process wrote into the run's metrics; `limits`: those of the engine that judges.
    pub fn new(pairs: HeldOutPairs<'a>, folder: &RunFolder, limits: EngineLimits) -> anyhow::Result<Self> {
        let (records, _) = read_records(&folder.path().join("metrics.jsonl"))?;
        let (mut seen, mut best) = (Vec::new(), None);
        for record in records.iter().filter(|record| record.get("stage").is_some_and(|stage| stage == HELD_OUT.key)) {
            let number = |key: &str| record.get(key).and_then(Value::as_f64);
            if let (Some(step), Some(greedy)) = (number("step"), number("accuracy_greedy")) {
                seen.push(step as u64);
                keep_better(&mut best, step as u64, greedy);
            }
        }
        Ok(Self { pairs, limits, seen, best })
    }
}

/// Whether a step is better than all before it; then it is the best.
fn keep_better(best: &mut Option<(u64, f64)>, step: u64, greedy: f64) -> bool {
    let better = best.is_none_or(|(_, before)| greedy > before);
    if better {
        *best = Some((step, greedy));
    }
    better
}

impl<B: Backend> Look<B> for HeldOut<'_> {
    fn due(&self, step: u64, last: bool) -> bool {
        (step.is_multiple_of(self.pairs.every) || last) && step > 0 && !self.seen.contains(&step)
    }

    fn look(&mut self, learner: &Learner<B>, step: u64, folder: &mut RunFolder) -> anyhow::Result<bool> {
        let start = Instant::now();
        let Some(report) = self.pairs.evaluate(learner, self.limits)? else { return Ok(false) };
        let best = keep_better(&mut self.best, step, report.accuracy_greedy);
        self.seen.push(step);
        folder.metrics.write(&HeldOutMetrics {
            stage: HELD_OUT.key,
            of: self.pairs.of,
            step,
            pairs: report.pairs,
            votes: report.votes,
            accuracy_greedy: report.accuracy_greedy,
            accuracy: report.accuracy,
            accuracy_mean: report.accuracy_mean,
            tie_rate: report.tie_rate,
            margin_mean: report.margin_mean,
            format_valid: report.format_valid,
            length_mean: report.length_mean,
            best,
            wall_ms: 1e3 * start.elapsed().as_secs_f64(),
        })?;
        Ok(true)
    }

    fn keep(&self) -> Option<u64> {
        self.best.map(|(step, _)| step)
    }
}

/// Refuses an evaluation whose prompts and judgements do not fit into the context.
pub fn fits_context(settings: &Settings, context: usize) -> anyhow::Result<()> {
    let s = &settings.eval;
    let needed = s.max_prompt_tokens + s.max_new_tokens;
    ensure!(
        s.every == 0 || needed <= context,
        "eval.max_prompt_tokens + eval.max_new_tokens = {needed} exceed the context of {context}: lower them or raise \
         model.context"
    );
    Ok(())
}

/// The best step for summary.json; null where nothing was looked at.
pub fn summary(look: &Option<HeldOut<'_>>) -> Value {
    let best = look.as_ref().and_then(|look| look.best);
    best.map_or(Value::Null, |(step, greedy)| json!({"best_step": step, "best_accuracy_greedy": greedy}))
}

/// Exports the model of the best step beside the last one's, if they differ. The learner's weights are those of the best step
/// then.
pub fn export_best<B: Backend>(
    folder: &RunFolder,
    learner: &mut Learner<B>,
    look: &Option<HeldOut<'_>>,
    last: u64,
    export: impl FnOnce(&Path, &Qwen3<B>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some((step, greedy)) = look.as_ref().and_then(|look| look.best) else { return Ok(()) };
    let percent = 100.0 * greedy;
    if step == last {
        return Ok(console::print_line(format_args!("It is the best on held-out pairs too ({percent:.1} % greedy)."))?);
    }
    let checkpoint = folder.checkpoints().join(format!("step-{step}"));
    let state = checkpoint::load(&checkpoint, &learner.model.backend.clone(), &mut learner.arenas_mut())
        .context("the checkpoint with the best accuracy on held-out pairs cannot be read")?;
    learner.restored(state.updates)?;
    let path = folder.path().join("model-best");
    export(&path, &learner.model)?;
    let path = path.display();
    Ok(console::print_line(format_args!(
        "The best on held-out pairs is that of step {step} ({percent:.1} % greedy): {path}"
    ))?)
}
