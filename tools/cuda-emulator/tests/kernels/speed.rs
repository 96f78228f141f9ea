//! Speed of the emulator: `cargo bench -p cuda-emulator --bench speed`. Each line gives the case, seconds (best of
//! three), warp instructions per second, and the goal. Needs nvcc. It shares the kernels and inputs of the test in this
//! folder.

// The test's modules contain references and checks that the bench does not use.
#![allow(dead_code, unused_imports)]

mod adamw;
mod compile;
mod fixture;
mod flash_attention;

use std::time::Instant;

use cuda_emulator::options::Options;
use fixture::{Argument, Fixture};

const TARGET: compile::Target = compile::TARGETS[0];

fn main() {
    if !compile::has_nvcc() {
        return;
    }
    let unchecked = || Options { checks: false, ..Options::default() };
    report("flash attention, 1,024 tokens × 16 heads × 128, checks on", "under 2 s", || {
        let shape = flash_attention::Shape { tokens: 1024, q_heads: 16, kv_heads: 16 };
        let inputs = shape.inputs();
        let mut fixture = Fixture::new(flash_attention::FILE, None, TARGET);
        timed(&mut fixture, |fixture| {
            flash_attention::run(fixture, &shape, &inputs).expect("a clean kernel");
        })
    });
    report("AdamW, 1 M parameters, checks on", "under 0.15 s", || {
        let state = adamw::State::new(1_000_000);
        let mut fixture = Fixture::new(adamw::FILE, None, TARGET);
        timed(&mut fixture, |fixture| {
            adamw::run(fixture, &state).expect("a clean kernel");
        })
    });
    for kernel in ["fma_loop_f32", "integer_loop_u32"] {
        report(&format!("{kernel}, checks off"), "over 100 M/s", || {
            let mut fixture = Fixture::with_options("loops.cu", None, TARGET, unchecked());
            let out = fixture.empty::<f32>(16 * 256);
            timed(&mut fixture, |fixture| {
                let arguments = [Argument::Address(out), Argument::Int(20_000)];
                fixture.launch(kernel, [16, 1, 1], 256, 0, &arguments).expect("a clean kernel");
            })
        });
    }
}

/// (seconds, warp instructions)
fn timed(fixture: &mut Fixture, work: impl FnOnce(&mut Fixture)) -> (f64, u64) {
    let before = fixture.device.counters.warp_instructions();
    let start = Instant::now();
    work(fixture);
    (start.elapsed().as_secs_f64(), fixture.device.counters.warp_instructions() - before)
}

fn report(what: &str, wanted: &str, work: impl Fn() -> (f64, u64)) {
    let best = (0..3).map(|_| work()).min_by(|a, b| a.0.total_cmp(&b.0)).expect("three runs");
    let (seconds, instructions) = best;
    println!(
        "{what}: {seconds:.3} s, {:.0} M warp instructions/s (wanted: {wanted})",
        instructions as f64 / seconds / 1e6
    );
}
