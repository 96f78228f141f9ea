//! Health of a run in plain words: what the signs say that its trainers declare, with a remedy where one fails.

use serde_json::Value;

use super::html;
use crate::log::RunConfig;
use crate::log::charts::Stage;
use crate::log::metrics::Record;
use crate::log::signs::{Ends, Finding, Level, Sign, window};

/// The steps of a stage.
fn steps<'a>(stage: &Stage, records: &'a [Record]) -> Vec<&'a Record> {
    records.iter().filter(|record| record.get("stage").and_then(Value::as_str) == Some(stage.key)).collect()
}

/// All signs of the stage that the records allow to judge, by name; none if there are no steps.
pub fn findings(stage: &Stage, records: &[Record], config: &RunConfig) -> Vec<(&'static str, Finding)> {
    let steps = steps(stage, records);
    if steps.is_empty() {
        return Vec::new();
    }
    let judge = |sign: &Sign| Some((sign.name, (sign.judge)(&Ends::new(&steps, sign.keys, config))?));
    stage.signs.iter().filter_map(judge).collect()
}

/// The section of the page: a list of findings for each stage that has signs.
pub fn html(stages: &[&Stage], records: &[Record], config: &RunConfig) -> String {
    let with_signs = || stages.iter().filter(|stage| !stage.signs.is_empty());
    let lists: String = with_signs().filter_map(|stage| list(stage, records, config)).collect();
    if lists.is_empty() {
        let names: Vec<&str> = with_signs().map(|stage| stage.name).collect();
        return html::note(&format!("No steps of {} logged (yet), so there is nothing to judge.", names.join(" or ")));
    }
    lists
}

fn list(stage: &Stage, records: &[Record], config: &RunConfig) -> Option<String> {
    let findings = findings(stage, records, config);
    let worst = findings.iter().map(|(_, finding)| finding.level).max()?;
    let count = |level: Level| findings.iter().filter(|(_, finding)| finding.level == level).count();
    let verdict = match worst {
        Level::Good => "All signs are healthy.".to_owned(),
        _ => format!(
            "To act on: {}; to watch: {}; healthy: {}.",
            count(Level::Bad),
            count(Level::Watch),
            count(Level::Good)
        ),
    };
    let item = |(name, finding): &(&str, Finding)| {
        let (class, word) = match finding.level {
            Level::Good => ("good", "healthy"),
            Level::Watch => ("watch", "watch"),
            Level::Bad => ("bad", "act"),
        };
        format!(
            "<li class=\"{class}\"><span class=\"badge {class}\">{word}</span> <strong>{}</strong> {} \
             <span class=\"advice\">{}</span></li>\n",
            html::escape(name),
            html::escape(&finding.found),
            html::escape(finding.advice)
        )
    };
    let items: String = findings.iter().map(item).collect();
    let (steps, name) = (window(steps(stage, records).len()), stage.name);
    let means = match steps {
        1 => format!("The last step of {name}, compared with its first. {verdict}"),
        _ => format!("Means over {steps} steps at the end of {name}, compared with {steps} at its start. {verdict}"),
    };
    Some(html::note(&means) + &format!("<ul class=\"health\">\n{items}</ul>\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::html::tests::check_balanced;
    use serde_json::json;

    fn loss(ends: &Ends) -> Option<Finding> {
        let (now, then) = (ends.now("loss")?, ends.then("loss")?);
        Some(Finding { level: Level::of(now > then, now == then), found: format!("{now} < {then}"), advice: "R & D" })
    }

    const SIGNS: [Sign; 1] = [Sign { name: "Loss", keys: &["loss"], judge: loss }];
    const STAGE: Stage = Stage { key: "sft", name: "SFT", charts: &[], signs: &SIGNS, keys: || vec!["loss".into()] };
    const WITHOUT: Stage = Stage { key: "rl", name: "RL", charts: &[], signs: &[], keys: Vec::new };

    fn run(values: &[Value]) -> Vec<Record> {
        let line = |loss: &Value| json!({"stage": "sft", "step": 1, "loss": loss}).as_object().unwrap().clone();
        values.iter().map(line).collect()
    }

    #[test]
    fn a_finding_is_a_line_with_its_advice() {
        let cases = [([1.0, 2.0], "bad"), ([1.0, 1.0], "watch"), ([2.0, 1.0], "good")];
        for (values, class) in cases {
            let html = html(&[&WITHOUT, &STAGE], &run(&values.map(|value| json!(value))), &RunConfig::default());
            check_balanced(&html).unwrap();
            assert!(html.contains(&format!("<li class=\"{class}\">")) && html.contains("R &amp; D"), "{html}");
            assert!(html.contains("The last step of SFT, compared with its first."), "{html}");
        }
    }

    #[test]
    fn without_numbers_nothing_is_judged() {
        let config = RunConfig::default();
        assert!(
            findings(&STAGE, &[], &config).is_empty() && findings(&STAGE, &run(&[Value::Null]), &config).is_empty()
        );
        assert!(
            html(&[&WITHOUT, &STAGE], &[], &config)
                .contains("No steps of SFT logged (yet), so there is nothing to judge")
        );
    }
}
