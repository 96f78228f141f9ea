//! Damaged files of every kind: no panic, no hang, and no more time than their length takes. `PATARM_CASES` raises the number
//! of cases.

use std::path::Path;
use std::time::Instant;

use proptest::prelude::*;

use crate::fuzz::cases;
use crate::rows::file_of;
use crate::sources::{gzip, parquet_of, read, zstd};

/// Whole files of every kind.
fn whole() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/parquet");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut files: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let lines = std::fs::read(folder.join("rows.jsonl")).unwrap();
    let array = format!("[{}]", String::from_utf8_lossy(&lines).trim_end().replace('\n', ","));
    files.extend([gzip(&lines), zstd(&lines), gzip(array.as_bytes()), [gzip(&lines), gzip(&lines)].concat()]);
    files.push(array.into_bytes());
    files
}

/// A file with bytes changed, cut out, repeated, put in, or with its end (where Parquet has its footer) changed.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0_usize..5, any::<u8>(), 1_usize..40, any::<bool>());
    (prop::sample::select(whole()), prop::collection::vec(change, 1..8)).prop_map(|(mut bytes, changes)| {
        for (at, kind, byte, length, near_end) in changes {
            let from = if near_end { bytes.len().saturating_sub(1200) } else { 0 };
            let start = from + at.index((bytes.len() - from).max(1));
            let end = (start + length).min(bytes.len());
            match kind {
                0 if start < bytes.len() => bytes[start] = byte,
                1 if start < bytes.len() => bytes[start] ^= 1 << (byte % 8),
                2 => drop(bytes.drain(start.min(end)..end)),
                3 => bytes = [&bytes[..end], &bytes[start.min(end)..]].concat(),
                _ => drop(bytes.splice(start.min(end)..start.min(end), vec![byte; length])),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn no_damaged_file_panics_or_hangs(bytes in damaged()) {
        let file = file_of("rows", &bytes);
        let start = Instant::now();
        if let Ok(rows) = read(&file.path()) {
            prop_assert!(!rows.is_empty());
        }
        // Not a measurement: what a file of a few kilobytes could take if its numbers were believed is hours.
        prop_assert!(start.elapsed().as_secs() < 60, "{:?}", bytes);
    }
}

/// Rows of a megabyte, and a megabyte of rows: with quadratic time one of these would take hours.
#[test]
fn long_files_take_linear_time() {
    let long = |byte: u8| vec![byte; 1 << 20];
    let rows: Vec<Vec<Vec<u8>>> = (0..24).map(|index| vec![long(b'a' + index), long(b'b'), long(b'c')]).collect();
    let names = ["prompt", "chosen", "rejected"];
    let lines: String = rows
        .iter()
        .map(|row| format!("{{\"prompt\": \"{}\", \"chosen\": \"x\"}}\n", String::from_utf8_lossy(&row[0])))
        .collect();
    let array = format!("[{}]", lines.trim_end().replace('\n', ","));
    for bytes in [
        parquet_of(&names, &rows, 24),
        lines.clone().into_bytes(),
        array.clone().into_bytes(),
        gzip(lines.as_bytes()),
        zstd(array.as_bytes()),
    ] {
        assert_eq!(read(&file_of("rows", &bytes).path()).unwrap().len(), 24);
    }
    let many = 200_000;
    let short: Vec<Vec<Vec<u8>>> = (0..many).map(|index| vec![index.to_string().into_bytes()]).collect();
    for bytes in ["{}\n".repeat(many).into_bytes(), format!("[{}0]", "0,".repeat(many - 1)).into_bytes()] {
        assert_eq!(read(&file_of("rows", &bytes).path()).unwrap().len(), many);
        assert_eq!(read(&file_of("rows", &gzip(&bytes)).path()).unwrap().len(), many);
    }
    assert_eq!(read(&file_of("rows", &parquet_of(&["n"], &short, 1000)).path()).unwrap().len(), many);
    let nested = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    for text in [nested.clone(), format!("[{nested}]"), format!("{{\"a\": {nested}}}")] {
        let _ = read(&file_of("rows", text.as_bytes()).path());
    }
}
