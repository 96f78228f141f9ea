//! Tests of the op `embedding`.
