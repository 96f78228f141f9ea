//! Both stages of a demo with an evaluation after each, then the controls that were asked for; summary, report and table.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::suite::DemoSuite;
use super::{COMMAND, DemoArgs, MODEL, SFT_MODEL, controls, sentences};
use crate::checkpoint::Progress;
use crate::commands::ending::{Beginning, Fault};
use crate::commands::report::CONTENTS;
use crate::commands::train_args::for_device;
use crate::commands::{ending, interrupt};
use crate::config::Settings;
use crate::eval::pairs::{MANY_VOTES, PairResults, VOTES};
use crate::file::{console, say};
use crate::log::Environment;
use crate::log::charts::Stage;
use crate::model::{Qwen3, Qwen3Config};
use crate::ops::Backend;
use crate::report::results;
use crate::rollout::EngineError;
use crate::setting::Valid;
use crate::train::rl_report::RL;
use crate::train::run::Outcome;
use crate::train::run_folder::{Claim, HELD_OUT_FILE, RunFolder, RunRecord};
use crate::train::sft::SFT;
use crate::train::{Guard, Learner};

/// Learns from random weights.
pub fn run<B: Backend>(
    backend: &B,
    args: &DemoArgs,
    claim: Claim,
    settings: &Valid<Settings>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let suite = DemoSuite::new(settings, None)?;
    suite.check(settings)?;
    let (config, weights) = suite.model(settings)?;
    let settings = &for_device(backend, settings, &config)?;
    let lesson = Lesson { backend, config, suite, settings, quick: args.quick, stop };
    interrupt::defer();
    let device = args.device.device.kind();
    let mut run = claim.begin(&RunRecord::new(COMMAND, device, Vec::new()), settings, Progress::default())?;
    let stages = |run: &mut RunFolder| -> anyhow::Result<()> {
        let start = Instant::now();
        let mut results = Results::new();
        lesson.suite.write_test_pairs(&run.path().join(HELD_OUT_FILE), settings.eval.pairs)?;
        let sft = lesson.sft(&weights, run)?;
        lesson.suite.export(&run.path().join(SFT_MODEL), &sft.model)?;
        results.insert(SFT.key, sft.results);
        let taught = backend.download(backend.view(sft.model.master(), 0..weights.len()))?;
        let rl = lesson.rl(sft.model, run)?;
        lesson.suite.export(&run.path().join(MODEL), &rl.model)?;
        results.insert(RL.key, rl.results);
        if args.controls {
            // The demo's own results are kept, whatever becomes of the controls.
            run.finish(&summary(settings, &results, start)?, &CONTENTS)?;
            controls::run(&lesson, device, run.path(), [&weights, &taught], &mut results)?;
        }
        finish(run, settings, &results, start)
    };
    match stages(&mut run) {
        Err(error) if is_stop(&error) => Err(stopped(run.path())),
        Err(error) => Err(ending::failed(error, &run, CONTENTS.stages)),
        learnt => learnt,
    }
}

/// What both stages share: a control is the same lesson with other settings.
pub struct Lesson<'a, B: Backend> {
    pub backend: &'a B,
    pub config: Qwen3Config,
    pub suite: DemoSuite,
    pub settings: &'a Valid<Settings>,
    /// Few steps, which need not learn.
    pub quick: bool,
    pub stop: &'a AtomicBool,
}

/// A trained model and what it can do.
pub struct Taught<B: Backend> {
    pub model: Qwen3<B>,
    pub results: PairResults,
}

impl<B: Backend> Lesson<'_, B> {
    /// A model with these weights.
    pub fn model(&self, weights: &[f32]) -> anyhow::Result<Qwen3<B>> {
        let mut model = Qwen3::new(self.backend, self.config.clone(), weights, self.settings.model.context)?;
        model.lm_head_chunk_rows = self.settings.run.lm_head_chunk_rows;
        Ok(model)
    }

    /// Supervised fine-tuning of a model with these weights, and its evaluation, which asks what voting alone can do.
    pub fn sft(&self, weights: &[f32], run: &mut RunFolder) -> anyhow::Result<Taught<B>> {
        let Self { suite, settings: s, stop, .. } = self;
        let mut learner = Learner::new(self.model(weights)?, s.part(|s| &s.sft.adamw), s.sft.micro_batch_tokens)?;
        let mut guard = Guard::new(run.path().to_path_buf(), s.run.patience);
        let began = Beginning::of(&learner.model)?;
        complete(suite.run_sft(&mut learner, s, run, &mut guard, stop)?)?;
        self.check(&learner, &began, &SFT)?;
        self.evaluated(learner.model, if self.quick { VOTES } else { MANY_VOTES })
    }

    /// RL from a model, which is also the reference, and its evaluation.
    pub fn rl(&self, model: Qwen3<B>, run: &mut RunFolder) -> anyhow::Result<Taught<B>> {
        let Self { suite, settings: s, stop, .. } = self;
        let reference = model.frozen()?;
        let mut learner = Learner::new(model, s.part(|s| &s.rl.adamw), s.rl.micro_batch_tokens)?;
        let mut guard = Guard::new(run.path().to_path_buf(), s.run.patience);
        let began = Beginning::of(&learner.model)?;
        complete(suite.run_rl(&mut learner, &reference, s, run, &mut guard, stop)?)?;
        self.check(&learner, &began, &RL)?;
        self.evaluated(learner.model, VOTES)
    }

    /// An error if a stage has learnt nothing, or has ruined the weights. The few steps of a quick demo need not learn: that is
    /// said.
    fn check(&self, learner: &Learner<B>, began: &Beginning, stage: &Stage) -> anyhow::Result<()> {
        match ending::fault(learner, began, stage)? {
            Some(fault @ Fault::Unchanged(_)) if self.quick => say!("note: {}: {fault}", stage.name),
            Some(fault) => anyhow::bail!("{}: {fault}", stage.name),
            None => {}
        }
        Ok(())
    }

    fn evaluated(&self, model: Qwen3<B>, votes: usize) -> anyhow::Result<Taught<B>> {
        let results = self.suite.evaluate(&model, self.settings, votes, self.settings.eval.pairs / 2, self.stop)?;
        Ok(Taught { model, results })
    }
}

/// The stages' results, by key.
pub type Results = BTreeMap<&'static str, PairResults>;

/// summary.json of what was measured.
pub fn summary(settings: &Settings, results: &Results, start: Instant) -> anyhow::Result<Map<String, Value>> {
    let stages: Map<String, Value> =
        results.iter().map(|(key, results)| ((*key).to_owned(), json!(results.report))).collect();
    let summary = json!({
        "wall_s": start.elapsed().as_secs_f64(),
        "seed": settings.run.seed,
        "flip": settings.data.flip,
        "teacher_error": settings.data.teacher_error,
        "score_noise": settings.data.score_noise,
        (results::SENTENCES): sentences::all(settings, results),
        "stages": stages,
        "environment": Environment::detect(),
    });
    match summary {
        Value::Object(summary) => Ok(summary),
        other => anyhow::bail!("a summary is an object, got {other}"),
    }
}

/// Writes summary and report, and prints the table, what it means, and what is not healthy.
fn finish(run: &RunFolder, settings: &Settings, results: &Results, start: Instant) -> anyhow::Result<()> {
    let summary = summary(settings, results, start)?;
    let report = run.finish(&summary, &CONTENTS)?;
    ending::say_unhealthy(run.path(), CONTENTS.stages);
    let table = results::text_table(&CONTENTS, &summary);
    let sentences: String = results::sentences(&summary).map(|sentence| format!("{sentence}\n")).collect();
    let (model, seconds) = (run.path().join(MODEL), start.elapsed().as_secs_f64());
    let (model, report) = (model.display(), report.display());
    console::print_line(format_args!(
        "{table}\n{sentences}\n{seconds:.0} s. The trained judge: {model}. The report: {report}"
    ))?;
    Ok(())
}

/// An error if a stage was stopped from outside.
fn complete(outcome: Outcome) -> anyhow::Result<()> {
    if outcome == Outcome::Stopped { Err(EngineError::Interrupted.into()) } else { Ok(()) }
}

/// Whether an error says that an evaluation or a rollout was stopped from outside.
fn is_stop(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(EngineError::Interrupted)))
}

fn stopped(out: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "stopped; the numbers so far are kept in {} (`patarm-train report` draws them), and a demo has no checkpoints: the \
         same command replaces them and starts again",
        out.display()
    )
}
