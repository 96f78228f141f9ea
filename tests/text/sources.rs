//! Rows from every kind of file: the same from each, and errors with file and row from what is broken.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use patarm::data::lines::ROW_BYTES_MAX;
use patarm::data::row_reader::RowReader;
use patarm::data::{DataError, Location, OnBadRow, Pair, Streamed, load_pairs, stream_pairs};
use serde_json::Value;

use crate::formats::options;
use crate::rows::{File, file_of};

/// A Parquet file of text columns that must be there, with so many rows in a group.
pub fn parquet_of(names: &[&str], rows: &[Vec<Vec<u8>>], in_group: usize) -> Vec<u8> {
    let fields: String = names.iter().map(|name| format!("required binary {name} (UTF8); ")).collect();
    let schema = Arc::new(parse_message_type(&format!("message rows {{ {fields} }}")).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    for rows in rows.chunks(in_group) {
        let mut group = writer.next_row_group().unwrap();
        for column in 0..names.len() {
            let values: Vec<ByteArray> = rows.iter().map(|row| row[column].clone().into()).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Every row of a file as JSON, or why it is bad.
pub fn read(path: &Path) -> Result<Vec<Result<Value, String>>, DataError> {
    let mut rows = Vec::new();
    RowReader::default().read(path, &mut |row, position, location| {
        assert_eq!(position as usize, rows.len());
        assert!(location.number > rows.len(), "rows are counted from 1");
        rows.push(row.map(|row| row.value));
        Ok(())
    })?;
    Ok(rows)
}

fn skip(files: &[PathBuf]) -> Result<patarm::data::Loaded<Pair>, DataError> {
    load_pairs(files, &options(OnBadRow::Skip))
}

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/parquet")
}

fn sample(index: usize) -> [String; 3] {
    [format!("Question {index}: é?"), format!("Good \"{index}\"\n"), format!("Bad {}", "x".repeat(index))]
}

const NAMES: [&str; 3] = ["prompt", "chosen", "rejected"];

/// The same 50 pairs in every kind of file that is read.
fn every_kind() -> Vec<(&'static str, File)> {
    let rows: Vec<Value> = (0..50)
        .map(|index| NAMES.iter().map(|name| name.to_string()).zip(sample(index).map(Value::from)).collect())
        .map(Value::Object)
        .collect();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let array = Value::from(rows).to_string();
    let columns: Vec<Vec<Vec<u8>>> = (0..50).map(|index| sample(index).map(String::into_bytes).to_vec()).collect();
    let (first, second) = lines.as_bytes().split_at(lines.len() / 3);
    // Names say nothing about what a file is.
    vec![
        ("JSON lines", file_of("rows", lines.as_bytes())),
        ("an array", file_of("rows", array.as_bytes())),
        ("gzip", file_of("rows", &gzip(lines.as_bytes()))),
        ("an array by gzip", file_of("rows", &gzip(array.as_bytes()))),
        ("several gzip members", file_of("rows", &[gzip(first), gzip(b""), gzip(second)].concat())),
        ("zstd", file_of("rows", &zstd(lines.as_bytes()))),
        ("several zstd frames", file_of("rows", &[zstd(first), zstd(second)].concat())),
        ("an array by zstd", file_of("rows", &zstd(array.as_bytes()))),
        ("Parquet", file_of("rows", &parquet_of(&NAMES, &columns, 50))),
        ("Parquet of several groups", file_of("rows", &parquet_of(&NAMES, &columns, 7))),
    ]
}

#[test]
fn every_kind_of_file_gives_the_same_rows() {
    let mut first = None;
    for (kind, file) in every_kind() {
        let texts: Vec<String> = read(&file.path()).unwrap().into_iter().map(|row| row.unwrap().to_string()).collect();
        assert_eq!(texts.len(), 50, "{kind}");
        let pairs = load_pairs(&[file.path()], &options(OnBadRow::Refuse)).unwrap();
        assert_eq!(pairs.locations[49].number, 50, "{kind}");
        let pairs: Vec<String> = pairs.rows.iter().map(|pair| serde_json::to_string(pair).unwrap()).collect();
        let mut streamed = Vec::new();
        stream_pairs(&[file.path()], &options(OnBadRow::Refuse), &mut |row, _, _| {
            let Streamed::Records(pairs) = row else { panic!("{row:?}") };
            streamed.extend(pairs.iter().map(|pair| serde_json::to_string(pair).unwrap()));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(streamed, pairs, "{kind}");
        let all = first.get_or_insert_with(|| (texts.clone(), pairs.clone()));
        assert_eq!(*all, (texts, pairs), "{kind}");
    }
}

/// Files of another writer: every codec, version, encoding and kind of nesting (`tools/golden_parquet.py`).
#[test]
fn parquet_of_another_writer_is_read_as_its_json() {
    let expected: Vec<String> =
        std::fs::read_to_string(goldens().join("rows.jsonl")).unwrap().lines().map(compact).collect();
    let mut files = 0;
    for entry in std::fs::read_dir(goldens()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "parquet") {
            let rows = read(&path).unwrap_or_else(|error| panic!("{error}"));
            let rows: Vec<String> = rows.into_iter().map(|row| row.unwrap().to_string()).collect();
            assert_eq!(rows, expected, "{}", path.display());
            files += 1;
        }
    }
    assert_eq!(files, 8);
    let loaded = skip(&[goldens().join("snappy.parquet")]).unwrap();
    assert_eq!((loaded.rows.len(), loaded.rows[1].id.to_string(), loaded.locations[1].unit), (11, "1".into(), "row"));
}

fn compact(line: &str) -> String {
    serde_json::from_str::<Value>(line).unwrap().to_string()
}

/// What is cut off is an error that names the file and the rows before.
#[test]
fn a_file_that_breaks_off_is_an_error_and_no_rows() {
    for (kind, file) in every_kind().into_iter().skip(1) {
        let bytes = std::fs::read(file.path()).unwrap();
        for cut in [bytes.len() - 1, bytes.len() - 5, bytes.len() / 2, 20] {
            let half = file_of("half", &bytes[..cut]);
            let error = skip(&[half.path()]).unwrap_err();
            assert!(matches!(error, DataError::Unreadable { .. } | DataError::Io { .. }), "{kind} {cut}: {error:?}");
            assert!(error.to_string().contains("half"), "{kind} {cut}: {error}");
        }
    }
    // Rows that came before are counted.
    let lines: String =
        (0..20_000).map(|index| format!("{{\"n\": {index}, \"text\": \"{:x}\"}}\n", index * 7919)).collect();
    let packed = gzip(lines.as_bytes());
    let half = file_of("half", &packed[..packed.len() / 2]);
    let error = read(&half.path()).unwrap_err().to_string();
    let rows: usize = error.split("after ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap();
    assert!(error.contains("gzip") && (1000..19_000).contains(&rows), "{error}");
}

#[test]
fn a_bad_row_of_a_parquet_file_is_a_row_and_not_the_end() {
    let row = |chosen: &[u8]| vec![b"Q".to_vec(), chosen.to_vec(), b"B".to_vec()];
    let long = vec![b'a'; ROW_BYTES_MAX];
    let rows = [row(b"G"), row(b"\xff"), row(&long), row(b"B"), row(b"H")];
    let file = file_of("rows.parquet", &parquet_of(&NAMES, &rows, 2));
    let loaded = skip(&[file.path()]).unwrap();
    assert_eq!(loaded.rows.iter().map(|pair| pair.chosen.as_str()).collect::<Vec<_>>(), ["G", "H"]);
    assert_eq!(loaded.rows.iter().map(|pair| pair.id.key()).collect::<Vec<_>>(), [0, 4]);
    for (reason, words) in loaded.skipped.reasons.iter().zip([
        "row 2: is not UTF-8",
        "row 3: is longer than",
        "row 4: chosen and rejected",
    ]) {
        assert!(reason.contains(words), "{reason}");
    }
    let error = load_pairs(&[file.path()], &options(OnBadRow::Refuse)).unwrap_err().to_string();
    assert!(error.contains("rows.parquet: row 2: is not UTF-8"), "{error}");
}

#[test]
fn a_long_row_is_bad_in_every_kind_of_text() {
    let good = r#"{"prompt": "Q", "chosen": "G", "rejected": "B"}"#;
    let lines = format!("{{\"prompt\": \"{}\"}}\n{good}\n", "a".repeat(ROW_BYTES_MAX));
    for packed in [lines.clone().into_bytes(), gzip(lines.as_bytes()), zstd(lines.as_bytes())] {
        let file = file_of("rows", &packed);
        let loaded = skip(&[file.path()]).unwrap();
        assert_eq!((loaded.rows.len(), loaded.skipped.count), (1, 1));
        assert!(loaded.skipped.reasons[0].contains("line 1: is longer than"), "{:?}", loaded.skipped);
    }
    let array = format!("[{good}, \"{}\", {good}]", "a".repeat(ROW_BYTES_MAX + (1 << 20)));
    for packed in [gzip(array.as_bytes()), zstd(array.as_bytes())] {
        let error = skip(&[file_of("rows", &packed).path()]).unwrap_err().to_string();
        assert!(error.contains("after 1 whole rows") && error.contains("a row is longer than"), "{error}");
    }
}

/// A few kilobytes that would become gigabytes of rows.
#[test]
fn a_bomb_is_refused_before_it_has_taken_its_time() {
    struct Endless(u64);
    impl std::io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = buffer.len().min(usize::try_from(self.0).unwrap());
            buffer[..count].fill(b' ');
            self.0 -= count as u64;
            Ok(count)
        }
    }
    let bomb = zstd::encode_all(Endless(2 << 30), 1).unwrap();
    assert!(bomb.len() < 1 << 20, "{}", bomb.len());
    let error = read(&file_of("bomb", &bomb).path()).unwrap_err().to_string();
    assert!(error.contains("bomb: its text (zstd) broken") && error.contains("expands to more than"), "{error}");
}

#[test]
fn other_kinds_of_files_are_named() {
    let tar = [vec![0; 257], b"ustar".to_vec(), vec![0; 250]].concat();
    for (bytes, words) in [
        (b"BZh91AY".to_vec(), "compressed by bzip2"),
        (b"PK\x03\x04..".to_vec(), "zip archive"),
        (b"ARROW1\0\0".to_vec(), "an Arrow file"),
        (gzip(b"PAR1...."), "a compressed Parquet file"),
        (gzip(&gzip(b"{}")), "compressed twice"),
        (zstd(&tar), "a compressed tar archive"),
        (b"PAR1....PARE".to_vec(), "an encrypted Parquet file"),
        (b"PAR1\x10\0\0\0PAR1".to_vec(), "its footer cannot have 16 bytes"),
        (b"PAR1".to_vec(), "too short"),
    ] {
        let error = read(&file_of("rows.jsonl", &bytes).path()).unwrap_err();
        assert!(matches!(error, DataError::Unreadable { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let bytes = std::fs::read(goldens().join("snappy.parquet")).unwrap();
    let (from, into) = (pipe.clone(), pipe);
    let writer = std::thread::spawn(move || std::fs::write(into, bytes));
    let error = read(&from).unwrap_err().to_string();
    assert!(error.contains("cannot be read from a pipe"), "{error}");
    let _ = writer.join().unwrap();
}

#[test]
fn a_stream_gives_bad_rows_with_their_reason_and_can_be_ended() {
    let good = |id: &str| format!("{{\"prompt\": \"Q\", \"chosen\": \"G\", \"rejected\": \"B\"{id}}}\n");
    let text = [good(", \"id\": \"a\""), "x\n".into(), good(", \"id\": \"a\""), good("")].concat();
    let files = [file_of("a.jsonl", text.as_bytes()), file_of("b.jsonl", good("").as_bytes())];
    let paths = files.each_ref().map(File::path);
    let stream = |most: usize| {
        let mut seen = Vec::new();
        stream_pairs(&paths, &options(OnBadRow::Refuse), &mut |row: Streamed<Pair>, _, location: &Location| {
            let row = match row {
                Streamed::Records(pairs) => Ok(pairs[0].id.to_string()),
                Streamed::Bad(reason) | Streamed::Alone(reason) => Err(reason),
            };
            seen.push((row, location.number));
            if seen.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        seen
    };
    let seen = stream(9);
    assert_eq!(seen.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [1, 2, 3, 4, 1]);
    let ids: Vec<Option<&str>> = seen.iter().map(|(id, _)| id.as_deref().ok()).collect();
    assert_eq!(ids, [Some("a"), None, None, Some("3"), Some("4")]);
    assert!(seen[2].0.as_ref().unwrap_err().contains("was used before in this file"));
    assert_eq!(stream(2).len(), 2);
}
