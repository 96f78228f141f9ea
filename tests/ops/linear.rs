//! Tests of the op `linear`.
