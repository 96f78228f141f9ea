//! Lines of text of a bounded length.

use std::io::{self, BufRead, Read};

/// The longest row, in bytes. A longer one is bad; a longer element of a JSON array ends the reading.
pub const ROW_BYTES_MAX: usize = 64 << 20;

/// Why such a row is bad.
pub(super) fn too_long() -> String {
    format!("is longer than {ROW_BYTES_MAX} bytes")
}

/// What was found where a line should be.
pub(super) enum Line {
    End,
    Whole,
    TooLong,
}

/// Reads the next line into `line`, without its newline. Of a line that is too long, only the limit is kept in memory.
pub(super) fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let read = reader.by_ref().take(ROW_BYTES_MAX as u64 + 1).read_until(b'\n', line)?;
    if line.pop_if(|last| *last == b'\n').is_none() && read > ROW_BYTES_MAX {
        reader.skip_until(b'\n')?;
        return Ok(Line::TooLong);
    }
    Ok(if read == 0 { Line::End } else { Line::Whole })
}
