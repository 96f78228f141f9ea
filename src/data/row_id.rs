//! The identity of a row: its `id` as it is written, and a number that keys random streams and joins.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::{RawValue, Value};

/// What a row is called, and its key. The key of a small whole number is that number, so the random streams of rows that are
/// numbered do not depend on how they were read. It is written as the id alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(from = "Value")]
pub struct RowId {
    /// JSON, with numbers spelled as in the row.
    json: String,
    key: u64,
    file: Option<Arc<str>>,
}

impl RowId {
    /// Unique among the rows that were read together.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// The id as the row had it, as JSON: text, a number, or anything else.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The value of [`Self::json`]; of a number of many digits, the nearest that there is.
    pub fn given(&self) -> Value {
        serde_json::from_str(&self.json).unwrap_or_default()
    }

    /// The row's file, where several were read together: their ids may be the same.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    fn new(json: String) -> Self {
        let key = json.parse().unwrap_or_else(|_| hash64(json.as_bytes()));
        Self { json, key, file: None }
    }
}

impl From<u64> for RowId {
    fn from(number: u64) -> Self {
        Self::new(number.to_string())
    }
}

impl From<Value> for RowId {
    fn from(given: Value) -> Self {
        Self::new(given.to_string())
    }
}

impl Serialize for RowId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.json.clone()).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match serde_json::from_str(&self.json) {
            Ok(Value::String(text)) => formatter.write_str(&text),
            _ => formatter.write_str(&self.json),
        }
    }
}

/// A number for some bytes, the same for the same ones: the first 64 bits of their BLAKE3.
pub fn hash64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*blake3::hash(bytes).as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

/// A row's `id` as JSON: of numbers the row's own spelling (1.10, -0, more digits than a float has), which `id` has lost. Rows
/// without a text have no other spelling.
pub(super) fn written_id(id: &Value, row: Option<&str>) -> String {
    let has_spelling = matches!(id, Value::Number(_) | Value::Array(_) | Value::Object(_));
    let row = row.filter(|_| has_spelling);
    let written = row.and_then(|row| serde_json::from_str(row).ok()).and_then(|WrittenId(id)| id);
    written.unwrap_or_else(|| id.to_string())
}

/// The last `id` of an object, as it is written there but for white space.
struct WrittenId(Option<String>);

impl<'de> Deserialize<'de> for WrittenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = WrittenId;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut row: A) -> Result<WrittenId, A::Error> {
        let mut id = None;
        while let Some(name) = row.next_key::<Cow<str>>()? {
            if name == "id" {
                id = Some(without_white_space(row.next_value::<&RawValue>()?.get()));
            } else {
                row.next_value::<IgnoredAny>()?;
            }
        }
        Ok(WrittenId(id))
    }
}

/// JSON without the white space between its tokens, so that it fits in a line.
fn without_white_space(json: &str) -> String {
    let (mut in_text, mut escaped) = (false, false);
    let kept = |c: &char| {
        let inside = in_text;
        in_text ^= *c == '"' && !escaped;
        escaped = inside && *c == '\\' && !escaped;
        inside || !c.is_ascii_whitespace()
    };
    json.chars().filter(kept).collect()
}

/// A row's id before all rows are known.
pub(super) struct Unnamed {
    /// The row's own id as JSON, if it has one.
    pub own: Option<String>,
    /// The row's number over all files, bad rows included.
    pub position: u64,
    /// Which of the row's records it is, where the row gives several.
    pub part: Option<usize>,
    pub file: usize,
}

/// A part of a row that is called `id`: the text `ID/0` for the first, `ID/1` for the second.
pub(super) fn part_of(id: &str, part: usize) -> String {
    let name = match serde_json::from_str(id) {
        Ok(Value::String(text)) => text,
        _ => id.to_string(),
    };
    Value::from(format!("{name}/{part}")).to_string()
}

/// The ids of rows that were read together from `files`, in their order. Rows without their own are called by their position,
/// or by `row N` (counted from 1) where a row is really called that; of a row that gives several records, each is called as
/// [`part_of`] says. Keys never repeat: a second row that would have a key (of
/// another file, or a hash that collides) has one that depends on its file.
pub(super) fn name_rows(rows: &[Unnamed], files: &[Arc<str>]) -> Vec<RowId> {
    let real: HashSet<&str> = rows.iter().filter_map(|row| row.own.as_deref()).collect();
    let several = files.len() > 1;
    let mut keys = HashSet::new();
    let mut id_of = |row: &Unnamed| {
        let called = row.own.clone().unwrap_or_else(|| called_by_position(row.position, &real));
        let mut id = RowId::new(row.part.map_or_else(|| called.clone(), |part| part_of(&called, part)));
        let mut attempt = 0;
        while !keys.insert(id.key) {
            id.key = hash64(format!("{}\n{attempt}\n{}", row.file, id.json).as_bytes());
            attempt += 1;
        }
        id.file = several.then(|| files[row.file].clone());
        id
    };
    rows.iter().map(&mut id_of).collect()
}

/// The id of a row that is not seen together with the others: its own or its position. Its key may be another's too.
pub(super) fn name_row(row: &Unnamed, files: &[Arc<str>]) -> RowId {
    let called = row.own.clone().unwrap_or_else(|| row.position.to_string());
    let mut id = RowId::new(row.part.map_or_else(|| called.clone(), |part| part_of(&called, part)));
    id.file = (files.len() > 1).then(|| files[row.file].clone());
    id
}

fn called_by_position(position: u64, real: &HashSet<&str>) -> String {
    let mut json = position.to_string();
    let mut name = format!("row {}", u128::from(position) + 1);
    while real.contains(json.as_str()) {
        json = Value::from(name.as_str()).to_string();
        name.push('\'');
    }
    json
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(rows: &[(Option<Value>, u64, usize)]) -> Vec<RowId> {
        let rows: Vec<Unnamed> = rows
            .iter()
            .map(|(own, position, file)| Unnamed {
                own: own.as_ref().map(Value::to_string),
                position: *position,
                part: None,
                file: *file,
            })
            .collect();
        name_rows(&rows, &["a".into(), "b".into()])
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
        assert_eq!(serde_json::from_str::<RowId>("7").unwrap().key(), ids[0].key());
    }

    #[test]
    fn an_id_keeps_the_spelling_of_its_row() {
        let digits = "0.1234567890123456789012345678901234567890";
        let long = "9".repeat(40);
        for id in ["-0", "1e2", "1.10", "-0.0", "1E+2", digits, &long, "\"7\"", "true", "[1.10,\"a b\"]"] {
            let row = format!("{{\"id\": 3, \"a\": {{\"id\": 4}}, \"\\u0069d\": {id} , \"z\": [1.50]}}");
            let value: Value = serde_json::from_str(&row).unwrap();
            let written = written_id(&value["id"], Some(&row));
            assert_eq!(written, id);
            assert_eq!(serde_json::to_string(&RowId::new(written)).unwrap(), id);
        }
        let row = "{\"id\": {\"a\" :\n [ 1e2, \"b \\\" c\" ] }}";
        let value: Value = serde_json::from_str(row).unwrap();
        assert_eq!(written_id(&value["id"], Some(row)), "{\"a\":[1e2,\"b \\\" c\"]}");
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
    fn parts_of_a_row_are_called_by_the_row_and_their_number() {
        let row = |own: Option<&str>, position, part| Unnamed { own: own.map(str::to_string), position, part, file: 0 };
        let rows = [
            row(Some("7"), 0, Some(0)),
            row(Some("\"a \\\" b\""), 1, Some(1)),
            row(None, 2, Some(11)),
            row(Some("{\"x\":1.50}"), 3, Some(0)),
        ];
        let ids = name_rows(&rows, &["a".into()]);
        assert_eq!(ids.iter().map(RowId::to_string).collect::<Vec<_>>(), ["7/0", "a \" b/1", "2/11", "{\"x\":1.50}/0"]);
        assert!(ids.iter().all(|id| id.given().is_string()));
    }

    #[test]
    fn two_files_numbered_from_0_have_different_keys() {
        let rows: Vec<_> = (0..6).map(|i| (Some(json!(i % 3)), i, (i / 3) as usize)).collect();
        let ids = named(&rows);
        assert_eq!(ids.iter().map(|id| id.given().clone()).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2].map(Value::from));
        assert_eq!((ids[0].file(), ids[5].file()), (Some("a"), Some("b")));
        assert_eq!(ids[..3].iter().map(RowId::key).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(ids.iter().map(RowId::key).collect::<HashSet<_>>().len(), 6);
    }
}
