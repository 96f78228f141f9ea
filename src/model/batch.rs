//! What one forward pass reads: tokens, their positions, the pool rows of their keys and values, and which keys they attend to.

use std::ops::Range;

use crate::ops::attention::{Run, SegmentTable};

/// Tokens of any number of sequences, one after another.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// [tokens]
    pub ids: Vec<u32>,
    /// [tokens], position of each token in its sequence
    pub positions: Vec<u32>,
    /// [tokens], pool row that receives each token's key and value
    pub kv_rows: Vec<u32>,
    pub segments: SegmentTable,
    /// Rows before this one are not read after the layers, see [`Self::read_from`]
    first_read: usize,
    /// The segments of the rows that are read, where that is not all of them
    read_segments: SegmentTable,
}

impl Batch {
    /// Tokens of all sequences together.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Marks the rows before `first`, where a segment begins, as not read after the layers: of these, the last layer computes
    /// only keys and values. Call it after the last token has been added.
    pub fn read_from(&mut self, first: usize) {
        self.first_read = first;
        self.read_segments = if first == 0 { SegmentTable::default() } else { self.segments.from_query(first) };
    }

    /// The rows whose last hidden state is computed.
    pub fn read_rows(&self) -> Range<usize> {
        self.first_read..self.tokens()
    }

    /// The segments of [`Self::read_rows`].
    pub fn read_segments(&self) -> &SegmentTable {
        if self.first_read == 0 { &self.segments } else { &self.read_segments }
    }

    /// Adds tokens that continue a sequence whose first `start` tokens are in the runs `prefix` of the pool. Token i of the batch
    /// gets pool row i: for a pool that holds only this batch. Returns the run of the new tokens, so that later tokens can attend
    /// to them.
    pub fn push_own(&mut self, ids: &[u32], start: usize, prefix: &[Run]) -> Run {
        let run = Run { start: self.tokens() as u32, len: ids.len() as u32 };
        self.kv_rows.extend(run.start..run.start + run.len);
        self.positions.extend((start..start + ids.len()).map(|p| p as u32));
        self.ids.extend_from_slice(ids);
        self.segments.push(ids.len(), prefix.iter().copied().chain([run]));
        run
    }

    /// Adds a whole sequence, without a prefix.
    pub fn push_sequence(&mut self, ids: &[u32]) -> Run {
        self.push_own(ids, 0, &[])
    }
}
