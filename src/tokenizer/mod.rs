//! tokenizer.json, the model's own chat template, and the loss mask of assistant turns.
