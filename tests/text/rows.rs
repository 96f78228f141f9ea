//! Files as they come: bad lines, wrong bytes, arrays, empty and broken files, ids.

use std::io::Write;
use std::path::PathBuf;

use patarm::data::lines::ROW_BYTES_MAX;
use patarm::data::{DataError, Loaded, OnBadRow, Pair, load_pairs};
use proptest::prelude::*;
use serde_json::json;

use crate::formats::options;

/// A file that lasts as long as the value.
pub struct File {
    dir: tempfile::TempDir,
    name: &'static str,
}

impl File {
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(self.name)
    }
}

pub fn file_of(name: &'static str, bytes: &[u8]) -> File {
    let file = File { dir: tempfile::tempdir().unwrap(), name };
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn load(bytes: &[u8], on_bad_row: OnBadRow) -> Result<Loaded<Pair>, DataError> {
    let file = file_of("rows.jsonl", bytes);
    load_pairs(&[file.path()], &options(on_bad_row))
}

fn good(id: &str) -> String {
    format!(r#"{{"prompt": "Q", "chosen": "G", "rejected": "B"{id}}}"#)
}

fn ids(loaded: &Loaded<Pair>) -> Vec<u64> {
    loaded.rows.iter().map(|pair| pair.id.key()).collect()
}

#[test]
fn a_bad_row_is_refused_with_its_location_or_skipped_and_counted() {
    let text = format!("{}\n\n{{broken\n[1]\r\n{}\r\n", good(""), good(""));
    let error = load(text.as_bytes(), OnBadRow::Refuse).unwrap_err().to_string();
    assert!(error.contains("rows.jsonl: line 3: is not JSON"), "{error}");
    let loaded = load(text.as_bytes(), OnBadRow::Skip).unwrap();
    // Bad rows keep their number; blank lines have none.
    assert_eq!(ids(&loaded), [0, 3]);
    assert_eq!(loaded.skipped.count, 2);
    assert!(loaded.skipped.reasons[1].contains("line 4: expected a JSON object, got a list"), "{:?}", loaded.skipped);
    let many = format!("{}\n{}", good(""), "x\n".repeat(20));
    let skipped = load(many.as_bytes(), OnBadRow::Skip).unwrap().skipped;
    assert_eq!((skipped.count, skipped.reasons.len()), (20, 5));
}

#[test]
fn bytes_that_are_not_utf8_are_a_bad_row() {
    let mut bytes = good("").into_bytes();
    bytes.extend(b"\n{\"prompt\": \"\xff\"}\n");
    let error = load(&bytes, OnBadRow::Refuse).unwrap_err().to_string();
    assert!(error.contains("line 2: is not UTF-8"), "{error}");
    assert_eq!(load(&bytes, OnBadRow::Skip).unwrap().skipped.count, 1);
}

#[test]
fn an_absurd_line_is_a_bad_row() {
    let file = file_of("rows.jsonl", b"");
    let mut writer = std::fs::File::create(file.path()).unwrap();
    let block = vec![b'a'; 1 << 20];
    for _ in 0..=ROW_BYTES_MAX >> 20 {
        writer.write_all(&block).unwrap();
    }
    writer.write_all(format!("\n{}", good("")).as_bytes()).unwrap();
    let error = load_pairs(&[file.path()], &options(OnBadRow::Refuse)).unwrap_err().to_string();
    assert!(error.contains("line 1: is longer than"), "{error}");
    assert_eq!(ids(&load_pairs(&[file.path()], &options(OnBadRow::Skip)).unwrap()), [1]);
    let array = [b"[\"", vec![b'a'; ROW_BYTES_MAX + 1].as_slice(), b"\"]"].concat();
    let error = load(&array, OnBadRow::Skip).unwrap_err().to_string();
    assert!(error.contains("a row is longer than"), "{error}");
}

#[test]
fn the_limit_is_for_a_row_not_for_the_file() {
    let long = good(&format!(r#", "note": "{}""#, "x".repeat(ROW_BYTES_MAX / 5 * 3)));
    for text in [format!("{long}\n{long}"), format!("[{long},{long}]")] {
        assert_eq!(ids(&load(text.as_bytes(), OnBadRow::Refuse).unwrap()), [0, 1]);
    }
}

#[test]
fn an_array_is_read_row_by_row() {
    let text = format!("\u{feff} [{},\n 3, {}]\n", good(""), good(""));
    let error = load(text.as_bytes(), OnBadRow::Refuse).unwrap_err().to_string();
    assert!(error.contains("row 2: expected a JSON object, got a number"), "{error}");
    assert_eq!(ids(&load(text.as_bytes(), OnBadRow::Skip).unwrap()), [0, 2]);
    for cut in [text.trim_end().len() - 1, text.len() - 12, 6] {
        let error = load(&text.as_bytes()[..cut], OnBadRow::Skip).unwrap_err();
        assert!(matches!(error, DataError::Unreadable { .. }), "{error}");
    }
    let error = load(format!("[{}] x", good("")).as_bytes(), OnBadRow::Skip).unwrap_err().to_string();
    assert!(error.contains("after 1 whole rows"), "{error}");
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    assert_eq!(ids(&load(format!("\u{feff}{}", good("")).as_bytes(), OnBadRow::Refuse).unwrap()), [0]);
}

#[test]
fn files_without_rows_are_errors_that_name_the_file() {
    for bytes in [&b""[..], b"\n \n", b"[]", b"\xef\xbb\xbf"] {
        let error = load(bytes, OnBadRow::Skip).unwrap_err();
        assert!(matches!(error, DataError::Empty { .. }) && error.to_string().contains("rows.jsonl"), "{error}");
    }
    let error = load(b"x\n", OnBadRow::Skip).unwrap_err().to_string();
    assert!(error.contains("all 1 rows were bad") && error.contains("is not JSON"), "{error}");
    assert!(matches!(load_pairs(&[], &options(OnBadRow::Skip)), Err(DataError::NoFiles)));
    let missing = load_pairs(&["no/such/file.jsonl".into()], &options(OnBadRow::Skip)).unwrap_err();
    assert!(missing.to_string().contains("no/such/file.jsonl"), "{missing}");
}

#[test]
fn ids_run_over_files_and_are_unique() {
    let (first, second) =
        (file_of("a.jsonl", good("").as_bytes()), file_of("b.json", format!("[{}]", good("")).as_bytes()));
    let loaded = load_pairs(&[first.path(), second.path()], &options(OnBadRow::Refuse)).unwrap();
    assert_eq!(ids(&loaded), [0, 1]);
    let text = [good(r#", "id": 40"#), good(r#", "id": "x""#), good("")].join("\n");
    let shown = |text: &str| {
        let rows = load(text.as_bytes(), OnBadRow::Refuse).unwrap().rows;
        rows.iter().map(|pair| pair.id.given().clone()).collect::<Vec<_>>()
    };
    assert_eq!(shown(&text), [json!(40), json!("x"), json!(2)]);
    assert_eq!(
        shown(&[good(r#", "id": 1"#), good(""), good(r#", "id": """#)].join("\n")),
        [json!(1), json!("row 2"), json!(2)]
    );
}

#[test]
fn a_repeated_id_is_a_bad_row_but_not_in_another_file() {
    let text = [good(r#", "id": "a""#), good(""), good(r#", "id": "a""#)].join("\n");
    let error = load(text.as_bytes(), OnBadRow::Refuse).unwrap_err().to_string();
    assert!(error.contains("line 3: id \"a\" was used before in this file"), "{error}");
    let loaded = load(text.as_bytes(), OnBadRow::Skip).unwrap();
    assert_eq!((loaded.rows.len(), loaded.skipped.count), (2, 1));
    let numbered = format!("{}\n{}", good(r#", "id": 0"#), good(r#", "id": 1"#));
    let (first, second) = (file_of("a.jsonl", numbered.as_bytes()), file_of("b.jsonl", numbered.as_bytes()));
    let loaded = load_pairs(&[first.path(), second.path()], &options(OnBadRow::Refuse)).unwrap();
    assert_eq!(loaded.rows.iter().map(|pair| pair.id.to_string()).collect::<Vec<_>>(), ["0", "1", "0", "1"]);
    let keys = ids(&loaded);
    assert_eq!((keys[0], keys[1], keys.iter().collect::<std::collections::BTreeSet<_>>().len()), (0, 1, 4));
    assert!(loaded.locations[2].path.ends_with("b.jsonl") && loaded.locations[2].number == 1);
}

#[test]
fn ids_keep_their_spelling_and_are_told_apart_by_it() {
    let long = "9".repeat(30);
    let ids = ["-0", "1e2", "1.10", "1.1", "100", "0.10000000000000000000000000000001", &long, "\"1.10\""];
    let rows: Vec<String> = ids.iter().map(|id| good(&format!(r#", "id": {id}"#))).collect();
    for text in [rows.join("\n"), format!("[{}]", rows.join(",\n"))] {
        let loaded = load(text.as_bytes(), OnBadRow::Refuse).unwrap();
        let written: Vec<String> = loaded.rows.iter().map(|pair| serde_json::to_string(&pair.id).unwrap()).collect();
        assert_eq!(written, ids);
        assert_eq!(loaded.rows.iter().map(|pair| pair.id.key()).collect::<std::collections::BTreeSet<_>>().len(), 8);
        assert_eq!(loaded.rows[0].id.file(), None);
    }
}

#[test]
fn a_file_that_is_given_twice_is_refused() {
    let file = file_of("a.jsonl", good("").as_bytes());
    let detour = file.path().parent().unwrap().join(".").join("a.jsonl");
    for again in [file.path(), detour] {
        let error = load_pairs(&[file.path(), again], &options(OnBadRow::Skip)).unwrap_err().to_string();
        assert!(error.contains("is the same file as") && error.contains("give every file once"), "{error}");
    }
    let other = file_of("b.jsonl", good("").as_bytes());
    let loaded = load_pairs(&[file.path(), other.path()], &options(OnBadRow::Refuse)).unwrap();
    let files: Vec<&str> = loaded.rows.iter().filter_map(|pair| pair.id.file()).collect();
    assert!(files.len() == 2 && files[0].ends_with("a.jsonl") && files[1].ends_with("b.jsonl"), "{files:?}");
}

#[test]
fn tasks_come_from_the_row_or_the_default() {
    let text = [good(r#", "task": "math""#), good(r#", "task": null"#)].join("\n");
    let rows = load(text.as_bytes(), OnBadRow::Refuse).unwrap().rows;
    assert_eq!((rows[0].task.as_str(), rows[1].task.as_str()), ("math", "chat"));
}

/// Bytes at random, and pieces of JSON in a wrong order.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "[",
        "]",
        "{",
        "}",
        "\"",
        ":",
        ",",
        "\n",
        "\"chosen\":",
        "\"rejected\":",
        "\"a b\"",
        "\\u12",
        "1e999",
        "\u{feff}",
    ];
    let piece = prop::sample::select(pieces.to_vec()).prop_map(|text| text.as_bytes().to_vec());
    let rows = Just(good("").into_bytes());
    let noise = prop::collection::vec(any::<u8>(), 0..8);
    prop::collection::vec(prop_oneof![4 => piece, 1 => rows, 1 => noise], 0..20).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in any_bytes()) {
        let refused = load(&bytes, OnBadRow::Refuse);
        let skipped = load(&bytes, OnBadRow::Skip);
        if let Ok(all) = refused {
            prop_assert_eq!(Some(all.rows), skipped.ok().map(|loaded| loaded.rows));
        }
    }

    #[test]
    fn any_texts_that_share_a_beginning_can_be_split(start in "\\PC{0,8}", a in "\\PC{0,8}", b in "\\PC{0,8}") {
        let row = serde_json::json!({"chosen": format!("{start}{a}"), "rejected": format!("{start}{b}")});
        if let Ok(loaded) = load(row.to_string().as_bytes(), OnBadRow::Refuse) {
            let pair = &loaded.rows[0];
            prop_assert_eq!(format!("{}{}", pair.prompt[0].content, pair.chosen), format!("{start}{a}"));
            prop_assert_eq!(format!("{}{}", pair.prompt[0].content, pair.rejected), format!("{start}{b}"));
        }
    }
}
