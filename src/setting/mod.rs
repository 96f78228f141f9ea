//! What a setting is: a key with its doc, its default and the values that it may have, declared once; sections of keys; the
//! sources that set them; and [`Valid`], the proof that all of them were checked.
//!
//! A section is declared with [`section!`]. From the one declaration come the struct, its defaults, the check of every source
//! ([`resolve`]) with the line that a bad value stands in, and the commented file of `--print-config` ([`commented`]).
//!
//! **Invariant:** this module knows no setting. Sections stand beside what they configure.

mod commented;
mod overlay;
mod rule;
mod valid;

pub use commented::commented;
pub use overlay::{Assignment, Overlay, SettingError, overlay, resolve};
pub use rule::{Rule, above, below, count, number, one_of};
pub use valid::{Finding, Key, Of, Relations, Section, Severity, Valid};

/// Declares a section: `/// doc`, then `pub key: Type = default => rule;`. A key without a rule is a section itself.
macro_rules! section {
    ($(#[$about:meta])* pub struct $name:ident {
        $($(#[doc = $doc:literal])+ pub $key:ident: $type:ty = $default:expr $(=> $rule:expr)?;)+
    }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $key: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $crate::setting::Section for $name {
            const KEYS: &'static [$crate::setting::Key] = &[$($crate::setting::Key {
                name: stringify!($key),
                doc: &[$($doc),+],
                of: $crate::setting::section!(@of $type $(, $rule)?),
            }),+];

            fn findings(&self) -> Vec<$crate::setting::Finding> {
                let found = $crate::setting::Relations::relations(self);
                $(let found = $crate::setting::section!(@nested found, self.$key $(, $rule)?);)+
                found
            }
        }
    };
    (@of $type:ty) => { $crate::setting::Of::Section(<$type as $crate::setting::Section>::KEYS) };
    (@of $type:ty, $rule:expr) => {
        $crate::setting::Of::Value { rule: $rule, single: $crate::setting::is_single(stringify!($type)) }
    };
    (@nested $found:ident, $self:ident.$key:ident) => {
        $crate::setting::with_inner($found, stringify!($key), $crate::setting::Section::findings(&$self.$key))
    };
    (@nested $found:ident, $self:ident.$key:ident, $rule:expr) => { $found };
}
pub(crate) use section;

/// What is found in a section and in the section inside it.
pub(crate) fn with_inner(mut found: Vec<Finding>, key: &str, inner: Vec<Finding>) -> Vec<Finding> {
    found.extend(inner.into_iter().map(|finding| finding.inside(key)));
    found
}

/// Whether a field's type is f32: its numbers are checked, and printed, as rounded to it.
pub(crate) const fn is_single(name: &str) -> bool {
    matches!(name.as_bytes(), b"f32")
}
