//! `demo --controls`: what RL makes of labels that say nothing, or the opposite, and of a judge that has no error to unlearn.
//! A gain that a control has too does not come from the labels.

use std::path::Path;
use std::time::Instant;

use super::COMMAND;
use super::learn::{Lesson, Results};
use super::suite::DemoSuite;
use crate::checkpoint::Progress;
use crate::commands::report::CONTENTS;
use crate::config::Settings;
use crate::ops::Backend;
use crate::reward::Shape;
use crate::setting::Valid;
use crate::train::run_folder::{Claim, Intent, RunRecord};

/// One control: a lesson with other settings.
pub struct Control {
    /// Its folder, and the key of its results in summary.json.
    pub key: &'static str,
    /// Its name for readers, as in the table.
    pub name: &'static str,
    change: fn(&mut Settings),
    /// The key of its own SFT stage; `None`: RL begins with the demo's judge.
    pub sft: Option<&'static str>,
}

/// In the order of the table, whose names for them are in [`CONTENTS`].
pub const CONTROLS: [Control; 4] = [
    Control {
        key: "random_constant",
        name: "random labels, constant f",
        change: |s| (s.data.flip, s.reward.shape) = (0.5, Shape::Constant),
        sft: None,
    },
    Control {
        key: "random_graded",
        name: "random labels, graded f",
        change: |s| (s.data.flip, s.reward.shape) = (0.5, Shape::Graded),
        sft: None,
    },
    Control { key: "inverted", name: "inverted labels", change: |s| s.data.flip = 1.0, sft: None },
    Control {
        key: "clean_rl",
        name: "a clean teacher",
        change: |s| s.data.teacher_error = 0.0,
        sft: Some("clean_sft"),
    },
];

/// Trains and evaluates all controls, each in a folder of its own in the demo's. `untrained` and `taught`: weights before and
/// after the demo's SFT stage.
pub fn run<B: Backend>(
    lesson: &Lesson<'_, B>,
    device: &'static str,
    out: &Path,
    [untrained, taught]: [&[f32]; 2],
    results: &mut Results,
) -> anyhow::Result<()> {
    for control in &CONTROLS {
        let mut settings = Settings::clone(lesson.settings);
        (control.change)(&mut settings);
        let folder = out.join("controls").join(control.key);
        settings.run.out = folder.display().to_string();
        let (settings, start) = (&Valid::new(settings)?, Instant::now());
        let claim = Claim::new(&folder, COMMAND, Intent::Replace)?;
        let record = RunRecord::new(COMMAND, device, Vec::new());
        let mut run = claim.begin(&record, settings, Progress::default())?;
        let suite = DemoSuite::new(settings, None)?;
        let lesson = Lesson { suite, settings, config: lesson.config.clone(), ..*lesson };
        let mut own = Results::new();
        let model = match control.sft {
            Some(key) => {
                let sft = lesson.sft(untrained, &mut run)?;
                own.insert(key, sft.results);
                sft.model
            }
            None => lesson.model(taught)?,
        };
        own.insert(control.key, lesson.rl(model, &mut run)?.results);
        run.finish(&super::learn::summary(settings, &own, start)?, &CONTENTS)?;
        results.extend(own);
    }
    Ok(())
}
