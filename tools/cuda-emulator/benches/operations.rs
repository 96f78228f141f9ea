//! How long single operations take at each processor level: `cargo bench -p cuda-emulator --bench operations`.
//! Nanoseconds per warp: forms with a full and a half mask, `mma.sync` in each rounding model.

use std::hint::black_box;
use std::time::Instant;

use cuda_emulator::forms::{Level, Operands, Row, Rows, Table};
use cuda_emulator::ir::{MmaShape, Reg};
use cuda_emulator::tensor_core::{Model, multiply};

const FORMS: &[&str] = &[
    "mov.b32",
    "add.s32",
    "mad.lo.s32",
    "mul.wide.s32",
    "shl.b32",
    "lop3.b32",
    "prmt.b32",
    "add.s64",
    "mul.lo.s64",
    "div.u32",
    "add.f32",
    "fma.rn.f32",
    "fma.rm.f32",
    "max.f32",
    "div.rn.f32",
    "sqrt.rn.f32",
    "ex2.approx.ftz.f32",
    "lg2.approx.f32",
    "rsqrt.approx.f32",
    "fma.rn.f64",
    "fma.rn.bf16x2",
    "cvt.rn.bf16x2.f32",
    "cvt.rn.f16.f32",
    "cvt.f32.f16",
    "cvt.rzi.s32.f32",
];

const MODELS: [Model; 3] = [Model::Ampere, Model::Hopper, Model::Fma];

fn main() {
    let best = Level::detect();
    let levels: Vec<Level> = [Level::Baseline, Level::Avx2, Level::Avx512].into_iter().filter(|x| *x <= best).collect();
    println!("{:24}{levels:?}: ns with a full, ns with a half mask", "");
    for name in FORMS {
        print!("{name:24}");
        for level in &levels {
            print!("{:8.1} {:6.1}", form(*level, name, u32::MAX), form(*level, name, 0xffff));
        }
        println!();
    }
    for model in MODELS {
        print!("{:24}", format!("m16n8k16 bf16 {model:?}"));
        for level in &levels {
            print!("{:8.1}       ", matmul(*level, model));
        }
        println!();
    }
}

/// Nanoseconds per call, the best of five runs.
fn nanoseconds(calls: u32, mut f: impl FnMut()) -> f64 {
    let run = |_| {
        let start = Instant::now();
        (0..calls).for_each(|_| f());
        start.elapsed().as_nanos() as f64 / calls as f64
    };
    (0..5).map(run).fold(f64::INFINITY, f64::min)
}

fn form(level: Level, name: &str, mask: u32) -> f64 {
    // Numbers near one for all types.
    let value = |i: usize| (1.0 + i as f32 / 600.0).to_bits();
    let mut rows: Vec<Row> = (0..10).map(|row| Row(std::array::from_fn(|lane| value(32 * row + lane)))).collect();
    // SAFETY: the processor supports the level.
    let table = unsafe { Table::new(level) };
    let run = table.find(name).expect("a form of the table").run;
    let operands = Operands { d: Reg(0), a: Reg(2), b: Reg(4), c: Reg(6), e: Reg(8) };
    let rows = Rows::new(&mut rows);
    // SAFETY: the operands are inside the rows.
    nanoseconds(100_000, || unsafe { black_box(run)(rows, operands, black_box(mask)) })
}

fn matmul(level: Level, model: Model) -> f64 {
    let mut draw = 12345_u32;
    let mut half = || {
        draw = draw.wrapping_mul(1664525).wrapping_add(1013904223);
        ((draw >> 8) as f32 / (1 << 23) as f32 - 1.0).to_bits() >> 16
    };
    let mut rows: Vec<Row> = (0..14).map(|_| Row(std::array::from_fn(|_| half() | half() << 16))).collect();
    let registers: Vec<Reg> = (0..14).map(Reg).collect();
    let rows = Rows::new(&mut rows);
    // SAFETY: the registers are inside the rows, and the processor supports the level.
    nanoseconds(10_000, || unsafe { multiply(level, model, MmaShape::M16N8K16Bf16, rows, black_box(&registers)) })
}
