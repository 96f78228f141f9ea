//! Evaluation of judges on held-out pairs.

pub mod interval;
pub mod pairs;

pub use interval::Estimate;
pub use pairs::{PairQuestions, PairReport, PairResults, evaluate_pairs};
