//! Embedding on the CPU.

use super::Cpu;
use super::parallel::for_row_blocks;
use super::team;
use crate::ops::embedding::{Embedding, EmbeddingBackward, EmbeddingForward};
use crate::ops::{Check, OpResult};

fn check_ids(op: &'static str, ids: &[u32], vocab: usize) -> OpResult {
    match ids.iter().position(|id| *id as usize >= vocab) {
        None => Ok(()),
        Some(at) => {
            Check(op).that(false, || format!("`ids[{at}]` must be below the vocabulary of {vocab}, got {}", ids[at]))
        }
    }
}

impl Embedding for Cpu {
    fn embedding_forward(&self, args: EmbeddingForward<'_, Self>) -> OpResult {
        args.check()?;
        let EmbeddingForward { out, table, ids, hidden, vocab, .. } = args;
        check_ids("embedding_forward", ids, vocab)?;
        for_row_blocks(out, hidden, |first, rows| {
            for (row, id) in rows.chunks_exact_mut(hidden).zip(&ids[first..]) {
                row.copy_from_slice(&table[*id as usize * hidden..][..hidden]);
            }
        });
        Ok(())
    }

    /// Tokens are sorted by id (stably), so every row of the table is written by one thread, in a fixed order.
    fn embedding_backward(&self, args: EmbeddingBackward<'_, Self>) -> OpResult {
        args.check()?;
        let EmbeddingBackward { d_table, d_out, ids, tokens, hidden, vocab } = args;
        check_ids("embedding_backward", ids, vocab)?;
        if tokens == 0 || hidden == 0 {
            return Ok(());
        }
        let mut order: Vec<u32> = (0..tokens as u32).collect();
        order.sort_by_key(|token| ids[*token as usize]);
        // Cut the table at the first id of each fixed-size range of the sorted tokens.
        let mut pieces: Vec<(&mut [f32], usize, &[u32])> = Vec::new();
        let (mut rest, mut first_row, mut sorted) = (d_table, 0, order.as_slice());
        while !sorted.is_empty() {
            let mut end = sorted.len().min(256);
            while end < sorted.len() && ids[sorted[end] as usize] == ids[sorted[end - 1] as usize] {
                end += 1;
            }
            let (now, later) = sorted.split_at(end);
            let end_row = ids[now[end - 1] as usize] as usize + 1;
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut((end_row - first_row) * hidden);
            pieces.push((piece, first_row, now));
            (rest, first_row, sorted) = (tail, end_row, later);
        }
        team::each_of(pieces, |(piece, first_row, tokens)| {
            for token in tokens {
                let row = &mut piece[(ids[*token as usize] as usize - first_row) * hidden..][..hidden];
                let gradient = &d_out[*token as usize * hidden..][..hidden];
                row.iter_mut().zip(gradient).for_each(|(to, from)| *to += from);
            }
        });
        Ok(())
    }
}
