//! `data`: what it finds in files of rows, what it refuses, and what it makes of them.

use std::collections::BTreeSet;
use std::path::Path;

use patarm::data::{LoadOptions, OnBadRow, Tasks, load_conversations, load_pairs};
use serde_json::{Value, json};

use crate::common::cli::CliFixture;

fn pair(prompt: &str, chosen: &str, rejected: &str) -> Value {
    json!({"prompt": prompt, "chosen": chosen, "rejected": rejected})
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn rows_of(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn golden(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/parquet").join(name).display().to_string()
}

fn options() -> LoadOptions {
    LoadOptions { tasks: Tasks::always("chat"), on_bad_row: OnBadRow::Refuse, format: None }
}

/// Nothing but `names` is in the folder, and no file that was being written.
#[track_caller]
fn only(fixture: &CliFixture, before: &BTreeSet<String>, names: &[&str]) {
    let now = files(fixture);
    let new: Vec<&String> = now.difference(before).collect();
    assert_eq!(new, names, "in the folder");
}

fn files(fixture: &CliFixture) -> BTreeSet<String> {
    let entries = std::fs::read_dir(fixture.path("")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn inspect_says_what_is_in_the_files() {
    let fixture = CliFixture::new();
    let rows = [
        json!({"prompt": "Q", "chosen": "Good\u{1b}[2J", "rejected": "Bad", "task": "math", "source": "made"}),
        pair("Q", "Bad", "Good\u{1b}[2J"),
        pair("Q", "Bad", "Good\u{1b}[2J"),
        pair("R", "same", "same"),
        pair("S", "same", "same"),
        json!({"prompt": "T", "response_1": "a", "response_2": "bb", "preference_strength": 2}),
    ];
    fixture.write("a.jsonl", &(lines(&rows) + "{broken\n"));
    let text = fixture.succeed(&["data", "inspect", "a.jsonl", "--tokenizer", "model"]).out;
    for words in [
        "7 rows in 1 file: 4 usable pairs, 3 bad rows",
        "2 rows: chosen and rejected are equal (the first: a.jsonl: line 4)",
        "1 row: is not JSON",
        "formats: trl-explicit 5, (unknown) 1, helpsteer2-preference 1",
        "tasks: chat 3, math 1",
        "sources: made 1",
        "different prompts: 2",
        "pairs that say only what an earlier one says: 1",
        "pairs that prefer what an earlier one of the same prompt rejects: 1",
        "chosen, characters",
        "prompt, tokens",
        "a.jsonl: line 1",
        "Good\\u{1b}[2J",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "a row must not move the cursor");

    let json = fixture.succeed(&["data", "inspect", "a.jsonl", "--json"]).out;
    let found: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&found["rows"], &found["usable"], &found["bad"]), (&json!(7), &json!(4), &json!(3)));
    assert_eq!((&found["duplicates"], &found["opposites"]), (&json!(1), &json!(1)));
    assert_eq!(
        (&found["lengths"]["rejected"]["characters"]["max"], found["samples"][0]["texts"].is_object()),
        (&json!(8), true)
    );
    assert_eq!(found["reasons"][0]["first"], "a.jsonl: line 4");

    // A row of one response waits for another; alone it is bad, and is one row all the same.
    let rated = json!({"prompt": "Q", "response": "a", "helpfulness": 3});
    fixture
        .write("b.jsonl", &lines(&[rated.clone(), json!({"prompt": "Q", "response": "b", "helpfulness": 1}), rated]));
    let text = fixture.succeed(&["data", "inspect", "b.jsonl"]).out;
    assert!(text.contains("3 rows in 1 file: 1 usable pairs, 1 bad row"), "{text}");

    // What a broken file held is said before it fails.
    let whole = std::fs::read(golden("lz4_groups.parquet")).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2..whole.len() / 2 + 200].fill(0xff);
    std::fs::write(fixture.path("broken.parquet"), damaged).unwrap();
    let outcome = fixture.run(&["data", "inspect", "broken.parquet"]);
    assert!(!outcome.ok && outcome.err.contains("broken.parquet: "), "{}", outcome.err);
    assert!(
        outcome.out.contains("rows in 1 file") && !outcome.err.contains("panicked"),
        "{} {}",
        outcome.out,
        outcome.err
    );
}

#[test]
fn validate_fails_by_its_exit_code_and_counts_every_reason() {
    let fixture = CliFixture::new();
    let text = fixture.succeed(&["data", "validate", &golden("snappy.parquet"), "train_pairs.jsonl"]).out;
    assert!(text.contains("23 rows in 2 files, all usable as pairs"), "{text}");
    fixture.succeed(&["data", "validate", "sft.jsonl", "--as", "conversations"]);

    let bad = [pair("Q", "a", "b"), pair("Q", "", "b"), pair("Q", "a", ""), pair("Q", "c", "")];
    fixture.write("bad.jsonl", &lines(&bad));
    fixture.write("worse.jsonl", "{\n");
    let args = ["data", "validate", "bad.jsonl", "train_pairs.jsonl", "worse.jsonl", "--show", "2"];
    let outcome = fixture.run(&args);
    assert!(!outcome.ok);
    let printed: Vec<&str> = outcome.out.lines().collect();
    assert_eq!(printed.len(), 3, "{}", outcome.out);
    assert_eq!(printed[0], "bad.jsonl: line 2: chosen: the response is empty");
    assert_eq!(printed[2], "and 2 more bad rows (--show 4 prints them)");
    for words in [
        "2 rows: rejected: the response is empty (the first: bad.jsonl: line 3)",
        "1 row: is not JSON",
        "4 of 17 rows cannot be used as pairs",
    ] {
        assert!(outcome.err.contains(words), "{words}: {}", outcome.err);
    }
    // A file that breaks off does not hide the next.
    fixture.write("list.json", "[{}");
    let outcome = fixture.run(&["data", "validate", "list.json", "bad.jsonl"]);
    assert!(
        outcome.out.contains("bad.jsonl: line 2") && outcome.err.contains("1 of 2 files cannot be read to the end")
    );
    fixture.fail(&["data", "validate", "nowhere.jsonl"], &["nowhere.jsonl", "No such file"]);
}

#[test]
fn convert_writes_what_loading_reads_again() {
    let fixture = CliFixture::new();
    let before = files(&fixture);
    let files_in = [golden("snappy.parquet"), golden("zstd_v2.parquet")];
    let args = |more: &[&'static str]| -> Vec<String> {
        let args = ["data", "convert", &files_in[0], &files_in[1], "--output", "out.jsonl"];
        args.iter().chain(more).map(|word| word.to_string()).collect()
    };
    let run = |args: &[String]| fixture.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(run(&args(&[])).ok);
    only(&fixture, &before, &["out.jsonl"]);
    let said = run(&args(&[]));
    assert!(!said.ok && said.err.contains("out.jsonl: exists already; --overwrite replaces it"), "{}", said.err);
    assert!(run(&args(&["--overwrite"])).ok);

    let written = rows_of(&fixture.read("out.jsonl"));
    let ids: Vec<String> = written.iter().map(|row| row["id"].to_string()).collect();
    assert_eq!(ids[..4], ["0", "1", "2", "3"]);
    assert_eq!(ids[11..15], ["11", "\"1#2\"", "\"2#2\"", "14"]);
    assert_eq!(written[1]["source"], "made");
    let first = load_pairs(&[files_in[0].clone().into()], &options()).unwrap().rows;
    let again = load_pairs(&[fixture.path("out.jsonl")], &options()).unwrap().rows;
    let texts = |pairs: &[patarm::data::Pair]| {
        let text = |pair: &patarm::data::Pair| (pair.prompt.clone(), pair.chosen.clone(), pair.source.clone());
        pairs.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(texts(&again[..11]), texts(&first));
    assert_eq!(texts(&again[11..]), texts(&first));

    // What is not to be learnt stays so.
    let turns = json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "weight": 0},
        {"role": "user", "content": "R"}, {"role": "assistant", "content": "B"}]);
    fixture.write("sft2.jsonl", &lines(&[json!({"id": 1.50, "messages": turns})]));
    fixture.succeed(&["data", "convert", "sft2.jsonl", "--as", "conversations", "--output", "sft3.jsonl"]);
    let both =
        ["sft2.jsonl", "sft3.jsonl"].map(|name| load_conversations(&[fixture.path(name)], &options()).unwrap().rows);
    assert_eq!(both[0], both[1]);
    assert!(!both[1][0].messages[1].learnt && fixture.read("sft3.jsonl").starts_with("{\"id\":1.5,"));
    let out = fixture.succeed(&["data", "convert", "sft2.jsonl", "--as", "conversations", "--output", "-"]).out;
    assert_eq!(out, fixture.read("sft3.jsonl"));
}

#[test]
fn convert_leaves_no_half_file() {
    let fixture = CliFixture::new();
    fixture.write("bad.jsonl", &(lines(&[pair("Q", "a", "b")]) + "x\n"));
    let before = files(&fixture);
    fixture.fail(
        &["data", "convert", "bad.jsonl", "--output", "out.jsonl"],
        &["bad.jsonl: line 2: is not JSON", "--skip-bad"],
    );
    fixture.fail(&["data", "convert", "bad.jsonl", "--output", "bad.jsonl", "--overwrite"], &["is an input too"]);
    only(&fixture, &before, &[]);
    fixture.succeed(&["data", "convert", "bad.jsonl", "--output", "out.jsonl", "--skip-bad"]);
    assert_eq!(fixture.read("out.jsonl").lines().count(), 1);
    fixture.fail(
        &["data", "convert", "sft.jsonl", "--output", "none.jsonl", "--skip-bad"],
        &["no row can be used as pairs, so nothing is written"],
    );

    // A signal in the middle: the input is a pipe that gives a row and then waits.
    let pipe = fixture.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let before = files(&fixture);
    let process = fixture.start(&["data", "convert", "pipe", "--output", "late.jsonl"]);
    let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    let mut put = || std::io::Write::write_all(&mut writer, lines(&[pair("Q", "a", "b")]).repeat(2000).as_bytes());
    put().unwrap();
    crate::common::cli::wait_until("a file aside", || files(&fixture).iter().any(|name| name.starts_with(".writing-")));
    process.signal("INT");
    crate::common::cli::wait_until("the signal is noticed", || put().is_err());
    let (code, said) = process.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("stopped; nothing is written"), "{said}");
    let _ = std::fs::remove_file(fixture.path("stderr"));
    only(&fixture, &before, &[]);
}

#[test]
fn mix_draws_by_content_and_keeps_a_prompt_on_one_side() {
    let fixture = CliFixture::new();
    let words = "of many words that a benchmark also has in it and so must go away now";
    let row = |file: &str, index: usize| {
        let (prompt, chosen) = (format!("Question {} of {file}", index / 2), format!("good {index}"));
        let task = ["math", "code"][index % 2];
        json!({"prompt": prompt, "chosen": chosen, "rejected": "bad", "task": task, "source": file})
    };
    let of = |file: &str, count: usize| (0..count).map(|index| row(file, index)).collect::<Vec<_>>();
    let mut a = of("a", 400);
    a.extend(of("a", 40));
    a.push(pair(&format!("Prompt {words}"), "x", "y"));
    fixture.write("a.jsonl", &lines(&a));
    fixture.write("b.jsonl", &lines(&of("b", 300)));
    fixture.write("bench.jsonl", &lines(&[json!({"question": format!("Other, {words}"), "answer": "z"})]));
    let base = ["data", "mix", "a.jsonl", "b.jsonl", "--take", "b.jsonl=100", "--against", "bench.jsonl"];
    let more =
        ["--cap-task", "math=180", "--holdout", "0.2", "--holdout-output", "test.jsonl", "--output", "train.jsonl"];
    let args = [&base[..], &more].concat();
    let said = fixture.succeed(&args).err;
    for words in ["40 that say what another says", "1 with a prompt of --against", "200 by --take"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (train, test) = (rows_of(&fixture.read("train.jsonl")), rows_of(&fixture.read("test.jsonl")));
    let prompts = |rows: &[Value]| rows.iter().map(|row| row["prompt"].to_string()).collect::<BTreeSet<_>>();
    assert!(prompts(&train).is_disjoint(&prompts(&test)));
    assert!((40..140).contains(&test.len()), "{}", test.len());
    let all: Vec<&Value> = train.iter().chain(&test).collect();
    let count = |field: &str, value: &str| all.iter().filter(|row| row[field] == value).count();
    assert_eq!((count("task", "math"), count("source", "b") <= 100, count("prompt", words)), (180, true, 0));
    let ids: BTreeSet<String> = all.iter().map(|row| row["id"].to_string()).collect();
    assert_eq!(ids.len(), all.len(), "every id once");

    // The same again, and with the files the other way round the same rows.
    let bytes = fixture.read("train.jsonl");
    fixture.succeed(&[&args[..], &["--overwrite"]].concat());
    assert_eq!(fixture.read("train.jsonl"), bytes);
    let turned = ["data", "mix", "b.jsonl", "a.jsonl"];
    fixture.succeed(&[&turned[..], &args[4..], &["--overwrite"]].concat());
    let texts =
        |rows: &[Value]| rows.iter().map(|row| (row["prompt"].to_string(), row["chosen"].to_string())).collect();
    let (now, then): (BTreeSet<_>, BTreeSet<_>) = (texts(&rows_of(&fixture.read("train.jsonl"))), texts(&train));
    assert_eq!(now, then);
    fixture.succeed(&[&args[..], &["--overwrite", "--seed", "1"]].concat());
    assert_ne!(fixture.read("train.jsonl"), bytes);

    let share = ["data", "mix", "a.jsonl", "--take", "a.jsonl=25%", "--output", "share.jsonl"];
    fixture.succeed(&share);
    assert!((60..140).contains(&fixture.read("share.jsonl").lines().count()));
    fixture.fail(
        &["data", "mix", "a.jsonl", "--take", "c.jsonl=1", "--output", "x"],
        &["--take c.jsonl", "none of the input"],
    );
    fixture.fail(&["data", "mix", "a.jsonl", "--take", "a.jsonl=1.5", "--output", "x"], &["expected FILE=SHARE"]);
    fixture.fail(&["data", "mix", "a.jsonl", "--take", "a.jsonl=0", "--output", "x"], &["no row is left"]);
}

#[test]
fn a_data_set_of_the_hub_is_checked_and_trained_on_by_its_name() {
    let fixture = CliFixture::new();
    let folder = fixture.path("cache/datasets--maker--set");
    let snapshot = folder.join("snapshots/c0ffee/data");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(folder.join("refs")).unwrap();
    std::fs::write(folder.join("refs/main"), "c0ffee").unwrap();
    std::fs::copy(golden("snappy.parquet"), snapshot.join("train-00000-of-00001.parquet")).unwrap();
    let cache = fixture.path("cache").display().to_string();
    let variables = [("HF_HUB_CACHE", cache.as_str()), ("HF_HUB_OFFLINE", "1")];
    let run = |args: &[&str]| fixture.run_with(args, &variables);
    let outcome = run(&["data", "validate", "maker/set"]);
    assert!(outcome.ok && outcome.out.contains("11 rows in 1 file"), "{} {}", outcome.out, outcome.err);
    let train = ["sft", "--model", "model", "--data", "maker/set:train", "--target", "chosen", "--set", "sft.steps=1"];
    let outcome = run(&[&train[..], &["--set", "sft.examples_per_step=2", "--out", "run"]].concat());
    assert!(outcome.ok, "{}", outcome.err);
    let outcome = run(&["data", "validate", "maker/set:test"]);
    for words in ["maker/set: there is no such file", "no split test; it has train", "HF_HUB_OFFLINE is set"] {
        assert!(outcome.err.contains(words), "{words}: {}", outcome.err);
    }
}
