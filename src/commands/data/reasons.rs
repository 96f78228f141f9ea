//! Why rows are bad: counted by reason, with the place of the first of each.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::data::Location;
use crate::file::counted;

/// The most reasons that are told apart.
const REASONS_MAX: usize = 100;

/// Bad rows by their reasons.
#[derive(Default)]
pub struct Reasons {
    pub count: u64,
    by_kind: HashMap<String, Reason>,
}

struct Reason {
    count: u64,
    /// Of the first row: its place and its own words.
    first: String,
    text: String,
}

impl Reasons {
    /// Counts a bad row. Reasons that differ in numbers or in what was quoted are one.
    pub fn add(&mut self, reason: &str, location: &Location) {
        self.count += 1;
        let mut kind = kind_of(reason);
        if self.by_kind.len() >= REASONS_MAX && !self.by_kind.contains_key(&kind) {
            kind = "other reasons".to_string();
        }
        let first = || Reason { count: 0, first: place(location), text: cut(reason) };
        self.by_kind.entry(kind).or_insert_with(first).count += 1;
    }

    fn sorted(&self) -> Vec<&Reason> {
        let mut reasons: Vec<&Reason> = self.by_kind.values().collect();
        reasons.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.first.cmp(&b.first)));
        reasons
    }

    /// A line each, the most frequent first.
    pub fn lines(&self) -> Vec<String> {
        let line = |reason: &&Reason| {
            format!("{}: {} (the first: {})", counted(reason.count, "row"), reason.text, reason.first)
        };
        self.sorted().iter().map(line).collect()
    }

    /// The same for a program.
    pub fn json(&self) -> Value {
        let reason = |reason: &&Reason| json!({"count": reason.count, "reason": reason.text, "first": reason.first});
        self.sorted().iter().map(reason).collect()
    }
}

/// A place as errors name it.
pub fn place(location: &Location) -> String {
    format!("{}: {} {}", location.path.display(), location.unit, location.number)
}

/// A reason without what differs from row to row: quoted texts and numbers.
fn kind_of(reason: &str) -> String {
    let mut kind = String::new();
    let mut quoted = false;
    for c in reason.chars() {
        if c == '"' {
            quoted = !quoted;
        } else if c.is_ascii_digit() {
            kind.extend((!kind.ends_with('#')).then_some('#'));
        } else if !quoted {
            kind.push(c);
        }
    }
    cut(&kind)
}

/// A reason may quote a whole row.
fn cut(text: &str) -> String {
    const CHARACTERS: usize = 300;
    match text.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_numbers_alone_are_one_and_their_number_is_bounded() {
        let at = |number| Location { path: std::path::Path::new("a.jsonl").into(), unit: "line", number };
        let mut reasons = Reasons::default();
        reasons.add("id 3 was used before", &at(7));
        reasons.add("is not JSON", &at(8));
        reasons.add("id 12 was used before", &at(9));
        assert_eq!(reasons.lines()[0], "2 rows: id 3 was used before (the first: a.jsonl: line 7)");
        assert_eq!((reasons.count, reasons.lines().len()), (3, 2));
        for number in 0..1000_u32 {
            let letters: String = number.to_string().bytes().map(|digit| char::from(digit + 49)).collect();
            reasons.add(&format!("unknown {letters}"), &at(1));
        }
        assert_eq!((reasons.count, reasons.lines().len()), (1003, REASONS_MAX + 1));
        let long = "é".repeat(5000);
        reasons.add(&long, &at(1));
        assert!(reasons.json().to_string().len() < 20_000);
    }
}
