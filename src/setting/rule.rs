//! The values that a key may have.

use std::fmt;

use toml::Value;

/// The values that a key may have. Its text says what is expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// true or false
    Flag,
    /// A whole number, both ends included.
    Count { min: i64, max: i64 },
    /// A number; an end is left out where `open` says so, first the lower, then the upper.
    Number { min: f64, max: f64, open: [bool; 2] },
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Any text, also none.
    Text,
    /// Text of at least one character.
    Name,
    /// A list of texts.
    Texts,
    /// A table that whoever reads it checks.
    Table,
}

/// A whole number from `min` to `max`.
pub const fn count(min: i64, max: i64) -> Rule {
    Rule::Count { min, max }
}

/// A number from `min` to `max`.
pub const fn number(min: f64, max: f64) -> Rule {
    Rule::Number { min, max, open: [false, false] }
}

/// A number above `min`, up to `max`.
pub const fn above(min: f64, max: f64) -> Rule {
    Rule::Number { min, max, open: [true, false] }
}

/// A number from `min`, below `max`.
pub const fn below(min: f64, max: f64) -> Rule {
    Rule::Number { min, max, open: [false, true] }
}

/// One of these words.
pub const fn one_of(words: &'static [&'static str]) -> Rule {
    Rule::OneOf(words)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("true or false"),
            Self::Count { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Number { min, max, open } => {
                let low = if open[0] { "above" } else { "from" };
                let high = if open[1] { "to below" } else { "to" };
                write!(f, "a number {low} {min:?} {high} {max:?}")
            }
            Self::OneOf(words) => write!(f, "one of {}", words.join(", ")),
            Self::Text => f.write_str("text"),
            Self::Name => f.write_str("text that is not empty"),
            Self::Texts => f.write_str("a list of texts, such as [\"a\", \"b\"]"),
            Self::Table => f.write_str("a table"),
        }
    }
}

impl Rule {
    /// Checks a value, which is rounded to f32 first if the key holds one (`single`). Returns the value in the key's type: a
    /// whole number is accepted for a number. The error says what was expected and what came.
    pub fn check(&self, value: Value, single: bool) -> Result<Value, String> {
        let value = match (self, value) {
            (Self::Number { .. }, Value::Integer(n)) => Value::Float(n as f64),
            (_, value) => value,
        };
        let fits = match (self, &value) {
            (Self::Flag, Value::Boolean(_)) => true,
            (Self::Count { min, max }, Value::Integer(n)) => (min..=max).contains(&n),
            (Self::Number { min, max, open }, Value::Float(x)) => {
                let x = if single { f64::from(*x as f32) } else { *x };
                // Comparisons with what is not a number are false.
                (if open[0] { x > *min } else { x >= *min }) && (if open[1] { x < *max } else { x <= *max })
            }
            (Self::OneOf(words), Value::String(word)) => words.contains(&word.as_str()),
            // No file name and no word holds a NUL.
            (Self::Text, Value::String(text)) => !text.contains('\0'),
            (Self::Name, Value::String(text)) => !text.contains('\0') && !text.is_empty(),
            (Self::Texts, Value::Array(texts)) => {
                texts.iter().all(|text| text.as_str().is_some_and(|text| !text.is_empty() && !text.contains('\0')))
            }
            (Self::Table, Value::Table(_)) => true,
            _ => false,
        };
        if fits {
            Ok(value)
        } else {
            Err(format!("expected {self}, got {}{}", self.shown(&value), self.nearest(&value)))
        }
    }

    /// The word that was probably meant.
    fn nearest(&self, value: &Value) -> String {
        let (Self::OneOf(words), Value::String(typed)) = (self, value) else { return String::new() };
        let distance = |word: &str| 1.0 - strsim::jaro_winkler(word, typed);
        let nearest = words.iter().map(|word| (distance(word), word)).min_by(|a, b| a.0.total_cmp(&b.0));
        nearest
            .filter(|(distance, _)| *distance < 0.3)
            .map_or_else(String::new, |(_, word)| format!(" (did you mean {word}?)"))
    }

    /// A value in an error: its type where that may be the fault, and not too much of it.
    fn shown(&self, value: &Value) -> String {
        const LONGEST: usize = 80;
        let text = toml_text(value);
        let text = match text.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        };
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match (self, value) {
            (_, Value::Integer(_) | Value::Float(_) | Value::Boolean(_)) => text,
            // TOML's integers have 64 bits: a larger one was typed.
            (Self::Count { .. }, Value::String(typed)) if digits(typed.strip_prefix('-').unwrap_or(typed)) => {
                text.trim_matches('"').to_string()
            }
            (_, value) => format!("the {} {text}", value.type_str()),
        }
    }

    /// Whether its values are text, so that what is typed needs no quotes.
    pub(super) fn is_text(&self) -> bool {
        matches!(self, Self::Text | Self::Name | Self::OneOf(_))
    }
}

/// A value as TOML, numbers as short as they can be: 1e-6 and not 0.000001.
pub(super) fn toml_text(value: &Value) -> String {
    match value {
        Value::Float(x) if x.is_finite() => format!("{x:?}"),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_holds_its_ends_and_refuses_what_is_no_number() {
        let fits = |rule: Rule, value: f64| rule.check(Value::Float(value), false).is_ok();
        for (rule, ends) in
            [(number(0.0, 1.0), [true, true]), (above(0.0, 1.0), [false, true]), (below(0.0, 1.0), [true, false])]
        {
            assert_eq!([fits(rule, 0.0), fits(rule, 1.0)], ends, "{rule}");
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1, 1.1] {
                assert!(!fits(rule, bad) && fits(rule, 0.5), "{rule}: {bad}");
            }
        }
        // As an f32 it is 1.
        assert!(fits(below(0.0, 1.0), 0.999_999_999_9));
        assert!(below(0.0, 1.0).check(Value::Float(0.999_999_999_9), true).is_err());
        assert_eq!(number(0.0, 3.0).check(Value::Integer(2), false), Ok(Value::Float(2.0)));
        assert!(count(0, 3).check(Value::Float(2.0), false).is_err());
    }

    #[test]
    fn a_wrong_word_gets_the_nearest_one() {
        let message = one_of(&["token_mean", "dr_grpo"]).check(Value::String("tokenmean".into()), false).unwrap_err();
        assert!(
            message.contains("one of token_mean, dr_grpo") && message.contains("did you mean token_mean"),
            "{message}"
        );
        let long = Rule::Flag.check(Value::String("é".repeat(500)), false).unwrap_err();
        assert!(long.chars().count() < 150, "{long}");
    }
}
