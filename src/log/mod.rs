//! What a run leaves to read: metrics and samples (JSON lines), progress on the terminal, and the HTML report.
//!
//! The training loops write through [`MetricsWriter`] and [`Progress`]; [`write_report`] turns the run folder into one
//! self-contained page. Nothing here knows the model, the backend or the loops.

pub mod chart;
pub mod curves;
pub mod environment;
pub mod headline;
pub mod health;
pub mod metrics;
pub mod page;
pub mod progress;
pub mod report;
pub mod samples;
pub mod table;

pub use environment::Environment;
pub use metrics::{MetricsError, MetricsWriter, read_records};
pub use progress::Progress;
pub use report::{ReportError, write_report};
pub use table::TextTable;
