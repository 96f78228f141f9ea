//! The identity of a row: its `id` as it came, and a number that keys random streams and joins.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a row is called, and its key. The key of a small whole number is that number, so the random streams of rows that are
/// numbered do not depend on how they were read. It is written as the id alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Value", into = "Value")]
pub struct RowId {
    given: Value,
    key: u64,
}

impl RowId {
    /// Unique among the rows that were read together.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// The id as the row had it: text, a number, or any other JSON.
    pub fn given(&self) -> &Value {
        &self.given
    }
}

impl From<u64> for RowId {
    fn from(number: u64) -> Self {
        Self { given: number.into(), key: number }
    }
}

impl From<Value> for RowId {
    fn from(given: Value) -> Self {
        let key = given.as_u64().unwrap_or_else(|| hash(&given.to_string()));
        Self { given, key }
    }
}

impl From<RowId> for Value {
    fn from(id: RowId) -> Self {
        id.given
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match &self.given {
            Value::String(text) => formatter.write_str(text),
            other => write!(formatter, "{other}"),
        }
    }
}

fn hash(text: &str) -> u64 {
    let bytes = blake3::hash(text.as_bytes());
    u64::from_le_bytes(bytes.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
}

/// A row's id before all rows are known.
pub(super) struct Unnamed {
    /// The row's own id, if it has one.
    pub own: Option<Value>,
    /// The row's number over all files, bad rows included.
    pub position: u64,
    pub file: usize,
}

/// The ids of rows that were read together, in their order. Rows without their own are called by their position, or by
/// `row N` (counted from 1) where a row is really called that. Keys never repeat: a second row that would have a key (of
/// another file, or a hash that collides) has one that depends on its file.
pub(super) fn name_rows(rows: &[Unnamed]) -> Vec<RowId> {
    let real: HashSet<String> = rows.iter().filter_map(|row| row.own.as_ref()).map(Value::to_string).collect();
    let mut keys = HashSet::new();
    let mut id_of = |row: &Unnamed| {
        let given = row.own.clone().unwrap_or_else(|| called_by_position(row.position, &real));
        let mut key = RowId::from(given.clone()).key;
        let mut attempt = 0;
        while !keys.insert(key) {
            key = hash(&format!("{}\n{attempt}\n{given}", row.file));
            attempt += 1;
        }
        RowId { given, key }
    };
    rows.iter().map(&mut id_of).collect()
}

fn called_by_position(position: u64, real: &HashSet<String>) -> Value {
    let mut given = Value::from(position);
    let mut name = format!("row {}", u128::from(position) + 1);
    while real.contains(&given.to_string()) {
        given = Value::from(name.as_str());
        name.push('\'');
    }
    given
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(rows: &[(Option<Value>, u64, usize)]) -> Vec<RowId> {
        let rows: Vec<Unnamed> = rows
            .iter()
            .map(|(own, position, file)| Unnamed { own: own.clone(), position: *position, file: *file })
            .collect();
        name_rows(&rows)
    }

    #[test]
    fn numbers_are_their_own_keys_and_all_come_back_as_they_came() {
        let given = [json!(7), json!("7"), json!("train/0001"), json!(-1), json!(2.5), json!({"$oid": "a"})];
        let rows: Vec<_> = given.iter().enumerate().map(|(i, id)| (Some(id.clone()), i as u64, 0)).collect();
        let ids = named(&rows);
        assert_eq!(ids.iter().map(|id| id.given().clone()).collect::<Vec<_>>(), given);
        assert_eq!(ids[0].key(), 7);
        assert_eq!(ids.iter().map(RowId::key).collect::<HashSet<_>>().len(), given.len());
        assert_eq!((ids[2].to_string(), ids[3].to_string()), ("train/0001".into(), "-1".into()));
        assert_eq!(serde_json::to_string(&ids[2]).unwrap(), "\"train/0001\"");
        assert_eq!(serde_json::from_str::<RowId>("7").unwrap(), ids[0]);
    }

    #[test]
    fn rows_without_an_id_take_no_other_rows_name_or_key() {
        let ids = named(&[(Some(json!(1)), 0, 0), (None, 1, 0), (Some(json!("row 2")), 2, 0), (None, 3, 0)]);
        let names: Vec<String> = ids.iter().map(RowId::to_string).collect();
        assert_eq!(names, ["1", "row 2'", "row 2", "3"]);
        assert_eq!((ids[0].key(), ids[3].key()), (1, 3));
        assert_eq!(ids.iter().map(RowId::key).collect::<HashSet<_>>().len(), 4);
    }

    #[test]
    fn two_files_numbered_from_0_have_different_keys() {
        let rows: Vec<_> = (0..6).map(|i| (Some(json!(i % 3)), i, (i / 3) as usize)).collect();
        let ids = named(&rows);
        assert_eq!(ids.iter().map(|id| id.given().clone()).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2].map(Value::from));
        assert_eq!(ids[..3].iter().map(RowId::key).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(ids.iter().map(RowId::key).collect::<HashSet<_>>().len(), 6);
    }
}
