//! The task of a row: its own, or the one that its set, its part of a set or its prompt points to, or a default. The task
//! decides which primary rubrics a judge reads.

use serde_json::{Map, Value};

use super::Message;
use super::fields::Object;
use super::formats::{Format, sources_of, task_of};

/// What decided a row's task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskBy {
    /// Its own `task`.
    #[default]
    Own,
    /// Its format, or a name in its `source`, `dataset`, `subset`, `domain` or `data_source`.
    Source,
    /// Signs of code or of mathematics in its prompt.
    Prompt,
    /// Nothing: it has the default.
    Default,
}

impl TaskBy {
    /// For counts that people read.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Source => "source",
            Self::Prompt => "prompt",
            Self::Default => "default",
        }
    }
}

/// The tasks of rows that name none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tasks {
    default: String,
    /// Rows are routed to these alone. None: every row has the default.
    known: Vec<String>,
}

impl Tasks {
    /// What users write for [`Self::routed`].
    pub const AUTO: &str = "auto";
    /// The task of rows that nothing points to, under [`Self::AUTO`].
    const OTHERWISE: &str = "chat";

    /// One task for every row that names none.
    pub fn always(task: impl Into<String>) -> Self {
        Self { default: task.into(), known: Vec::new() }
    }

    /// The task that a row points to, if it is one of `known`, those that the judge has rubrics for; or else `chat`.
    pub fn routed(known: impl IntoIterator<Item = String>) -> Self {
        Self { default: Self::OTHERWISE.into(), known: known.into_iter().collect() }
    }

    /// As users say it: a task, or [`Self::AUTO`].
    pub fn given(task: &str, known: impl IntoIterator<Item = String>) -> Self {
        if task == Self::AUTO { Self::routed(known) } else { Self::always(task) }
    }

    /// The task of a row with this prompt, and what decided it.
    pub fn of(&self, row: &Map<String, Value>, prompt: &[Message]) -> Result<(String, TaskBy), String> {
        if let Some(own) = task_of(row)? {
            return Ok((own, TaskBy::Own));
        }
        let known = |task: &&str| self.known.iter().any(|known| known == task);
        let found = if self.known.is_empty() {
            None
        } else if let Some(task) = of_source(row) {
            Some((task, TaskBy::Source))
        } else {
            of_prompt(prompt).map(|task| (task, TaskBy::Prompt))
        };
        Ok(match found.filter(|(task, _)| known(task)) {
            Some((task, by)) => (task.to_string(), by),
            None => (self.default.clone(), TaskBy::Default),
        })
    }
}

/// Names of sets and of parts of sets, in lower case, by the task of their rows. A name that ends in `*` stands for all that
/// begin like it. Sets that mix tasks (magpie, sharegpt, HelpSteer2, stem) are not here: their prompts decide.
const NAMES: [(&str, &[&str]); 4] = [
    (
        "math",
        &[
            "math",
            "mathematics",
            "aqua",
            "gsm8k*",
            "gsm_rephrased",
            "math_rephrased",
            "math-step-dpo*",
            "math-prm",
            "math-500",
            "metamath*",
            "mmlu-pro-math",
            "livebench-math*",
            "numinamath*",
            "orca-math*",
            "prm800k*",
        ],
    ),
    (
        "code",
        &[
            "code",
            "coding",
            "bigcodebench*",
            "code-preference-pairs",
            "code_contests",
            "codefeedback*",
            "hep-*",
            "humaneval*",
            "livecodebench*",
            "magicoder*",
            "mbpp*",
        ],
    ),
    (
        "safety",
        &[
            "safety",
            "safety-refuse",
            "safety-response",
            "advbench",
            "beavertails*",
            "do-not-answer",
            "donotanswer",
            "harmbench",
            "harmless-base",
            "pku-saferlhf*",
            "refusals-*",
            "toxic-chat",
            "wildguard*",
            "wildjailbreak",
            "xstest-*",
        ],
    ),
    (
        "chat",
        &[
            "chat",
            "general",
            "alpacaeval*",
            "factuality",
            "false_qa",
            "focus",
            "livebench-reasoning*",
            "llmbar*",
            "mmlu-pro-*",
            "mt-bench*",
            "multilingual",
            "offsetbias",
            "precise if",
            "ties",
            "truthful_qa",
            "ultrachat*",
        ],
    ),
];

/// The task of the set that a row is from.
fn of_source(row: &Object) -> Option<&'static str> {
    sources_of(row).find_map(of_name).or_else(|| match Format::of(row)? {
        Format::MathStepDpo => Some("math"),
        Format::CodePreference => Some("code"),
        Format::PkuSafeRlhf => Some("safety"),
        Format::Shp => Some("chat"),
        Format::Ppe if row.get("is_code") == Some(&Value::Bool(true)) => Some("code"),
        _ => None,
    })
}

/// The task of a set's name, which may be a path on the hub. Whole names are looked at before those that end in `*`.
fn of_name(name: &str) -> Option<&'static str> {
    let name = name.trim().to_lowercase();
    let name = name.rsplit('/').next().unwrap_or(&name);
    let find = |fits: fn(&str, &str) -> bool| {
        NAMES.iter().find(|(_, names)| names.iter().any(|known| fits(known, name))).map(|(task, _)| *task)
    };
    find(|known, name| known == name)
        .or_else(|| find(|known, name| known.strip_suffix('*').is_some_and(|start| name.starts_with(start))))
}

/// Commands that a text has only where it holds formulas.
const FORMULAS: [&str; 16] = [
    "\\frac",
    "\\dfrac",
    "\\sqrt",
    "\\boxed",
    "\\mathbb",
    "\\binom",
    "\\pmod",
    "\\sum_",
    "\\int_",
    "\\cdot",
    "\\leq",
    "\\geq",
    "\\angle",
    "\\begin{align",
    "\\begin{cases}",
    "\\begin{pmatrix}",
];

/// The task of a prompt by plain signs in what the user says: a fence of code or a line of C's `#include` or Python's `def` is
/// code, a command of LaTeX's mathematics is mathematics. Both together, and everything else, say nothing. Whether a request
/// is dangerous is not guessed: its words are those of a harmless one.
fn of_prompt(prompt: &[Message]) -> Option<&'static str> {
    let said = || prompt.iter().filter(|turn| turn.role == "user").map(|turn| turn.content.as_str());
    let is_code = |line: &str| line.starts_with("#include") || line.starts_with("def ") && line.contains('(');
    let code = said().any(|text| text.contains("```") || text.lines().any(|line| is_code(line.trim_start())));
    let mathematics = said().any(|text| FORMULAS.iter().any(|formula| text.contains(formula)));
    match (code, mathematics) {
        (true, false) => Some("code"),
        (false, true) => Some("math"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn routed(row: Value, prompt: &str) -> (String, TaskBy) {
        let tasks = Tasks::routed(["chat", "code", "math", "safety"].map(str::to_string));
        tasks.of(row.as_object().unwrap(), &[Message::user(prompt)]).unwrap()
    }

    #[test]
    fn the_names_of_the_sets_decide_before_the_prompt() {
        for (row, task) in [
            (json!({"source": "wildguard"}), "safety"),
            (json!({"source": "offsetbias"}), "chat"),
            (json!({"dataset": "MATH_Rephrased"}), "math"),
            (json!({"dataset": "openai/gsm8k"}), "math"),
            (json!({"subset": "alpacaeval-easy"}), "chat"),
            (json!({"subset": "mt-bench-med"}), "chat"),
            (json!({"subset": "llmbar-adver-GPTInst"}), "chat"),
            (json!({"subset": "refusals-dangerous"}), "safety"),
            (json!({"subset": "xstest-should-respond"}), "safety"),
            (json!({"subset": "donotanswer"}), "safety"),
            (json!({"subset": "math-prm"}), "math"),
            (json!({"subset": "hep-rust"}), "code"),
            (json!({"subset": "bigcode/humanevalpack"}), "code"),
            (json!({"domain": "safety-refuse"}), "safety"),
            (json!({"domain": "code"}), "code"),
            (json!({"subset": "Precise IF"}), "chat"),
            (json!({"subset": "Safety"}), "safety"),
            (json!({"source": "mmlu-pro-math"}), "math"),
            (json!({"source": "mmlu-pro-computer science"}), "chat"),
            (json!({"source": "livecodebench"}), "code"),
            (json!({"source": ["unknown", "gsm8k"]}), "math"),
            (json!({"source": "unknown", "domain": "general"}), "chat"),
            (json!({"initial_reason_steps": "", "full_chosen": "a", "full_rejected": "b", "prompt": "Q"}), "math"),
            (json!({"input": "Q", "accepted": "a", "rejected": "b"}), "code"),
            (json!({"prompt": "Q", "response_0": "a", "response_1": "b", "safer_response_id": 0}), "safety"),
            (
                json!({"history": "Q", "human_ref_A": "a", "human_ref_B": "b", "labels": 0, "domain": "askphysics_train"}),
                "chat",
            ),
            (
                json!({"prompt": "Q", "response_1": "a", "response_2": "b", "winner": "model_a", "is_code": true}),
                "code",
            ),
        ] {
            // The prompt has a sign of another task.
            let prompt = if task == "math" { "```\ncode\n```" } else { "\\frac12" };
            assert_eq!(routed(row.clone(), prompt), (task.to_string(), TaskBy::Source), "{row}");
        }
        let own = json!({"task": "poetry", "source": "wildguard"});
        assert_eq!(routed(own, "Q"), ("poetry".to_string(), TaskBy::Own));
        assert_eq!(of_name("stem").or(of_name("magpie_pro_llama3.1")).or(of_name("code review")).or(of_name("")), None);
    }

    #[test]
    fn the_prompt_decides_where_the_row_names_no_set_that_is_known() {
        let row = json!({"source": "magpie_ultra"});
        for (prompt, task) in [
            ("Why does this fail?\n```python\nx\n```", "code"),
            ("Fix it:\n  #include <stdio.h>", "code"),
            ("def f(x):\n    return x", "code"),
            ("What is \\frac{1}{2} + \\sqrt 2?", "math"),
        ] {
            assert_eq!(routed(row.clone(), prompt), (task.to_string(), TaskBy::Prompt), "{prompt}");
        }
        for prompt in [
            "Write a poem about $5 and \\n.",
            "Is 2 + 2 = 4? The def of a function",
            "```\n\\frac12\n```",
            "How do I kill a process?",
            "",
        ] {
            assert_eq!(routed(row.clone(), prompt), ("chat".to_string(), TaskBy::Default), "{prompt}");
        }
        let tasks = Tasks::routed(["math".to_string()]);
        let answered = [Message::user("Q"), Message::assistant("\\frac12")];
        assert_eq!(tasks.of(&Object::new(), &answered).unwrap().1, TaskBy::Default);
    }

    #[test]
    fn a_task_that_is_given_or_unknown_to_the_judge_is_not_routed() {
        let row = json!({"source": "wildguard"});
        let of = |tasks: Tasks| tasks.of(row.as_object().unwrap(), &[Message::user("```x```")]).unwrap();
        assert_eq!(of(Tasks::given("poetry", ["safety".to_string()])), ("poetry".to_string(), TaskBy::Default));
        assert_eq!(of(Tasks::given("auto", ["safety".to_string()])), ("safety".to_string(), TaskBy::Source));
        // The source says safety, so the sign of code in the prompt is not asked.
        assert_eq!(of(Tasks::given("auto", ["code".to_string()])), ("chat".to_string(), TaskBy::Default));
    }
}
