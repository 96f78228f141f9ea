//! `patarm` trains, evaluates and serves PaTaRM generative reward models on Qwen3, without an ML framework.
//!
//! A generative reward model (a judge) reads a prompt and one response, writes rubrics for it, evaluates, and ends in a
//! score. PaTaRM trains it from plain preference pairs: SFT teaches the format; then GRPO with the Preference-Aware Reward
//! rewards a judgement of the chosen response that scores above the mean of the rejected side, and the mirror image.
//!
//! # The data's way
//!
//! ```text
//! pairs ─► judge prompts ─► rollouts (n a response) ─► verdicts ─► rewards, joined by (pair, role, rollout)
//!  data     data, tokenizer   rollout                   reward      reward + ops::score_margin
//!                                ▲                                      │
//!                                │                                      ▼
//!                              model ◄── optimizer ◄── gradients ◄── GRPO loss ◄── advantages
//!                              ops                      model::backward  ops::lm_head
//! ```
//!
//! # Modules
//!
//! | module | what it is for |
//! |---|---|
//! | [`config`] | settings: defaults < file < environment < `--set`; unknown keys are refused |
//! | [`data`] | pairs, dataset formats, judge prompts, the synthetic suite, the resumable order |
//! | [`tokenizer`] | tokenizer.json, the model's chat template, the loss mask |
//! | [`tensor`] | element types, devices with their buffers, safetensors |
//! | `cuda` | the CUDA device: context, memory, products, typed kernels, one launch, graphs (builds with nvcc only) |
//! | [`ops`] | the maths: one contract an op, one implementation a backend |
//! | [`model`] | Qwen3: parameter table, forward, backward, both written out over the ops |
//! | [`rollout`] | generation: prompts with members, one row for those that are the same so far, pages, the engine |
//! | [`reward`] | verdicts, format penalty, joining pairs by identity |
//! | [`loss`] | aggregation of token losses, the policy's settings |
//! | [`optimizer`] | AdamW, schedule, clipping |
//! | [`checkpoint`] | the whole run state on disk, hashed |
//! | [`eval`] | accuracy on held-out pairs |
//! | [`train`] | the loops: `sft.rs` and `rl.rs` are a step each, `stages.rs` runs them; `prefix_tree.rs` packs what is trained |
//! | [`log`] | metrics, progress, environment; how trainers describe their numbers to the report |
//! | [`report`] | the HTML page of a run: charts, diagnosis, results, samples |
//! | [`commands`] | one file a subcommand |
//!
//! Who may know whom is a table in `tests/tidy.rs`, and a test.
//!
//! # Where to put the next thing
//!
//! - **A kernel**: `kernels/NAME.cu` (see `kernels/README.md`), its launcher in `src/ops/cuda/NAME.rs`, its tests against the CPU
//!   in `tests/ops/NAME/cuda.rs`.
//! - **An op**: write its contract (`src/ops/NAME.rs`: argument structs with `check()` and `cost()`, a trait), add
//!   the trait to [`ops::Backend`], and the compiler names what is missing; `tests/tidy.rs` names the test and the bench.
//! - **A dataset format**: `src/data/formats.rs`. **A benchmark**: a file in `src/eval/`. **A command**: a file in
//!   `src/commands/` and a line in its `mod.rs`.
//! - **A chart or a sign of health**: beside the metrics struct whose fields it shows (`log::charts`, `log::signs`). A new
//!   trainer adds its stage to the list in `src/commands/report.rs`; a test holds every key to the struct.
//!
//! # Promises
//!
//! - **One forward.** Rollouts, reference, training and judging run [`model::Qwen3::forward`]. On the CPU backend the
//!   log-probabilities recorded while decoding equal those of the training forward bit for bit, whatever the batch, the
//!   chunking, the pages, the shared prefix or the threads; every RL step measures it (`mismatch_max`). Where a backend
//!   cannot promise that ([`ops::Backend::ROLLOUTS_EQUAL_TRAINING`]), a step of several updates scores its rollouts
//!   itself first; the one update of a step takes the old log-probabilities from its own forward pass on every backend.
//! - **Determinism.** Sums have a fixed order; random numbers are Philox by (seed, stream, position). The number of threads
//!   changes no bit, and a resumed run is the run.
//! - **A failure is never a number.** A verdict is a score, a preference or a typed failure; failures are counted and left
//!   out of means.
//! - **Splits do not matter.** Losses take their global denominator as an argument: packing and micro-batches change nothing
//!   beyond rounding.

pub mod checkpoint;
pub mod commands;
pub mod config;
#[cfg(has_cuda)]
pub mod cuda;
pub mod data;
pub mod eval;
pub mod judge;
pub mod log;
pub mod loss;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod random;
pub mod report;
pub mod reward;
pub mod rollout;
pub mod tensor;
pub mod tokenizer;
pub mod train;
