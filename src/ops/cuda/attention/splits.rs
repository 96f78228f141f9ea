//! The blocks of attention's forward pass: tiles of queries for the long segments, splits of the keys for the short ones.

use super::lists::{query_tiles, upload};
use crate::cuda::{Buffer, Cuda, kernels};
use crate::ops::OpError;
use crate::ops::attention::SegmentTable;
use crate::tensor::replay_size;

/// Queries of a tile.
const TILE: usize = kernels::ATTENTION_FORWARD_QUERIES as usize;
/// Keys of a split. A constant, so that a sequence's sums do not depend on the rest of the batch.
const SPLIT: usize = kernels::ATTENTION_DECODE_SPLIT as usize;

/// Lists of blocks on the device, and their lengths.
pub(in crate::ops::cuda) struct ForwardLists {
    /// Segments of up to this many queries are decoded.
    pub few: usize,
    /// [tile_count, 2]: see [`query_tiles`]
    pub tiles: Buffer<u32>,
    pub tile_count: usize,
    /// [split_count, 4]: segment, first key, keys (0: nothing to do), its first partial result or `ATTENTION_NO_PARTIAL`
    pub splits: Buffer<u32>,
    pub split_count: usize,
    /// [join_count, 4]: query, partial result of its first split, distance to that of the next split, splits (0: nothing to do)
    pub joins: Buffer<u32>,
    pub join_count: usize,
    /// Partial results in scratch: one for each query of each split.
    pub partials: usize,
}

impl ForwardLists {
    /// Builds the lists of a table and uploads them. Segments of more than `few` queries go to tiles, the others to splits.
    pub fn new(cuda: &Cuda, table: &SegmentTable, few: usize) -> Result<Self, OpError> {
        let tiles = query_tiles(table, TILE, |segment| segment.queries.len() > few);
        let Splits { splits, joins, partials } = Splits::new(table, few);
        Ok(Self {
            few,
            tile_count: tiles.len() / 2,
            tiles: upload(cuda, &tiles)?,
            split_count: splits.len() / 4,
            splits: upload(cuda, &splits)?,
            join_count: joins.len() / 4,
            joins: upload(cuda, &joins)?,
            partials,
        })
    }
}

/// The same lists on the host.
struct Splits {
    splits: Vec<u32>,
    joins: Vec<u32>,
    partials: usize,
}

impl Splits {
    fn new(table: &SegmentTable, few: usize) -> Self {
        let mut made = Self { splits: Vec::new(), joins: Vec::new(), partials: 0 };
        for (index, segment) in table.segments().iter().enumerate() {
            let (queries, splits) = (segment.queries.len(), segment.keys.div_ceil(SPLIT));
            if queries == 0 || queries > few {
                continue;
            }
            let first_partial = made.partials;
            for split in 0..splits {
                let first = split * SPLIT;
                let keys = SPLIT.min(segment.keys - first);
                let partial =
                    if splits == 1 { kernels::ATTENTION_NO_PARTIAL } else { (first_partial + split * queries) as u32 };
                made.splits.extend([index as u32, first as u32, keys as u32, partial]);
            }
            if splits > 1 {
                made.partials += splits * queries;
                for (i, query) in segment.queries.clone().enumerate() {
                    made.joins.extend([query as u32, (first_partial + i) as u32, queries as u32, splits as u32]);
                }
            }
        }
        made.fill_up();
        made
    }

    /// Pads the lists with splits of no keys and joins of no splits, so that the launches of the next decode steps have the
    /// same sizes.
    fn fill_up(&mut self) {
        self.splits.resize(4 * replay_size(self.splits.len() / 4), 0);
        self.joins.resize(4 * replay_size(self.joins.len() / 4), 0);
        self.partials = replay_size(self.partials);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::Run;

    #[test]
    fn short_segments_are_split_by_a_constant_and_joined_when_there_are_several() {
        let mut table = SegmentTable::default();
        let none = kernels::ATTENTION_NO_PARTIAL;
        for (queries, keys) in [(1, SPLIT), (3, 20), (0, 9), (2, 2 * SPLIT + 1), (1, SPLIT + 5)] {
            table.push(queries, [Run { start: 0, len: keys as u32 }]);
        }
        let Splits { splits, joins, partials } = Splits::new(&table, 2);
        let split = SPLIT as u32;
        let expected = [
            [0, 0, split, none],
            [3, 0, split, 0],
            [3, split, split, 2],
            [3, 2 * split, 1, 4],
            [4, 0, split, 6],
            [4, split, 5, 7],
        ];
        assert_eq!(splits, expected.concat());
        assert_eq!(joins, [[4, 0, 2, 3], [5, 1, 2, 3], [6, 6, 1, 2]].concat());
        assert_eq!(partials, 8);
    }
}
