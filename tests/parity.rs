//! Parity with transformers: goldens computed in f64 by `tools/golden.py`, committed under `tests/goldens`.

mod common;

mod parity {
    #[cfg(has_cuda)]
    mod cuda;
    mod generation;
    mod golden;
    mod grpo;
    mod model;
    mod optimizer;
}
