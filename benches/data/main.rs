//! `cargo bench --bench data`: speed and memory of `data inspect` on files that are larger than they should need. Writes them to
//! the folder of temporary files (3 GB) and removes them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// Bytes of the JSON lines, and rows of the Parquet file.
const JSONL_BYTES: u64 = 2 << 30;
const PARQUET_ROWS: usize = 100_000;

/// Words that differ from row to row, about `bytes` long.
fn text(state: &mut u64, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("{:x} ", *state >> 40));
    }
    text
}

fn write_lines(path: &Path) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let (mut state, mut written) = (1, 0);
    while written < JSONL_BYTES {
        let [prompt, chosen, rejected] = [300, 900, 900].map(|bytes| text(&mut state, bytes));
        let line = format!(
            "{{\"prompt\": \"{prompt}\", \"chosen\": \"{chosen}\", \"rejected\": \"{rejected}\", \"source\": \"bench\"}}\n"
        );
        file.write_all(line.as_bytes())?;
        written += line.len() as u64;
    }
    file.flush()
}

fn write_parquet(path: &Path) -> parquet::errors::Result<()> {
    let fields: String =
        ["prompt", "chosen", "rejected"].map(|name| format!("required binary {name} (UTF8); ")).concat();
    let schema = Arc::new(parse_message_type(&format!("message rows {{ {fields} }}"))?);
    let mut writer =
        SerializedFileWriter::new(File::create(path)?, schema, Arc::new(WriterProperties::builder().build()))?;
    let mut state = 2;
    for _ in 0..PARQUET_ROWS / 1000 {
        let mut group = writer.next_row_group()?;
        for bytes in [300, 900, 900] {
            let values: Vec<ByteArray> = (0..1000).map(|_| text(&mut state, bytes).as_str().into()).collect();
            let mut column = group.next_column()?.expect("there are three columns");
            column.typed::<ByteArrayType>().write_batch(&values, None, None)?;
            column.close()?;
        }
        group.close()?;
    }
    writer.close().map(drop)
}

/// Runs the command, and prints what it took.
fn measure(path: &Path) {
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_patarm-train"))
        .args(["data", "inspect", "--json"])
        .arg(path)
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_of(child.id()));
        if let Some(status) = child.try_wait().expect("the program can be waited for") {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
    let (seconds, bytes) = (start.elapsed().as_secs_f64(), std::fs::metadata(path).map_or(0, |found| found.len()));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    println!(
        "{name}: {:.0} MB in {seconds:.1} s, {:.1} MB/s; peak resident memory {:.0} MB",
        bytes as f64 / 1e6,
        bytes as f64 / 1e6 / seconds,
        peak as f64 / 1e3
    );
}

/// `VmHWM` of a process, in kB; 0 once it has ended.
fn peak_of(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn main() {
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let at = |name: &str| folder.path().join(name);
    write_parquet(&at("rows.parquet")).expect("the Parquet file can be written");
    measure(&at("rows.parquet"));
    write_lines(&at("rows.jsonl")).expect("the JSON lines can be written");
    measure(&at("rows.jsonl"));
}
