//! Metrics (JSONL), progress bars and the HTML report.
