//! The one error of the ops layer, and the size checks that every contract makes.

use crate::tensor::DeviceError;

/// An op refused its arguments, or the device failed.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    #[error("{op}: argument `{argument}` has the wrong size: expected {expected}, got {got}")]
    Size { op: &'static str, argument: &'static str, expected: usize, got: usize },
    #[error("{op}: {reason}")]
    Argument { op: &'static str, reason: String },
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What an op returns: its results are in the buffers of its arguments.
pub type OpResult = Result<(), OpError>;

/// Checks the arguments of one op, naming the op in every error.
#[derive(Clone, Copy)]
pub struct Check(pub &'static str);

impl Check {
    /// `argument` must hold exactly `expected` elements.
    pub fn size(self, argument: &'static str, got: usize, expected: usize) -> OpResult {
        if got == expected { Ok(()) } else { Err(OpError::Size { op: self.0, argument, expected, got }) }
    }

    /// A condition between arguments must hold; `reason` says what was expected and what came.
    pub fn that(self, holds: bool, reason: impl FnOnce() -> String) -> OpResult {
        if holds { Ok(()) } else { Err(OpError::Argument { op: self.0, reason: reason() }) }
    }
}
