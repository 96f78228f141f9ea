//! Evaluation of judges: on held-out pairs while they learn, and on the benchmarks of the field.
//!
//! A benchmark is a file here that turns answered rows ([`Answered`]) into its table ([`Figures`]). Where its rules leave a
//! choice, or contradict each other, the table has a reading for each.

pub mod benchmark;
mod bootstrap;
pub mod case;
pub mod comparisons;
pub mod figures;
pub mod interval;
pub mod judgebench;
pub mod outcome;
pub mod pair_file;
pub mod paired;
pub mod pairs;
pub mod question;
pub mod recorded;
pub mod rewardbench;
pub mod rewardbench2;
pub mod rm_bench;

pub use benchmark::Benchmark;
pub use case::{Answer, Answered, Case, Decision};
pub use comparisons::{Comparisons, OrderEffects};
pub use figures::{Figure, Figures, Reading};
pub use interval::Estimate;
pub use outcome::Outcome;
pub use pairs::{PairQuestions, PairReport, PairResults, evaluate_pairs};
