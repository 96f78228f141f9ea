//! Tests of the op `head`.
