//! Work in fixed pieces on rayon's threads: pieces depend on sizes alone, so results do not depend on the threads.

use super::team;

/// Elements below which a loop stays on the caller's thread: waking another costs more.
pub const SERIAL_ELEMENTS: usize = 16_384;

/// Calls `f(first_row, rows)` for row ranges that cover a [rows, cols] buffer.
pub fn for_row_blocks(out: &mut [f32], cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if out.is_empty() || cols == 0 {
        return;
    }
    let rows = out.len() / cols;
    if out.len() <= SERIAL_ELEMENTS || team::threads() == 1 {
        return f(0, out);
    }
    let block = rows.div_ceil(4 * team::threads()).max(SERIAL_ELEMENTS / 4 / cols).max(1);
    team::each_of(out.chunks_mut(block * cols).enumerate(), |(index, chunk)| f(index * block, chunk));
}
