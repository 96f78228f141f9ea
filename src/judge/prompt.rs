//! The judge's prompt: a template, and a primary rubric for each task, from an editable TOML file.
//!
//! It does not escape text from outside: `Judge` does that first, by the control tokens of its tokenizer and the [`Frame`] here.
//! A template whose frame a response could write in spite of that is refused.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use minijinja::{Environment, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};

use super::form::{JudgeForm, JudgeMode};
use super::frame::{BREAK, Frame, HOLE, unprotected};
use super::verdict;
use crate::data::Message;
use crate::tokenizer::check_tags;

/// The built-in file, with rubrics for chat, code, math and safety.
const DEFAULT: &str = include_str!("rubrics.toml");
const TEMPLATE: &str = "template";
/// Steps that one rendering may take: a prompt has no use for more, and a loop must end.
const FUEL: u64 = 1_000_000;

/// Errors in a rubrics file, and tasks that it does not have.
#[derive(Debug, thiserror::Error)]
pub enum JudgePromptError {
    #[error("rubrics file {}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("rubrics{}: {reason}", file.as_ref().map(|path| format!(" file {}", path.display())).unwrap_or_default())]
    Invalid { file: Option<PathBuf>, reason: String },
    #[error("unknown task `{task}`{nearest}; the rubrics file has {known}{default}")]
    UnknownTask { task: String, nearest: String, known: String, default: &'static str },
    #[error("the judge's prompt for task `{task}`: {reason}")]
    Render { task: String, reason: String },
}

/// The file as written; a part of `judge.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptFile {
    /// Of pointwise judgements: Jinja, with the variables `task`, `rubrics` (empty where the judge is shown none), `generate`
    /// (whether it writes rubrics of its own), `prompt` and `response`.
    pub template: String,
    /// Of pairwise judgements: the same, with `first` and `second` instead of `response`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairwise: Option<String>,
    /// A system message, sent before the rendered template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The task whose rubrics apply to tasks without their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_task: Option<String>,
    pub tasks: BTreeMap<String, TaskRubrics>,
}

/// The rubrics of one task, as the template inserts them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskRubrics {
    pub rubrics: String,
}

impl PromptFile {
    /// Reads a rubrics file, or that part of a whole judge file, and checks all its templates with [`JudgePrompt::new`]; `None`:
    /// the built-in file.
    pub fn load(path: Option<&Path>) -> Result<Self, JudgePromptError> {
        let Some(path) = path else { return Self::parse(DEFAULT) };
        let text =
            std::fs::read_to_string(path).map_err(|error| JudgePromptError::Io { path: path.to_owned(), error })?;
        let file = Self::parse(&text).and_then(|file| file.check().map(|()| file));
        file.map_err(|error| match error {
            JudgePromptError::Invalid { reason, .. } => {
                JudgePromptError::Invalid { file: Some(path.to_owned()), reason }
            }
            other => other,
        })
    }

    fn check(&self) -> Result<(), JudgePromptError> {
        JudgePrompt::new(self, &JudgeForm::default())?;
        if self.pairwise.is_some() {
            JudgePrompt::new(self, &JudgeForm { mode: JudgeMode::Pairwise, ..JudgeForm::default() })?;
        }
        Ok(())
    }

    /// Reads the text of a rubrics file, or of a judge file, which has it as the table `prompt`.
    pub fn parse(toml: &str) -> Result<Self, JudgePromptError> {
        let invalid = |error: toml::de::Error| JudgePromptError::Invalid { file: None, reason: error.to_string() };
        match toml::from_str::<toml::Table>(toml).map_err(invalid)?.remove("prompt") {
            Some(prompt) => prompt.try_into().map_err(invalid),
            None => toml::from_str(toml).map_err(invalid),
        }
    }
}

/// Turns a task, a prompt and one or two responses into the messages that a judge reads.
#[derive(Debug)]
pub struct JudgePrompt {
    environment: Environment<'static>,
    form: JudgeForm,
    system: Option<String>,
    default_task: Option<String>,
    /// Primary rubrics by task.
    rubrics: BTreeMap<String, String>,
    /// What text from outside must not write.
    frame: Frame,
    edges: BTreeSet<Edge>,
}

/// What a judge reads, and whether its request and a response were cut to the length budget.
#[derive(Debug)]
pub struct Asking {
    pub messages: Vec<Message>,
    pub cut: [bool; 2],
}

/// What the template writes directly before and after a text from outside, up to the next white space; often nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub before: String,
    pub after: String,
}

impl JudgePrompt {
    /// The prompt of judgements of a form. Renders its template once for every task, so that mistakes in it are found here.
    pub fn new(file: &PromptFile, form: &JudgeForm) -> Result<Self, JudgePromptError> {
        let PromptFile { template, pairwise, system, default_task, tasks } = file.clone();
        let invalid = |reason: String| JudgePromptError::Invalid { file: None, reason };
        let (key, template) = match (form.mode, pairwise) {
            (JudgeMode::Pointwise, _) => ("template", template),
            (JudgeMode::Pairwise, Some(pairwise)) => ("pairwise", pairwise),
            (JudgeMode::Pairwise, None) => {
                let reason = "mode = pairwise needs a template of its own, which is missing: `pairwise`";
                return Err(invalid(reason.into()));
            }
        };
        let mut environment = Environment::new();
        // A misspelt variable is an error. By default Jinja would leave a gap in every prompt.
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        check_tags(&template).map_err(|error| invalid(format!("`{key}`: {error}")))?;
        environment
            .add_template_owned(TEMPLATE, template.clone())
            .map_err(|error| invalid(format!("`{key}`: {error:#}")))?;
        let rubrics: BTreeMap<_, _> =
            tasks.into_iter().map(|(task, entry)| (task, entry.rubrics.trim().to_string())).collect();
        if rubrics.is_empty() {
            return Err(invalid("expected at least one table [tasks.NAME] with `rubrics`, got none".into()));
        }
        if let Some(task) = default_task.as_ref().filter(|task| !rubrics.contains_key(*task)) {
            let known = names(&rubrics);
            return Err(invalid(format!("`default_task` must be one of the tasks {known}, got `{task}`")));
        }
        let (frame, edges_of_all) = (Frame::default(), BTreeSet::new());
        let mut judge = Self { environment, form: *form, system, default_task, rubrics, frame, edges: edges_of_all };
        let texts = judge.try_template().map_err(|reason| invalid(format!("`{key}`: {reason}")))?;
        let ours = texts.iter().chain(&judge.system).map(String::as_str);
        judge.frame = Frame::of(&template, ours.chain(verdict::TAGS).chain(verdict::THINK));
        judge.edges = texts.iter().flat_map(|text| edges(text)).collect();
        Ok(judge)
    }

    /// The tags, labels and lines around text from outside, and the tags of a judgement.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// What stands around the texts from outside.
    pub fn edges(&self) -> impl Iterator<Item = &Edge> {
        self.edges.iter()
    }

    /// The tasks that have rubrics, in alphabetical order.
    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        self.rubrics.keys().map(String::as_str)
    }

    /// Whether a task has no rubrics and is judged by those of `default_task`.
    pub fn falls_to_default(&self, task: &str) -> bool {
        !self.rubrics.contains_key(task)
    }

    /// The messages for the judge: the file's system message, if there is one, and a user message. For a task without rubrics,
    /// those of the file's `default_task` are used, unless its name is nearly that of a task with rubrics: then it is
    /// misspelt, and an error. `responses`: as many as the mode's judgements are about.
    pub fn asking(&self, task: &str, prompt: &[Message], responses: &[&str]) -> Result<Asking, JudgePromptError> {
        let (name, rubrics) = self
            .rubrics
            .get_key_value(task)
            .or_else(|| {
                self.rubrics.get_key_value(self.default_task.as_ref().filter(|_| self.misspelt(task).is_none())?)
            })
            .ok_or_else(|| self.unknown(task))?;
        let length = &self.form.length;
        let responses: Vec<_> = responses.iter().map(|response| length.response(response)).collect();
        let whole = conversation(prompt);
        let prompt = length.prompt(&whole);
        let is_cut = |text: &Cow<str>| matches!(text, Cow::Owned(_));
        let cut = [is_cut(&prompt), responses.iter().any(is_cut)];
        let responses: Vec<&str> = responses.iter().map(AsRef::as_ref).collect();
        let text = self
            .render(name, rubrics, &prompt, &responses)
            .map_err(|reason| JudgePromptError::Render { task: task.to_string(), reason })?;
        let system = self.system.iter().map(|system| Message::new("system", system.as_str()));
        Ok(Asking { messages: system.chain([Message::user(text)]).collect(), cut })
    }

    fn render(&self, task: &str, rubrics: &str, prompt: &str, responses: &[&str]) -> Result<String, String> {
        let rubrics = if self.form.rubrics.shows_primary() { rubrics } else { "" };
        let generate = self.form.rubrics.generates();
        let context = match *responses {
            [response] if self.form.mode == JudgeMode::Pointwise => {
                context! { task, rubrics, generate, prompt, response }
            }
            [first, second] if self.form.mode == JudgeMode::Pairwise => {
                context! { task, rubrics, generate, prompt, first, second }
            }
            _ => {
                return Err(format!(
                    "{} is no number of responses for mode = {}",
                    responses.len(),
                    self.form.mode.name()
                ));
            }
        };
        let template = self.environment.get_template(TEMPLATE);
        template.and_then(|template| template.render(context)).map_err(|error| format!("{error:#}"))
    }

    /// The variables of the texts from outside.
    fn shown(&self) -> &'static [&'static str] {
        match self.form.mode {
            JudgeMode::Pointwise => &["prompt", "response"],
            JudgeMode::Pairwise => &["prompt", "first", "second"],
        }
    }

    /// Checks that the rendering contains the prompt and the responses, since verdicts would be noise without them, and that
    /// labels of the template keep them apart. Returns the renderings for all tasks, with holes for the prompt and the responses.
    fn try_template(&self) -> Result<Vec<String>, String> {
        // With a zero-width space: a template that removes it would undo the protection.
        let marks: Vec<String> = self.shown().iter().map(|name| format!("{HOLE}{name}{BREAK}{HOLE}")).collect();
        let responses: Vec<&str> = marks[1..].iter().map(String::as_str).collect();
        let mut texts = Vec::with_capacity(self.rubrics.len());
        for (task, rubrics) in &self.rubrics {
            let mut text = self
                .render(task, rubrics, &marks[0], &responses)
                .map_err(|reason| reason + &self.unknown_variables())?;
            self.check_rubrics(&text)?;
            for (name, mark) in self.shown().iter().zip(&marks) {
                if !text.contains(mark) {
                    return Err(format!("it must show {{{{ {name} }}}} unchanged, but for task `{task}` it does not"));
                }
                text = text.replace(mark, &HOLE.to_string());
            }
            if let Some(between) = unprotected(&text) {
                return Err(format!(
                    "only {between:?} ends a prompt or a response for task `{task}`, and a response can write that as well; \
                     expected a tag such as </response>, a label such as `### Response` or a line of three signs or more"
                ));
            }
            texts.push(text);
        }
        Ok(texts)
    }

    /// Refuses a template that asks for rubrics which its judgements must not have: it was written for another rubric mode.
    fn check_rubrics(&self, text: &str) -> Result<(), String> {
        let [open, ..] = verdict::TAGS;
        // One section holds the primary rubrics; another is the format of what the judge writes.
        let knows_modes = self.variables().iter().any(|name| name == "generate");
        if self.form.rubrics.generates() || knows_modes || text.matches(open).count() < 2 {
            return Ok(());
        }
        Err(format!(
            "it asks for {open} in every rubric mode, and with rubrics = primary the judge writes none: put what asks for them \
             between {{% if generate %}} and {{% endif %}}"
        ))
    }

    /// The variables that the template uses.
    fn variables(&self) -> Vec<String> {
        let used = self.environment.get_template(TEMPLATE).map(|template| template.undeclared_variables(false));
        used.unwrap_or_default().into_iter().collect()
    }

    /// Names the undefined variables; the template engine only reports their position.
    fn unknown_variables(&self) -> String {
        let known = || ["task", "rubrics", "generate"].iter().chain(self.shown());
        let mut unknown = self.variables();
        unknown.retain(|name| !known().any(|known| known == name));
        unknown.sort();
        if unknown.is_empty() {
            return String::new();
        }
        let known: Vec<&str> = known().copied().collect();
        format!("; it uses {}, but can only use {}", unknown.join(", "), known.join(", "))
    }

    /// The task that a name is nearest to, and how near: 1 is the same.
    fn nearest(&self, task: &str) -> Option<(f64, &str)> {
        let name = task.trim().to_lowercase();
        let near = self.tasks().map(|known| (strsim::jaro_winkler(&known.to_lowercase(), &name), known));
        near.max_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// The task that was meant, if the name is nearly its name.
    fn misspelt(&self, task: &str) -> Option<&str> {
        self.nearest(task).filter(|(score, _)| *score > 0.85).map(|(_, known)| known)
    }

    fn unknown(&self, task: &str) -> JudgePromptError {
        let nearest = self
            .nearest(task)
            .filter(|(score, _)| *score > 0.7)
            .map_or(String::new(), |(_, known)| format!(": did you mean `{known}`?"));
        let default = if self.default_task.is_some() { "" } else { " and no `default_task`" };
        JudgePromptError::UnknownTask { task: task.to_string(), nearest, known: names(&self.rubrics), default }
    }
}

/// The edges of the holes in a rendering.
fn edges(text: &str) -> impl Iterator<Item = Edge> {
    let pieces = text.split(HOLE).zip(text.split(HOLE).skip(1));
    pieces.map(|(before, after)| Edge {
        before: before[before.trim_end_matches(|c: char| !c.is_whitespace()).len()..].to_owned(),
        after: after[..after.find(char::is_whitespace).unwrap_or(after.len())].to_owned(),
    })
}

fn names(rubrics: &BTreeMap<String, String>) -> String {
    rubrics.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// A conversation as one text: a single user turn unchanged, several turns each after the name of its role.
fn conversation(prompt: &[Message]) -> String {
    match prompt {
        [only] if only.role == "user" => only.content.clone(),
        turns => turns.iter().map(|turn| format!("[{}]\n{}", turn.role, turn.content)).collect::<Vec<_>>().join("\n\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::{Keep, LengthBudget, RubricMode};
    use super::*;

    const SMALL: &str = r#"
template = "<task>{{ task }}</task>{{ rubrics }}\n#P\n{{ prompt }}\n#R\n{{ response }}"
[tasks.math]
rubrics = """
sums
"""
"#;

    fn parsed(toml: &str) -> JudgePrompt {
        JudgePrompt::new(&PromptFile::parse(toml).unwrap(), &JudgeForm::default()).unwrap()
    }

    fn built_in(form: JudgeForm) -> JudgePrompt {
        JudgePrompt::new(&PromptFile::load(None).unwrap(), &form).unwrap()
    }

    fn text(judge: &JudgePrompt, task: &str, prompt: &[Message], response: &str) -> String {
        let mut messages = judge.asking(task, prompt, &[response]).unwrap().messages;
        assert_eq!((messages.len(), messages[0].role.as_str()), (1, "user"));
        messages.remove(0).content
    }

    fn refused(toml: &str) -> String {
        PromptFile::parse(toml).and_then(|file| JudgePrompt::new(&file, &JudgeForm::default())).unwrap_err().to_string()
    }

    #[test]
    fn the_built_in_prompt_has_the_papers_shape() {
        let judge = built_in(JudgeForm::default());
        assert_eq!(judge.tasks().collect::<Vec<_>>(), ["chat", "code", "math", "safety"]);
        let chat = text(&judge, "chat", &[Message::user("Name a <b>bird</b> & {{ task }}.")], "A wren.");
        assert!(chat.starts_with("<task>chat</task>\n<rubrics>\n- Usefulness"), "{chat}");
        assert!(chat.contains("<prompt>\nName a <b>bird</b> & {{ task }}.\n</prompt>"), "not escaped for HTML: {chat}");
        assert!(chat.ends_with("<response>\nA wren.\n</response>"), "{chat}");
        for tag in ["</rubrics>\n<eval>", "</eval>\n<answer>", "</answer>"] {
            assert!(chat.contains(tag), "{chat}");
        }
        let math = text(&judge, "math", &[Message::user("1 + 1")], "2");
        assert!(math.starts_with("<task>math</task>") && !math.contains("Usefulness"), "{math}");
        let other = text(&judge, "poetry", &[Message::user("1 + 1")], "2");
        assert!(other.starts_with("<task>chat</task>"), "the default task: {other}");
    }

    #[test]
    fn every_mode_asks_for_its_own_judgement() {
        let form = |mode, rubrics| JudgeForm { mode, rubrics, ..JudgeForm::default() };
        let pointwise = |rubrics| {
            let judge = built_in(form(JudgeMode::Pointwise, rubrics));
            text(&judge, "math", &[Message::user("1 + 1")], "2")
        };
        let both = pointwise(RubricMode::Both);
        assert!(both.starts_with("<task>math</task>\n<rubrics>\n- Result") && both.contains("three further rubrics"));
        let primary = pointwise(RubricMode::Primary);
        assert!(primary.starts_with("<task>math</task>\n<rubrics>\n- Result"), "{primary}");
        assert!(primary.contains("for this kind of task. Examine the response"), "{primary}");
        assert!(primary.contains("after the answer:\n<eval>\nyour") && !primary.contains("one a line"), "{primary}");
        let generated = pointwise(RubricMode::Generated);
        assert!(
            generated.starts_with("<task>math</task>\nYou are grading one response to a request. First"),
            "{generated}"
        );
        assert!(
            generated.contains("one to three rubrics that") && generated.contains("after the answer:\n<rubrics>\n1 to")
        );
        let judge = built_in(form(JudgeMode::Pairwise, RubricMode::Both));
        let messages = |responses: &[&str]| judge.asking("math", &[Message::user("1 + 1")], responses);
        let two = &messages(&["2", "3"]).unwrap().messages[0].content;
        assert!(two.ends_with("<response_a>\n2\n</response_a>\n<response_b>\n3\n</response_b>"), "{two}");
        assert!(two.contains("<answer>A or B</answer>") && !two.contains("<response>"), "{two}");
        assert!(messages(&["2"]).unwrap_err().to_string().contains("1 is no number of responses for mode = pairwise"));
    }

    #[test]
    fn a_template_that_cannot_serve_a_mode_is_refused() {
        let refused = |toml: &str, form: JudgeForm| {
            JudgePrompt::new(&PromptFile::parse(toml).unwrap(), &form).unwrap_err().to_string()
        };
        let pairwise = JudgeForm { mode: JudgeMode::Pairwise, ..JudgeForm::default() };
        assert!(refused(SMALL, pairwise).contains("needs a template of its own, which is missing: `pairwise`"));
        let one =
            format!("pairwise = \"#P\\n{{{{ prompt }}}}\\n#A\\n{{{{ first }}}}\\n#B\\n{{{{ response }}}}\"\n{SMALL}");
        let message = refused(&one, pairwise);
        assert!(
            message.contains("`pairwise`: ") && message.contains("it uses response, but can only use"),
            "{message}"
        );
        // A file's second template is looked at even if nobody asks for it yet.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), one).unwrap();
        assert!(PromptFile::load(Some(file.path())).unwrap_err().to_string().contains("`pairwise`: "));
        let primary = JudgeForm { rubrics: RubricMode::Primary, ..JudgeForm::default() };
        let fixed = SMALL.replace("{{ rubrics }}", "<rubrics>{{ rubrics }}</rubrics> Write <rubrics> of your own.");
        assert!(refused(&fixed, primary).contains("it asks for <rubrics> in every rubric mode"));
        let knows = fixed.replace("Write <rubrics> of your own.", "{% if generate %}Write <rubrics>.{% endif %}");
        assert!(JudgePrompt::new(&PromptFile::parse(&knows).unwrap(), &primary).is_ok());
    }

    #[test]
    fn what_is_too_long_is_cut_in_the_frame() {
        let length = LengthBudget { prompt: 4, response: 3, keep: Keep::Start };
        let file = PromptFile::parse(SMALL).unwrap();
        let judge = JudgePrompt::new(&file, &JudgeForm { length, ..JudgeForm::default() }).unwrap();
        let cut = "#P\n1234 [… 2 characters left out …]\n#R\nabc [… 1 characters left out …]";
        let asking = |prompt: &str| judge.asking("math", &[Message::user(prompt)], &["abcd"]).unwrap();
        let (both, response) = (asking("123456"), asking("1234"));
        assert!(both.messages[0].content.ends_with(cut) && both.cut == [true, true], "{both:?}");
        assert!(response.messages[0].content.contains("#P\n1234\n#R") && response.cut == [false, true], "{response:?}");
    }

    #[test]
    fn several_turns_are_labelled_with_their_roles() {
        let judge = parsed(SMALL);
        let turns =
            [Message::new("system", "Be brief."), Message::user("a\nb"), Message::assistant("c"), Message::user("d")];
        let expected =
            "<task>math</task>sums\n#P\n[system]\nBe brief.\n\n[user]\na\nb\n\n[assistant]\nc\n\n[user]\nd\n#R\nr";
        assert_eq!(text(&judge, "math", &turns, "r"), expected);
        assert_eq!(text(&judge, "math", &turns[3..], "r"), "<task>math</task>sums\n#P\nd\n#R\nr");
    }

    #[test]
    fn a_system_message_comes_first() {
        let judge = parsed(&format!("system = 'You judge.'\n{SMALL}"));
        let messages = judge.asking("math", &[Message::user("p")], &["r"]).unwrap().messages;
        assert_eq!(messages[0], Message::new("system", "You judge."));
        assert_eq!(messages[1], Message::user("<task>math</task>sums\n#P\np\n#R\nr"));
    }

    #[test]
    fn an_unknown_task_is_an_error_that_names_the_nearest() {
        let judge = parsed(SMALL);
        let message = judge.asking("maths", &[], &["r"]).unwrap_err().to_string();
        assert!(message.contains("`maths`: did you mean `math`?"), "{message}");
        let message = judge.asking("poetry", &[], &["r"]).unwrap_err().to_string();
        assert!(message.contains("`poetry`; the rubrics file has math and no `default_task`"), "{message}");
    }

    #[test]
    fn a_misspelt_task_does_not_fall_to_the_default() {
        let judge = built_in(JudgeForm::default());
        for (task, meant) in
            [("maths", "math"), ("Math", "math"), ("mathh", "math"), ("saftey", "safety"), ("codee", "code")]
        {
            let message = judge.asking(task, &[Message::user("p")], &["r"]).unwrap_err().to_string();
            assert!(message.contains(&format!("`{task}`: did you mean `{meant}`?")), "{message}");
        }
        for task in ["poetry", "summarisation", "ifeval", "reasoning", "helpfulness"] {
            assert!(text(&judge, task, &[Message::user("p")], "r").starts_with("<task>chat</task>"));
            assert!(judge.falls_to_default(task));
        }
        assert!(!judge.falls_to_default("code"));
    }

    #[test]
    fn mistakes_are_found_when_the_file_is_read() {
        for (toml, part) in [
            (SMALL.replace("{{ response }}", "{{ respnse }}"), "respnse"),
            (SMALL.replace("{{ response }}", ""), "must show {{ response }}"),
            (
                SMALL.replace("{{ response }}", "{{ response | replace('\u{200b}', '') }}"),
                "must show {{ response }} unchanged",
            ),
            (SMALL.replace("#R", "|"), r#"only "\n|\n" ends a prompt or a response for task `math`"#),
            (SMALL.replace("{{ prompt }}", "{{ prompt "), "`template`"),
            (SMALL.replace("rubrics =", "rubric ="), "rubric"),
            (SMALL.replace("template =", "templat ="), "templat"),
            (
                SMALL.replace(
                    "{{ prompt }}",
                    "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
                ),
                "fuel",
            ),
            (
                SMALL.replace("{{ prompt }}", &format!("{{{{ {} prompt }}}}", "not ".repeat(20_000))),
                "1000 operators and brackets",
            ),
            (format!("default_task = 'chat'\n{SMALL}"), "`default_task` must be one of the tasks math, got `chat`"),
            ("template = '{{ prompt }}{{ response }}'\n[tasks]".into(), "[tasks.NAME]"),
            ("not toml".into(), "rubrics: "),
        ] {
            let message = refused(&toml);
            assert!(message.contains(part), "{toml}\n{message}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        assert!(PromptFile::load(Some(&path)).unwrap_err().to_string().contains("mine.toml"));
        std::fs::write(&path, SMALL.replace("{{ prompt }}", "")).unwrap();
        let message = PromptFile::load(Some(&path)).unwrap_err().to_string();
        assert!(message.contains("mine.toml") && message.contains("{{ prompt }}"), "{message}");
    }
}
