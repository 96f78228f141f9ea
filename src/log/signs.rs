//! Signs of health: a number of a run at its start and at its end, compared with what the method wants.

use serde_json::Value;

use super::RunConfig;
use super::metrics::Record;
use crate::file::counted;

/// Most steps at each end of the run that are averaged: single steps are too noisy to judge by.
const WINDOW: usize = 10;

/// One sign of health, declared by the trainer whose numbers it reads.
pub struct Sign {
    /// What is looked at.
    pub name: &'static str,
    /// The keys that `judge` reads.
    pub keys: &'static [&'static str],
    /// What the numbers say; `None` if they are missing.
    pub judge: fn(&Ends) -> Option<Finding>,
}

/// How a sign stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Good,
    Watch,
    Bad,
}

impl Level {
    /// `Bad` if `bad`, else `Watch` if `watch`.
    pub fn of(bad: bool, watch: bool) -> Self {
        match (bad, watch) {
            (true, _) => Self::Bad,
            (_, true) => Self::Watch,
            _ => Self::Good,
        }
    }
}

/// What a sign says about a run.
#[derive(Clone, Debug)]
pub struct Finding {
    pub level: Level,
    /// What was found, with numbers.
    pub found: String,
    /// What to do about it; for healthy signs, what it means.
    pub advice: &'static str,
}

/// Whether loss and gradient norm, the keys of the sign, are numbers.
pub fn finite(ends: &Ends) -> Option<Finding> {
    let count = ends.not_finite();
    Some(Finding {
        level: Level::of(count > 0, false),
        found: match count {
            0 => "Loss and gradient norm are finite.".to_owned(),
            _ => format!(
                "Loss or gradient norm was not finite in {count} of the last {}.",
                counted(ends.steps(), "step")
            ),
        },
        advice: match count {
            0 => "Nothing diverged.",
            _ => "Go back to the last good checkpoint, lower the learning rate, and check the gradient clipping.",
        },
    })
}

/// The first and the last steps of a stage, as one sign sees them.
pub struct Ends<'a> {
    keys: &'static [&'static str],
    first: &'a [&'a Record],
    last: &'a [&'a Record],
    /// The settings that the numbers came about with.
    pub config: &'a RunConfig,
}

impl<'a> Ends<'a> {
    /// The ends of `steps`, for a sign that reads `keys`. The two ends overlap only where there is one step.
    pub fn new(steps: &'a [&'a Record], keys: &'static [&'static str], config: &'a RunConfig) -> Self {
        let window = window(steps.len());
        Self { keys, first: &steps[..window], last: &steps[steps.len() - window..], config }
    }

    /// Mean over the last steps.
    pub fn now(&self, key: &'static str) -> Option<f64> {
        let values = values(self.last, self.declared(key));
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// Mean over the first steps.
    pub fn then(&self, key: &'static str) -> Option<f64> {
        let values = values(self.first, self.declared(key));
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// The first value of all.
    pub fn first(&self, key: &'static str) -> Option<f64> {
        values(self.first, self.declared(key)).into_iter().next()
    }

    /// Largest over the last steps.
    pub fn largest(&self, key: &'static str) -> Option<f64> {
        values(self.last, self.declared(key)).into_iter().reduce(f64::max)
    }

    /// How many of the last steps hold `null` for one of the sign's keys, which is how NaN and infinity are written.
    pub fn not_finite(&self) -> usize {
        let broken = |record: &&&Record| self.keys.iter().any(|key| record.get(*key).is_some_and(Value::is_null));
        self.last.iter().filter(broken).count()
    }

    /// Steps at each end.
    pub fn steps(&self) -> usize {
        self.last.len()
    }

    /// Refuses a key that the sign does not declare: a test holds the declared keys to the metrics struct.
    fn declared(&self, key: &'static str) -> &'static str {
        assert!(self.keys.contains(&key), "a sign reads the key {key:?} and declares {:?}", self.keys);
        key
    }
}

/// Steps averaged at each end of a run of `steps` steps.
pub fn window(steps: usize) -> usize {
    WINDOW.min(steps.div_ceil(2))
}

fn values(records: &[&Record], key: &str) -> Vec<f64> {
    records.iter().filter_map(|record| record.get(key).and_then(Value::as_f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_ends_are_averaged_and_null_is_counted() {
        let value = |step: u64| if step == 27 { Value::Null } else { json!(step) };
        let steps: Vec<Record> =
            (0..30).map(|step| json!({"loss": value(step)}).as_object().unwrap().clone()).collect();
        let steps: Vec<&Record> = steps.iter().collect();
        let config = RunConfig::default();
        let ends = Ends::new(&steps, &["loss"], &config);
        let last = (20..30).filter(|step| *step != 27).sum::<u64>() as f64 / 9.0;
        assert_eq!((ends.then("loss"), ends.now("loss")), (Some(4.5), Some(last)));
        assert_eq!((ends.largest("loss"), ends.not_finite(), ends.steps()), (Some(29.0), 1, 10));
        assert_eq!(Ends::new(&steps[..3], &["loss"], &config).steps(), 2);
        assert_eq!(Ends::new(&[], &["loss"], &config).now("loss"), None);
    }

    #[test]
    #[should_panic(expected = "declares")]
    fn a_key_that_is_not_declared_is_refused() {
        Ends::new(&[], &["loss"], &RunConfig::default()).now("los");
    }
}
