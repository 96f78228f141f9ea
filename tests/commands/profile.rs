//! `bench --profile`: every launch of a step stands in the table once, and the CPU says that it has none.

use crate::common::cli::CliFixture;

#[test]
fn a_cpu_has_no_device_time() {
    CliFixture::new().fail(&["bench", "train", "--profile"], &["--profile", "--device cuda", "perf"]);
}

#[cfg(has_cuda)]
mod emulated {
    use std::collections::BTreeMap;

    use super::*;

    /// Tiny runs of a tiny model.
    const SIZES: [&str; 14] = [
        "--shape",
        "model",
        "--batch",
        "3",
        "--length",
        "12",
        "--prompt",
        "5",
        "--new",
        "4",
        "--prompts",
        "2",
        "--generations",
        "2",
    ];

    /// Launches of each kernel in a whole process, and its report.
    fn bench(fixture: &CliFixture, what: &str, more: &[&str]) -> (BTreeMap<String, i64>, serde_json::Value) {
        let args = [&["bench", what, "--device", "emulated", "--json"], &SIZES[..], more].concat();
        let outcome = fixture.run_with(&args, &[("PATARM_EMULATOR_STATS", "1"), ("PATARM_EMULATOR_CHECKS", "0")]);
        assert!(outcome.ok, "{}", outcome.err);
        let launches = |line: &str| {
            let mut words = line.split_whitespace();
            let (name, launches) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
            Some((name, launches))
        };
        let counts: BTreeMap<_, _> = outcome.err.lines().filter_map(launches).collect();
        assert!(counts.len() > 5, "{}", outcome.err);
        (counts, serde_json::from_str(&outcome.out).unwrap())
    }

    /// a − b, without the kernels that ran as often in both.
    fn difference(a: &BTreeMap<String, i64>, b: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
        let less = |(name, count): (&String, &i64)| (name.clone(), count - b.get(name).copied().unwrap_or(0));
        a.iter().map(less).filter(|(_, count)| *count != 0).collect()
    }

    /// A run more has the launches of one run; a profile has them too, kernel by kernel.
    #[track_caller]
    fn every_launch_stands_there_once(what: &str, phases: &[&str]) {
        let fixture = CliFixture::new();
        let (one, plain) = bench(&fixture, what, &["--runs", "1"]);
        let (two, _) = bench(&fixture, what, &["--runs", "2"]);
        let (profiled, report) = bench(&fixture, what, &["--runs", "1", "--profile"]);
        let of_a_run = difference(&two, &one);
        let rows = report["profile"].as_array().unwrap();
        let mut of_the_profile: BTreeMap<String, i64> = BTreeMap::new();
        for row in rows.iter().filter(|row| one.contains_key(row["op"].as_str().unwrap())) {
            *of_the_profile.entry(row["op"].as_str().unwrap().into()).or_default() += row["calls"].as_i64().unwrap();
        }
        assert_eq!(of_the_profile, of_a_run);
        // One run for the phases, one for the commands.
        assert_eq!(
            difference(&profiled, &one),
            of_a_run.iter().map(|(name, count)| (name.clone(), 2 * count)).collect()
        );
        let totals = &report["profile_run"];
        let sum = |key: &str| rows.iter().map(|row| row[key].as_f64().unwrap()).sum::<f64>();
        assert_eq!(totals["commands"].as_f64().unwrap(), sum("calls"));
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs().max(b.abs());
        let total = |key: &str| totals[key].as_f64().unwrap();
        assert!(close(sum("share"), 1.0) && close(sum("device_ms"), total("device_ms")), "{report}");
        assert!(close(total("idle_or_launch_bound_ms") + total("device_ms"), total("run_ms")), "{totals}");
        assert_eq!(totals["emulated"], true);
        let matmul = rows.iter().find(|row| row["op"] == "matmul").unwrap();
        assert!(matmul["flops"].as_u64() > Some(0) && matmul["bytes"].as_u64() > Some(0), "{matmul}");
        let known: Vec<&str> =
            report["profile_phases"].as_array().unwrap().iter().map(|p| p["phase"].as_str().unwrap()).collect();
        for phase in phases {
            assert!(known.contains(phase), "{phase} is not among {known:#?}");
        }
        assert!(plain.get("profile").is_none() && plain.get("profile_run").is_none(), "{plain}");
    }

    #[test]
    fn of_a_training_step_every_launch_stands_there_once() {
        let phases = ["run", "forward/attention", "forward/mlp", "backward/attention backward", "optimizer"];
        every_launch_stands_there_once("train", &phases);
    }

    #[test]
    fn of_decoding_every_launch_stands_there_once() {
        let phases = ["rollout/prefill/forward/mlp", "rollout/decode/forward/attention", "rollout/decode/sampling"];
        every_launch_stands_there_once("decode", &phases);
    }

    #[test]
    fn of_an_rl_step_every_launch_stands_there_once() {
        let phases = ["rollout/decode/forward/mlp", "score/forward/mlp", "backward/mlp backward", "optimizer"];
        every_launch_stands_there_once("rl", &phases);
    }

    #[test]
    fn the_table_says_what_it_is_and_what_it_is_not() {
        let fixture = CliFixture::new();
        let args = [&["bench", "train", "--device", "emulated", "--runs", "1", "--profile"], &SIZES[..]].concat();
        let out = fixture.succeed(&args).out;
        for words in ["emulated: counts, not speed", "device idle or launch-bound", "wall time is no speed", "µs/call"]
        {
            assert!(out.contains(words), "{words:?} is missing in:\n{out}");
        }
        let line = out.lines().find(|line| line.starts_with("optimizer ") && line.contains("adamw_f32")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[words.len() - 2..], ["-", "-"], "an emulator has no rates: {line}");
    }
}
