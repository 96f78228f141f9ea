//! Evaluation of judges on held-out pairs.
