//! What happens when a loss or a gradient is not a number: the step is skipped, the batch kept for inspection, and after
//! several in a row training stops.

use std::path::PathBuf;

use crate::file::{counted, write_atomically};
use crate::optimizer::Update;

/// Why training stops: too many skipped steps in a row, or a skipped batch that cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error(
        "step {step}: loss {loss} or gradient norm {norm} is not a number, {} in a row; nothing was updated in them. The \
         batches are in {folder}. Lower the learning rate, or look at those batches for broken text",
        counted(*.in_a_row, "step")
    )]
    Diverged { step: u64, loss: f64, norm: f64, in_a_row: u32, folder: String },
    #[error("{file}: the batch of a skipped step cannot be written: {error}")]
    Dump { file: String, error: std::io::Error },
}

/// Counts skipped steps.
#[derive(Debug)]
pub struct Guard {
    folder: PathBuf,
    /// Skipped steps in a row that end training.
    patience: u32,
    in_a_row: u32,
}

impl Guard {
    /// Batches of skipped steps go to `folder`.
    pub fn new(folder: PathBuf, patience: u32) -> Self {
        Self { folder, patience: patience.max(1), in_a_row: 0 }
    }

    /// Looks at a step that has ended; `ids` gives the token ids of its sequences, for the dump.
    pub fn check(
        &mut self,
        step: u64,
        loss: f64,
        update: &Update,
        ids: impl FnOnce() -> Vec<Vec<u32>>,
    ) -> Result<(), GuardError> {
        if update.applied {
            self.in_a_row = 0;
            return Ok(());
        }
        self.in_a_row += 1;
        let norm = update.gradient_norm;
        let file = self.folder.join(format!("skipped-step-{step}.json"));
        // Not-a-numbers have no JSON form: they are written as text.
        let dump = serde_json::json!({
            "step": step, "loss": loss.to_string(), "grad_norm": norm.to_string(), "ids": ids(),
        });
        write_atomically(&file, dump.to_string().as_bytes())
            .map_err(|error| GuardError::Dump { file: file.display().to_string(), error })?;
        if self.in_a_row < self.patience {
            return Ok(());
        }
        let folder = self.folder.display().to_string();
        Err(GuardError::Diverged { step, loss, norm, in_a_row: self.in_a_row, folder })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_step_is_dumped_and_patience_ends() {
        let folder = tempfile::tempdir().unwrap();
        let mut guard = Guard::new(folder.path().to_path_buf(), 2);
        let bad = Update { gradient_norm: f64::NAN, applied: false };
        let good = Update { gradient_norm: 1.0, applied: true };
        guard.check(1, f64::NAN, &bad, || vec![vec![1, 2]]).unwrap();
        let dump = std::fs::read_to_string(folder.path().join("skipped-step-1.json")).unwrap();
        assert!(dump.contains("[[1,2]]") && dump.contains("NaN"), "{dump}");
        guard.check(2, 1.0, &good, Vec::new).unwrap();
        guard.check(3, 1.0, &bad, Vec::new).unwrap();
        assert!(matches!(guard.check(4, 1.0, &bad, Vec::new), Err(GuardError::Diverged { in_a_row: 2, .. })));
    }
}
