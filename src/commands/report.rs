//! `report`: writes a run's page again. Also the list of what there is to show: every trainer and the evaluation.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;

use super::held_out::HELD_OUT;
use crate::eval::pairs::PAIRS;
use crate::file::console;
use crate::report::{Contents, ResultRow, write_report};
use crate::train::rl_report::RL;
use crate::train::run_folder::check_report;
use crate::train::sft::SFT;

/// What reports show. A new trainer adds its stage here.
pub const CONTENTS: Contents = Contents {
    stages: &[&SFT, &RL, &HELD_OUT],
    evaluation: &PAIRS,
    rows: &[
        ResultRow::stage(SFT.key, SFT.name, None),
        ResultRow::stage(RL.key, "SFT + RL", Some(SFT.key)),
        ResultRow::control("random_constant", "Random labels, constant f", Some(SFT.key)),
        ResultRow::control("random_graded", "Random labels, graded f", Some(SFT.key)),
        ResultRow::control("inverted", "Inverted labels", Some(SFT.key)),
        ResultRow::control("clean_sft", "Clean teacher: SFT", None),
        ResultRow::control("clean_rl", "Clean teacher: SFT + RL", Some("clean_sft")),
    ],
};

/// Write a run's report.html again, from its metrics, samples and summary.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Folder of the run.
    pub run: PathBuf,
}

/// Writes report.html into the run's folder and prints its path. An error if there is no such folder.
pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let there = args.run.display();
    ensure!(args.run.exists(), "{there}: there is no such folder; give the folder of a run, such as runs/demo");
    ensure!(args.run.is_dir(), "{there}: is not a folder; give the folder of a run, such as runs/demo");
    // Without the lock: a run that is still in progress can be looked at, and no run reads the page.
    check_report(&args.run)?;
    Ok(console::print_line(write_report(&args.run, &CONTENTS)?.display())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::RunConfig;
    use crate::log::metrics::Record;
    use crate::log::signs::Ends;
    use crate::report::{curves, results};
    use serde_json::{Value, json};

    /// Two lines of a stage in which every key of its metrics struct is a number.
    fn lines(stage: &str, keys: &[String]) -> Vec<Record> {
        let line = |step: u64| {
            let mut line: Record = keys.iter().map(|key| (key.clone(), json!(0.25))).collect();
            line.insert("stage".into(), json!(stage));
            line.insert("step".into(), json!(step));
            line
        };
        vec![line(1), line(2)]
    }

    #[test]
    fn charts_signs_and_columns_name_only_keys_that_their_structs_have() {
        for stage in CONTENTS.stages {
            let keys = (stage.keys)();
            assert!(
                keys.contains(&"stage".to_owned()) && keys.contains(&"step".to_owned()),
                "{}: {keys:?}",
                stage.name
            );
            let series = stage.charts.iter().flat_map(|chart| chart.series.iter().map(|s| (chart.title, s.key)));
            let signs = stage.signs.iter().flat_map(|sign| sign.keys.iter().map(|key| (sign.name, *key)));
            for (user, key) in series.chain(signs) {
                assert!(keys.contains(&key.to_owned()), "{}: \"{user}\" names the key `{key}`: {keys:?}", stage.name);
            }
        }
        let keys = (PAIRS.keys)();
        let before = CONTENTS.stages.iter().flat_map(|stage| stage.charts).filter_map(|chart| chart.before);
        let columns = PAIRS.columns.iter().map(|column| column.key);
        let by_task = PAIRS.by_task.iter().map(|(key, _)| *key);
        for key in columns.chain(by_task).chain(results::READ).chain(before) {
            assert!(keys.contains(&key.to_owned()), "an evaluation has no `{key}`: {keys:?}");
        }
    }

    #[test]
    fn every_control_has_a_row() {
        use crate::commands::demo::controls::CONTROLS;
        let rows: Vec<&str> = CONTENTS.rows.iter().map(|row| row.key).collect();
        for key in CONTROLS.iter().flat_map(|control| control.sft.into_iter().chain([control.key])) {
            assert!(rows.contains(&key), "{key} is not in {rows:?}");
        }
    }

    #[test]
    fn every_chart_is_drawn_and_every_sign_is_judged() {
        let configs = ["", "reward.shape = \"constant\""].map(RunConfig::parse);
        for stage in CONTENTS.stages {
            let records = lines(stage.key, &(stage.keys)());
            for chart in stage.charts {
                let config = configs.iter().find(|config| (chart.applies)(config)).unwrap();
                let html = curves::figure(stage, chart, &records, config, |_| Some(("SFT".into(), 0.5))).unwrap();
                let html = html.unwrap_or_else(|| panic!("{}: nothing is drawn", chart.title));
                assert_eq!(html.matches("<b>0.250</b>").count(), chart.series.len(), "{}", chart.title);
                assert_eq!(html.contains("SFT 50.0 %"), chart.before.is_some(), "{}", chart.title);
            }
            let steps: Vec<&Record> = records.iter().collect();
            for sign in stage.signs {
                let judged = (sign.judge)(&Ends::new(&steps, sign.keys, &configs[0]));
                assert!(judged.is_some(), "{}: not judged", sign.name);
            }
            let names: Vec<&str> = stage.charts.iter().map(|chart| chart.title).collect();
            assert!(names.iter().enumerate().all(|(i, name)| !names[..i].contains(name)), "{names:?}");
        }
    }

    #[test]
    fn an_evaluation_has_a_row_and_its_votes() {
        let report = crate::eval::PairReport { pairs: 4, votes: 3, accuracy_mean: 0.75, ..Default::default() };
        let summary = json!({"stages": {SFT.key: report}});
        let Value::Object(summary) = summary else { unreachable!("an object") };
        assert!(results::text_table(&CONTENTS, &summary).to_string().contains("75.0 %"));
        assert!(results::html(&CONTENTS, &summary).contains("Votes: sampled judgements of each response, 3 here."));
    }
}
