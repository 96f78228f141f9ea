//! Why a PTX text could not be loaded.

use crate::ptx::SyntaxError;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("{0}")]
    Syntax(#[from] SyntaxError),
    /// An instruction without a form in the emulator.
    #[error(
        "{location}: the emulator does not know the instruction `{form}` (see \"Adding an instruction\" in its README)"
    )]
    UnknownForm { form: String, location: ErrorLocation },
    /// A known instruction with invalid operands, or an unsupported declaration.
    #[error("{location}: {message}")]
    Invalid { message: String, location: ErrorLocation },
}

/// The location of an error in a PTX text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorLocation {
    /// The kernel; empty at module scope.
    pub kernel: String,
    /// File and line of the source; None if the text does not contain it (no `-lineinfo`).
    pub source: Option<(String, u32)>,
    /// Line of the PTX text.
    pub ptx_line: u32,
}

impl std::fmt::Display for ErrorLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some((file, line)) = &self.source {
            write!(f, "{file}:{line}, ")?;
        }
        if !self.kernel.is_empty() {
            write!(f, "kernel {}, ", self.kernel)?;
        }
        write!(f, "line {} of the PTX text", self.ptx_line)
    }
}

/// A [`LoadError`] without its location.
#[derive(Debug)]
pub enum Refusal {
    UnknownForm,
    Invalid(String),
}

pub type Lowered<T> = Result<T, Refusal>;

/// Shorthand for a [`Refusal::Invalid`].
pub fn refuse<T>(message: impl Into<String>) -> Lowered<T> {
    Err(Refusal::Invalid(message.into()))
}
