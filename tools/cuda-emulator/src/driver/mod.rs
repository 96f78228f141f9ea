//! The driver: the `cu*` entry points that cudarc finds in this library, over the machine that runs the kernels.
//!
//! | module | what it holds |
//! |---|---|
//! | [`status`] | error codes, their names, the refusals that entry points return |
//! | [`entry`] | the border to C: no panic crosses it, every pointer is looked at |
//! | [`handle`] | handles that are recognised when stale, foreign or made up |
//! | [`reports`] | what went wrong in words; settings |
//! | [`registry`] | the contexts of the process, the current one of each thread |
//! | [`device`], [`attributes`] | the devices and what they say of themselves |
//! | [`context`] | a context: device, streams, pending work, the sticky fault |
//! | [`queue`] | pending work: a graph of tasks, run as late as the program allows or in a random legal order |
//! | [`work`] | what a task does |
//! | [`stream`], [`event`] | streams and events |
//! | [`capture`], [`graph`] | stream capture with its rules; graphs and their replay |
//! | [`memory`], [`copy`], [`pinned`] | device memory, copies and fills, page-locked host memory |
//! | [`module`], [`function`], [`launch`] | loading kernels, their attributes, occupancy and pointers, launching |
//! | [`library`] | the table that the cuBLASLt library calls |
//! | [`refused`] | entry points that exist only to refuse by name, where cudarc would panic on a missing symbol |

mod attributes;
mod capture;
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
mod work;
