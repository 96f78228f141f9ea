//! A row of a benchmark with its texts: what a judge is asked.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::benchmark::Benchmark;
use super::case::Case;
use super::recorded::prompt_key;
use super::{rewardbench, rm_bench};
use crate::data::{
    DataError, LoadOptions, Loaded, Message, Pair, TaskBy, Tasks, check_judged, first_row, load_pairs, load_rows,
    shown_prompt, sources,
};

type Row = Map<String, Value>;

/// A prompt with the responses that a judge is to score, the better ones first.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub case: Case,
    /// The task whose primary rubric the judge sees.
    pub task: String,
    /// What decided it.
    pub task_by: TaskBy,
    pub prompt: Vec<Message>,
    pub responses: Vec<String>,
}

/// Reads the rows of a benchmark; files may be names of the hub. `benchmark`: whose rows they are; `None`: recognised from the
/// first row.
pub fn read_questions(
    files: &[PathBuf],
    benchmark: Option<Benchmark>,
    options: &LoadOptions,
) -> Result<(Benchmark, Loaded<Question>), DataError> {
    let files = &sources::resolve(files)?;
    let benchmark = match benchmark {
        Some(benchmark) => benchmark,
        None => first_row(files)?.as_ref().map_or(Benchmark::Pairs, benchmark_of),
    };
    let loaded = match benchmark {
        Benchmark::Pairs => load_pairs(files, options)?.try_map(of_pair)?,
        _ => {
            load_rows(files, options.on_bad_row, |row, position| question_of(row, benchmark, position, &options.tasks))?
        }
    };
    Ok((benchmark, loaded))
}

fn benchmark_of(row: &Row) -> Benchmark {
    let is_list = |name: &str| row.get(name).is_some_and(Value::is_array);
    let text = |name: &str| row.get(name).and_then(Value::as_str);
    if text("response_A").is_some() && text("label").is_some_and(|label| ["A>B", "B>A"].contains(&label)) {
        Benchmark::JudgeBench
    } else if row.contains_key("num_correct") && is_list("chosen") && is_list("rejected") {
        Benchmark::RewardBench2
    } else if row.contains_key("domain") && styles(row) {
        Benchmark::RmBench
    } else if text("subset").is_some_and(rewardbench::knows) {
        Benchmark::RewardBench
    } else {
        Benchmark::Pairs
    }
}

/// Whether both sides are three texts.
fn styles(row: &Row) -> bool {
    ["chosen", "rejected"].iter().all(|name| {
        let items = row.get(*name).and_then(Value::as_array);
        items.is_some_and(|items| items.len() == rm_bench::STYLES && items.iter().all(Value::is_string))
    })
}

fn of_pair(pair: Pair) -> Result<Question, String> {
    check_judged(&pair.arguments)?;
    let shown = shown_prompt(&pair.prompt, &pair.arguments);
    let prompt: String = shown.iter().map(|turn| format!("{}\n{}\n", turn.role, turn.content)).collect();
    let case = Case {
        id: pair.id.to_string(),
        subset: pair.source.unwrap_or_else(|| pair.task.clone()),
        good: 1,
        responses: 2,
        prompt: prompt_key(&prompt),
        gap: pair.gap,
    };
    let responses = vec![pair.chosen, pair.rejected];
    Ok(Question { case, task: pair.task, task_by: pair.task_by, prompt: shown, responses })
}

fn question_of(row: &Row, benchmark: Benchmark, position: u64, tasks: &Tasks) -> Result<Question, String> {
    let (prompt, good, bad, subset) = match benchmark {
        Benchmark::JudgeBench => {
            let (a, b) = (text(row, "response_A")?, text(row, "response_B")?);
            let (good, bad) = match text(row, "label")? {
                "A>B" => (a, b),
                "B>A" => (b, a),
                other => return Err(format!("label: expected A>B or B>A, got {other}")),
            };
            (text(row, "question")?, vec![good.to_string()], vec![bad.to_string()], text(row, "source")?)
        }
        Benchmark::RewardBench2 => {
            (text(row, "prompt")?, texts(row, "chosen")?, texts(row, "rejected")?, text(row, "subset")?)
        }
        Benchmark::RmBench => {
            let sides = [texts(row, "chosen")?, texts(row, "rejected")?];
            if let Some(side) = sides.iter().find(|side| side.len() != rm_bench::STYLES) {
                return Err(format!("expected {} styles of each side, got {}", rm_bench::STYLES, side.len()));
            }
            let [good, bad] = sides;
            (text(row, "prompt")?, good, bad, text(row, "domain")?)
        }
        Benchmark::RewardBench | Benchmark::Pairs => {
            let [good, bad] = [text(row, "chosen")?, text(row, "rejected")?].map(|side| vec![side.to_string()]);
            (text(row, "prompt")?, good, bad, text(row, "subset")?)
        }
    };
    if good.is_empty() || bad.is_empty() {
        return Err("expected at least one chosen and one rejected response".into());
    }
    let id = ["id", "pair_id"].iter().find_map(|name| row.get(*name)).filter(|id| !id.is_null());
    let id = id.map_or_else(|| position.to_string(), |id| id.as_str().map_or_else(|| id.to_string(), str::to_string));
    let prompt_turns = vec![Message::user(prompt)];
    let (task, task_by) = tasks.of(row, &prompt_turns)?;
    let case = Case {
        id,
        subset: subset.to_string(),
        good: good.len(),
        responses: good.len() + bad.len(),
        prompt: prompt_key(prompt),
        gap: None,
    };
    Ok(Question { case, task, task_by, prompt: prompt_turns, responses: [good, bad].concat() })
}

fn text<'a>(row: &'a Row, name: &str) -> Result<&'a str, String> {
    let value = row.get(name).filter(|value| !value.is_null()).ok_or_else(|| format!("{name}: is missing"))?;
    value.as_str().ok_or_else(|| format!("{name}: expected text"))
}

fn texts(row: &Row, name: &str) -> Result<Vec<String>, String> {
    let items = row.get(name).and_then(Value::as_array).ok_or_else(|| format!("{name}: expected a list of texts"))?;
    items
        .iter()
        .map(|item| item.as_str().map(str::to_string).ok_or_else(|| format!("{name}: expected texts in it")))
        .collect()
}
