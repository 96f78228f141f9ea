//! Rows of the LM head's chunks on a card: a part of what is fixed by the card's memory in all, and known without the card.

use half::bf16;

use super::linear::LinearSizes;
use super::{Check, OpResult};

/// Sizes are counted in `int` on a card.
const COUNT_MAX: usize = i32::MAX as usize;
/// Rows of a chunk, at least and at most; between them a multiple of [`TILE_ROWS`].
///
/// The f32 gradient of the weight is read and written once a chunk: 8 · vocab · hidden bytes, next to 6 · rows · vocab · hidden
/// flops, a third of them in the matmul that adds to it. Assuming 790 TFLOP/s of bf16 matmuls and 4.3 TB/s of memory for an
/// H200, that matmul takes as long as its traffic at 8 / 4.3e12 · 790e12 / 2 = 735 rows, for any vocabulary and any width.
/// With 440 rows (what 256 MiB of logits hold for Qwen3) the traffic takes 1.7 times as long as the matmul. With 4096 rows
/// it takes 18 %: more rows gain little, and these take 2.5 GB. For Qwen3's 151,936 tokens, calculated from these two rates
/// (other cards differ) and [`MEMORY_SHARE`]:
///
/// | card | rows | logits | 0.6b: traffic, matmul of a chunk | 8b: traffic, matmul of a chunk |
/// |---|---|---|---|---|
/// | any, 256 MiB | 440 | 0.27 GB | 0.29 ms, 0.17 ms | 1.16 ms, 0.69 ms |
/// | 24 GB | 1280 | 0.78 GB | 0.29 ms, 0.50 ms | 1.16 ms, 2.02 ms |
/// | 80 GB, 141 GB | 4096 | 2.49 GB | 0.29 ms, 1.61 ms | 1.16 ms, 6.45 ms |
const CHUNK_ROWS: (usize, usize) = (16, 4096);
/// The logits of a chunk take at most this part of a card's memory: 1/32.
const MEMORY_SHARE: usize = 32;
/// Rows of a matmul's tile, so that only the last chunk has a tile that is not full.
const TILE_ROWS: usize = 128;

/// The default rows of a chunk on a card with `memory_bytes` in all: see [`CHUNK_ROWS`].
pub fn chunk_rows(memory_bytes: usize, vocab: usize) -> usize {
    let rows = memory_bytes / MEMORY_SHARE / (size_of::<f32>() * vocab.max(1));
    let rows = if rows < TILE_ROWS { rows } else { rows / TILE_ROWS * TILE_ROWS };
    rows.clamp(CHUNK_ROWS.0, CHUNK_ROWS.1)
}

/// Refuses chunks that can never fit on a card with `memory_bytes` in all.
pub fn check_chunk(chunk_rows: usize, memory_bytes: usize, sizes: LinearSizes) -> OpResult {
    let check = Check("lm_head_loss");
    check.that((1..=COUNT_MAX).contains(&chunk_rows), || {
        format!("a chunk must have 1 to {COUNT_MAX} rows, got {chunk_rows}")
    })?;
    let LinearSizes { out_features: vocab, in_features: width } = sizes;
    // Logits in f32, the gathered rows and their gradient in bf16.
    let row_bytes = (size_of::<f32>() * vocab).saturating_add(2 * size_of::<bf16>() * width);
    check.that(chunk_rows.saturating_mul(row_bytes) <= memory_bytes, || {
        format!(
            "a chunk of {chunk_rows} rows of {vocab} logits takes {} MiB, and the device has {} MiB in all",
            chunk_rows.saturating_mul(row_bytes) >> 20,
            memory_bytes >> 20
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that an RTX 4090, an H100 and an H200 may say they have.
    const CARDS: [usize; 3] = [25_250_000_000, 85_000_000_000, 150_000_000_000];
    const QWEN3: LinearSizes = LinearSizes { out_features: 151_936, in_features: 1024 };

    #[test]
    fn a_chunk_is_chosen_from_the_whole_memory_and_stays_within_its_share() {
        assert_eq!(CARDS.map(|bytes| chunk_rows(bytes, 151_936)), [1280, 4096, 4096]);
        assert_eq!([1, 512, 65_536, 10_000_000].map(|vocab| chunk_rows(CARDS[0], vocab)), [4096, 4096, 2944, 19]);
        assert_eq!((chunk_rows(0, 151_936), chunk_rows(usize::MAX, 0)), (16, 4096));
        for (bytes, vocab) in CARDS.into_iter().flat_map(|bytes| (1..4_000_000).step_by(1013).map(move |v| (bytes, v)))
        {
            let rows = chunk_rows(bytes, vocab);
            let share = rows * vocab * 4 <= bytes / MEMORY_SHARE || rows == 16;
            assert!(share && (rows < TILE_ROWS || rows.is_multiple_of(TILE_ROWS)), "{bytes}, {vocab}: {rows}");
            assert!(check_chunk(rows, bytes, LinearSizes { out_features: vocab, in_features: 4096 }).is_ok());
        }
    }

    #[test]
    fn a_chunk_that_never_fits_is_refused() {
        let refused = |rows| check_chunk(rows, CARDS[0], QWEN3).unwrap_err().to_string();
        assert!(check_chunk(1280, CARDS[0], QWEN3).is_ok());
        assert!(refused(0).contains("1 to"));
        assert!(refused(50_000).contains("50000 rows of 151936 logits") && refused(usize::MAX).contains("rows"));
    }
}
