//! Evaluation of judges on held-out pairs.

pub mod pairs;

pub use pairs::{PairReport, evaluate_pairs};
