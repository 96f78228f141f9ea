//! Promises of the whole pipeline: decoding equals training bit for bit, splits do not matter, a resumed run is the run.

mod common;

mod pipeline {
    mod equality;
    mod frozen;
    mod frozen_weights;
    mod invariance;
    mod not_finite;
    mod one_update;
    #[cfg(has_cuda)]
    mod profiles;
    mod recompute;
    #[cfg(has_cuda)]
    mod replays;
    mod resume;
    #[cfg(has_cuda)]
    mod synchronisations;
}
