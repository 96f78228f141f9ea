//! Tests of the op `global_norm`.
