//! Tests of the op `sample`.
