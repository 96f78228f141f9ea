//! `bench`: what its JSON says, and what it refuses.

use crate::common::cli::CliFixture;

const TINY: [&str; 9] = ["--shape", "nano", "--runs", "1", "--prompt", "20", "--new", "5", "--json"];

#[test]
fn decoding_says_how_long_a_step_takes_also_where_prompts_are_shared() {
    let fixture = CliFixture::new();
    for shared in ["1", "2", "4"] {
        let lines =
            fixture.succeed(&[&["bench", "decode", "--batch", "4", "--batch-shared", shared], &TINY[..]].concat()).out;
        let report: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(report["tokens"], 20, "{lines}");
        assert!(report["step_ms"].is_f64() && report["run_ms"].as_f64().unwrap() > 0.0, "{lines}");
        assert!(report["load_s"].as_f64().unwrap() > 0.0, "{lines}");
    }
    let train = ["bench", "train", "--batch", "2", "--length", "16"];
    let report: serde_json::Value = serde_json::from_str(&fixture.succeed(&[&train[..], &TINY].concat()).out).unwrap();
    assert!(report["step_ms"].is_null() && report["load_s"].is_f64(), "{report}");
}

#[test]
fn prompts_are_shared_by_whole_groups() {
    let fixture = CliFixture::new();
    for (shared, words) in
        [("3", ["--batch 4", "multiple", "--batch-shared"]), ("0", ["'0'", "from 1", "--batch-shared"])]
    {
        let arguments = [&["bench", "decode", "--batch", "4", "--batch-shared", shared], &TINY[..]].concat();
        fixture.fail(&arguments, &words);
    }
}
