//! The sizes of an engine.

use super::EngineError;

/// Sizes of the engine; none of them changes a completion on a backend whose sums do not depend on the batch.
#[derive(Clone, Copy, Debug)]
pub struct EngineLimits {
    /// Rows of the key and value cache: any number from `sequence_rows` on. With fewer rows, fewer completions run at a time.
    pub cache_rows: usize,
    /// Rows that one prompt and its completion need, see [`Self::rows_min`]. Every worker gets at least as many.
    pub sequence_rows: usize,
    pub page_size: usize,
    /// The most completions that decode at the same time. Fewer run where that is faster (`Device::kv_cache_budget`), and while
    /// the cache is full.
    pub max_running: usize,
    /// Tokens of one forward pass; more than `max_running`, so that there is room for prompt tokens.
    pub max_batch_tokens: usize,
    /// Whether the samples of a prompt share its keys and values. Tests switch it off.
    pub share_prompts: bool,
    /// The most rows whose logits are computed at a time, for tests. Memory limits them too.
    pub logit_rows: usize,
}

impl EngineLimits {
    /// Rows of a page, unless a test wants others.
    pub const PAGE_SIZE: usize = 16;

    /// Limits for prompts of up to `prompt` tokens and completions of up to `new` tokens. The cache has room for `max_running`
    /// of the longest; a caller that has less memory lowers `cache_rows`.
    pub fn for_lengths(prompt: usize, new: usize, max_running: usize) -> Self {
        let page_size = Self::PAGE_SIZE;
        Self {
            cache_rows: max_running * (prompt.next_multiple_of(page_size) + new.next_multiple_of(page_size)),
            sequence_rows: Self::rows_min(prompt, new),
            page_size,
            max_running,
            max_batch_tokens: (2 * max_running).max(512),
            share_prompts: true,
            logit_rows: usize::MAX,
        }
    }

    /// The fewest rows of a cache in which a prompt of `prompt` tokens can get `new` more, with pages of [`Self::PAGE_SIZE`].
    pub fn rows_min(prompt: usize, new: usize) -> usize {
        pages_min(prompt, new, Self::PAGE_SIZE) * Self::PAGE_SIZE
    }

    /// Refuses a cache that is too small for the longest prompt with its completion.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        if self.cache_rows / self.page_size * self.page_size < self.sequence_rows {
            return Err(EngineError::Request(format!(
                "the longest prompt with its completion needs {} rows of the key and value cache, which has {}",
                self.sequence_rows, self.cache_rows
            )));
        }
        Ok(())
    }
}

/// Pages that a prompt with its completion needs at most. The last token of a completion is sampled and never computed.
pub(super) fn pages_min(prompt: usize, new: usize, page_size: usize) -> usize {
    prompt.div_ceil(page_size) + new.saturating_sub(1).div_ceil(page_size)
}
