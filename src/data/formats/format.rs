//! The name of a dataset format, and how a row of it is recognised.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::super::fields::keys;
use super::super::row_fields::is_empty;
use super::super::turns::{conversation_text, messages_of};

/// A dataset format. The table of the `formats` module says what each one's fields are and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    MathStepDpo,
    Llmbar,
    CodePreference,
    HelpSteer2Preference,
    HelpSteer3,
    Ppe,
    PkuSafeRlhf,
    Shp,
    JudgeBench,
    UltraFeedback,
    Nectar,
    RmR1,
    MsSwift,
    Stepwise,
    Unpaired,
    HelpSteer2,
    ResponseLists,
    SharegptPreference,
    TrlExplicit,
    AlpacaPreference,
    TrlImplicit,
    Messages,
    Sharegpt,
    Alpaca,
    Completion,
    PromptResponse,
}

/// How rows of a format are recognised.
struct Spec {
    format: Format,
    name: &'static str,
    /// Fields that the row has.
    fields: &'static [&'static str],
    /// Fields that the row has and that hold something: files of columns write `[]` or an empty text where a row has nothing.
    filled: &'static [&'static str],
    /// Fields of which the row has one.
    one_of: &'static [&'static str],
}

const fn spec(
    format: Format,
    name: &'static str,
    fields: &'static [&'static str],
    filled: &'static [&'static str],
    one_of: &'static [&'static str],
) -> Spec {
    Spec { format, name, fields, filled, one_of }
}

/// Every format, in the order in which they are tried: those with names of their own before those that share them.
const SPECS: [Spec; 26] = [
    spec(Format::MathStepDpo, "math-step-dpo", &["initial_reason_steps", "full_chosen", "full_rejected"], &[], &[]),
    spec(Format::Llmbar, "llmbar", &["output_1", "output_2", "label"], &[], &[]),
    spec(Format::CodePreference, "code-preference", &["accepted", "rejected"], &[], &[]),
    spec(
        Format::HelpSteer2Preference,
        "helpsteer2-preference",
        &["prompt", "response_1", "response_2", "preference_strength"],
        &[],
        &[],
    ),
    spec(Format::HelpSteer3, "helpsteer3", &["response1", "response2", "overall_preference"], &["context"], &[]),
    spec(Format::Ppe, "ppe", &["prompt", "response_1", "response_2", "winner"], &[], &[]),
    spec(
        Format::PkuSafeRlhf,
        "pku-saferlhf",
        &["prompt", "response_0", "response_1"],
        &[],
        &["safer_response_id", "better_response_id"],
    ),
    spec(Format::Shp, "shp", &["history", "human_ref_A", "human_ref_B", "labels"], &[], &[]),
    spec(Format::JudgeBench, "judge-bench", &["question", "response_A", "response_B", "label"], &[], &[]),
    spec(Format::UltraFeedback, "ultrafeedback", &["instruction"], &["completions"], &[]),
    spec(Format::Nectar, "nectar", &["prompt"], &["answers"], &[]),
    spec(Format::RmR1, "rm-r1", &["winner"], &["context_messages"], &[]),
    spec(Format::MsSwift, "ms-swift", &[], &["messages"], &["rejected_response", "rejected_messages"]),
    spec(Format::Stepwise, "trl-stepwise", &["prompt"], &["completions"], &["labels", "label"]),
    spec(Format::Unpaired, "trl-unpaired", &["prompt", "completion", "label"], &[], &[]),
    spec(Format::HelpSteer2, "helpsteer2", &["prompt", "response", "helpfulness"], &[], &[]),
    spec(Format::ResponseLists, "response-lists", &["prompt", "chosen", "rejected"], &[], &[]),
    spec(Format::SharegptPreference, "sharegpt-preference", &["chosen", "rejected"], &["conversations"], &[]),
    spec(Format::TrlExplicit, "trl-explicit", &["prompt", "chosen", "rejected"], &[], &[]),
    spec(Format::AlpacaPreference, "alpaca-preference", &["instruction", "chosen", "rejected"], &[], &[]),
    spec(Format::TrlImplicit, "trl-implicit", &["chosen", "rejected"], &[], &[]),
    spec(Format::Messages, "messages", &[], &["messages"], &[]),
    spec(Format::Sharegpt, "sharegpt", &[], &["conversations"], &[]),
    spec(Format::Alpaca, "alpaca", &["instruction", "output"], &[], &[]),
    spec(Format::Completion, "trl-completion", &["prompt", "completion"], &[], &[]),
    spec(Format::PromptResponse, "prompt-response", &["prompt", "response"], &[], &[]),
];

/// What a row is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Record {
    Pair,
    Conversation,
    Response,
}

impl Format {
    /// Every format.
    pub fn all() -> impl Iterator<Item = Self> {
        SPECS.iter().map(|spec| spec.format)
    }

    /// The name that stands for the format in options and counts.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// The format of a row, whatever is made of it: one of pairs before one of conversations.
    pub fn of(row: &Map<String, Value>) -> Option<Self> {
        Self::all().find(|format| format.fits(row))
    }

    /// Whether a row is of a format that gives pairs.
    pub fn holds_pairs(row: &Map<String, Value>) -> bool {
        Self::of_record(row, Record::Pair).is_some()
    }

    /// The format of a row that is read for one kind of record.
    pub(super) fn of_record(row: &Map<String, Value>, record: Record) -> Option<Self> {
        Self::all().find(|format| format.holds(record) && format.fits(row))
    }

    /// Whether a row of this format has a record of this kind in it.
    pub(super) fn holds(self, record: Record) -> bool {
        match record {
            Record::Pair => (self as usize) < Self::Messages as usize,
            Record::Conversation => {
                matches!(self, Self::Unpaired | Self::Messages | Self::Sharegpt | Self::Alpaca | Self::Completion)
            }
            Record::Response => {
                matches!(self, Self::Unpaired | Self::HelpSteer2 | Self::Completion | Self::PromptResponse)
            }
        }
    }

    /// An error that names the fields which a row of this format has and this one lacks.
    pub(super) fn expect(self, row: &Map<String, Value>) -> Result<(), String> {
        let Spec { name, fields, filled, one_of, .. } = self.spec();
        let fits = self.has_fields(row);
        let mut expected = fields.iter().chain(*filled).copied().collect::<Vec<_>>().join(", ");
        if !one_of.is_empty() {
            let one_of = one_of.join(" or ");
            expected = if expected.is_empty() { one_of } else { format!("{expected}, and {one_of}") };
        }
        let found = keys(row);
        if fits { Ok(()) } else { Err(format!("is no row of format {name}: expected {expected}; found {found}")) }
    }

    fn spec(self) -> &'static Spec {
        SPECS.iter().find(|spec| spec.format == self).expect("every format has its row in the table")
    }

    fn has_fields(self, row: &Map<String, Value>) -> bool {
        let Spec { fields, filled, one_of, .. } = self.spec();
        fields.iter().all(|name| has(row, name))
            && filled.iter().all(|name| is_filled(row, name))
            && (one_of.is_empty() || one_of.iter().any(|name| has(row, name)))
    }

    fn fits(self, row: &Map<String, Value>) -> bool {
        let own = match self {
            Self::ResponseLists => has_lists_of_texts(row),
            Self::TrlExplicit => {
                (is_filled(row, "prompt") || !is_filled(row, "instruction")) && !has_whole_conversations(row)
            }
            Self::AlpacaPreference => !has_whole_conversations(row),
            _ => true,
        };
        own && self.has_fields(row)
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || Self::all().map(Self::name).collect::<Vec<_>>().join(", ");
        Self::all()
            .find(|format| format.name() == name)
            .ok_or_else(|| format!("no format is called {name:?}; known are {}", names()))
    }
}

fn has(row: &Map<String, Value>, name: &str) -> bool {
    row.get(name).is_some_and(|value| !value.is_null())
}

fn is_filled(row: &Map<String, Value>, name: &str) -> bool {
    row.get(name).is_some_and(|value| !is_empty(value))
}

/// Whether both sides are lists and one holds a text, as no list of messages does.
fn has_lists_of_texts(row: &Map<String, Value>) -> bool {
    let lists: Vec<&Vec<Value>> = ["chosen", "rejected"].iter().filter_map(|name| row.get(*name)?.as_array()).collect();
    lists.len() == 2 && lists.into_iter().flatten().any(Value::is_string)
}

/// Whether both responses are whole conversations beside a prompt that is empty, and so counts as absent.
fn has_whole_conversations(row: &Map<String, Value>) -> bool {
    let mut prompts = ["prompt", "conversations"].into_iter().filter(|name| has(row, name)).peekable();
    if prompts.peek().is_none() || prompts.any(|name| is_filled(row, name)) {
        return false;
    }
    ["chosen", "rejected"].into_iter().all(|name| {
        let turns = match row.get(name) {
            Some(Value::String(text)) => conversation_text(text, name),
            Some(Value::Array(items)) if !items.is_empty() => messages_of(&row[name], name).map(Some),
            _ => Ok(None),
        };
        match turns {
            Ok(turns) => turns.is_some_and(|turns| turns[0].role != "assistant" && turns[0].role != "tool"),
            // A conversation that is broken is named where it is read.
            Err(_) => true,
        }
    })
}
