//! Qwen3: shapes, parameters, activations, forward and backward.
