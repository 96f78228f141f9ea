//! The driver: the `cu*` entry points that cudarc finds in this library, on top of the machine that runs the kernels.
//!
//! | module | what it holds |
//! |---|---|
//! | [`status`] | error codes, their names, the refusals that entry points return |
//! | [`entry`] | the boundary to C: stops panics, checks every pointer |
//! | [`handle`] | handles that are recognised when stale, foreign or made up |
//! | [`reports`] | error messages; settings |
//! | [`registry`] | the contexts of the process, the current one of each thread |
//! | [`device`], [`attributes`] | the devices and their attributes |
//! | [`context`] | a context: device, streams, pending commands, the sticky fault |
//! | [`queue`] | pending commands: a graph of tasks, run as late as the program allows or in a random legal order |
//! | [`command`] | what a task does |
//! | [`stream`], [`event`] | streams and events |
//! | [`capture`], [`graph`] | stream capture with its rules; graphs and their replay |
//! | [`memory`], [`copy`], [`pinned`] | device memory, copies and fills, page-locked host memory |
//! | [`module`], [`function`], [`launch`] | loading kernels, their attributes, occupancy and pointers, launching |
//! | [`library`] | the table that the cuBLASLt library calls |
//! | [`ranges`] | the emulator as an NVTX profiler |
//! | [`refused`] | entry points that only refuse by name, because cudarc would panic on a missing symbol |

mod attributes;
mod capture;
mod command;
mod context;
mod copy;
mod device;
mod engine;
mod entry;
mod event;
mod function;
mod graph;
mod handle;
mod launch;
mod library;
mod memory;
mod module;
mod pinned;
mod queue;
mod ranges;
mod refused;
mod registry;
mod reports;
mod status;
mod stream;
