//! The blocks of attention's backward pass. By keys they are tiles of pool rows, each with all segments that have them among
//! their keys. Every row is in one tile, so one block writes it and adds its contributions in a fixed order.

use std::collections::BTreeSet;

use super::lists::{query_tiles, upload};
use crate::cuda::{Buffer, Cuda, kernels};
use crate::ops::OpError;
use crate::ops::attention::{Segment, SegmentTable};

const QUERIES: usize = kernels::ATTENTION_BACKWARD_Q_QUERIES as usize;
const KEYS: usize = kernels::ATTENTION_BACKWARD_KV_KEYS as usize;

/// Lists of blocks on the device, and their lengths.
pub(super) struct BackwardLists {
    /// [query_tiles, 2]
    pub query_tiles: Buffer<u32>,
    pub query_tile_count: usize,
    /// [key_tiles, 4]
    pub key_tiles: Buffer<u32>,
    pub key_tile_count: usize,
    /// [users, 2]
    pub users: Buffer<u32>,
}

impl BackwardLists {
    /// Builds the lists of a table and uploads them: once for all layers of a pass.
    pub fn new(cuda: &Cuda, table: &SegmentTable) -> Result<Self, OpError> {
        let query_tiles = query_tiles(table, QUERIES, |_| true);
        let KeyTiles { tiles, users } = KeyTiles::new(table, KEYS);
        Ok(Self {
            query_tile_count: query_tiles.len() / 2,
            query_tiles: upload(cuda, &query_tiles)?,
            key_tile_count: tiles.len() / 4,
            key_tiles: upload(cuda, &tiles)?,
            users: upload(cuda, &users)?,
        })
    }
}

/// Flat lists for the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct KeyTiles {
    /// [tiles, 4]: first pool row, rows, first of its users, users. Those with the most work come first.
    pub tiles: Vec<u32>,
    /// [users, 2]: segment, and the index of the tile's first row among its keys; in the order of segments.
    pub users: Vec<u32>,
}

/// A run of a segment's keys.
struct Named {
    start: usize,
    end: usize,
    segment: usize,
    /// Index of the run's first row among the segment's keys.
    key: usize,
}

/// A tile before the tiles are sorted.
struct Tile {
    start: usize,
    rows: usize,
    /// Users of the first row.
    users: Users,
    /// Queries that see the tile, summed over its users.
    work: usize,
}

impl KeyTiles {
    /// Tiles of up to `tile` rows.
    pub fn new(table: &SegmentTable, tile: usize) -> Self {
        let mut tiles: Vec<Tile> = Vec::new();
        for (start, end, users) in shared_ranges(&named_runs(table)) {
            for first in (start..end).step_by(tile) {
                let users: Users = users.iter().map(|(segment, key)| (*segment, key + first - start)).collect();
                let work = users.iter().map(|(segment, key)| queries_that_see(&table.segments()[*segment], *key)).sum();
                tiles.push(Tile { start: first, rows: tile.min(end - first), users, work });
            }
        }
        // Stable: tiles of equal work stay in the order of the pool.
        tiles.sort_by_key(|tile| std::cmp::Reverse(tile.work));
        let mut lists = Self::default();
        for tile in tiles {
            let numbers = [tile.start, tile.rows, lists.users.len() / 2, tile.users.len()];
            lists.tiles.extend(numbers.map(|number| number as u32));
            lists.users.extend(tile.users.iter().flat_map(|(segment, key)| [*segment as u32, *key as u32]));
        }
        lists
    }
}

fn queries_that_see(segment: &Segment, key: usize) -> usize {
    segment.queries.len() - (key + segment.queries.len()).saturating_sub(segment.keys)
}

fn named_runs(table: &SegmentTable) -> Vec<Named> {
    let mut named = Vec::new();
    for (index, segment) in table.segments().iter().enumerate().filter(|(_, segment)| !segment.queries.is_empty()) {
        let mut key = 0;
        for run in table.runs(segment) {
            let (start, len) = (run.start as usize, run.len as usize);
            named.push(Named { start, end: start + len, segment: index, key });
            key += len;
        }
    }
    named.sort_by_key(|run| (run.start, run.segment, run.key));
    named
}

/// The segments that have a row among their keys, in order: (segment, index of the row among its keys).
type Users = Vec<(usize, usize)>;

/// (first row, row after the last, users of the first) of the largest ranges whose rows all have the same users.
fn shared_ranges(named: &[Named]) -> Vec<(usize, usize, Users)> {
    let cuts: BTreeSet<usize> = named.iter().flat_map(|run| [run.start, run.end]).collect();
    let cuts: Vec<usize> = cuts.into_iter().collect();
    let (mut open, mut coming): (Vec<&Named>, _) = (Vec::new(), named.iter().peekable());
    let mut found = Vec::new();
    for pair in cuts.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        open.retain(|run| run.end > start);
        while let Some(run) = coming.next_if(|run| run.start == start) {
            open.push(run);
        }
        if !open.is_empty() {
            let mut users: Users = open.iter().map(|run| (run.segment, run.key + start - run.start)).collect();
            users.sort_unstable();
            found.push((start, end, users));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ops::attention::Run;

    fn run(start: u32, len: u32) -> Run {
        Run { start, len }
    }

    #[test]
    fn a_shared_prompt_has_all_its_users_and_the_most_work() {
        let mut table = SegmentTable::default();
        table.push(5, [run(0, 5)]);
        table.push(2, [run(0, 5), run(5, 2)]);
        table.push(3, [run(0, 5), run(7, 3)]);
        let lists = KeyTiles::new(&table, 4);
        // Rows 0-3: five, two and three queries; row 4: one, two, three; then the own keys of the continuations.
        assert_eq!(lists.tiles, [0, 4, 0, 3, 4, 1, 3, 3, 7, 3, 6, 1, 5, 2, 7, 1]);
        assert_eq!(lists.users, [0, 0, 1, 0, 2, 0, 0, 4, 1, 4, 2, 4, 2, 5, 1, 5]);
    }

    proptest! {
        #[test]
        fn every_key_of_every_segment_lies_in_one_tile_as_a_user_of_it(
            segments in prop::collection::vec(prop::collection::vec((0u32..40, 1u32..12), 1..4), 0..6),
            tile in 1usize..9,
        ) {
            let mut table = SegmentTable::default();
            for runs in &segments {
                table.push(1, runs.iter().map(|(start, len)| run(*start, *len)));
            }
            let lists = KeyTiles::new(&table, tile);
            let mut found: Vec<(usize, usize, usize)> = Vec::new();
            let mut rows_seen = BTreeSet::new();
            for numbers in lists.tiles.chunks(4) {
                let [start, rows, first, users] = [numbers[0], numbers[1], numbers[2], numbers[3]].map(|n| n as usize);
                prop_assert!((1..=tile).contains(&rows) && users > 0);
                for row in 0..rows {
                    prop_assert!(rows_seen.insert(start + row), "row {} lies in two tiles", start + row);
                    for user in lists.users[2 * first..2 * (first + users)].chunks(2) {
                        found.push((user[0] as usize, user[1] as usize + row, start + row));
                    }
                }
            }
            let mut expected = Vec::new();
            for (index, segment) in table.segments().iter().enumerate() {
                let rows = table.runs(segment).iter().flat_map(|run| run.start..run.start + run.len);
                expected.extend(rows.enumerate().map(|(key, row)| (index, key, row as usize)));
            }
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
