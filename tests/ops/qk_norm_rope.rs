//! Tests of the op `qk_norm_rope`.
