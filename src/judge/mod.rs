//! The judge: turns a response into a prompt, and the model's completion into a verdict.
//!
//! Training, evaluation and serving all judge by this code. Text from outside is escaped, the template renders it with the
//! task's rubrics, the chat template and the tokenizer turn that into ids, the model generates, and [`Verdict::parse`] reads the
//! result. The unit is one response; a pair is two of them. In pairwise mode the unit is two responses in an order, and its score
//! is that of the one shown first: 1 if it is preferred, else 0.
//!
//! **Invariant:** nothing outside this module renders a judge's prompt or reads a verdict from text.

mod endpoint;
mod form;
mod frame;
mod judgements;
mod prompt;
mod server;
mod settings;
mod verdict;
mod visible;

use crate::data::{Message, Pair, Role, shown_prompt};
use crate::setting::Valid;
use crate::tokenizer::{RenderOptions, Tokenizer, TokenizerError};

pub use endpoint::{EndpointJudge, RemoteJudgement};
use form::CutCount;
pub use form::{Cuts, JudgeForm, JudgeMode, Keep, LengthBudget, RubricMode};
use frame::Frame;
pub use judgements::{JudgePair, JudgeRequest, JudgeSampling, Judged};
use prompt::{Asking, Edge};
pub use prompt::{JudgePrompt, JudgePromptError, PromptFile, TaskRubrics};
pub use server::{ChatServer, EndpointError, ServerSettings};
pub use settings::{JUDGE_FILE, JudgeFileError, JudgeSettings};
pub use verdict::{Failure, JudgementFormat, Sections, Side, Verdict, VerdictRules};

/// Why a response could not be turned into a prompt.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    #[error(transparent)]
    Prompt(#[from] JudgePromptError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Judge settings together with the tokenizer of the model that judges.
pub struct Judge {
    settings: Valid<JudgeSettings>,
    prompt: JudgePrompt,
    tokenizer: Tokenizer,
    /// What the prompt begins of the judgement, such as `<think>`.
    opened: String,
    cut: CutCount,
}

impl Judge {
    /// A judge for these settings; an error if their prompt cannot be rendered for each of its tasks, or if a response can
    /// change the tokens of what stands beside it.
    pub fn new(settings: Valid<JudgeSettings>, tokenizer: Tokenizer) -> Result<Self, JudgePromptError> {
        let prompt = JudgePrompt::new(&settings.prompt, &settings.form())?;
        if let Some(edge) = prompt.edges().find(|edge| merges(&tokenizer, edge)) {
            let edge = format!("{}{{{{ … }}}}{}", edge.before, edge.after);
            let reason = format!(
                "`template`: what is written for `{edge}` can change the tokens beside it; \
                 put a line break or a space on both sides of {{{{ … }}}}"
            );
            return Err(JudgePromptError::Invalid { file: None, reason });
        }
        let opened = opened(&tokenizer, settings.thinking);
        Ok(Self { prompt, settings, tokenizer, opened, cut: CutCount::default() })
    }

    /// What it was made from, to be saved as `judge.toml` beside the model.
    pub fn settings(&self) -> &Valid<JudgeSettings> {
        &self.settings
    }

    /// The model's tokenizer, which encodes prompts and decodes judgements.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether a task has no rubrics and is judged by those of the default task.
    pub fn falls_to_default(&self, task: &str) -> bool {
        self.prompt.falls_to_default(task)
    }

    /// How many of the prompts that it was asked with so far show a text that was cut.
    pub fn cuts(&self) -> Cuts {
        self.cut.get()
    }

    /// The judge's prompt for a response, or for the two that a pairwise judge compares, as messages. Text from outside can
    /// write neither control tokens nor the tags and labels that frame it.
    pub fn messages(
        &self,
        task: &str,
        prompt: &[Message],
        responses: &[&str],
    ) -> Result<Vec<Message>, JudgePromptError> {
        let asking = framed(&self.prompt, task, prompt, responses, |text| self.tokenizer.escape(text))?;
        self.cut.add(asking.cut);
        Ok(asking.messages)
    }

    /// The same for a file of rows: control tokens are not escaped, which whoever reads the rows does with its own tokenizer.
    pub fn messages_for_rows(
        &self,
        task: &str,
        prompt: &[Message],
        responses: &[&str],
    ) -> Result<Vec<Message>, JudgePromptError> {
        Ok(framed(&self.prompt, task, prompt, responses, str::to_string)?.messages)
    }

    /// The judge's prompt as token ids.
    pub fn encode(&self, task: &str, prompt: &[Message], responses: &[&str]) -> Result<Vec<u32>, JudgeError> {
        let messages = self.messages(task, prompt, responses)?;
        let options = RenderOptions {
            add_generation_prompt: true,
            enable_thinking: Some(self.settings.thinking),
            ..RenderOptions::default()
        };
        Ok(self.tokenizer.encode_chat(&messages, &options)?)
    }

    /// Encodes the prompts for both responses of a pair, or for both orders of them.
    pub fn encode_pair(&self, pair: Pair) -> Result<JudgePair, JudgeError> {
        let shown = shown_prompt(&pair.prompt, &pair.arguments);
        let prompt =
            |first: Role| self.encode(&pair.task, &shown, &pair.with_first(first)[..self.settings.mode.responses()]);
        let prompts = [prompt(Role::Chosen)?, prompt(Role::Rejected)?];
        Ok(JudgePair { pair, prompts })
    }
}

/// The judge's prompt, in which text from outside cannot write what frames it. `escape` breaks the control tokens of a model in
/// such a text.
fn framed(
    judge: &JudgePrompt,
    task: &str,
    prompt: &[Message],
    responses: &[&str],
    escape: impl Fn(&str) -> String,
) -> Result<Asking, JudgePromptError> {
    let harmless = |text: &str| harmless(text, judge.frame(), &escape);
    let prompt: Vec<Message> =
        prompt.iter().map(|turn| Message::new(turn.role.as_str(), harmless(&turn.text()))).collect();
    let responses: Vec<String> = responses.iter().map(|response| harmless(response)).collect();
    judge.asking(task, &prompt, &responses.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Text from outside, as it may stand in a prompt. Line breaks and spaces at its end and empty lines at its start are left
/// out, and a blank text is one invisible character: a tokenizer would merge them with the frame's own line breaks.
fn harmless(text: &str, frame: &Frame, escape: impl Fn(&str) -> String) -> String {
    let text = text.trim_end();
    if text.is_empty() {
        return frame::BREAK.to_string();
    }
    let blank = text.len() - text.trim_start().len();
    let first_line = text[..blank].rfind(['\n', '\r']).map_or(0, |end| end + 1);
    frame.neutralise(&escape(&text[first_line..]))
}

/// Whether a text that stands between the two of an edge can be a part of their tokens. White space keeps them apart; where
/// there is none, a few texts are tried, since some tokenizers keep them apart anyway.
fn merges(tokenizer: &Tokenizer, edge: &Edge) -> bool {
    let signs: Vec<char> = (' '..='~').filter(char::is_ascii_punctuation).collect();
    let pairs = signs.iter().flat_map(|a| signs.iter().map(move |b| format!("{a}{b}")));
    let single = ('0'..='z').chain(['é', '漢', '\u{338}', '\u{1f600}']).map(String::from);
    let words = ["the", "The", "this", "return", "name", "text", "div"].map(String::from);
    let ids = |text: &str| tokenizer.encode(text).unwrap_or_default();
    let (before, after) = (ids(&edge.before), ids(&edge.after));
    (!before.is_empty() || !after.is_empty())
        && single.chain(words).chain(pairs).any(|text| {
            let whole = ids(&format!("{}{text}{}", edge.before, edge.after));
            !whole.starts_with(&before) || !whole.ends_with(&after)
        })
}

/// What the tokenizer's chat template begins of an answer. A template that cannot be rendered says so when it is used.
fn opened(tokenizer: &Tokenizer, thinking: bool) -> String {
    let words = "patarm";
    let options =
        RenderOptions { add_generation_prompt: true, enable_thinking: Some(thinking), ..RenderOptions::default() };
    let text = tokenizer.render(&[Message::user(words)], &options).unwrap_or_default();
    let end = text.rfind(words).map_or("", |at| &text[at + words.len()..]);
    verdict::opened(end).to_owned()
}
