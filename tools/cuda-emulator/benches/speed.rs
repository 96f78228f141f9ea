//! How fast the emulator is: `cargo bench -p cuda-emulator`. One line each: what, seconds (best of three), warp instructions per
//! second, what is wanted. Needs nvcc. The kernels and their inputs are those of `tests/kernels`.

// The tests' modules hold references and checks that a bench does not call.
#![allow(dead_code, unused_imports)]

#[path = "../tests/kernels/adamw.rs"]
mod adamw;
#[path = "../tests/kernels/compile.rs"]
mod compile;
#[path = "../tests/kernels/flash_attention.rs"]
mod flash_attention;
#[path = "../tests/kernels/world.rs"]
mod world;

use std::time::Instant;

use cuda_emulator::options::Options;
use world::{Argument, World};

const TARGET: compile::Target = compile::TARGETS[0];

fn main() {
    if !compile::has_nvcc() {
        return;
    }
    let unchecked = || Options { checks: false, ..Options::default() };
    report("flash attention, 1,024 tokens × 16 heads × 128, checks on", "under 2 s", || {
        let shape = flash_attention::Shape { tokens: 1024, q_heads: 16, kv_heads: 16 };
        let inputs = shape.inputs();
        let mut world = World::new(flash_attention::FILE, None, TARGET);
        timed(&mut world, |world| {
            flash_attention::run(world, &shape, &inputs).expect("a clean kernel");
        })
    });
    report("AdamW, 1 M parameters, checks on", "under 0.15 s", || {
        let state = adamw::State::new(1_000_000);
        let mut world = World::new(adamw::FILE, None, TARGET);
        timed(&mut world, |world| {
            adamw::run(world, &state).expect("a clean kernel");
        })
    });
    for kernel in ["fma_loop_f32", "integer_loop_u32"] {
        report(&format!("{kernel}, checks off"), "over 100 M/s", || {
            let mut world = World::with_options("loops.cu", None, TARGET, unchecked());
            let out = world.empty::<f32>(16 * 256);
            timed(&mut world, |world| {
                let arguments = [Argument::Address(out), Argument::Int(20_000)];
                world.launch(kernel, [16, 1, 1], 256, 0, &arguments).expect("a clean kernel");
            })
        });
    }
}

/// (seconds, warp instructions)
fn timed(world: &mut World, work: impl FnOnce(&mut World)) -> (f64, u64) {
    let before = world.device.counters.warp_instructions();
    let start = Instant::now();
    work(world);
    (start.elapsed().as_secs_f64(), world.device.counters.warp_instructions() - before)
}

fn report(what: &str, wanted: &str, work: impl Fn() -> (f64, u64)) {
    let best = (0..3).map(|_| work()).min_by(|a, b| a.0.total_cmp(&b.0)).expect("three runs");
    let (seconds, instructions) = best;
    println!(
        "{what}: {seconds:.3} s, {:.0} M warp instructions/s (wanted: {wanted})",
        instructions as f64 / seconds / 1e6
    );
}
