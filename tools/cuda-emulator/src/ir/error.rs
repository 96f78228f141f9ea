//! Why a PTX text was not loaded.

use crate::ptx::SyntaxError;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("{0}")]
    Syntax(#[from] SyntaxError),
    /// An instruction that the emulator has no form for.
    #[error(
        "{place}: the emulator does not know the instruction `{form}` (see \"how to add an instruction\" in its README)"
    )]
    UnknownForm { form: String, place: Where },
    /// A known instruction with operands that do not fit, or a declaration that cannot be honoured.
    #[error("{place}: {message}")]
    Invalid { message: String, place: Where },
}

/// Where in the program something is that cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Where {
    /// The kernel; empty at module scope.
    pub kernel: String,
    /// File and line of the source; None where the text does not say (no `-lineinfo`).
    pub source: Option<(String, u32)>,
    /// Line of the PTX text.
    pub ptx_line: u32,
}

impl std::fmt::Display for Where {
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

/// A [`LoadError`] that does not know yet where it happened.
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
