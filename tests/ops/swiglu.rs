//! Tests of the op `swiglu`.
