//! `report.html`: the run folder as one page that needs nothing else.
//!
//! A pure function of the folder: the same files give the same bytes. Every file may be missing or damaged, since a run may
//! be unfinished or have crashed; its section then says so.
//!
//! **Invariant:** the report draws what it is given ([`Contents`]) and knows no trainer and no evaluation.

pub mod bars;
pub mod chart;
pub mod curves;
pub mod diagnosis;
pub mod html;
pub mod results;
pub mod samples;

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::file::{counted, read_plain, write_atomically};
use crate::log::RunConfig;
use crate::log::charts::{Chart, Stage};
use crate::log::columns::Evaluation;
use crate::log::metrics::{Record, read_records};
use html::{escape, escape_cut, note, section};
use samples::Samples;

/// Characters shown of the configuration.
const CONFIG_MAX: usize = 20_000;

/// What there is to show: the stages of training, and the evaluation of what they trained.
pub struct Contents {
    /// In the order of training.
    pub stages: &'static [&'static Stage],
    pub evaluation: &'static Evaluation,
    /// In the order of training.
    pub rows: &'static [ResultRow],
}

/// An evaluation in a table of results.
pub struct ResultRow {
    /// In `summary.json`.
    pub key: &'static str,
    pub name: &'static str,
    /// The key of the model that it began from, with which it is compared.
    pub before: Option<&'static str>,
    /// Not the run's own result: it is left out of what is shown first.
    pub control: bool,
}

impl ResultRow {
    /// What a stage of the run has made.
    pub const fn stage(key: &'static str, name: &'static str, before: Option<&'static str>) -> Self {
        Self { key, name, before, control: false }
    }

    /// What is there to compare with.
    pub const fn control(key: &'static str, name: &'static str, before: Option<&'static str>) -> Self {
        Self { key, name, before, control: true }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("{path}: not a folder; give the folder of a run, such as runs/demo")]
    NotAFolder { path: PathBuf },
    #[error("{path}: cannot write the report: {error}")]
    Write { path: PathBuf, error: io::Error },
    #[error("chart \"{title}\" cannot be drawn: {error}")]
    Chart { title: &'static str, error: chart::ChartError },
}

/// What the folder holds; where something is missing, the reason in a sentence for the reader.
struct Run {
    name: String,
    config: Result<String, String>,
    metrics: Result<(Vec<Record>, usize), String>,
    samples: Result<Samples, String>,
    summary: Result<Record, String>,
    environment: Result<Record, String>,
}

/// Reads the run folder and writes `report.html` into it. Returns the path of the page.
pub fn write_report(run_dir: &Path, contents: &Contents) -> Result<PathBuf, ReportError> {
    if !run_dir.is_dir() {
        return Err(ReportError::NotAFolder { path: run_dir.to_owned() });
    }
    let html = render(&Run::read(run_dir), contents)?;
    let path = run_dir.join("report.html");
    match write_atomically(&path, html.as_bytes()) {
        Ok(()) => Ok(path),
        Err(error) => Err(ReportError::Write { path, error }),
    }
}

impl Run {
    fn read(run_dir: &Path) -> Self {
        let file = |name: &str| run_dir.join(name);
        let name = run_dir.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let summary = read_object(&file("summary.json"));
        // The summary is written last and knows the peak of memory; the separate file is there from the start.
        let in_summary = summary.as_ref().ok().and_then(|summary| summary.get("environment")?.as_object().cloned());
        Self {
            name: name.unwrap_or_else(|| "run".to_owned()),
            config: read_text(&file("config.toml")),
            metrics: present(&file("metrics.jsonl")).and_then(|path| read_records(path).map_err(|e| e.to_string())),
            samples: present(&file("samples.jsonl")).and_then(|path| Samples::read(path).map_err(|e| e.to_string())),
            environment: in_summary.map_or_else(|| read_object(&file("environment.json")), Ok),
            summary,
        }
    }

    /// The settings of config.toml, which decide what its numbers mean.
    fn settings(&self) -> RunConfig {
        self.config.as_deref().map(RunConfig::parse).unwrap_or_default()
    }
}

fn present(path: &Path) -> Result<&Path, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if path.exists() { Ok(path) } else { Err(format!("This run folder has no {name} (yet).")) }
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = read_plain(present(path)?).map_err(|error| format!("{} cannot be read: {error}.", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_object(path: &Path) -> Result<Record, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let damaged =
        |error| format!("{name} is not a JSON object ({error}); remove it and run again to have it rewritten.");
    serde_json::from_str(&read_text(path)?).map_err(damaged)
}

fn render(run: &Run, contents: &Contents) -> Result<String, ReportError> {
    let no_records: &[Record] = &[];
    let records = run.metrics.as_ref().map_or(no_records, |(records, _)| records);
    let mut body = header(run, contents, records);
    body += "<main>\n";
    let results = run.summary.as_ref().map_or_else(|missing| note(missing), |summary| results::html(contents, summary));
    body += &section("results", "Results", &results);
    body += &section("health", "Health of the run", &diagnosis::html(contents.stages, records, &run.settings()));
    body += &section("curves", "Curves", &curves_html(run, contents)?);
    body += &section("samples", "Judgements to read", &samples_html(run));
    body += &section("config", "Configuration", &config_html(run));
    body += &section("environment", "Environment", &environment_html(run));
    body += "</main>\n";
    Ok(html::document(&format!("{} · patarm-train", run.name), &body))
}

fn header(run: &Run, contents: &Contents, records: &[Record]) -> String {
    let last = |stage: &Stage| {
        let of_stage = records.iter().filter(|record| record.get("stage").and_then(Value::as_str) == Some(stage.key));
        of_stage.filter_map(|record| record.get("step")?.as_u64()).max()
    };
    let reached = |stage: &&Stage| Some(format!("{} to step {}", stage.name, last(stage)?));
    let steps: Vec<String> = contents.stages.iter().copied().filter_map(|stage| reached(&stage)).collect();
    let steps = if steps.is_empty() { "no training steps logged".to_owned() } else { steps.join(" · ") };
    let links: String = ["results", "health", "curves", "samples", "config", "environment"]
        .iter()
        .map(|id| format!("<a href=\"#{id}\">{id}</a>\n"))
        .collect();
    format!(
        "<header>\n<p class=\"kicker\">patarm-train · preference-aware reward model</p>\n<h1>{}</h1>\n\
         <p class=\"note\">{steps}</p>\n<nav>\n{links}</nav>\n</header>\n",
        escape(&run.name)
    )
}

fn curves_html(run: &Run, contents: &Contents) -> Result<String, ReportError> {
    let (records, damaged) = match &run.metrics {
        Ok((records, damaged)) => (records, *damaged),
        Err(missing) => return Ok(note(missing)),
    };
    let config = run.settings();
    let figure = |stage: &Stage, chart: &Chart| match curves::figure(stage, chart, records, &config, |key| {
        results::before(contents, run.summary.as_ref().ok()?, stage.key, key)
    }) {
        Ok(figure) => Ok(figure.unwrap_or_default()),
        Err(error) => Err(ReportError::Chart { title: chart.title, error }),
    };
    let figures = |folded: bool| -> Result<String, ReportError> {
        let charts = contents.stages.iter().flat_map(|stage| stage.charts.iter().map(move |chart| (*stage, chart)));
        charts.filter(|(_, chart)| chart.folded == folded).map(|(stage, chart)| figure(stage, chart)).collect()
    };
    let (first, more) = (figures(false)?, figures(true)?);
    if first.is_empty() && more.is_empty() {
        return Ok(note("metrics.jsonl holds no values to draw (yet)."));
    }
    let mut html =
        note("Faint lines are single steps, strong ones their moving average; the legend shows last values.");
    html += &damage("metrics.jsonl", damaged);
    html += &format!("<div class=\"figures\">\n{first}</div>\n");
    if !more.is_empty() {
        html += "<details class=\"more\">\n<summary>More curves, for a second look</summary>\n";
        html += &format!("<div class=\"figures\">\n{more}</div>\n</details>\n");
    }
    Ok(html)
}

fn damage(name: &str, damaged: usize) -> String {
    match damaged {
        0 => String::new(),
        _ => note(&format!(
            "Lines of {name} that are not whole JSON objects, left out: {damaged}. One is normal after a crash."
        )),
    }
}

fn samples_html(run: &Run) -> String {
    match &run.samples {
        Err(missing) => note(missing),
        Ok(samples) => {
            let cards = samples.html().unwrap_or_else(|| note("samples.jsonl holds no rollouts worth showing (yet)."));
            let rollouts = counted(samples.rows, "logged rollout");
            let from = note(&format!("A selection of {rollouts}. Click one to unfold it."));
            from + &damage("samples.jsonl", samples.damaged) + &cards
        }
    }
}

fn config_html(run: &Run) -> String {
    match &run.config {
        Err(missing) => note(missing),
        Ok(text) => format!(
            "<details>\n<summary>config.toml, as resolved for this run</summary>\n<pre>{}</pre>\n</details>\n",
            escape_cut(text, CONFIG_MAX)
        ),
    }
}

fn environment_html(run: &Run) -> String {
    let environment = match &run.environment {
        Err(missing) => return note(missing),
        Ok(environment) => environment,
    };
    let names = [
        ("cpu", "Processor"),
        ("cpu_features", "Vector instructions"),
        ("cores", "Cores"),
        ("threads", "Threads"),
        ("system", "System"),
        ("version", "patarm version"),
        ("commit", "Commit"),
        ("peak_rss_bytes", "Peak memory"),
    ];
    let known = names.iter().filter_map(|(key, name)| Some((*name, environment.get(*key)?)));
    let others = environment.iter().filter(|(key, _)| names.iter().all(|(known, _)| known != key));
    let row = |(name, value): (&str, &Value)| {
        let shown = if name == "Peak memory" { memory(value) } else { plain(value) };
        vec![escape(name), escape_cut(&shown, 500)]
    };
    let rows: Vec<_> = known.chain(others.map(|(key, value)| (key.as_str(), value))).map(row).collect();
    format!("<div class=\"facts\">{}</div>\n", html::table(&[], &rows))
}

fn memory(bytes: &Value) -> String {
    bytes.as_f64().map_or_else(|| "unknown".to_owned(), |bytes| format!("{:.2} GiB", bytes / f64::from(1u32 << 30)))
}

/// A JSON value without quotes and brackets.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "unknown".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::log::charts::{AxisRange, series};
    use crate::log::columns::{Column, Form};
    use crate::report::html::tests::check_balanced;
    use serde_json::json;
    use std::fs;

    const fn column(key: &'static str, name: &'static str, form: Form, more_is_better: bool) -> Column {
        Column { key, name, form, more_is_better, first: true, meaning: "" }
    }

    /// Two stages and an evaluation of three columns.
    pub(crate) const CONTENTS: Contents = Contents {
        stages: &[
            &Stage {
                key: "sft",
                name: "SFT",
                charts: &[
                    Chart::lines("SFT loss", "nats", AxisRange::Data, "Falls.", &[series("loss", "loss")]),
                    Chart::lines("Norm", "norm", AxisRange::Data, "Flat.", &[series("grad_norm", "norm")]).folded(),
                ],
                signs: &[],
                keys: Vec::new,
            },
            &Stage {
                key: "rl",
                name: "RL",
                charts: &[
                    Chart::lines("Score margin", "points", AxisRange::Data, "Grows.", &[series("margin", "margin")]),
                    Chart::shares("Verdicts", "share", "Valid.", &[series("valid", "valid"), series("bad", "bad")]),
                ],
                signs: &[],
                keys: Vec::new,
            },
        ],
        evaluation: &Evaluation {
            columns: &[
                Column { meaning: "share of pairs", ..column("accuracy", "Accuracy", Form::Percent, true) },
                column("ties", "Ties", Form::Percent, false),
                column("margin", "Margin", Form::Points, true),
                column("never", "Never measured", Form::Number, true),
            ],
            by_task: &[("by_task", "Accuracy"), ("greedy_by_task", "Greedy")],
            keys: Vec::new,
        },
        rows: &[
            ResultRow::stage("untrained", "Untrained", None),
            ResultRow::stage("sft", "SFT", Some("untrained")),
            ResultRow::stage("rl", "SFT + RL", Some("untrained")),
        ],
    };

    const SECTIONS: [&str; 6] = ["results", "health", "curves", "samples", "config", "environment"];

    fn page(files: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let path = write_report(folder.path(), &CONTENTS).unwrap();
        let html = fs::read_to_string(&path).unwrap();
        check_balanced(&html).unwrap();
        for id in SECTIONS {
            assert!(html.contains(&format!("<section id=\"{id}\">")), "section {id}");
        }
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            files.len() + 1,
            "nothing but the page was left behind"
        );
        assert_eq!(
            fs::read_to_string(write_report(folder.path(), &CONTENTS).unwrap()).unwrap(),
            html,
            "same files, same page"
        );
        html
    }

    fn metrics() -> String {
        let sft =
            (1..=30).map(|step| json!({"stage": "sft", "step": step, "loss": 3.0 / f64::from(step), "grad_norm": 1.0}));
        let rl = (1..=3000).map(|step| {
            let margin = (step != 7).then_some(f64::from(step) / 2000.0);
            json!({"stage": "rl", "step": step, "margin": margin, "valid": 0.9, "bad": 0.1})
        });
        sft.chain(rl).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn a_whole_run_becomes_a_page() {
        let sample = json!({"stage": "rl", "step": 3, "pair": "p1", "role": "chosen", "rollout": 0, "task": "chat",
            "prompt": "Hi", "response": "<script>alert('x')</script>", "judgement": "</pre><b onclick=x>", "score": 8,
            "verdict": "score", "reward": 1.4, "advantage": 0.9});
        let stages = json!({"untrained": {"pairs": 400, "accuracy": 0.5}, "rl": {"accuracy": 0.6}});
        let summary = json!({"wall_s": 90.0, "seed": 1, "stages": stages});
        let html = page(&[
            ("metrics.jsonl", &(metrics() + "{\"stage\":\"rl\",\"step\":4000,\"marg")),
            ("samples.jsonl", &format!("{sample}\n{{\"torn")),
            ("summary.json", &summary.to_string()),
            ("config.toml", "name = \"<script>\"\n"),
            ("environment.json", "{\"cpu\": \"<script>\", \"peak_rss_bytes\": 1073741824}"),
        ]);
        for text in [
            "+10.0",
            "SFT loss",
            "Score margin",
            "Verdicts",
            "SFT to step 30 · RL to step 3000",
            "1.00 GiB",
            "More curves",
        ] {
            assert!(html.contains(text), "{text}");
        }
        assert!(html.contains("left out: 1."), "the torn line is mentioned");
        assert!(!html.contains("<script") && !html.contains("<b onclick"));
        assert!(!html.contains("http://") || !html.contains("src="), "nothing is fetched");
        assert!(html.len() < 400_000, "{} bytes", html.len());
    }

    #[test]
    fn an_empty_or_damaged_folder_still_has_a_page() {
        let html = page(&[]);
        for name in ["metrics.jsonl", "samples.jsonl", "summary.json", "config.toml", "environment.json"] {
            assert!(html.contains(&format!("no {name}")), "{name}");
        }
        let html =
            page(&[("metrics.jsonl", "\n{"), ("samples.jsonl", ""), ("summary.json", "[1]"), ("config.toml", "\u{0}")]);
        assert!(html.contains("not a JSON object") && html.contains("no values to draw"));
        assert!(matches!(write_report(Path::new("no such folder"), &CONTENTS), Err(ReportError::NotAFolder { .. })));
    }

    #[test]
    fn a_page_that_cannot_be_written_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("report.html/in the way")).unwrap();
        assert!(matches!(write_report(folder.path(), &CONTENTS), Err(ReportError::Write { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
