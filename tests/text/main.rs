//! Tokenizer, chat templates, loss masks and dataset files, through the public interface.

mod benchmarks;
mod formats;
mod fuzz;
mod fuzz_files;
mod fuzz_formats;
mod golden;
mod hub;
mod injections;
mod preference_sets;
mod row_fields;
mod rows;
mod samples;
mod sft_rows;
mod shown;
mod sources;
mod templates;
mod tiny;
mod tokenizer;
mod whole_texts;

use std::path::PathBuf;

/// A folder of the shared data, or `None` (and a line that says so) where it is not at hand.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}
