//! Promises of the whole pipeline: decoding equals training bit for bit, splits do not matter, a resumed run is the run.

mod equality;
mod invariance;
mod resume;
mod world;
