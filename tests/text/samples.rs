//! Real files of the public datasets, and hand-made ones in their schemas.

use std::path::PathBuf;

use patarm::data::{Loaded, Message, OnBadRow, Pair, load_pairs};

use crate::{formats::options, shared};

fn load(path: PathBuf, on_bad_row: OnBadRow) -> Loaded<Pair> {
    load_pairs(&[path], &options(on_bad_row)).unwrap()
}

#[test]
fn real_files_load_whole() {
    for (name, count) in [
        ("gsm8k/derived_math_pairs.jsonl", 731),
        ("llamafactory_dpo/dpo_en_demo.json", 300),
        ("llmbar/Natural.json", 100),
        ("rewardbench/llmbar_natural_in_rewardbench_schema.jsonl", 100),
        // 129 and 32 rows of 3 chosen and 3 rejected responses.
        ("rm_bench/chat_filtered.json", 129 * 9),
        ("rm_bench/slice32_total_dataset_format.json", 32 * 9),
    ] {
        let Some(path) = shared(name) else { continue };
        assert_eq!(load(path, OnBadRow::Refuse).rows.len(), count, "{name}");
    }
}

#[test]
fn llmbar_prefers_what_rewardbench_calls_chosen() {
    let (Some(own), Some(bench)) =
        (shared("llmbar/Natural.json"), shared("rewardbench/llmbar_natural_in_rewardbench_schema.jsonl"))
    else {
        return;
    };
    let (own, bench) = (load(own, OnBadRow::Refuse).rows, load(bench, OnBadRow::Refuse).rows);
    for (ours, theirs) in own.iter().zip(&bench) {
        assert_eq!((&ours.prompt, &ours.chosen, &ours.rejected), (&theirs.prompt, &theirs.chosen, &theirs.rejected));
    }
}

#[test]
fn schema_samples_load() {
    let Some(dir) = shared("schema_samples") else { return };
    let math = load(dir.join("math_step_dpo_10k.SYNTHETIC.jsonl"), OnBadRow::Skip);
    assert_eq!((math.rows.len(), math.skipped.count), (1, 1));
    assert!(math.rows[0].chosen.starts_with("Let's think step by step.\nStep 1:"));
    assert!(math.rows[0].rejected.ends_with("Step 2: Add 2: 12 + 2 = 15.\nStep 3: The answer is: 15"));
    let skywork = load(dir.join("skywork_reward_preference_80k_v0.2.SYNTHETIC.jsonl"), OnBadRow::Refuse).rows;
    assert_eq!(skywork.iter().map(|pair| pair.prompt.len()).collect::<Vec<_>>(), [1, 3, 1]);
    let lists = load(dir.join("reward_bench_2.SYNTHETIC.jsonl"), OnBadRow::Refuse).rows;
    let names: Vec<String> = lists.iter().map(|pair| pair.id.to_string()).collect();
    assert_eq!(names, ["0/0", "0/1", "0/2", "ref:0", "tied:0/0", "tied:0/1"]);
    assert_eq!(lists[3].source.as_deref(), Some("Ties"));
    let code = load(dir.join("code_preference_pairs.SYNTHETIC.jsonl"), OnBadRow::Refuse).rows;
    assert_eq!(code[0].prompt, [Message::user("Write a function that returns the larger of two numbers.")]);
    let trl = load(dir.join("trl_preference_four_forms.jsonl"), OnBadRow::Refuse).rows;
    assert_eq!((trl[0].prompt.clone(), &trl[0].chosen), (trl[1].prompt.clone(), &trl[1].chosen));
    assert_eq!((trl[2].prompt.clone(), &trl[2].rejected), (trl[3].prompt.clone(), &trl[3].rejected));
}
