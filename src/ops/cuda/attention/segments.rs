//! The segments of a batch as the attention kernels read them: made from the host's table once, kept with it for all layers.

use std::sync::{Arc, Mutex, PoisonError};

use super::backward::BackwardLists;
use super::splits::ForwardLists;
use crate::cuda::{Buffer, Cuda};
use crate::ops::OpError;
use crate::ops::attention::{Segment, SegmentTable};
use crate::tensor::Device;

/// Elements that a list has room for at least.
const LIST_MIN: usize = 1024;

/// A segment table on the device.
pub(super) struct DeviceSegments {
    cuda: Cuda,
    /// [segments, 4] and room: first query, queries, first of its keys in `key_rows`, keys
    pub segments: Buffer<u32>,
    /// [Σ keys] and room: the pool row of every key of every segment, in the order of the sequence. Four bytes a key beside the
    /// 4 · kv_heads · head_dim of the key and its value, and any number of runs costs the same.
    pub key_rows: Buffer<u32>,
    /// What the forward pass makes of the table, once it has been asked.
    forward: Mutex<Option<Arc<ForwardLists>>>,
    /// The same of the backward pass.
    backward: Mutex<Option<Arc<BackwardLists>>>,
}

impl DeviceSegments {
    /// The device's form of a table, kept with the table.
    pub fn of(cuda: &Cuda, table: &SegmentTable) -> Result<Arc<Self>, OpError> {
        table.form(
            |known: &Self| known.cuda.is_same(cuda),
            || {
                let arrays = Arrays::new(table);
                Ok(Self {
                    cuda: cuda.clone(),
                    segments: upload(cuda, &arrays.segments)?,
                    key_rows: upload(cuda, &arrays.key_rows)?,
                    forward: Mutex::default(),
                    backward: Mutex::default(),
                })
            },
        )
    }

    /// The work of the forward pass, where segments of up to `few` queries are decoded; `table` is the one of [`Self::of`].
    pub fn forward_lists(&self, cuda: &Cuda, table: &SegmentTable, few: usize) -> Result<Arc<ForwardLists>, OpError> {
        let mut lists = self.forward.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lists.as_ref().filter(|known| known.few == few) {
            return Ok(known.clone());
        }
        let made = Arc::new(ForwardLists::new(cuda, table, few)?);
        *lists = Some(made.clone());
        Ok(made)
    }

    /// The work of the backward pass; `table` is the one of [`Self::of`].
    pub fn backward_lists(&self, cuda: &Cuda, table: &SegmentTable) -> Result<Arc<BackwardLists>, OpError> {
        let mut lists = self.backward.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lists.as_ref() {
            return Ok(known.clone());
        }
        let made = Arc::new(BackwardLists::new(cuda, table)?);
        *lists = Some(made.clone());
        Ok(made)
    }
}

/// A list in a buffer with room to grow, so that those of the next decode steps find the same memory.
pub(super) fn upload(cuda: &Cuda, list: &[u32]) -> Result<Buffer<u32>, OpError> {
    let mut buffer = cuda.scratch(list.len().next_power_of_two().max(LIST_MIN))?;
    cuda.write(cuda.view_mut(&mut buffer, 0..list.len()), list)?;
    Ok(buffer)
}

struct Arrays {
    segments: Vec<u32>,
    key_rows: Vec<u32>,
}

impl Arrays {
    fn new(table: &SegmentTable) -> Self {
        let mut arrays = Self { segments: Vec::new(), key_rows: Vec::new() };
        for segment in table.segments() {
            let numbers = [segment.queries.start, segment.queries.len(), arrays.key_rows.len(), segment.keys];
            arrays.segments.extend(numbers.map(|number| number as u32));
            arrays.key_rows.extend(table.runs(segment).iter().flat_map(|run| run.start..run.start + run.len));
        }
        arrays
    }
}

/// Tiles of up to `tile` queries of the segments that `takes` chooses, flat [tiles, 2]: segment, first query within it. Those
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
    // Stable: tiles that see as much stay in the order of the queries.
    tiles.sort_by_key(|(sees, ..)| std::cmp::Reverse(*sees));
    tiles.into_iter().flat_map(|(_, segment, first)| [segment, first]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::Run;

    #[test]
    fn keys_are_listed_in_order_and_tiles_cover_every_query_once() {
        let mut table = SegmentTable::default();
        let run = |start, len| Run { start, len };
        table.push(3, [run(10, 2), run(4, 3)]);
        table.push(5, [run(20, 5)]);
        let arrays = Arrays::new(&table);
        assert_eq!(arrays.segments, [0, 3, 0, 5, 3, 5, 5, 5]);
        assert_eq!(arrays.key_rows, [10, 11, 4, 5, 6, 20, 21, 22, 23, 24]);
        // Keys seen: 4 and 5 of the first segment's tiles, 2, 4 and 5 of the second's.
        assert_eq!(query_tiles(&table, 2, |_| true), [0, 2, 1, 4, 0, 0, 1, 2, 1, 0]);
        assert_eq!(query_tiles(&table, 8, |segment| segment.queries.len() > 3), [1, 0]);
    }
}
