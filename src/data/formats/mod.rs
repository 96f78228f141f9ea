//! The dataset formats in use, recognised by their fields: from a row to the records that it holds.
//!
//! Pairs (`?`: the row may lack the field):
//!
//! | format | of | fields |
//! |---|---|---|
//! | `math-step-dpo` | Math-Step-DPO | `prompt`, `initial_reason_steps`, `full_chosen`, `full_rejected` |
//! | `llmbar` | LLMBar | `input`, `output_1`, `output_2`, `label` 1 or 2 |
//! | `code-preference` | Code-Preference-Pairs | `input`, `accepted`, `rejected` |
//! | `helpsteer2-preference` | HelpSteer2 | `prompt`, `response_1`, `response_2`, `preference_strength` |
//! | `helpsteer3` | HelpSteer3 | `context`, `response1`, `response2`, `overall_preference` |
//! | `ppe` | PPE Human Preference | `prompt`, `response_1`, `response_2`, `winner` |
//! | `pku-saferlhf` | PKU-SafeRLHF | `prompt`, `response_0`, `response_1`, `safer_response_id` or `better_response_id` |
//! | `shp` | SHP | `history`, `human_ref_A`, `human_ref_B`, `labels` 1 or 0, `score_A`?, `score_B`? |
//! | `judge-bench` | JudgeBench | `question`, `response_A`, `response_B`, `label` `A>B` or `B>A` |
//! | `ultrafeedback` | UltraFeedback | `instruction`, `completions` (`response`, `overall_score`) |
//! | `nectar` | Nectar | `prompt`, `answers` (`answer`, `rank`) |
//! | `rm-r1` | RM-R1's training rows | `context_messages`, `winner` |
//! | `ms-swift` | ms-swift | `messages`, `rejected_response` or `rejected_messages` |
//! | `trl-stepwise` | TRL, PRM800K | `prompt`, `completions`, `labels` or `label`; refused: it is no pair |
//! | `trl-unpaired` | TRL, KTO | `prompt`, `completion`, `label` true or false |
//! | `helpsteer2` | HelpSteer2's ratings | `prompt`, `response`, `helpfulness` |
//! | `response-lists` | RewardBench 2, RM-Bench | `prompt`, `chosen` and `rejected`, lists of texts |
//! | `sharegpt-preference` | LLaMA-Factory | `conversations`, `chosen`, `rejected` (`from`, `value`) |
//! | `trl-explicit` | TRL, RewardBench, ultrafeedback_binarized, ours | `prompt`, `chosen`, `rejected`, texts or messages |
//! | `alpaca-preference` | LLaMA-Factory | `instruction`, `input`?, `chosen`, `rejected`, `history`? |
//! | `trl-implicit` | TRL, Skywork, hh-rlhf | `chosen`, `rejected`: texts, messages or transcripts |
//!
//! - A tie (a strength of 0, a `winner` that is a tie, equal scores) is no pair: the row is bad, and its reason says so.
//! - Strengths of −3 to 3 are negative where the first response is better, and their size is the gap.
//! - Of `ultrafeedback` and `nectar`, the best response is paired with each lower one (8 at most). The gap is the difference of
//!   scores, or of ranks. Responses without a text or a rating are left out.
//! - Of `response-lists`, every good response is paired with every bad one (64 at most).
//! - Of `pku-saferlhf`, the safer response is chosen, and the better one only where the row does not say which is safer.
//! - Of `helpsteer2` and `trl-unpaired`, a row has one response. Two rows with the same prompt give a pair: of `helpsteer2` by
//!   helpfulness, of `trl-unpaired` one labelled true and one labelled false. They need not follow each other, but must be read
//!   together. Rows that are left over are bad.
//!
//! Conversations, which end with the assistant's answer, and responses to be judged:
//!
//! | format | of | fields | conversation | response |
//! |---|---|---|---|---|
//! | `messages` | TRL, OpenAI, ms-swift, ours | `messages` | yes | |
//! | `sharegpt` | LLaMA-Factory | `conversations` | yes | |
//! | `alpaca` | LLaMA-Factory | `instruction`, `output`, `input`?, `history`? | yes | |
//! | `trl-completion` | TRL | `prompt`, `completion`, each text or messages | the completion is learnt | yes |
//! | `trl-unpaired` | TRL, KTO | as above | if the label is true | yes |
//! | `helpsteer2` | HelpSteer2's ratings | as above | | yes |
//! | `prompt-response` | ours | `prompt`, `response` | | yes |
//!
//! Each may have a `system` (or `system_prompt`), which becomes the first turn. A pair's gap is also read from `gap`, `margin`,
//! or two scores (`score_chosen`, `score_rejected` and other spellings), and its source from `source`, `dataset`, `subset`,
//! `domain` or `data_source`.

mod format;
mod helpsteer;
mod llama_factory;
mod partners;
mod rated;
mod renamed;
mod response_lists;
mod rm_r1;
mod sides;
mod source;
mod trl;
mod two_responses;

use serde_json::Value;

pub use format::Format;
pub(super) use format::Record;
pub(super) use sides::Sides;
pub(super) use source::sources_of;

use super::bad_rows::Location;
use super::fields::{Object, field, keys};
use super::row_fields::{arguments_of, check_plain, with_system};
use super::turns::{messages_of, prompt_of};
use super::{Message, PromptText};
use partners::{Partners, Single};
use sides::check_prompt;

/// What a row of a pair format holds.
enum Held {
    Pairs(Vec<Sides>),
    /// One response, which waits for another row's.
    Single(Single),
}

/// The pairs of rows, which are given in their order. Most rows hold their own; of `helpsteer2` and `trl-unpaired`, a row has
/// one response, and the second row of a prompt completes the pair.
pub(super) struct PairReader {
    format: Option<Format>,
    partners: Partners,
}

impl PairReader {
    /// A reader of rows in one format, or in any.
    pub fn new(format: Option<Format>) -> Self {
        Self { format, partners: Partners::default() }
    }

    /// The pairs that a row gives, or why it gives none. None at all: its response waits for a partner.
    pub fn read(&mut self, row: &Object, at: &Location) -> Result<Vec<Sides>, String> {
        let format = format_of(row, self.format, Record::Pair)?;
        let pairs = match held(row, format)? {
            Held::Pairs(pairs) => {
                let with_system = |sides: Sides| Ok(Sides { prompt: with_system(row, sides.prompt)?, ..sides });
                pairs.into_iter().map(with_system).collect::<Result<Vec<_>, String>>()?
            }
            Held::Single(single) => {
                let single = Single { prompt: with_system(row, single.prompt)?, ..single };
                check_prompt(&single.prompt)?;
                self.partners.meet(single, &arguments_of(row)?, at)?.into_iter().collect()
            }
        };
        let source = source::source_of(row);
        let gap = source::gap_of(row);
        let said = |sides: Sides| Sides { source: source.clone(), gap: sides.gap.or(gap), ..sides }.check();
        pairs.into_iter().map(said).collect()
    }

    /// The rows whose response has met no partner, and the reason why that makes them bad.
    pub fn left(self) -> Vec<(Location, String)> {
        self.partners.left()
    }
}

/// The format that a row is read in: the one that is asked for, or the one that its fields fit.
fn format_of(row: &Object, asked: Option<Format>, record: Record) -> Result<Format, String> {
    let (kind, usual) = match record {
        Record::Pair => ("pair", "at least \"chosen\" and \"rejected\""),
        Record::Conversation => {
            ("conversation", "messages, conversations, instruction and output, or prompt and completion")
        }
        Record::Response => ("response", "prompt and response, or prompt and completion"),
    };
    if let Some(format) = asked {
        if !format.holds(record) {
            return Err(format!("rows of format {} hold no {kind}", format.name()));
        }
        return format.expect(row).map(|()| format);
    }
    Format::of_record(row, record).ok_or_else(|| {
        let other = Format::of(row).map(|format| format!(" (format {}, which holds no {kind})", format.name()));
        format!("no known {kind} format; expected {usual}, found {}{}", keys(row), other.unwrap_or_default())
    })
}

/// What a row of a format holds, as pairs.
fn held(row: &Object, format: Format) -> Result<Held, String> {
    let one = match format {
        Format::UltraFeedback => return rated::ultrafeedback(row).map(Held::Pairs),
        Format::Nectar => return rated::nectar(row).map(Held::Pairs),
        Format::ResponseLists => return response_lists::response_lists(row).map(Held::Pairs),
        Format::HelpSteer2 => return helpsteer::rated(row).map(Held::Single),
        Format::Unpaired => return trl::unpaired(row).map(Held::Single),
        Format::MathStepDpo => renamed::math_step_dpo(row),
        Format::CodePreference => renamed::code_preference(row),
        Format::Llmbar => two_responses::llmbar(row),
        Format::PkuSafeRlhf => two_responses::pku_saferlhf(row),
        Format::Shp => two_responses::shp(row),
        Format::JudgeBench => two_responses::judge_bench(row),
        Format::Ppe => two_responses::ppe(row),
        Format::HelpSteer2Preference => helpsteer::preference2(row),
        Format::HelpSteer3 => helpsteer::preference3(row),
        Format::RmR1 => rm_r1::rm_r1(row),
        Format::MsSwift => llama_factory::ms_swift(row),
        Format::SharegptPreference => llama_factory::sharegpt_preference(row),
        Format::AlpacaPreference => llama_factory::alpaca_preference(row),
        Format::Stepwise => trl::stepwise(row),
        Format::TrlExplicit => trl::explicit_prompt(row),
        Format::TrlImplicit => trl::implicit_prompt(row),
        Format::Messages | Format::Sharegpt | Format::Alpaca | Format::Completion | Format::PromptResponse => {
            Err(format!("rows of format {} hold no pair", format.name()))
        }
    };
    one.map(|sides| Held::Pairs(vec![sides]))
}

/// A conversation that ends with an assistant turn.
pub(super) fn conversation_of(row: &Object, asked: Option<Format>) -> Result<Vec<Message>, String> {
    let format = format_of(row, asked, Record::Conversation)?;
    let (name, messages) = match format {
        Format::Sharegpt => ("conversations", messages_of(field(row, "conversations")?, "conversations")?),
        Format::Alpaca => ("output", llama_factory::alpaca(row)?),
        Format::Completion | Format::Unpaired => ("completion", trl::completion(row)?),
        _ => ("messages", messages_of(field(row, "messages")?, "messages")?),
    };
    check_desirable(row)?;
    let messages = with_system(row, messages)?;
    match messages.split_last() {
        Some((last, before)) if last.role == "assistant" => {
            check_prompt(before)?;
            if last.text().trim().is_empty() {
                Err(format!("{name}: the last turn is empty"))
            } else if messages.iter().any(|turn| turn.role == "assistant" && turn.learnt) {
                Ok(messages)
            } else {
                Err(format!("{name}: every turn of the assistant has weight 0, so nothing would be learnt"))
            }
        }
        _ => Err(format!("{name}: does not end with an assistant turn")),
    }
}

/// Rows of unpaired preferences mark answers that are not to be learnt: TRL's and ms-swift's `label`, LLaMA-Factory's `kto_tag`.
fn check_desirable(row: &Object) -> Result<(), String> {
    match ["label", "kto_tag"].into_iter().find(|name| row.get(*name) == Some(&Value::Bool(false))) {
        Some(name) => Err(format!("{name}: is false: the answer is marked as one that is not to be learnt")),
        None => Ok(()),
    }
}

/// A prompt and one response. An empty response is allowed: the judge must see it.
pub(super) fn response_of(row: &Object, asked: Option<Format>) -> Result<(Vec<Message>, String), String> {
    let (prompt, response) = match format_of(row, asked, Record::Response)? {
        Format::HelpSteer2 => helpsteer::response(row)?,
        Format::Completion | Format::Unpaired => trl::response(row)?,
        _ => trl::prompt_response(row)?,
    };
    let prompt = with_system(row, prompt)?;
    check_prompt(&prompt)?;
    Ok((prompt, response))
}

/// `prompt`, as text that is taken as it is, or as turns: of messages, or of text in a `chat`. A turn of the assistant at their
/// end is one to go on with.
pub(super) fn prompt_text_of(row: &Object, chat: bool) -> Result<PromptText, String> {
    let prompt = field(row, "prompt")?;
    if let (Value::String(text), false) = (prompt, chat) {
        check_plain(row)?;
        return if text.is_empty() {
            Err("the prompt is empty".to_string())
        } else {
            Ok(PromptText::Plain(text.clone()))
        };
    }
    let messages = with_system(row, prompt_of(prompt, "prompt")?)?;
    if messages.last().is_none_or(|last| last.role != "assistant") {
        check_prompt(&messages)?;
    }
    Ok(PromptText::Chat(messages))
}

/// The row's own `id`, unless it is blank.
pub(super) fn id_of(row: &Object) -> Option<&Value> {
    row.get("id").filter(|id| id.as_str().is_none_or(|text| !text.trim().is_empty()))
}

/// The row's own `task`, if it names one.
pub(super) fn task_of(row: &Object) -> Result<Option<String>, String> {
    match row.get("task") {
        None => Ok(None),
        Some(Value::String(task)) if !task.trim().is_empty() => Ok(Some(task.clone())),
        Some(other) => Err(format!("task: expected a name, got {other}")),
    }
}
