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
//!  data      judge           rollout                    judge       reward + ops::score_margin
//!                               ▲                                      │
//!                               │                                      ▼
//!                             model ◄── optimizer ◄── gradients ◄── GRPO loss ◄── advantages
//!                             ops                      model::backward  ops::lm_head
//! ```
//!
//! # Modules
//!
//! | module | what it is for |
//! |---|---|
//! | [`setting`] | what a setting is: doc, default and values in one declaration; sources, checks, [`setting::Valid`] |
//! | [`config`] | the settings of a run: defaults < file < environment < `--set` < flags |
//! | [`data`] | pairs, conversations, responses; files of rows; dataset formats; the synthetic suite; the resumable order |
//! | [`tokenizer`] | tokenizer.json, the model's chat template, the loss mask, escaping of text from outside |
//! | [`judge`] | response → prompt → completion → verdict, one way for all; `judge.toml` |
//! | [`file`] | whatever is written: files aside and renamed, rows that can be gone on with, the terminal |
//! | [`memory`] | accounts of memory: the ledger of a device, phases of a run, free ranges |
//! | [`tensor`] | element types, devices with their buffers, safetensors |
//! | `cuda` | the CUDA device: context, memory, matmuls, typed kernels, one launch, graphs, profiles (builds with nvcc only) |
//! | [`ops`] | the maths: one contract an op, one implementation a backend |
//! | [`model`] | Qwen3: parameter table, projections, forward, backward, both written out over the ops |
//! | [`rollout`] | generation: requests and their samples, pages, the scheduler, the engine |
//! | [`reward`] | format penalty, joining pairs by identity |
//! | [`loss`] | aggregation of token losses, GRPO's loss of a token |
//! | [`optimizer`] | AdamW, schedule, clipping |
//! | [`checkpoint`] | named arenas and where a run stands, on disk, hashed |
//! | [`eval`] | accuracy on held-out pairs while a judge learns; benchmarks (a file each), recorded results, statistics |
//! | [`train`] | `run.rs` is the one loop; `sft.rs` and `rl.rs` are a step each; datasets, trajectories, the prefix tree |
//! | [`plan`] | what a run will hold and compute, before anything is allocated: a step of it on paper; levers |
//! | [`log`] | metrics, progress, environment; how trainers describe their numbers to the report |
//! | [`report`] | the HTML page of a run: charts, diagnosis, results, samples |
//! | [`commands`] | one file a subcommand; the only module that sees everything |
//!
//! # Invariants: what a module must not know
//!
//! The table of who may use whom is in `tests/tidy.rs`, and a test. It has one direction. What it says in words:
//!
//! - **Invariant:** `ops` knows nothing of models, `model` nothing of rollouts and training, `rollout` nothing of judges.
//! - **Invariant:** only `cuda` and `ops::cuda` name the driver; a contract and the CPU's code know nothing of them.
//! - **Invariant:** nothing outside `judge` renders a judge's prompt or reads a verdict from text.
//! - **Invariant:** the arithmetic of rewards and advantages is the op `score_margin`, and nowhere else.
//! - **Invariant:** `train::run` knows no trainer; a trainer knows nothing of folders, files or signals.
//! - **Invariant:** what may be written or replaced in a run's folder is decided in `train::run_folder`, under its lock.
//! - **Invariant:** `checkpoint` takes named arenas and knows no trainer; `report` draws what it is given and knows no metric.
//! - **Invariant:** `reward` and `eval` know nothing of training; `data` knows nothing of judges, rewards or devices.
//! - **Invariant:** a step and an export take settings as [`setting::Valid`]: what was not checked cannot reach them.
//! - **Invariant:** a plan is the run itself on [`ops::paper`], and what a device hands out in a phase is what the plan says.
//! - **Invariant:** rewards are joined by (pair, role, rollout) and random numbers keyed by what they are for: never by position.
//!
//! # Where to put the next thing
//!
//! - **A trainer goes** into one file in `src/train/` (`impl Trainer`, its metrics with their charts), one in `src/commands/`,
//!   and a line in `src/commands/report.rs`. Its loss, if it is not one of tokens, is a [`train::token_loss::Objective`].
//! - **A kernel**: `kernels/NAME.cu` (see `kernels/README.md`), its launcher in `src/ops/cuda/NAME.rs`, its tests against the CPU
//!   in `tests/ops/NAME/cuda.rs`, a launch in `tests/ops/smoke.rs`.
//! - **An op**: write its contract (`src/ops/NAME.rs`: argument structs with `check()` and `cost()`, a trait), add
//!   the trait to [`ops::Backend`], and the compiler names what is missing; `tests/tidy.rs` names the test and the bench.
//! - **A dataset format**: `src/data/formats/`. **A benchmark**: a file in `src/eval/`. **A command**: a file in
//!   `src/commands/` and a line in its `mod.rs`.
//! - **A chart or a sign of health**: beside the metrics struct whose fields it shows (`log::charts`, `log::signs`); a test
//!   holds every key to the struct.
//!
//! # Glossary
//!
//! Words are the field's. These few are ours, or are used in one narrow sense:
//!
//! | word | meaning |
//! |---|---|
//! | role | the side of a pair that a response is: chosen or rejected; of a pairwise judgement, that of the first response |
//! | judgement | what a judge writes about one response; read, it is a verdict: a score, a preference, or a typed failure |
//! | vote | one of several judgements of the same response |
//! | rollout | a judgement drawn for training; its index is a part of its identity |
//! | PAR | the Preference-Aware Reward: 1\[s > other side's mean\] · f(δ), δ the rollout's margin |
//! | dead group | judgements of one response that all earn the same: no advantage, no gradient |
//! | prepared weight | the form of a matrix that a backend multiplies with (panels on the CPU, bf16 on CUDA) |
//! | arena | one flat buffer for all parameters, or for their gradients or moments |
//! | segment | a range of queries and the ranges of keys that it sees: the one contract of attention |
//! | prefix tree | sequences of a micro-batch that begin alike, computed once |
//! | objective | what follows the forward pass of a micro-batch: the loss and its gradient by the last hidden states |
//! | paper | a backend without memory: it checks arguments, keeps the ledger and adds up costs |
//! | lever | what makes a run need less memory, for a price: recomputation, shared memory, a smaller cache |
//! | poisoned | filled with what is no number, so that an op that leaves an output unwritten is found |
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
pub mod file;
pub mod judge;
pub mod log;
pub mod loss;
pub mod memory;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod plan;
pub mod random;
pub mod report;
pub mod reward;
pub mod rollout;
pub mod setting;
pub mod tensor;
pub mod tokenizer;
pub mod train;
