//! Tests of the op `adamw`.
