//! What the commands that judge have in common: how judgements are sampled, whose rules they follow, and votes in numbers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::device::DeviceArgs;
use super::flag;
use super::pretrained::{self, Pretrained, WeightSource};
use super::rows::{fingerprint_of_model, kind_of_device};
use crate::config::{RUNNING, SEED, THREADS, TOKENS};
use crate::data::{LoadOptions, OnBadRow, Tasks};
use crate::file::say;
use crate::judge::{Failure, Judge, JudgeSampling, JudgeSettings, Judged, PromptFile, Verdict};
use crate::model::Qwen3Config;
use crate::ops::sample::Sampling;
use crate::random::Stream;
use crate::setting::{Assignment, Valid, count, number, resolve};

/// How responses are judged.
#[derive(Clone, Debug, Args)]
pub struct JudgingArgs {
    /// Judgements of each response.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true, value_parser = flag::<usize>(count(1, 10_000)))]
    pub votes: usize,
    /// 0 for the most probable judgement (then more than one vote adds nothing).
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, value_parser = flag::<f32>(number(0.0, 1000.0)))]
    pub temperature: f32,
    #[arg(long, default_value_t = 2048, allow_negative_numbers = true, value_parser = flag::<usize>(TOKENS))]
    pub max_new_tokens: usize,
    /// Longer prompts are kept out and counted.
    #[arg(long, default_value_t = 4096, allow_negative_numbers = true, value_parser = flag::<usize>(TOKENS))]
    pub max_prompt_tokens: usize,
    /// TOML file of the judge's prompts and primary rubrics, instead of those that the judge's directory carries (judge.toml); or
    /// a whole file like that judge.toml, with mode, rubrics, thinking, verdict and length too.
    #[arg(long, value_name = "FILE")]
    pub rubrics: Option<PathBuf>,
    /// Task of rows that name none. auto: the one that their source or their prompt points to, or else chat.
    #[arg(long, default_value = Tasks::AUTO)]
    pub default_task: String,
    /// Count bad rows and go on.
    #[arg(long)]
    pub skip_bad: bool,
    /// Whether the judge may think before it writes, instead of what its directory says.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub thinking: Option<bool>,
    /// Overrides a key of judge.toml, for example `--set verdict.max=5`; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Write the judgements' texts too.
    #[arg(long)]
    pub texts: bool,
    /// Judgements that are written at the same time, at most; changes memory and speed alone.
    #[arg(long, default_value_t = 64, allow_negative_numbers = true, value_parser = flag::<usize>(RUNNING))]
    pub max_running: usize,
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = flag::<u64>(SEED))]
    pub seed: u64,
    /// Threads; 0: all cores. Changes speed alone.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = flag::<usize>(THREADS))]
    pub threads: usize,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// The verdict of a vote that has a score.
#[cfg(test)]
pub const SCORE: &str = "score";
/// That of a vote for which the model could not compute.
pub const NOT_FINITE: &str = "not_finite";

/// That of a vote for which an endpoint gave no answer.
pub const UNAVAILABLE: &str = Failure::Unavailable.name();

/// One judgement. The score of a preference is 1 for the first response and 0 for the second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vote {
    pub verdict: String,
    pub score: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A judge as its directory holds it, before it is put on a device.
pub struct LoadedJudge {
    pub judge: Judge,
    pub config: Qwen3Config,
    pub weights: WeightSource,
}

impl JudgingArgs {
    /// How rows are read for a judge with these settings.
    pub fn load_options(&self, judge: &JudgeSettings) -> LoadOptions {
        let on_bad_row = if self.skip_bad { OnBadRow::Skip } else { OnBadRow::Refuse };
        let tasks = Tasks::given(&self.default_task, judge.prompt.tasks.keys().cloned());
        LoadOptions { tasks, on_bad_row, format: None }
    }

    /// All that rows of `command` depend on: rows that were made with the same can stand in one output. `input`: a fingerprint of
    /// what is asked; `more`: what the way of asking adds.
    pub fn made_with(
        &self,
        command: &str,
        judge: &JudgeSettings,
        input: String,
        more: Value,
    ) -> Result<Value, serde_json::Error> {
        let mut all = json!({
            "command": command,
            "input": input,
            "judge": serde_json::to_value(judge)?,
            "votes": self.votes,
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            "texts": self.texts,
        });
        if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
            all.extend(more);
        }
        Ok(all)
    }

    /// How judgements are drawn; an error if a setting cannot work.
    pub fn sampling(&self) -> anyhow::Result<JudgeSampling> {
        let sampling = Sampling::temperature(self.temperature);
        sampling.validate().map_err(|reason| anyhow::anyhow!("--{}", reason.replace('_', "-")))?;
        let stream = Stream::new(self.seed);
        Ok(JudgeSampling { sampling, votes: self.votes, max_new_tokens: self.max_new_tokens, stream })
    }

    /// The judge of a directory, under what the command line says.
    pub fn load(&self, model: &Path, settings: Valid<JudgeSettings>) -> anyhow::Result<LoadedJudge> {
        let Pretrained { config, weights, tokenizer } = pretrained::load(model)?;
        let (needed, limit) = (self.max_prompt_tokens + self.max_new_tokens, config.context());
        ensure!(
            needed <= limit,
            "--max-prompt-tokens + --max-new-tokens = {needed} exceed the model's context of {limit}: lower them"
        );
        Ok(LoadedJudge { judge: Judge::new(settings, tokenizer)?, config, weights })
    }

    /// The way of judging: what the judge's directory carries, under what the command line says; the differences are said.
    pub fn settings(&self, model: &Path) -> anyhow::Result<Valid<JudgeSettings>> {
        let carried = JudgeSettings::read(model)?;
        // A directory that is not there is named when it is opened.
        if carried.is_none() && model.is_dir() {
            let folder = model.display();
            say!(
                "note: {folder} has no judge.toml: judged with the built-in rules, and the prompt of --rubrics or the built-in \
                 one"
            );
        }
        let start = carried.clone().map_or_else(JudgeSettings::built_in, Ok)?;
        let used = self.changed(&start)?;
        pretrained::say_differences(model, carried.as_deref(), &used);
        Ok(used)
    }

    /// Settings under what the command line says.
    pub fn changed(&self, start: &JudgeSettings) -> anyhow::Result<Valid<JudgeSettings>> {
        let mut assignments = self.set.iter().map(|set| Assignment::set(set)).collect::<Result<Vec<_>, _>>()?;
        assignments.extend(self.thinking.map(|thinking| Assignment::flag("--thinking", "thinking", thinking)));
        let whole = self.rubrics.as_deref().map(JudgeSettings::read_file).transpose()?.flatten();
        let mut used = resolve(whole.as_deref().unwrap_or(start), None, std::iter::empty(), &assignments)?;
        if let Some(file) = self.rubrics.as_ref().filter(|_| whole.is_none()) {
            let prompt = PromptFile::load(Some(file))?;
            used = used.changed(|used| used.prompt = prompt)?;
        }
        Ok(used)
    }
}

impl LoadedJudge {
    /// All that rows of `command` by this judge depend on.
    pub fn made_with(&self, command: &str, args: &JudgingArgs, input: String) -> anyhow::Result<Value> {
        let more = json!({
            "model": fingerprint_of_model(&self.config, &self.weights)?,
            "stop": self.judge.tokenizer().eos_ids(),
            "max_prompt_tokens": args.max_prompt_tokens,
            "device": kind_of_device(args.device.device),
        });
        Ok(args.made_with(command, self.judge.settings(), input, more)?)
    }
}

impl Vote {
    /// `None`: the model's logits were not finite.
    pub fn read(judged: Option<Judged>, texts: bool) -> Self {
        judged.map_or_else(|| Self::without(NOT_FINITE), |judged| Self::of(&judged.verdict, judged.text, texts))
    }

    /// A judgement with its text, which is kept if `texts` says so.
    pub fn of(verdict: &Verdict, text: String, texts: bool) -> Self {
        Self { verdict: verdict.name().into(), score: verdict.score(), text: texts.then_some(text) }
    }

    /// There is no judgement, for a reason.
    pub fn without(reason: &str) -> Self {
        Self { verdict: reason.into(), score: None, text: None }
    }
}

/// The mean score of votes over those that have one. Adding 0 makes a mean of -0 a 0.
pub fn mean_score(votes: &[Vote]) -> Option<f64> {
    let scores: Vec<f64> = votes.iter().filter_map(|vote| vote.score).collect();
    (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64 + 0.0)
}

/// The votes that have no score, by the reason why.
pub fn failures(votes: &[Vote]) -> BTreeMap<String, usize> {
    let mut failed = BTreeMap::new();
    votes.iter().filter(|vote| vote.score.is_none()).for_each(|vote| {
        *failed.entry(vote.verdict.clone()).or_default() += 1;
    });
    failed
}

/// An error if the model cannot compute at all: it said nothing in any of so many votes, which failed by these reasons.
pub fn check_weights(failed: &BTreeMap<String, usize>, votes: usize) -> anyhow::Result<()> {
    let not_finite = failed.get(NOT_FINITE).copied().unwrap_or(0);
    ensure!(
        votes == 0 || not_finite < votes,
        "the model's logits are not finite for any vote: its weights are damaged"
    );
    Ok(())
}

/// An error if an endpoint gave no answer to any of so many votes.
pub fn check_answers(address: &str, failed: &BTreeMap<String, usize>, votes: usize) -> anyhow::Result<()> {
    let down = failed.get(UNAVAILABLE).copied().unwrap_or(0);
    ensure!(votes == 0 || down < votes, "{address} answered no request");
    Ok(())
}
