//! The learning rate by step: linear warm-up, then constant, linear or cosine decay.

use serde::{Deserialize, Serialize};

/// How the learning rate falls after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    Constant,
    Linear,
    Cosine,
}

impl Decay {
    /// Their names in settings.
    pub const NAMES: &[&str] = &["constant", "linear", "cosine"];
}

/// A learning rate for every step of a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub peak: f64,
    /// Steps of linear warm-up; the first one already learns at peak / warmup.
    pub warmup: u64,
    pub decay: Decay,
    /// Steps of the whole stage.
    pub total: u64,
    /// What the rate falls to, as a share of the peak.
    pub floor: f64,
}

impl Schedule {
    /// The rate of `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let span = self.total.saturating_sub(self.warmup).max(1) as f64;
        let through = ((step - self.warmup) as f64 / span).min(1.0);
        let share = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - through,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * through).cos()),
        };
        self.peak * (self.floor + (1.0 - self.floor) * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_to_its_peak_and_falls_to_its_floor() {
        for decay in [Decay::Linear, Decay::Cosine] {
            let schedule = Schedule { peak: 2.0, warmup: 4, decay, total: 104, floor: 0.1 };
            assert_eq!(schedule.rate(0), 0.5);
            assert_eq!((schedule.rate(3), schedule.rate(4)), (2.0, 2.0));
            assert!((schedule.rate(54) - 1.1).abs() < 1e-12);
            assert!((schedule.rate(104) - 0.2).abs() < 1e-12);
            assert!((schedule.rate(1000) - 0.2).abs() < 1e-12);
        }
        let flat = Schedule { peak: 2.0, warmup: 0, decay: Decay::Constant, total: 10, floor: 0.0 };
        assert_eq!((flat.rate(0), flat.rate(9)), (2.0, 2.0));
    }
}
