//! Tests of the op `attention`.
