//! Settings from outside: what the commands refuse before they begin, and random ones, none of which may panic.

use std::ffi::OsString;
use std::path::Path;

use patarm::config::Settings;
use patarm::judge::{JUDGE_FILE, JudgeSettings};
use patarm::setting::{Assignment, Key, Of, Rule, Section, Valid, commented, resolve};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::common::cli::CliFixture;

const SFT: &[&str] = &["sft", "--model", "model", "--data", "sft.jsonl", "--out", "run"];
const RL: &[&str] =
    &["rl", "--model", "model", "--data", "train_pairs.jsonl", "--rubrics", "rubrics.toml", "--out", "run"];

#[test]
fn settings_are_refused_before_anything_is_begun() {
    let fixture = CliFixture::new();
    for (set, words) in [
        (
            "rl.policy.clip_low=-0.5",
            "--set rl.policy.clip_low=-0.5: `rl.policy.clip_low`: expected a number from 0.0 to 1.0, got -0.5",
        ),
        (
            "rl.aggregation=median",
            "`rl.aggregation`: expected one of token_mean, sequence_mean, dr_grpo, got the string \"median\"",
        ),
        ("rl.steps=-1", "`rl.steps`: expected a whole number from 1 to 1000000000, got -1; its default is 300"),
        ("sft.learning_rate=nan", "`sft.learning_rate`: expected a number"),
        ("data.flip=7", "`data.flip`: expected a number from 0.0 to 1.0, got 7.0"),
        ("rl.rollouts=1", "`rl.rollouts`: expected a whole number from 2 to 64, got 1"),
        ("model.init=nano", "`model.init` = \"nano\", `model.path` = \"model\""),
    ] {
        // Whatever the stage.
        for stage in [SFT, RL] {
            fixture.fail(&[stage, &["--set", set]].concat(), &[words]);
        }
    }
    fixture.write("bad.toml", "[run]\nseed = 1\n[rl.adamw]\n# Too much.\nbeta2 = 1.0\n");
    fixture.fail(
        &[RL, &["--config", "bad.toml"]].concat(),
        &["bad.toml:5: `rl.adamw.beta2`: expected a number from 0.0 to below 1.0, got 1.0; its default is 0.95"],
    );
    let outcome = fixture.run_with(SFT, &[("PATARM_CFG_SFT__STEPS", "0")]);
    assert!(!outcome.ok && outcome.err.contains("PATARM_CFG_SFT__STEPS: `sft.steps`: expected"), "{}", outcome.err);
    assert!(!fixture.path("run").exists(), "nothing is begun");
}

#[test]
fn flags_are_held_to_ranges_by_name() {
    let fixture = CliFixture::new();
    let judge = ["judge", "--model", "model", "--input", "train_pairs.jsonl"];
    let generate = ["generate", "--model", "model", "--prompt", "x"];
    for (command, flag, values) in [
        (&["demo"][..], "--flip", &["7", "-0.5", "nan"][..]),
        (&["demo"], "--score-noise", &["1.5", "-1", "x"]),
        (&["demo"], "--seed", &["-1", "9223372036854775808"]),
        (SFT, "--threads", &["100000000", "-1", "many"]),
        (RL, "--seed", &["-1", "99999999999999999999"]),
        (&judge, "--votes", &["0", "-1", "1000000000000"]),
        (&judge, "--temperature", &["-1", "nan", "inf", "1e30"]),
        (&judge, "--max-running", &["0", "18446744073709551615"]),
        (&judge, "--max-prompt-tokens", &["0", "18446744073709551615"]),
        (&judge, "--threads", &["100000000"]),
        (&generate, "--samples", &["0", "1000000000000"]),
        (&generate, "--top-p", &["0", "1.1", "nan", "1e-46"]),
        (&generate, "--temperature", &["1e-46"]),
        (&generate, "--min-p", &["-0.1", "2"]),
        (&generate, "--max-new-tokens", &["0", "18446744073709551615"]),
        (&["bench", "train"], "--batch", &["0", "-1", "1000000000000"]),
        (&["bench", "train"], "--micro-batch-tokens", &["0"]),
        (&["bench", "rl"], "--generations", &["0", "100000"]),
    ] {
        for value in values {
            fixture.fail(&[command, &[flag, value]].concat(), &[flag, value, "expected"]);
        }
    }
    fixture.fail(&[&generate[..], &["--temperature", "1e-30"]].concat(), &["--temperature must be 0, or from 0.001"]);
    fixture.fail(&[&judge[..], &["--set", "prompt.template=x"]].concat(), &["--set prompt.template=x: "]);
    let nowhere = fixture.run(&["judge", "--model", "nowhere", "--input", "train_pairs.jsonl"]);
    assert!(!nowhere.ok && !nowhere.err.contains("judge.toml"), "{}", nowhere.err);
    fixture.fail(&["bench", "train", "--batch", "60000", "--length", "60000"], &["--batch × --length = 3600000000"]);
    for (set, needed) in [
        ("sft.micro_batch_tokens=10", "sft.micro_batch_tokens = 10: the demo needs"),
        ("rl.max_prompt_tokens=8", "rl.max_prompt_tokens = 8: the demo needs"),
        ("model.context=100", "model.context = 100: the demo needs 192"),
    ] {
        fixture.fail(&["demo", "--set", set], &[needed]);
    }
    fixture
        .fail(&["bench", "train", "--shape", "32b", "--threads", "4000"], &["--threads (run.threads) = 4000", "cores"]);
    fixture.fail(
        &[SFT, &["--init", "nano"]].concat(),
        &["--init, --model: `model.init` = \"nano\", `model.path` = \"model\""],
    );
    fixture.fail(
        &[SFT, &["--target", "chose"]].concat(),
        &["--target: `sft.target`: expected one of messages, chosen", "did you mean chosen"],
    );
    assert!(!fixture.path("run").exists() && !fixture.path("runs").exists(), "nothing is begun");
}

#[test]
fn the_printed_settings_are_a_file_that_gives_them_again() {
    let fixture = CliFixture::new();
    for stage in [SFT, RL] {
        let set = ["--set", "rl.policy.kl=k1", "--set", "sft.learning_rate=3e-4", "--seed", "7", "--print-config"];
        let printed = fixture.succeed(&[stage, &set].concat()).out;
        fixture.write("printed.toml", &printed);
        let again = fixture.succeed(&[stage[0], "--config", "printed.toml", "--print-config"]).out;
        assert_eq!(printed, again);
        for line in [
            "seed = 7",
            "learning_rate = 0.0003",
            "# Judgements of each response (n).",
            "# note: `rl.policy.kl` = \"k1\"",
        ] {
            assert!(printed.contains(line), "{line} is missing in:\n{printed}");
        }
    }
    let outcome = fixture.succeed(&[SFT, &["--set", "sft.steps=1", "--set", "rl.policy.kl=k1"]].concat());
    assert!(outcome.err.contains("note: `rl.policy.kl` = \"k1\""), "{}", outcome.err);
    // What a run keeps is such a file too.
    fixture.succeed(&["sft", "--config", "run/config.toml", "--out", "again"]);
}

/// Cases of a property: so many, or as many as PATARM_CASES says.
fn cases(usual: u32) -> Config {
    let cases = std::env::var("PATARM_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(usual);
    Config { cases, max_shrink_iters: 200, failure_persistence: None, ..Config::default() }
}

/// Every key by its full name, with its rule.
fn keys() -> Vec<(String, Rule)> {
    fn below(keys: &[Key], section: &str) -> Vec<(String, Rule)> {
        let one = |key: &Key| match key.of {
            Of::Section(inner) => below(inner, &format!("{section}{}.", key.name)),
            Of::Value { rule, .. } => vec![(format!("{section}{}", key.name), rule)],
        };
        keys.iter().flat_map(one).collect()
    }
    below(Settings::KEYS, "")
}

/// What may be typed for a key: mostly what its rule allows, its ends, and beyond.
fn value(rule: Rule) -> BoxedStrategy<String> {
    let garbage = prop_oneof![
        prop::sample::select(vec![
            "",
            "nan",
            "-nan",
            "inf",
            "-inf",
            "-1",
            "0",
            "1",
            "1e30",
            "1e-30",
            "1e-320",
            "true",
            "[]",
            "{}",
            "[1]",
            "\"\"",
            "99999999999999999999",
            "-9223372036854775808",
            "9223372036854775807",
            "0x7f",
            "1_000",
            "1979-05-27",
            "''",
            "\"",
            "{a=1}",
            "[\"a\"]",
            "0.30000000000000004",
            "5.",
            ".5",
            "1=2",
            "#",
            "\0",
        ])
        .prop_map(String::from),
        ".{0,12}".prop_map(String::from),
        any::<f64>().prop_map(|x| format!("{x:e}")),
        any::<i64>().prop_map(|x| x.to_string()),
    ];
    let likely = match rule {
        Rule::Count { min, max } => prop_oneof![
            Just(min),
            Just(max),
            Just(min.saturating_sub(1)),
            Just(max.saturating_add(1)),
            min..=max,
            min..=max.min(min.saturating_add(100))
        ]
        .prop_map(|n| n.to_string())
        .boxed(),
        Rule::Number { min, max, .. } => {
            prop_oneof![Just(min), Just(max), min..=max, min..=max.min(min + 1.0), Just(min - 1.0)]
                .prop_map(|x| format!("{x:?}"))
                .boxed()
        }
        Rule::OneOf(words) => prop::sample::select(words).prop_map(|word| format!("\"{word}\"")).boxed(),
        Rule::Flag => any::<bool>().prop_map(|flag| flag.to_string()).boxed(),
        _ => "[a-z]{0,4}".prop_map(|text| format!("\"{text}\"")).boxed(),
    };
    prop_oneof![3 => likely, 1 => garbage].boxed()
}

/// A few keys with what was typed, and by which way: 0 a file, 1 a variable, 2 `--set`.
fn typed() -> impl Strategy<Value = Vec<(String, String, u8)>> {
    let one = prop::sample::select(keys()).prop_flat_map(|(key, rule)| {
        let key =
            prop_oneof![30 => Just(key.clone()), 1 => Just(format!("{key}x")), 1 => Just(key.replace('.', ".x."))];
        (key, value(rule), 0..3u8)
    });
    prop::collection::vec(one, 1..5)
}

/// The settings that come of it.
fn resolved(typed: &[(String, String, u8)], file: &Path) -> Result<Valid<Settings>, String> {
    let by = |way: u8| typed.iter().filter(move |(.., by)| *by == way);
    // A key typed twice in a file is an error of its own; it is tried too.
    let lines = by(0).map(|(key, value, _)| format!("{key} = {value}\n"));
    std::fs::write(file, lines.collect::<String>()).unwrap();
    let variable = |key: &str| OsString::from(format!("PATARM_CFG_{}", key.to_uppercase().replace('.', "__")));
    let environment: std::collections::BTreeMap<OsString, OsString> =
        by(1).map(|(key, value, _)| (variable(key), OsString::from(value))).collect();
    let set = by(2).map(|(key, value, _)| Assignment::set(&format!("{key}={value}")).unwrap()).collect::<Vec<_>>();
    resolve(&Settings::default(), Some(file), environment.into_iter(), &set).map_err(|e| e.to_string())
}

#[test]
fn random_settings_are_refused_by_name_or_valid() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    let (mut valid, mut refused) = (0, 0);
    let mut runner = TestRunner::new(cases(4000));
    let result = runner.run(&typed(), |typed| {
        match resolved(&typed, &file) {
            Ok(settings) => {
                std::fs::write(&file, commented(&settings)).unwrap();
                let again = resolve(&Settings::default(), Some(&file), std::iter::empty(), &[]);
                prop_assert_eq!(again.map_err(|e| e.to_string()), Ok(settings));
            }
            Err(message) => {
                // The key itself, the section where it goes wrong, or a part of it.
                let names = |key: &str| {
                    let section =
                        key.match_indices('.').any(|(end, _)| message.contains(&format!("`{}`", &key[..end])));
                    section || key.split('.').any(|part| part.len() > 2 && message.to_lowercase().contains(part))
                };
                prop_assert!(typed.iter().any(|(key, ..)| names(key)), "{}: {:?}", message, typed);
                prop_assert!(
                    message.contains("c.toml") || message.contains("PATARM_CFG_") || message.contains("--set"),
                    "{}",
                    message
                );
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    // The test sees both kinds.
    let mut runner = TestRunner::deterministic();
    for _ in 0..200 {
        let typed = typed().new_tree(&mut runner).unwrap().current();
        *(if resolved(&typed, &file).is_ok() { &mut valid } else { &mut refused }) += 1;
    }
    assert!(valid > 20 && refused > 20, "{valid} valid, {refused} refused");
}

#[test]
fn random_judge_files_are_refused_by_name_or_valid() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(JUDGE_FILE);
    JudgeSettings::built_in().unwrap().write(folder.path()).unwrap();
    let good = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<String> = good.lines().map(String::from).collect();
    let verdict = |name: &str| {
        prop::sample::select(keys()).prop_flat_map(|(_, rule)| value(rule)).prop_map({
            let name = name.to_string();
            move |value| format!("{name} = {value}")
        })
    };
    let line = prop_oneof![
        verdict("min"),
        verdict("max"),
        verdict("decimals"),
        verdict("max_rubrics"),
        verdict("thinking"),
        verdict("format"),
        verdict("mode"),
        Just(String::new()),
        Just("[verdict]".to_string()),
        ".{0,20}".prop_map(String::from),
    ];
    let mut runner = TestRunner::new(cases(3000));
    let result = runner.run(&prop::collection::vec((0..lines.len().min(14), line, any::<bool>()), 1..3), |changes| {
        let mut text = lines.clone();
        for (at, line, insert) in changes.iter().rev() {
            if *insert { text.insert(*at, line.clone()) } else { text[*at] = line.clone() }
        }
        std::fs::write(&path, text.join("\n")).unwrap();
        match JudgeSettings::read(folder.path()) {
            Ok(read) => prop_assert!(read.is_some_and(|judge| Valid::new((*judge).clone()).is_ok())),
            Err(error) => prop_assert!(error.to_string().contains("judge.toml"), "{}", error),
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// Settings of any kind, with sizes that a test can afford, take a step or say why not.
#[test]
fn random_valid_settings_take_a_step_or_say_why_not() {
    let fixture = CliFixture::new();
    let file = fixture.path("c.toml");
    let kept = |key: &str| {
        let sized = ["steps", "_per_step", "rollouts", "_tokens", "running", "length", "resample", "chunk_rows"];
        let named = key.starts_with("data.") || key.starts_with("model.") || key == "run.out" || key == "run.threads";
        !named && !sized.iter().any(|end| key.ends_with(end))
    };
    let small = "rl.steps=1 sft.steps=1 rl.pairs_per_step=2 rl.rollouts=2 rl.max_prompt_tokens=200 rl.max_new_tokens=4 \
                 rl.micro_batch_tokens=512 rl.max_running=8 sft.examples_per_step=2 sft.micro_batch_tokens=512";
    let small: Vec<&str> = small.split_whitespace().flat_map(|set| ["--set", set]).collect();
    let mut runner = TestRunner::deterministic();
    let (mut taken, mut tried) = (0, 0);
    let wanted = cases(24).cases.min(1000);
    while tried < wanted {
        let mut typed = typed().new_tree(&mut runner).unwrap().current();
        typed.retain(|(key, ..)| kept(key));
        typed.iter_mut().for_each(|(.., way)| *way = 2);
        if typed.is_empty() || resolved(&typed, &file).is_err() {
            continue;
        }
        tried += 1;
        let sets: Vec<String> = typed.iter().map(|(key, value, _)| format!("{key}={value}")).collect();
        let mut args = [if tried % 2 == 0 { SFT } else { RL }, &small].concat();
        sets.iter().for_each(|set| args.extend(["--set", set]));
        let outcome = fixture.run(&args);
        assert!(!outcome.err.contains("panicked"), "{sets:?}: {}", outcome.err);
        assert!(outcome.ok || outcome.err.contains("error: "), "{sets:?}: {}", outcome.err);
        // Random weights write no verdict, so a step of RL has no gradient.
        taken += u32::from(outcome.ok || outcome.err.contains("nothing was learnt"));
        let _ = std::fs::remove_dir_all(fixture.path("run"));
    }
    assert!(2 * taken > tried, "only {taken} of {tried} took a step");
}
