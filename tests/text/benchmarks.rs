//! Benchmarks' tables from recorded results: worked by hand, from published figures, and with all that goes wrong in files.

use std::path::Path;

use patarm::data::{LoadOptions, OnBadRow, Tasks};
use patarm::eval::question::read_questions;
use patarm::eval::recorded::{self, Recorded, RecordedError};
use patarm::eval::{Benchmark, Figure, Figures, Reading};
use serde_json::{Value, json};

fn read(rows: &[Value]) -> Recorded {
    recorded::read(lines(rows).as_bytes(), None, None).unwrap()
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn figures(rows: &[Value]) -> Figures {
    let Recorded { benchmark, rows, .. } = read(rows);
    benchmark.figures(&rows)
}

fn value(figures: &[Figure], name: &str) -> f64 {
    figures.iter().find(|figure| figure.name == name).unwrap_or_else(|| panic!("no figure {name}: {figures:?}")).value
}

fn near(got: f64, expected: f64) {
    assert!((got - expected).abs() < 1e-12, "{got}, expected {expected}");
}

/// Subsets with their numbers of rows, in the split `filtered`.
const REWARDBENCH: [(&str, usize); 23] = [
    ("alpacaeval-easy", 100),
    ("alpacaeval-length", 95),
    ("alpacaeval-hard", 95),
    ("mt-bench-easy", 28),
    ("mt-bench-med", 40),
    ("mt-bench-hard", 37),
    ("llmbar-natural", 100),
    ("llmbar-adver-neighbor", 134),
    ("llmbar-adver-GPTInst", 92),
    ("llmbar-adver-GPTOut", 47),
    ("llmbar-adver-manual", 46),
    ("refusals-dangerous", 100),
    ("refusals-offensive", 100),
    ("xstest-should-refuse", 154),
    ("xstest-should-respond", 250),
    ("donotanswer", 136),
    ("math-prm", 447),
    ("hep-cpp", 164),
    ("hep-go", 164),
    ("hep-java", 164),
    ("hep-js", 164),
    ("hep-python", 164),
    ("hep-rust", 164),
];

/// The per-row results that a subset's accuracy stands for.
fn rows_of_accuracies(accuracy: impl Fn(&str) -> f64) -> Vec<Value> {
    let mut rows = Vec::new();
    for (subset, count) in REWARDBENCH {
        let right = (accuracy(subset) * count as f64).round() as usize;
        let first = rows.len();
        rows.extend((0..count).map(|i| json!({"id": first + i, "subset": subset, "results": i32::from(i < right)})));
    }
    rows
}

/// One judge's published subset and section scores. math-prm weighs as much as all code together.
#[test]
fn sections_of_rewardbench_are_the_published_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/goldens");
    let file = |name: &str| folder.join(format!("RM-R1-Qwen2.5-Instruct-32B__reward_bench_score_result_{name}.json"));
    let Ok(small) = std::fs::read_to_string(file("each_small_section_score")) else {
        eprintln!("skipped: {} is not there", folder.display());
        return;
    };
    let small: Value = serde_json::from_str(&small).unwrap();
    let main: Value = serde_json::from_str(&std::fs::read_to_string(file("main_score")).unwrap()).unwrap();
    let rows = rows_of_accuracies(|subset| small[subset].as_f64().unwrap());
    let table = figures(&rows);
    let Reading { headline, parts, subsets, .. } = &table.readings[0];
    for section in ["Chat", "Chat Hard", "Safety", "Reasoning"] {
        near(value(parts, section), main[section].as_f64().unwrap());
    }
    near(headline.value, main["avg_Result_each_section"].as_f64().unwrap());
    near(value(parts, "all rows"), main["absoluate_Result"].as_f64().unwrap());
    near(value(subsets, "math-prm"), small["math-prm"].as_f64().unwrap());
    assert_eq!((table.benchmark, table.rows, &table.notes[..]), ("rewardbench", 2985, &[][..]));
    // The file of accuracies is a form of results itself.
    let read = recorded::read(small.to_string().as_bytes(), None, None).unwrap();
    assert_eq!((read.benchmark, read.rows.len()), (Benchmark::RewardBench, 2985));
    assert_eq!(read.model.as_deref(), small["model"].as_str());
    let again = read.benchmark.figures(&read.rows);
    let published = &again.readings[0];
    for section in ["Chat", "Chat Hard", "Safety", "Reasoning"] {
        near(value(&published.parts, section), main[section].as_f64().unwrap());
    }
    near(published.headline.value, main["avg_Result_each_section"].as_f64().unwrap());
    near(value(&published.parts, "all rows"), main["absoluate_Result"].as_f64().unwrap());
}

/// A tie is worth a half in the accuracy, and a share that no rows have is refused.
#[test]
fn accuracies_of_subsets_are_rows() {
    let read = |text: Value| recorded::read(text.to_string().as_bytes(), None, None);
    let rows = read(json!({"model": "m", "hep-go": (82.0 + 0.5) / 164.0, "model_type": "x"})).unwrap();
    let table = Benchmark::RewardBench.figures(&rows.rows);
    near(value(&table.readings[0].subsets, "hep-go"), 0.5);
    near(value(&table.readings[1].subsets, "hep-go"), 82.5 / 164.0);
    assert!(read(json!({"hep-go": 1.5})).unwrap_err().to_string().contains("hep-go: expected an accuracy from 0 to 1"));
    assert!(read(json!({"model": "m", "chat_template": "t"})).is_err());
}

#[test]
fn rewardbench_has_two_rules_for_ties_and_says_what_is_missing() {
    // Columns, as its scripts write them, with the words that JSON does not have.
    let text = r#"{"model": "m", "results": [1, 0, 1, 0, 1], "subset": ["hep-go", "hep-go", "math-prm", "hep-go", "other"],
        "id": [1, 2, 3, 4, 5], "text_chosen": ["a NaN", "b", "c", "d", "e"],
        "scores_chosen": [3.0, 2.0, [1.5], NaN, 1], "scores_rejected": [2.5, 2.0, [-1], 0.0, 0]}"#;
    let Recorded { benchmark, rows, notes, model } = recorded::read(text.as_bytes(), None, None).unwrap();
    assert_eq!((benchmark, rows.len(), model.as_deref()), (Benchmark::RewardBench, 5, Some("m")));
    assert_eq!(notes, ["1 numbers of the file are NaN or infinite: they count as missing verdicts"]);
    let table = benchmark.figures(&rows);
    let [strict, generative] = &table.readings[..] else { panic!("{:?}", table.readings) };
    // hep-go: right, a tie, missing; its weight is 164 against 984.
    near(value(&strict.parts, "Reasoning"), (164.0 / 3.0 + 984.0) / 1148.0);
    near(value(&generative.parts, "Reasoning"), (164.0 * 2.0 / 3.0 + 984.0) / 1148.0);
    near(strict.headline.value, value(&strict.parts, "Reasoning"));
    near(value(&strict.parts, "all rows"), 3.0 / 5.0);
    assert_eq!((table.ties, table.missing), (0.2, 0.2));
    assert!(table.notes.iter().any(|note| note.starts_with("not the whole benchmark")), "{:?}", table.notes);
    assert!(table.notes.contains(&"in no section: other".to_string()), "{:?}", table.notes);
}

#[test]
fn results_that_contradict_the_scores_are_told_with_both_numbers() {
    let rows = [
        json!({"id": 1, "subset": "hep-go", "results": 1, "scores_chosen": 1.0, "scores_rejected": 2.0}),
        json!({"id": 2, "subset": "hep-go", "results": 1, "scores_chosen": 3.0, "scores_rejected": 2.0}),
        // A tie is recorded as 0 by one script and as 0.5 by another: neither is a contradiction.
        json!({"id": 3, "subset": "hep-go", "results": 0.5, "scores_chosen": 2.0, "scores_rejected": 2.0}),
        json!({"id": 4, "subset": "hep-go", "results": 0, "scores_chosen": 2.0, "scores_rejected": 2.0}),
    ];
    let note = "the file contradicts itself in 1 rows: by its recorded results 62.5000 % of all rows are right, by its scores \
                25.0000 %";
    assert!(figures(&rows).notes.contains(&note.to_string()), "{:?}", figures(&rows).notes);
    let agrees = figures(&rows[1..]).notes;
    assert!(!agrees.iter().any(|note| note.contains("contradicts")), "{agrees:?}");
}

/// Scores of six responses; worked by hand below.
fn rm_bench_rows() -> Vec<Value> {
    vec![
        // The same id in two domains is two rows.
        json!({"id": 7, "domain": "chat", "prompt": "p", "score_chosen": [3, 2, 1], "score_rejected": [2, 2, 0]}),
        json!({"id": 7, "domain": "safety-refuse", "prompt": "q", "score_chosen": [5, 5, 5], "score_rejected": [1, 5, 9]}),
        json!({"id": 8, "domain": "safety-response", "prompt": "r", "score_chosen": [[2.0], null, [4.0]],
               "score_rejected": [1, 1, 1]}),
    ]
}

#[test]
fn the_nine_cells_of_rm_bench_and_their_means() {
    let table = figures(&rm_bench_rows());
    let Reading { headline, parts, subsets, .. } = &table.readings[0];
    // chat: 3 beats 2, 2, 0; 2 beats 0 and ties twice; 1 beats 0.
    near(value(subsets, "chat, hard"), 1.0);
    near(value(subsets, "chat, normal"), 2.0 / 3.0);
    near(value(subsets, "chat, easy"), 0.0);
    // safety: every 5 beats 1, ties with 5, loses to 9; then 2 and 4 beat all, and the response without a verdict none.
    near(value(subsets, "safety, hard"), (0.0 + 2.0 / 3.0) / 2.0);
    near(value(subsets, "safety, normal"), (1.0 / 3.0 + 2.0 / 3.0) / 2.0);
    near(value(subsets, "safety, easy"), (2.0 / 3.0 + 2.0 / 3.0) / 2.0);
    near(value(parts, "chat"), 5.0 / 9.0);
    near(value(parts, "safety"), (3.0 / 9.0 + 6.0 / 9.0) / 2.0);
    near(value(parts, "hard"), (1.0 + 1.0 / 3.0) / 2.0);
    near(value(parts, "normal"), (2.0 / 3.0 + 0.5) / 2.0);
    near(value(parts, "easy"), (0.0 + 2.0 / 3.0) / 2.0);
    // The mean of the domains is that of the levels.
    near(headline.value, (5.0 / 9.0 + 0.5) / 2.0);
    near(headline.value, (value(parts, "hard") + value(parts, "normal") + value(parts, "easy")) / 3.0);
    near(value(subsets, "concise above markdown"), (1.0 + 0.5) / 2.0);
    assert_eq!((table.ties, table.missing), (5.0 / 27.0, 3.0 / 27.0));
    assert!(table.notes[0].contains("without math, code"), "{:?}", table.notes);
}

fn rewardbench2_rows() -> Vec<Value> {
    let row = |id: &str, subset: &str, scores: Value, good: usize| {
        let results = Value::Null;
        json!({"id": id, "subset": subset, "scores": scores, "num_correct": good, "results": results})
    };
    vec![
        row("a", "Factuality", json!([7, 5, 5, 1]), 1),
        row("b", "Factuality", json!([6, 6, 6, 1]), 1),
        row("c", "Factuality", json!([4, 5, 3, 1]), 1),
        row("d", "Math", json!([null, null, null, null]), 1),
        row("e", "Math", json!([[8.0], null, [2.0], [1.0]]), 1),
        row("ref:0", "Ties", json!([7, 5]), 1),
        row("tied:0", "Ties", json!([8, 8.5, 7.5, 3, 2]), 3),
        row("ref:1", "Ties", json!([4, 6]), 1),
        row("tied:1", "Ties", json!([9, 6, 5.5, 5]), 2),
        row("ref:2", "Ties", json!([9, 1, 1]), 1),
        row("tied:2", "Ties", json!([6, 6, 4]), 2),
        row("tied:5", "Ties", json!([5, 5, 7]), 2),
    ]
}

#[test]
fn rewardbench_2_shares_the_highest_score_and_ties_needs_all_of_them() {
    let table = figures(&rewardbench2_rows());
    let [official, strict] = &table.readings[..] else { panic!("{:?}", table.readings) };
    near(value(&official.parts, "Factuality"), (1.0 + 1.0 / 3.0 + 0.0) / 3.0);
    near(value(&strict.parts, "Factuality"), 1.0 / 3.0);
    // No verdict at all is a guess by the official rule; a missing verdict is wrong by the strict one.
    near(value(&official.parts, "Math"), (0.25 + 1.0) / 2.0);
    near(value(&strict.parts, "Math"), 0.0);
    // Good responses that score alike are infinitely closer to each other than to the bad ones.
    near(value(&official.parts, "Ties"), TIES);
    near(official.headline.value, (4.0 / 9.0 + 0.625 + TIES) / 3.0);
    // Ties and the headline are no means over rows: their intervals come from drawing the prompts again.
    let interval = |name: &str| official.parts.iter().find(|part| part.name == name).unwrap().interval.unwrap();
    let ([low, high], [low_of_ties, high_of_ties]) = (official.headline.interval.unwrap(), interval("Ties"));
    assert!(low < official.headline.value && official.headline.value < high && high < 1.0, "{low} {high}");
    assert!(low_of_ties < TIES && TIES < high_of_ties && high_of_ties <= 1.01, "{low_of_ties} {high_of_ties}");
    assert!(high - low < high_of_ties - low_of_ties);
    assert!(table.notes.iter().any(|note| note.contains("without Precise IF, Safety, Focus")), "{:?}", table.notes);
}

/// numpy, by the formula of the benchmark.
const TIES: f64 = 0.694_434_948_490_960_5;

#[test]
fn a_prompt_of_ties_without_all_verdicts_earns_nothing() {
    let mut rows = rewardbench2_rows();
    rows.retain(|row| row["subset"] == "Ties");
    let before = figures(&rows).readings[0].headline.value;
    for row in &mut rows {
        if row["id"] == "tied:2" {
            row["scores"][2] = Value::Null;
        }
    }
    let after = figures(&rows).readings[0].headline.value;
    // It was right in all respects: 0.3 / 4, and a third of 0.2 + 0.2 + 0.01 · tanh(∞).
    near(before - after, 0.3 / 4.0 + (0.2 + 0.2 + 0.01) / 3.0);
}

#[test]
fn recorded_scores_are_joined_by_position_because_ids_are_wrong() {
    let benchmark_rows: Vec<Value> = rewardbench2_rows();
    let known = recorded::read(lines(&benchmark_rows).as_bytes(), None, None).unwrap();
    let known: Vec<_> = known.rows.into_iter().map(|row| row.case).collect();
    // Recorded without num_correct, with other ids and the subset in other letters.
    let mut rows = benchmark_rows;
    for (index, row) in rows.iter_mut().enumerate() {
        let row = row.as_object_mut().unwrap();
        row.remove("num_correct");
        if index < 2 {
            row.insert("id".into(), json!("wrong"));
        }
        row.insert("subset".into(), json!(row["subset"].as_str().unwrap().to_lowercase()));
    }
    let alone = recorded::read(lines(&rows).as_bytes(), None, None).unwrap_err();
    assert!(
        alone.to_string().starts_with("row 1: does not say how many of its scores are of good responses"),
        "{alone}"
    );
    let read = recorded::read(lines(&rows).as_bytes(), None, Some(&known)).unwrap();
    assert_eq!(read.notes, ["2 recorded ids are not those of the data: rows are joined by position"]);
    near(value(&read.benchmark.figures(&read.rows).readings[0].parts, "Ties"), TIES);
    rows.swap(0, 4);
    let swapped = recorded::read(lines(&rows).as_bytes(), None, Some(&known)).unwrap_err();
    let expected = "row 1: is of math, and the data's row there of Factuality: the two are not in the same order";
    assert_eq!(swapped.to_string(), expected);
    rows.pop();
    let short = recorded::read(lines(&rows).as_bytes(), None, Some(&known)).unwrap_err();
    assert!(short.to_string().starts_with("has 11 rows and the data has 12"), "{short}");
}

#[test]
fn plain_rows_are_joined_by_id_in_any_order() {
    let known =
        [json!({"id": "x", "subset": "hep-go", "results": 1}), json!({"id": "y", "subset": "math-prm", "results": 1})];
    let known: Vec<_> = read(&known).rows.into_iter().map(|row| row.case).collect();
    let rows = [
        json!({"id": "y", "scores_chosen": [4, null, 6], "scores_rejected": [5, 5, 4]}),
        json!({"id": "x", "scores_chosen": 1, "scores_rejected": 2}),
    ];
    let read = recorded::read(lines(&rows).as_bytes(), Some(Benchmark::RewardBench), Some(&known)).unwrap();
    let subsets = read.benchmark.figures(&read.rows).readings[0].subsets.clone();
    // The mean of the votes that are there: 5 against 14/3.
    assert_eq!((value(&subsets, "math-prm"), value(&subsets, "hep-go")), (1.0, 0.0));
    let rows = [json!({"id": "z", "scores_chosen": 1, "scores_rejected": 2})];
    let error = recorded::read(lines(&rows).as_bytes(), None, Some(&known)).unwrap_err();
    assert_eq!(error.to_string(), "row 1: id z is not in the data");
}

#[test]
fn both_games_of_judgebench_count() {
    let game = |decision: Value| if decision.is_null() { Value::Null } else { json!({"decision": decision}) };
    let row = |source: &str, label: &str, games: [Value; 2]| {
        let id = format!("{source}{label}{games:?}");
        json!({"pair_id": id, "source": source, "label": label, "judgments": games.map(game)})
    };
    let rows = [
        // The second game has the responses in the other order.
        row("mmlu-pro-law", "A>B", [json!("A>B"), json!("B>A")]),
        row("mmlu-pro-law", "B>A", [json!("B>A"), json!("B>A")]),
        row("livebench-reasoning", "A>B", [json!("A>B"), json!("A=B")]),
        row("livebench-math", "A>B", [json!("A>B"), Value::Null]),
        row("livecodebench", "B>A", [json!("A>B"), json!("B>A")]),
        row("livecodebench", "B>A", [json!("A=B"), json!("B>A")]),
    ];
    let table = figures(&rows);
    let [official, every, one] = &table.readings[..] else { panic!("{:?}", table.readings) };
    near(official.headline.value, 3.0 / 6.0);
    near(every.headline.value, 1.0 / 6.0);
    near(one.headline.value, 4.0 / 6.0);
    let groups: Vec<f64> =
        ["Knowledge", "Reasoning", "Math", "Coding"].iter().map(|g| value(&official.parts, g)).collect();
    assert_eq!(groups, [0.5, 1.0, 1.0, 0.0]);
    assert_eq!((table.ties, table.missing), (2.0 / 12.0, 1.0 / 12.0));
    assert_eq!(table.notes, ["4 of 6 verdicts differ between the two orders (66.7 %)"]);
}

#[test]
fn a_file_of_pairs_has_subsets_and_quarters_of_the_gap() {
    let row = |id: usize, task: &str, gap: Value, chosen: f64| {
        let rejected = 5;
        json!({"id": id, "task": task, "gap": gap, "scores_chosen": chosen, "scores_rejected": rejected})
    };
    let rows: Vec<Value> = (0..8)
        .map(|i| row(i, if i % 2 == 0 { "chat" } else { "math" }, json!(i / 2), if i >= 4 { 6.0 } else { 5.0 }))
        .collect();
    let table = figures(&rows);
    let Reading { headline, parts, subsets, .. } = &table.readings[0];
    assert_eq!((headline.value, table.readings[1].headline.value, table.ties), (0.5, 0.75, 0.5));
    let names: Vec<(&str, f64)> = parts.iter().map(|part| (part.name.as_str(), part.value)).collect();
    assert_eq!(names, [("gap 0", 0.0), ("gap 1", 0.0), ("gap 2", 1.0), ("gap 3", 1.0)]);
    assert_eq!((value(subsets, "chat"), value(subsets, "math")), (0.5, 0.5));
}

#[test]
fn rows_that_cannot_be_read_are_named() {
    let cases = [
        (json!({"id": 1}), "row 1: no known form of results"),
        (json!(7), "row 1: expected an object, got no object"),
        (json!({"subset": "hep-go", "results": 7}), "row 1: results: expected a number from 0 to 1, got 7"),
        (json!({"subset": "hep-go", "results": "yes"}), "row 1: results: expected a number from 0 to 1, got \"yes\""),
        (
            json!({"scores_chosen": "9", "scores_rejected": 1}),
            "row 1: scores_chosen: expected a number, null, or a list of one",
        ),
        (
            json!({"score_chosen": [1, 2], "score_rejected": [1, 2, 3]}),
            "row 1: score_chosen: expected 3 scores, one a style, got 2",
        ),
        (json!({"scores": [1, 2], "num_correct": 2}), "row 1: 2 of 2 responses are said to be good"),
        (json!({"scores": [1, 2], "num_correct": 1.5}), "row 1: num_correct: expected a count, got 1.5"),
        (json!({"label": "A", "judgments": [null]}), "row 1: label: expected A>B or B>A, got \"A\""),
        (json!({"label": "A>B", "judgments": []}), "row 1: judgments: expected a list of one or two"),
        (json!({"subset": ["a", "b"], "results": [1]}), "column results has 1 rows, and subset has 2"),
        (json!({"benchmark": "mmlu", "scores": [1, 2], "good": 1}), "its rows are of an unknown benchmark, mmlu"),
        (json!([]), "holds no rows"),
    ];
    for (row, expected) in cases {
        let error = recorded::read(row.to_string().as_bytes(), None, None).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{row}: {error}");
    }
    let torn = recorded::read(b"{\"results\": 1}\n{\"resu", None, None).unwrap_err();
    assert!(matches!(&torn, RecordedError::File(reason) if reason.starts_with("is not JSON: ")), "{torn}");
}

#[test]
fn questions_of_benchmarks_have_their_better_responses_first() {
    let folder = tempfile::tempdir().unwrap();
    let read = |rows: &[Value]| {
        let file = folder.path().join("rows.jsonl");
        std::fs::write(&file, lines(rows)).unwrap();
        let options = LoadOptions { tasks: Tasks::always("chat"), on_bad_row: OnBadRow::Skip, format: None };
        let (benchmark, read) = read_questions(&[file], None, &options).unwrap();
        let texts = read
            .rows
            .iter()
            .map(|row| (row.case.id.clone(), row.case.good, row.responses.join("|")))
            .collect::<Vec<_>>();
        (benchmark, texts, read.skipped.count)
    };
    let judgebench = |label: &str| {
        let (source, question) = ("mmlu-pro-law", "q");
        json!({"pair_id": "u", "source": source, "question": question, "response_A": "a", "response_B": "b", "label": label})
    };
    let (benchmark, questions, bad) = read(&[judgebench("A>B"), judgebench("B>A"), judgebench("tie")]);
    assert_eq!((benchmark, bad), (Benchmark::JudgeBench, 1));
    assert_eq!(questions, [("u".into(), 1, "a|b".into()), ("u".into(), 1, "b|a".into())]);
    let (benchmark, questions, bad) = read(&[
        json!({"id": "tied:0", "prompt": "p", "chosen": ["x", "y"], "rejected": ["z"], "num_correct": 2, "subset": "Ties"}),
        json!({"id": "1", "prompt": "p", "chosen": [], "rejected": ["z"], "num_correct": 0, "subset": "Math"}),
    ]);
    assert_eq!((benchmark, questions, bad), (Benchmark::RewardBench2, vec![("tied:0".into(), 2, "x|y|z".into())], 1));
    let (benchmark, questions, _) = read(&[
        json!({"id": 3, "prompt": "p", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"], "domain": "chat"}),
    ]);
    assert_eq!((benchmark, questions), (Benchmark::RmBench, vec![("3".into(), 3, "a|b|c|d|e|f".into())]));
    let (benchmark, questions, _) =
        read(&[json!({"id": 9, "prompt": "p", "chosen": "c", "rejected": "r", "subset": "hep-go"})]);
    assert_eq!((benchmark, questions), (Benchmark::RewardBench, vec![("9".into(), 1, "c|r".into())]));
    let (benchmark, questions, _) = read(&[json!({"input": "p", "output_1": "c", "output_2": "r", "label": 2})]);
    assert_eq!((benchmark, questions), (Benchmark::Pairs, vec![("0".into(), 1, "r|c".into())]));
}

#[test]
fn a_judge_is_asked_with_the_tools_of_a_pair_and_no_template_variables() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    let pair = |more: Value| {
        let mut row = json!({"prompt": "p", "chosen": "c", "rejected": "r"});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        std::fs::write(&file, row.to_string()).unwrap();
        let options = LoadOptions { tasks: Tasks::always("chat"), on_bad_row: OnBadRow::Refuse, format: None };
        read_questions(std::slice::from_ref(&file), None, &options).map(|(_, mut read)| read.rows.remove(0))
    };
    let shown = pair(json!({"tools": [{"name": "find"}]})).unwrap().prompt;
    let turns: Vec<(&str, &str)> = shown.iter().map(|turn| (turn.role.as_str(), turn.content.as_str())).collect();
    assert_eq!(turns, [("tools", "{\"name\": \"find\"}"), ("user", "p")]);
    assert_eq!(pair(json!({"system": "s"})).unwrap().prompt[0].role, "system");
    for (more, part) in [
        (json!({"enable_thinking": true}), "enable_thinking"),
        (json!({"images": ["a"]}), "images: models of text alone"),
        (json!({"subset": "hep-go", "weight": 2}), "weight: rows cannot be weighted"),
    ] {
        let error = pair(more).unwrap_err().to_string();
        assert!(error.contains("rows.jsonl") && error.contains(part), "{error}");
    }
}
