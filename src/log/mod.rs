//! What a run writes while it runs: metrics and samples (JSON lines), its environment, progress on the terminal.
//!
//! The training loops write through [`MetricsWriter`] and [`StageBar`]; `report` turns the run folder into a page. What the
//! page shows of a trainer's numbers is declared by the trainer, in the words of [`charts`], [`signs`] and [`columns`].
//! **Invariant:** nothing here knows the model, the backend, the trainers or the report.

pub mod charts;
pub mod columns;
pub mod environment;
pub mod metrics;
pub mod progress;
pub mod run_config;
pub mod signs;
pub mod table;

pub use charts::{AxisRange, Chart, Stage};
pub use environment::Environment;
pub use metrics::{MetricsError, MetricsWriter, read_records};
pub use progress::{StageBar, fixed};
pub use run_config::RunConfig;
pub use table::TextTable;
