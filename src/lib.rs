//! `patarm` trains, evaluates and serves PaTaRM generative reward models on Qwen3.

pub mod checkpoint;
pub mod commands;
pub mod config;
pub mod data;
pub mod eval;
pub mod log;
pub mod loss;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod random;
pub mod reward;
pub mod rollout;
pub mod tensor;
pub mod tokenizer;
pub mod train;
