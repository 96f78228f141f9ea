//! What files of rows are called, where a whole folder of files is given.

use std::path::Path;

/// Endings of files that hold rows. A file that is named by itself may have any.
pub(super) const ENDINGS: [&str; 4] = ["jsonl", "ndjson", "json", "parquet"];
const PACKED: [&str; 3] = ["gz", "zst", "zstd"];

/// Whether a file is called as one that holds rows is. Descriptions of data sets are JSON too.
pub(super) fn is_data(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let name = PACKED.iter().find_map(|end| name.strip_suffix(&format!(".{end}"))).unwrap_or(name);
    let Some((stem, end)) = name.rsplit_once('.') else { return false };
    let described = end == "json" && (stem.ends_with("_infos") || stem.ends_with("_info") || stem == "config");
    ENDINGS.contains(&end) && !stem.is_empty() && !stem.starts_with('.') && !described
}
