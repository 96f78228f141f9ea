//! Tests of the op `score_margin`.
