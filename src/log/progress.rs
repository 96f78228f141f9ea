//! Progress of one stage on stderr: a bar on a terminal; elsewhere (logs, CI) a plain line after every tenth of the steps.
//!
//! Nothing here writes to stdout, which is for results. The bar's message holds the numbers that matter, as
//! `loss 0.312 · reward 0.84 · 1.2k tokens/s`; [`StageBar::say`] prints a line above the bar without breaking it.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::file::say;

const TEMPLATE: &str = "{prefix:>6} {bar:24.cyan/dim} {pos}/{len} [{elapsed} < {eta}] {wide_msg}";

/// The progress of one stage.
pub struct StageBar {
    stage: String,
    steps: u64,
    started: Instant,
    /// Steps done when this process began (a resumed run). They are left out of the estimate of the remaining time.
    first: u64,
    done: u64,
    /// The numbers of the last step, as they are shown.
    message: String,
    /// Seconds after the start at which the last plain line was printed.
    printed: AtomicU64,
    bar: Option<ProgressBar>,
}

/// Without a terminal, a step says where it stands at most this often, in seconds.
const QUIET: u64 = 60;

impl StageBar {
    /// Starts `stage` with `steps` steps, of which `done` are done already (0 unless resumed).
    pub fn new(stage: &str, steps: u64, done: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
            // If the template were wrong, a plain bar would be better than a failed run.
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar.set_prefix(stage.to_owned());
            bar.set_position(done);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Self {
            stage: stage.to_owned(),
            steps,
            started: Instant::now(),
            first: done,
            done,
            message: String::new(),
            printed: AtomicU64::new(0),
            bar,
        }
    }

    /// `done` steps are done; `numbers` are shown beside the bar, in this order.
    pub fn update(&mut self, done: u64, numbers: &[(&str, f64)]) {
        let before = std::mem::replace(&mut self.done, done);
        self.message = message(numbers);
        let message = self.message.clone();
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(message);
            }
            None if crosses_tenth(before, done, self.steps) => {
                self.printed.store(self.started.elapsed().as_secs(), Ordering::Relaxed);
                say!("{} {done}/{} [{}] {message}", self.stage, self.steps, self.times());
            }
            None => {}
        }
    }

    /// Inside the next step: `done` of `total` are through with what it does now, such as "rollouts". Beside the bar; elsewhere a
    /// line a minute, so that a long step is seen to move.
    pub fn within(&self, what: &str, done: usize, total: usize) {
        if let Some(bar) = &self.bar {
            let separator = if self.message.is_empty() { "" } else { " · " };
            bar.set_message(format!("{what} {done}/{total}{separator}{}", self.message));
            return;
        }
        let now = self.started.elapsed().as_secs();
        let due = |printed| (now >= printed + QUIET).then_some(now);
        if self.printed.try_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok() {
            say!(
                "{} {}/{}: {what} {done}/{total} [{}]",
                self.stage,
                self.done,
                self.steps,
                clock(self.started.elapsed())
            );
        }
    }

    /// Prints a line to stderr, above the bar if there is one.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => say!("{line}"),
        }
    }

    /// Ends the stage. The bar stays on the screen with its last numbers.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    fn times(&self) -> String {
        let elapsed = self.started.elapsed();
        match eta(elapsed, self.done.saturating_sub(self.first), self.steps.saturating_sub(self.done)) {
            Some(eta) => format!("{} < {}", clock(elapsed), clock(eta)),
            None => clock(elapsed),
        }
    }
}

impl Drop for StageBar {
    fn drop(&mut self) {
        // After an error the bar stays where it was, so that the error message starts on a new line.
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

fn message(numbers: &[(&str, f64)]) -> String {
    let mut text = String::new();
    // What was not measured is not shown.
    for (name, value) in numbers.iter().filter(|(_, value)| !value.is_nan()) {
        let separator = if text.is_empty() { "" } else { " · " };
        let _ = write!(text, "{separator}{name} {}", short(*value));
    }
    text
}

/// A number in about four characters: `0.312`, `12.4`, `1.2k`, `3.4M`; `2.0e-6` for small ones.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => value.to_string(),
        0.0 => "0".to_owned(),
        size if size < 1e-3 => format!("{value:.1e}"),
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 1e3 => format!("{value:.1}"),
        size if size < 1e6 => format!("{:.1}k", value / 1e3),
        size if size < 1e9 => format!("{:.1}M", value / 1e6),
        _ => format!("{value:.1e}"),
    }
}

/// A number with so many digits after the point; what is rounded to zero has no minus sign.
pub fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.strip_prefix('-') {
        Some(zero) if zero.bytes().all(|byte| matches!(byte, b'0' | b'.')) => zero.to_owned(),
        _ => text,
    }
}

/// The same with a plus sign where there is no minus.
pub fn signed(value: f64, digits: usize) -> String {
    let text = fixed(value, digits);
    if text.starts_with('-') { text } else { format!("+{text}") }
}

/// A duration as `42s`, `3m07s` or `2h05m`.
pub fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// Whether the steps from `before` to `done` include the first step, the last one, or the end of a tenth of all steps.
fn crosses_tenth(before: u64, done: u64, steps: u64) -> bool {
    let tenths = |count: u64| u128::from(count) * 10 / u128::from(steps.max(1));
    done > before && (before == 0 || done == steps || tenths(done) > tenths(before))
}

fn eta(elapsed: Duration, done: u64, left: u64) -> Option<Duration> {
    let seconds = elapsed.as_secs_f64() / done as f64 * left as f64;
    (done > 0).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gets_about_ten_lines() {
        let printed = |steps| (1..=steps).filter(|&done| crosses_tenth(done - 1, done, steps)).collect::<Vec<_>>();
        assert_eq!(printed(100), [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
        assert_eq!(printed(3), [1, 2, 3]);
        assert!(!crosses_tenth(10, 10, 100), "no progress, no line");
    }

    #[test]
    fn numbers_are_short_and_never_panic() {
        let text = message(&[("loss", 0.3121), ("tokens/s", 1234.0), ("lr", 2e-6), ("kl", f64::NAN), ("n", 0.0)]);
        assert_eq!(text, "loss 0.312 · tokens/s 1.2k · lr 2.0e-6 · n 0");
        for (value, text) in [(-0.0, "0.00"), (-0.004, "0.00"), (-0.006, "-0.01"), (-10.0, "-10.00"), (f64::NAN, "NaN")]
        {
            assert_eq!(fixed(value, 2), text);
        }
        assert_eq!(fixed(-0.4, 0), "0");
        assert_eq!([signed(-0.004, 2), signed(0.5, 1), signed(-1.0, 0)], ["+0.00", "+0.5", "-1"]);
        assert_eq!(clock(Duration::from_secs(187)), "3m07s");
        assert_eq!(clock(Duration::from_secs(7500)), "2h05m");
        assert_eq!(eta(Duration::from_secs(10), 5, 10), Some(Duration::from_secs(20)));
        assert_eq!(eta(Duration::from_secs(10), 0, 10), None);
    }
}
