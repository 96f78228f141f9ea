//! Lists of blocks for the attention kernels: tiles of queries, and the upload of lists.

use crate::cuda::{Buffer, Cuda};
use crate::ops::OpError;
use crate::ops::attention::{Segment, SegmentTable};
use crate::tensor::Device;

/// Every list has room for at least this many elements.
const LIST_MIN: usize = 1024;

/// A list in a buffer with room to grow, so that the lists of the next decode steps get the same memory.
pub(super) fn upload(cuda: &Cuda, list: &[u32]) -> Result<Buffer<u32>, OpError> {
    let mut buffer = cuda.scratch(list.len().next_power_of_two().max(LIST_MIN))?;
    cuda.write(cuda.view_mut(&mut buffer, 0..list.len()), list)?;
    Ok(buffer)
}

/// Tiles of up to `tile` queries of the segments that `takes` accepts, flat [tiles, 2]: segment, first query within it. Tiles
/// that see the most keys come first, so that the blocks that start last are short.
pub(super) fn query_tiles(table: &SegmentTable, tile: usize, takes: impl Fn(&Segment) -> bool) -> Vec<u32> {
    let mut tiles: Vec<(usize, u32, u32)> = Vec::new();
    for (index, segment) in table.segments().iter().enumerate().filter(|(_, segment)| takes(segment)) {
        let queries = segment.queries.len();
        for first in (0..queries).step_by(tile) {
            let sees = segment.keys - queries + (first + tile).min(queries);
            tiles.push((sees, index as u32, first as u32));
        }
    }
    // Stable: tiles that see equally many keys stay in the order of the queries.
    tiles.sort_by_key(|(sees, ..)| std::cmp::Reverse(*sees));
    tiles.into_iter().flat_map(|(_, segment, first)| [segment, first]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::Run;

    #[test]
    fn tiles_cover_every_query_once_those_with_the_most_keys_first() {
        let mut table = SegmentTable::default();
        let run = |start, len| Run { start, len };
        table.push(3, [run(10, 2), run(4, 3)]);
        table.push(5, [run(20, 5)]);
        // Keys seen: 4 and 5 of the first segment's tiles, 2, 4 and 5 of the second's.
        assert_eq!(query_tiles(&table, 2, |_| true), [0, 2, 1, 4, 0, 0, 1, 2, 1, 0]);
        assert_eq!(query_tiles(&table, 8, |segment| segment.queries.len() > 3), [1, 0]);
    }
}
