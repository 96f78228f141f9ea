//! What a run writes while it runs: metrics and samples (JSON lines), its environment, progress on the terminal.
//!
//! The training loops write through [`MetricsWriter`] and [`Progress`]; `report` turns the run folder into a page.
//! **Invariant:** nothing here knows the model, the backend, the trainers or the report.

pub mod environment;
pub mod metrics;
pub mod progress;
pub mod table;

pub use environment::Environment;
pub use metrics::{MetricsError, MetricsWriter, read_records};
pub use progress::Progress;
pub use table::TextTable;
