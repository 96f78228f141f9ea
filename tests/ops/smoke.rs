//! At least one launch of every kernel against the CPU, within seconds: run this first on a new GPU.
//!
//! One test for each op, on a device that the test opens. It also fails if it did not launch one of the op's kernels, and names
//! that kernel. So no kernel is missed, for any selection and order of these tests.

use std::collections::BTreeSet;

use patarm::cuda::{Cuda, kernels};

use crate::common::devices::open_devices;
use crate::ops::attention::{cuda_backward, cuda_forward};
use crate::ops::model_sizes::SMALL;
use crate::ops::{embedding, rmsnorm, swiglu};

/// `op => what it runs on a device`: the small sizes, and cases that they do not reach (unaligned rows, other widths of heads).
macro_rules! smoke {
    ($($op:ident => $body:expr;)*) => {
        const OPS: &[&str] = &[$(stringify!($op)),*];
        $(
            #[test]
            fn $op() {
                let body: fn(&Cuda) = $body;
                run(stringify!($op), body);
            }
        )*
    };
}

smoke! {
    adamw => |device| SMALL.adamw(device);
    attention => |device| {
        SMALL.attention(device);
        for heads in [(2, 1, 64), (4, 2, 128)] {
            cuda_forward::assert_sequences_equal_the_cpus(device, heads, SMALL.packed, SMALL.paged);
            cuda_backward::assert_gradients_are_the_cpus(device, heads, SMALL.prompt, SMALL.samples, SMALL.other);
        }
    };
    embedding => |device| {
        SMALL.embedding(device);
        embedding::cuda::assert_has_the_cpus_bits(device, (7, 5, 9));
    };
    global_norm => |device| SMALL.global_norm(device);
    lm_head => |device| SMALL.lm_head(device);
    linear => |device| SMALL.linear(device);
    qk_norm_rope => |device| SMALL.qk_norm_rope(device);
    rmsnorm => |device| {
        SMALL.rmsnorm(device);
        rmsnorm::cuda::assert_forward_is_the_cpus(device, (3, 17));
        rmsnorm::cuda::assert_backward_is_the_cpus(device, (3, 17));
    };
    sample => |device| SMALL.sample(device);
    score_margin => |device| SMALL.score_margin(device);
    swiglu => |device| {
        SMALL.swiglu(device);
        swiglu::cuda::assert_is_the_cpus(device, (3, 17));
    };
}

/// `kernels/rmsnorm.cu` and `kernels/attention/forward.cu`: rmsnorm, attention.
fn op_of(source: &str) -> &str {
    source.trim_start_matches("kernels/").split(['/', '.']).next().unwrap_or_default()
}

fn run(op: &str, body: fn(&Cuda)) {
    let images = kernels::IMAGES.iter().filter(|image| op_of(image.source) == op);
    let own: BTreeSet<&str> = images.flat_map(|image| image.kernels.iter().copied()).collect();
    for device in open_devices() {
        body(&device);
        device.synchronize().unwrap_or_else(|e| panic!("{device:?}: {e}"));
        let counts = device.launch_counts();
        let launched: BTreeSet<&str> = counts.iter().filter(|(_, count)| *count > 0).map(|(name, _)| *name).collect();
        let missing: Vec<_> = own.difference(&launched).collect();
        assert!(missing.is_empty(), "{device:?}: the smoke test of {op} never launched {missing:?}");
        println!("{device:?}: {op}: {} kernels", own.len());
    }
}

#[test]
fn every_op_with_a_kernel_has_a_smoke_test() {
    let sources: BTreeSet<&str> = kernels::IMAGES.iter().map(|image| op_of(image.source)).collect();
    assert_eq!(sources, OPS.iter().copied().collect(), "ops with kernels, and ops in tests/ops/smoke.rs");
}
