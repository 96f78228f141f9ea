//! The segments of a batch as the attention kernels read them: built once from the host's table and cached for all layers.

use std::sync::{Arc, Mutex, PoisonError};

use super::key_tiles::BackwardLists;
use super::lists::upload;
use super::splits::ForwardLists;
use crate::cuda::{Buffer, Cuda};
use crate::ops::OpError;
use crate::ops::attention::SegmentTable;

/// A segment table on the device.
pub(super) struct DeviceSegments {
    cuda: Cuda,
    /// [segments, 4], and room to grow: first query, queries, first of its keys in `key_rows`, keys
    pub segments: Buffer<u32>,
    /// [Σ keys], and room to grow: the pool row of every key of every segment, in the order of the sequence. Four bytes a key,
    /// next to the 4 · kv_heads · head_dim of the key and its value; the number of runs does not matter.
    pub key_rows: Buffer<u32>,
    /// Built by the first forward pass.
    forward: Mutex<Option<Arc<ForwardLists>>>,
    /// Built by the first backward pass.
    backward: Mutex<Option<Arc<BackwardLists>>>,
}

impl DeviceSegments {
    /// The device's form of a table, cached in the table.
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

    /// The blocks of the forward pass; segments of up to `few` queries are decoded. `table` must be the one of [`Self::of`].
    pub fn forward_lists(&self, cuda: &Cuda, table: &SegmentTable, few: usize) -> Result<Arc<ForwardLists>, OpError> {
        let mut lists = self.forward.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lists.as_ref().filter(|known| known.few == few) {
            return Ok(known.clone());
        }
        let made = Arc::new(ForwardLists::new(cuda, table, few)?);
        *lists = Some(made.clone());
        Ok(made)
    }

    /// The blocks of the backward pass. `table` must be the one of [`Self::of`].
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::Run;

    #[test]
    fn keys_are_listed_in_the_order_of_the_sequence() {
        let mut table = SegmentTable::default();
        let run = |start, len| Run { start, len };
        table.push(3, [run(10, 2), run(4, 3)]);
        table.push(5, [run(20, 5)]);
        let arrays = Arrays::new(&table);
        assert_eq!(arrays.segments, [0, 3, 0, 5, 3, 5, 5, 5]);
        assert_eq!(arrays.key_rows, [10, 11, 4, 5, 6, 20, 21, 22, 23, 24]);
    }
}
