//! Recorded results: what other programs wrote about a judge's scores, in the forms of the benchmarks' own scripts.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::benchmark::Benchmark;
use super::case::{Answer, Answered, Case, Decision};
use super::comparisons::Comparisons;
use super::{rewardbench, rm_bench};
use crate::data::hash64;

type Row = Map<String, Value>;

/// Why a file of results cannot be read. Rows are counted from 1.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum RecordedError {
    #[error("row {row}: {reason}")]
    Row { row: usize, reason: String },
    #[error("{0}")]
    File(String),
}

/// A file of results.
#[derive(Debug, PartialEq)]
pub struct Recorded {
    pub benchmark: Benchmark,
    pub rows: Vec<Answered>,
    /// What was found odd.
    pub notes: Vec<String>,
    /// The judge, where the file names it.
    pub model: Option<String>,
}

/// Reads a file of results: JSON lines, a JSON array of rows, or one object of columns.
///
/// `benchmark`: how its rows are scored; `None`: recognised from the rows. `known`: the benchmark's own rows, for files that do
/// not say everything. They are joined by position, for recorded ids are wrong in many published files; rows of the plain form
/// (`id`, `scores_chosen`, `scores_rejected`) are joined by their ids.
pub fn read(text: &[u8], benchmark: Option<Benchmark>, known: Option<&[Case]>) -> Result<Recorded, RecordedError> {
    let (text, not_finite) = without_bare_words(text);
    let mut model = None;
    let rows = rows_of(values_of(&text)?, &mut model)?;
    if rows.is_empty() {
        return Err(RecordedError::File("holds no rows".into()));
    }
    let sides = rows.iter().any(|row| row.get("scores_chosen").is_some_and(|score| !score.is_null()));
    let mut forms = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        forms.push(form_of(row, sides).map_err(|reason| RecordedError::Row { row: index + 1, reason })?);
    }
    let benchmark = benchmark.map_or_else(|| recognised(&rows, &forms), Ok)?;
    let mut notes = Vec::new();
    if not_finite > 0 {
        notes.push(format!("{not_finite} numbers of the file are NaN or infinite: they count as missing verdicts"));
    }
    let known = known.map(|known| joined(&rows, &forms, known, &mut notes)).transpose()?;
    let mut answered = Vec::with_capacity(rows.len());
    for (index, (row, form)) in rows.iter().zip(&forms).enumerate() {
        let case = known.as_ref().map(|known| known[index]);
        let read =
            answered_of(row, *form, index, case).map_err(|reason| RecordedError::Row { row: index + 1, reason })?;
        answered.push(read);
    }
    Ok(Recorded { benchmark, rows: answered, notes, model })
}

/// The forms of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `label` and `judgments`, each null or with a `decision`: JudgeBench.
    Judgments,
    /// `score_chosen` and `score_rejected`, lists of three: RM-Bench.
    Styles,
    /// `scores` of all responses, the better ones first: RewardBench 2, and rows of `eval`.
    Scores,
    /// `comparisons`, each the numbers of two responses, with the `scores` of each: rows of `eval` by a pairwise judge.
    Comparisons,
    /// `scores_chosen` and `scores_rejected`, numbers or lists of votes.
    Sides,
    /// `results` alone: the credit that a benchmark's script gave.
    Results,
}

/// `sides`: whether any row of the file has scores of both sides. Classifiers of pairs have none, and leave them null.
fn form_of(row: &Row, sides: bool) -> Result<Form, String> {
    let has = |name: &str| row.get(name).is_some_and(|value| !value.is_null());
    if has("judgments") && has("label") {
        Ok(Form::Judgments)
    } else if has("score_chosen") && has("score_rejected") {
        Ok(Form::Styles)
    } else if has("comparisons") && has("scores") {
        Ok(Form::Comparisons)
    } else if has("scores") {
        Ok(Form::Scores)
    } else if sides && row.contains_key("scores_chosen") && row.contains_key("scores_rejected") {
        Ok(Form::Sides)
    } else if has("results") {
        Ok(Form::Results)
    } else {
        let names: Vec<&str> = row.keys().map(String::as_str).take(12).collect();
        Err(format!(
            "no known form of results: expected `judgments` and `label`, `score_chosen` and `score_rejected`, `scores`, \
             `scores_chosen` and `scores_rejected`, or `results`; found {}",
            if names.is_empty() { "no fields".into() } else { names.join(", ") }
        ))
    }
}

/// The benchmark that rows of these forms are of.
fn recognised(rows: &[Row], forms: &[Form]) -> Result<Benchmark, RecordedError> {
    if let Some(name) = rows[0].get("benchmark").and_then(Value::as_str) {
        return Benchmark::named(name)
            .ok_or_else(|| RecordedError::File(format!("its rows are of an unknown benchmark, {name}")));
    }
    let any = |form: Form| forms.contains(&form);
    let known_subset = |row: &Row| subset_of(row).is_some_and(|subset| rewardbench::knows(&subset));
    Ok(if any(Form::Judgments) {
        Benchmark::JudgeBench
    } else if any(Form::Styles) {
        Benchmark::RmBench
    } else if any(Form::Scores) || rows.iter().any(|row| row.contains_key("num_correct")) {
        Benchmark::RewardBench2
    } else if rows.iter().any(known_subset) {
        Benchmark::RewardBench
    } else {
        Benchmark::Pairs
    })
}

/// The benchmark's own row for each recorded one.
fn joined<'a>(
    rows: &[Row],
    forms: &[Form],
    known: &'a [Case],
    notes: &mut Vec<String>,
) -> Result<Vec<&'a Case>, RecordedError> {
    let by_id = forms.iter().all(|form| *form == Form::Sides) && !rows[0].contains_key("results");
    if by_id {
        let mut of_id: HashMap<&str, &Case> = HashMap::new();
        for case in known {
            if of_id.insert(&case.id, case).is_some() {
                return Err(RecordedError::File(format!("cannot be joined by id: the data has id {} twice", case.id)));
            }
        }
        let find = |(index, row): (usize, &Row)| {
            let id = id_of(row).unwrap_or_else(|| index.to_string());
            let reason = || format!("id {id} is not in the data");
            of_id.get(id.as_str()).copied().ok_or_else(|| RecordedError::Row { row: index + 1, reason: reason() })
        };
        let found: Result<Vec<&Case>, RecordedError> = rows.iter().enumerate().map(find).collect();
        if rows.len() < known.len() {
            notes.push(format!("results for {} of the {} rows of the data", rows.len(), known.len()));
        }
        return found;
    }
    if rows.len() != known.len() {
        return Err(RecordedError::File(format!(
            "has {} rows and the data has {}; they are joined by position, so both must be the same file's",
            rows.len(),
            known.len()
        )));
    }
    let other_id = |(row, case): &(&Row, &Case)| id_of(row).is_some_and(|id| id != case.id);
    let differing = rows.iter().zip(known).filter(other_id).count();
    if differing > 0 {
        notes.push(format!("{differing} recorded ids are not those of the data: rows are joined by position"));
    }
    let other_subset = |(row, case): (&Row, &Case)| {
        subset_of(row).is_some_and(|subset| !subset.is_empty() && !case.subset.eq_ignore_ascii_case(&subset))
    };
    if let Some(index) = rows.iter().zip(known).position(other_subset) {
        let reason = format!(
            "is of {}, and the data's row there of {}: the two are not in the same order",
            subset_of(&rows[index]).unwrap_or_default(),
            known[index].subset
        );
        return Err(RecordedError::Row { row: index + 1, reason });
    }
    Ok(known.iter().collect())
}

fn answered_of(row: &Row, form: Form, position: usize, known: Option<&Case>) -> Result<Answered, String> {
    let (answer, good) = match form {
        Form::Judgments => (decisions(row)?, 1),
        Form::Styles => (styles(row)?, rm_bench::STYLES),
        Form::Scores => (Answer::Scores(scores(&row["scores"], "scores")?), good_of(row, known)?),
        Form::Comparisons => (comparisons(row)?, good_of(row, known)?),
        Form::Sides => (
            Answer::Scores(vec![
                votes(&row["scores_chosen"], "scores_chosen")?,
                votes(&row["scores_rejected"], "scores_rejected")?,
            ]),
            1,
        ),
        Form::Results => (
            Answer::Credit(credit(row)?.ok_or("results: expected a number, got null")?),
            good_of(row, known).unwrap_or(1),
        ),
    };
    let responses = match &answer {
        Answer::Scores(scores) => scores.len(),
        Answer::Comparisons(comparisons) => comparisons.responses(),
        Answer::Decisions(_) | Answer::Credit(_) => 2,
    };
    if good == 0 || (good >= responses && matches!(answer, Answer::Scores(_))) {
        return Err(format!(
            "{good} of {responses} responses are said to be good: expected at least one good and one bad"
        ));
    }
    let case = match known {
        Some(case) if matches!(answer, Answer::Scores(_)) && case.responses != responses => {
            return Err(format!("has {responses} scores, and the data's row {} responses", case.responses));
        }
        Some(case) => case.clone(),
        None => case_of(row, position, good, responses),
    };
    let recorded = if matches!(answer, Answer::Credit(_)) { None } else { credit(row)? };
    Ok(Answered { case, answer, recorded })
}

fn case_of(row: &Row, position: usize, good: usize, responses: usize) -> Case {
    let id = id_of(row).unwrap_or_else(|| position.to_string());
    let subset = subset_of(row).unwrap_or_default();
    let text = |name: &str| row.get(name).filter(|value| !value.is_null()).map(Value::to_string);
    let prompt = match row.get("prompt_key").and_then(Value::as_u64) {
        Some(key) => key,
        None => prompt_key(&text("prompt").or_else(|| text("question")).unwrap_or_else(|| format!("{subset}\n{id}"))),
    };
    Case { id, subset, good, responses, prompt, gap: row.get("gap").and_then(Value::as_f64) }
}

/// A number for a prompt, the same for the same text.
pub fn prompt_key(prompt: &str) -> u64 {
    // 53 bits, so that the number survives programs that read all numbers as floats.
    hash64(prompt.as_bytes()) >> 11
}

fn id_of(row: &Row) -> Option<String> {
    let id = ["id", "pair_id", "question_id"].iter().find_map(|name| row.get(*name).filter(|id| !id.is_null()))?;
    Some(id.as_str().map_or_else(|| id.to_string(), str::to_string))
}

fn subset_of(row: &Row) -> Option<String> {
    let names = ["subset", "domain", "source", "task"];
    names.iter().find_map(|name| row.get(*name).and_then(Value::as_str)).map(str::to_string)
}

fn good_of(row: &Row, known: Option<&Case>) -> Result<usize, String> {
    let own = row.get("num_correct").or_else(|| row.get("good")).filter(|value| !value.is_null());
    match (known, own) {
        (Some(case), _) => Ok(case.good),
        (None, Some(count)) => {
            let whole = count.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0);
            whole.map(|n| n as usize).ok_or_else(|| format!("num_correct: expected a count, got {count}"))
        }
        (None, None) => {
            Err("does not say how many of its scores are of good responses (num_correct): give the benchmark's rows \
                             with --data"
                .into())
        }
    }
}

/// The recorded credit; `None` where there is none (the rows of Ties).
fn credit(row: &Row) -> Result<Option<f64>, String> {
    match row.get("results") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64().or(value.as_bool().map(|right| f64::from(u8::from(right)))) {
            Some(credit) if (0.0..=1.0).contains(&credit) => Ok(Some(credit)),
            _ => Err(format!("results: expected a number from 0 to 1, got {value}")),
        },
    }
}

/// A list of scores; each may be a list of one, as classifiers of one output give it.
fn scores(value: &Value, name: &str) -> Result<Vec<Option<f64>>, String> {
    let items = value.as_array().ok_or_else(|| format!("{name}: expected a list of scores, got {value}"))?;
    items.iter().map(|item| score(item, name)).collect()
}

fn score(value: &Value, name: &str) -> Result<Option<f64>, String> {
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(number.as_f64()),
        Value::Array(items) if items.len() == 1 => score(&items[0], name),
        other => Err(format!("{name}: expected a number, null, or a list of one number, got {other}")),
    }
}

/// A score, or the mean of votes over those that have one.
fn votes(value: &Value, name: &str) -> Result<Option<f64>, String> {
    let Value::Array(items) = value else { return score(value, name) };
    let valid: Vec<f64> =
        items.iter().map(|item| score(item, name)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    Ok((!valid.is_empty()).then(|| valid.iter().sum::<f64>() / valid.len() as f64))
}

fn styles(row: &Row) -> Result<Answer, String> {
    let mut all = Vec::new();
    for name in ["score_chosen", "score_rejected"] {
        let of_side = scores(&row[name], name)?;
        if of_side.len() != rm_bench::STYLES {
            return Err(format!("{name}: expected {} scores, one a style, got {}", rm_bench::STYLES, of_side.len()));
        }
        all.extend(of_side);
    }
    Ok(Answer::Scores(all))
}

/// The most responses that a pairwise judge's row compares.
const COMPARED_MAX: usize = 64;

/// What a pairwise judge said of each two responses.
fn comparisons(row: &Row) -> Result<Answer, String> {
    let shares = scores(&row["scores"], "scores")?;
    let pairs: Vec<[usize; 2]> = serde_json::from_value(row["comparisons"].clone())
        .map_err(|error| format!("comparisons: expected a list of two numbers of responses each: {error}"))?;
    if pairs.len() != shares.len() {
        return Err(format!("has {} comparisons and {} scores", pairs.len(), shares.len()));
    }
    let responses = pairs.iter().flatten().max().map_or(0, |last| last.saturating_add(1));
    if responses > COMPARED_MAX {
        return Err(format!(
            "comparisons: a response has number {}; expected fewer than {COMPARED_MAX}",
            responses - 1
        ));
    }
    Ok(Answer::Comparisons(Comparisons::new(responses, pairs.into_iter().zip(shares))))
}

/// JudgeBench's decisions; the second game has the responses in the other order.
fn decisions(row: &Row) -> Result<Answer, String> {
    let label = row["label"].as_str().filter(|label| ["A>B", "B>A"].contains(label));
    let label = label.ok_or_else(|| format!("label: expected A>B or B>A, got {}", row["label"]))?;
    let games = row["judgments"].as_array().filter(|games| (1..=2).contains(&games.len()));
    let games = games.ok_or("judgments: expected a list of one or two")?;
    let decision = |(order, game): (usize, &Value)| {
        let said = game.get("decision")?.as_str()?;
        let right = (said == label) == (order == 0);
        Some(match said {
            "A>B" | "B>A" if right => Decision::Right,
            "A>B" | "B>A" => Decision::Wrong,
            _ => Decision::Tie,
        })
    };
    Ok(Answer::Decisions(games.iter().enumerate().map(decision).collect()))
}

/// The values that follow each other in a text: lines, one array, or objects over several lines.
fn values_of(text: &[u8]) -> Result<Vec<Value>, RecordedError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(text).into_iter().collect();
    values.map_err(|error| RecordedError::File(format!("is not JSON: {error}")))
}

fn rows_of(values: Vec<Value>, model: &mut Option<String>) -> Result<Vec<Row>, RecordedError> {
    let single = values.len() == 1;
    let mut rows = Vec::new();
    for value in values {
        match value {
            Value::Array(items) if single => return rows_of(items, model),
            Value::Object(columns) if single && is_columns(&columns) => return rows_of_columns(columns, model),
            Value::Object(subsets) if single && is_accuracies(&subsets) => return rows_of_accuracies(&subsets, model),
            Value::Object(row) => rows.push(row),
            other => {
                let kind = if other.is_array() { "a list" } else { "no object" };
                return Err(RecordedError::Row {
                    row: rows.len() + 1,
                    reason: format!("expected an object, got {kind}"),
                });
            }
        }
    }
    Ok(rows)
}

/// Whether an object is a table of columns: what `results` or `scores` a row would have, it has of all rows. A row of
/// RewardBench 2 has a list of scores too, but then its other fields are single.
fn is_columns(object: &Row) -> bool {
    let column = |name: &str| object.get(name).is_some_and(|value| value.is_array() || value.is_object());
    column("subset") || column("id") || column("results")
}

/// Whether an object holds the accuracy of each of RewardBench's subsets, as the benchmark's scripts write them for a model.
fn is_accuracies(object: &Row) -> bool {
    !object.contains_key("results") && object.iter().any(|(name, value)| rewardbench::knows(name) && value.is_number())
}

/// The rows behind accuracies of subsets: as many right ones as make each, since it is not said which. What is left of a row (a
/// tie) is one row's credit.
fn rows_of_accuracies(subsets: &Row, model: &mut Option<String>) -> Result<Vec<Row>, RecordedError> {
    *model = subsets.get("model").and_then(Value::as_str).map(str::to_string);
    let mut rows = Vec::new();
    for (subset, accuracy) in subsets {
        let Some(count) = rewardbench::rows_of(subset) else { continue };
        let accuracy = accuracy.as_f64().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| {
            RecordedError::File(format!("{subset}: expected an accuracy from 0 to 1, got {accuracy}"))
        })?;
        let right = accuracy * count as f64;
        let whole = if (right - right.round()).abs() < 1e-6 { right.round() } else { right.floor() };
        for index in 0..count {
            let credit = match index as f64 {
                index if index < whole => 1.0,
                index if index == whole => right - whole,
                _ => 0.0,
            };
            // A sum of many ones is off by less than this.
            let credit = if credit.abs() < 1e-6 { 0.0 } else { credit };
            let row = json!({"id": format!("{subset}/{index}"), "subset": subset, "results": credit});
            rows.extend(row.as_object().cloned());
        }
    }
    Ok(rows)
}

/// Rows from columns, which are lists, or objects by row number (pandas).
fn rows_of_columns(columns: Row, model: &mut Option<String>) -> Result<Vec<Row>, RecordedError> {
    *model = columns.get("model").and_then(Value::as_str).map(str::to_string);
    let mut rows: Vec<Row> = Vec::new();
    let mut length: Option<(String, usize)> = None;
    for (name, column) in columns {
        // The texts are most of such a file, and nothing reads them.
        if name.starts_with("text") {
            continue;
        }
        let values: Vec<Value> = match column {
            Value::Array(values) => values,
            Value::Object(by_row) => by_row.into_iter().map(|(_, value)| value).collect(),
            _ => continue,
        };
        match &length {
            Some((first, count)) if *count != values.len() => {
                let reason = format!("column {name} has {} rows, and {first} has {count}", values.len());
                return Err(RecordedError::File(reason));
            }
            _ => length = Some((name.clone(), values.len())),
        }
        rows.resize_with(values.len(), Row::new);
        for (row, value) in rows.iter_mut().zip(values) {
            row.insert(name.clone(), value);
        }
    }
    Ok(rows)
}

/// The text with `null` for the words NaN, Infinity and -Infinity, which Python writes and JSON does not have; and how many.
fn without_bare_words(text: &[u8]) -> (Vec<u8>, usize) {
    let (mut out, mut count, mut at) = (Vec::with_capacity(text.len()), 0, 0);
    let (mut in_text, mut escaped) = (false, false);
    while at < text.len() {
        let byte = text[at];
        if in_text {
            in_text = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
        } else {
            in_text = byte == b'"';
            let word = [&b"NaN"[..], b"Infinity", b"-Infinity"].into_iter().find(|word| text[at..].starts_with(word));
            if let Some(word) = word {
                out.extend_from_slice(b"null");
                (count, at) = (count + 1, at + word.len());
                continue;
            }
        }
        out.push(byte);
        at += 1;
    }
    (out, count)
}
