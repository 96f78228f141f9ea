//! Tests of the op `rmsnorm`.
