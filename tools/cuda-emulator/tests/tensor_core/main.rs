//! `mma.sync` against hand-written layouts, results computed by hand, and exact integer arithmetic.

mod layouts;
mod reference;

use cuda_emulator::forms::{Level, Row, Rows};
use cuda_emulator::ir::{MmaShape, Reg};
use cuda_emulator::tensor_core::{Model, multiply};

use reference::{Input, Sequence};

/// A shape of the instruction, with the pictures of its fragments.
struct Shape {
    shape: MmaShape,
    input: Input,
    k: usize,
    a: &'static str,
    b: &'static str,
    /// Number of registers of d, a, b and c.
    registers: [usize; 4],
}

const SHAPES: [Shape; 7] = {
    use MmaShape::*;
    use layouts::*;
    const fn shape(
        shape: MmaShape,
        input: Input,
        k: usize,
        a: &'static str,
        b: &'static str,
        registers: [usize; 4],
    ) -> Shape {
        Shape { shape, input, k, a, b, registers }
    }
    [
        shape(M16N8K16Bf16, Input::BF16, 16, A_M16N8K16, B_M16N8K16, [4, 4, 2, 4]),
        shape(M16N8K16F16, Input::F16, 16, A_M16N8K16, B_M16N8K16, [4, 4, 2, 4]),
        shape(M16N8K16F16Accumulate16, Input::F16, 16, A_M16N8K16, B_M16N8K16, [2, 4, 2, 2]),
        shape(M16N8K8Bf16, Input::BF16, 8, A_M16N8K8, B_M16N8K8, [4, 2, 1, 4]),
        shape(M16N8K8F16, Input::F16, 8, A_M16N8K8, B_M16N8K8, [4, 2, 1, 4]),
        shape(M16N8K8Tf32, Input::TF32, 8, A_M16N8K8_TF32, B_M16N8K8_TF32, [4, 4, 2, 4]),
        shape(M16N8K4Tf32, Input::TF32, 4, A_M16N8K4_TF32, B_M16N8K4_TF32, [4, 2, 1, 4]),
    ]
};

impl Shape {
    fn is_narrow(&self) -> bool {
        self.registers[0] == 2
    }

    /// Words of a block in this model.
    fn block(&self, model: Model) -> usize {
        let bits = if model == Model::Ampere { 128 } else { 256 };
        (bits / if self.input == Input::TF32 { 32 } else { 16 }).min(self.k)
    }

    /// `a b + c` as the instruction computes it; matrices of bits, by rows.
    fn run(&self, level: Level, model: Model, a: &[Vec<u32>], b: &[Vec<u32>], c: &[Vec<u32>]) -> Vec<Vec<u32>> {
        let count: usize = self.registers.iter().sum();
        // Registers out of order, with rows between them that must not change.
        let registers: Vec<Reg> = (0..count).map(|i| Reg((2 * ((i * 3) % count) + 1) as u32)).collect();
        let mut rows = vec![Row([0xdead_beef; 32]); 2 * count + 1];
        let [d_end, a_end, b_end] = [1, 2, 3].map(|n| self.registers[..n].iter().sum::<usize>());
        let per_word = if self.input == Input::TF32 { 1 } else { 2 };
        put(&mut rows, &registers[d_end..a_end], self.a, per_word, a);
        put(&mut rows, &registers[a_end..b_end], self.b, per_word, b);
        let per_sum = if self.is_narrow() { 2 } else { 1 };
        put(&mut rows, &registers[b_end..], layouts::C_F32, per_sum, c);
        // SAFETY: the registers are inside the rows; the tests only use levels that the processor supports.
        unsafe { multiply(level, model, self.shape, Rows::new(&mut rows), &registers) };
        assert!(rows.iter().step_by(2).all(|row| *row == Row([0xdead_beef; 32])), "another register was written");
        let layout = layouts::parse(layouts::C_F32);
        let element = |(lane, i): (usize, usize)| {
            let word = rows[registers[i / per_sum].0 as usize].0[lane];
            if per_sum == 2 { word >> (16 * (i % 2)) & 0xffff } else { word }
        };
        layout.into_iter().map(|row| row.into_iter().map(element).collect()).collect()
    }
}

/// Writes a matrix into its fragments.
fn put(rows: &mut [Row], registers: &[Reg], picture: &str, per_word: usize, matrix: &[Vec<u32>]) {
    for (row, entries) in layouts::parse(picture).iter().enumerate() {
        for (column, (lane, i)) in entries.iter().enumerate() {
            let word = &mut rows[registers[i / per_word].0 as usize].0[*lane];
            *word = match (per_word, i % 2) {
                (1, _) => matrix[row][column],
                (_, 0) => *word & 0xffff_0000 | matrix[row][column],
                _ => *word & 0xffff | matrix[row][column] << 16,
            };
        }
    }
}

fn levels() -> Vec<Level> {
    [Level::Baseline, Level::Avx2, Level::Avx512].into_iter().filter(|level| *level <= Level::detect()).collect()
}

const MODELS: [Model; 3] = [Model::Ampere, Model::Hopper, Model::Fma];

fn matrix(rows: usize, columns: usize, mut f: impl FnMut(usize, usize) -> u32) -> Vec<Vec<u32>> {
    (0..rows).map(|row| (0..columns).map(|column| f(row, column)).collect()).collect()
}

/// An f32 accumulator in the shape's type.
fn accumulator(shape: &Shape, x: f32) -> u32 {
    if shape.is_narrow() { half::f16::from_f32(x).to_bits() as u32 } else { x.to_bits() }
}

/// Small integers: every model is exact.
#[test]
fn matmuls_of_integers() {
    for shape in &SHAPES {
        let mut sequence = Sequence::new(7);
        for _ in 0..20 {
            let mut integers = |rows, columns| matrix(rows, columns, |_, _| (sequence.draw() % 17) as u32);
            let (a, b, c) = (integers(16, shape.k), integers(shape.k, 8), integers(16, 8));
            let value = |x: u32| x as f32 - 8.0;
            let bits = |m: &[Vec<u32>]| matrix(m.len(), m[0].len(), |r, c| shape.input.bits(value(m[r][c])));
            let sums = matrix(16, 8, |row, column| accumulator(shape, value(c[row][column])));
            let expected = matrix(16, 8, |row, column| {
                let products = (0..shape.k).map(|k| value(a[row][k]) * value(b[k][column]));
                accumulator(shape, products.sum::<f32>() + value(c[row][column]))
            });
            for level in levels() {
                for model in MODELS {
                    let got = shape.run(level, model, &bits(&a), &bits(&b), &sums);
                    assert_eq!(got, expected, "{:?} {model:?} {level:?}", shape.shape);
                }
            }
        }
    }
}

/// One nonzero element of a and one of b: the product must be in one element of d and nowhere else.
#[test]
fn single_elements_are_multiplied_at_the_right_index() {
    for shape in &SHAPES {
        let zero = matrix(16, 8, |_, _| 0);
        for row in 0..16 {
            for k in 0..shape.k {
                let column = (3 * row + k) % 8;
                let one = |is_here: bool| if is_here { shape.input.bits(1.0) } else { 0 };
                let a = matrix(16, shape.k, |r, c| one((r, c) == (row, k)));
                let b = matrix(shape.k, 8, |r, c| one((r, c) == (k, column)));
                let got = shape.run(Level::detect(), Model::Ampere, &a, &b, &zero);
                let expected = |r, c| if (r, c) == (row, column) { accumulator(shape, 1.0) } else { 0 };
                assert_eq!(got, matrix(16, 8, expected), "{:?}, a[{row}][{k}], b[{k}][{column}]", shape.shape);
            }
        }
    }
}

/// Products in the first row and column of m16n8k16 bf16 and an accumulator, with the results of the three models.
type Case = (&'static [(usize, f32, f32)], f32, [f32; 3]);

const TWO_TO_24: f32 = 16777216.0;
const TINY: f32 = 1.0 / TWO_TO_24;
const TINY_ROOT: f32 = 1.0 / 4096.0;

const CASES: &[Case] = &[
    // Two units of 2^-24 make one of 2^-23, the last bit of 1; f32 additions lose each of them.
    (
        &[(0, 1.0, 1.0), (1, TINY_ROOT, TINY_ROOT), (2, TINY_ROOT, TINY_ROOT)],
        0.0,
        [1.0 + 2.0 * TINY, 1.0 + 2.0 * TINY, 1.0],
    ),
    // A single one is cut off.
    (&[(0, 1.0, 1.0), (1, TINY_ROOT, TINY_ROOT)], 0.0, [1.0, 1.0, 1.0]),
    // Truncation is towards zero for both signs; three quarters of the last bit are lost.
    (&[(0, -1.0, 1.0), (1, -TINY_ROOT, 1.5 * TINY_ROOT)], 0.0, [-1.0, -1.0, -1.0 - 2.0 * TINY]),
    // Four units of 2^-25: Hopper keeps them, Ampere cuts each off.
    (
        &[
            (0, 1.0, 1.0),
            (1, TINY_ROOT, 0.5 * TINY_ROOT),
            (2, TINY_ROOT, 0.5 * TINY_ROOT),
            (3, TINY_ROOT, 0.5 * TINY_ROOT),
            (4, TINY_ROOT, 0.5 * TINY_ROOT),
        ],
        0.0,
        [1.0, 1.0 + 2.0 * TINY, 1.0],
    ),
    // 2^24 + 1 - 2^24: with two halves, the one is lost before the second half.
    (&[(0, 4096.0, 4096.0), (1, 1.0, 1.0), (8, -4096.0, 4096.0)], 0.0, [0.0, 1.0, 0.0]),
    // In the other order it is kept.
    (&[(0, 4096.0, 4096.0), (1, -4096.0, 4096.0), (8, 1.0, 1.0)], 0.0, [1.0, 1.0, 1.0]),
    // The accumulator is aligned too: 2^-24 beside 2 is below Ampere's last bit (2^-23) and at Hopper's (2^-24).
    (&[(0, 1.0, 2.0), (1, -1.0, 2.0)], TINY, [0.0, TINY, 0.0]),
];

#[test]
fn rounding_by_hand() {
    let shape = &SHAPES[0];
    for (products, start, expected) in CASES {
        let pick = |k: usize| products.iter().find(|(at, ..)| *at == k);
        let a = matrix(16, 16, |row, k| pick(k).filter(|_| row == 0).map_or(0, |(_, a, _)| shape.input.bits(*a)));
        let b = matrix(16, 8, |k, column| pick(k).filter(|_| column == 0).map_or(0, |(_, _, b)| shape.input.bits(*b)));
        let c = matrix(16, 8, |row, column| if (row, column) == (0, 0) { start.to_bits() } else { 0 });
        for level in levels() {
            for (model, expected) in MODELS.into_iter().zip(expected) {
                let got = f32::from_bits(shape.run(level, model, &a, &b, &c)[0][0]);
                assert_eq!(got, *expected, "{model:?} {level:?} of {products:?} + {start}");
            }
        }
    }
}

#[test]
fn special_values() {
    let (infinity, nan) = (f32::INFINITY, f32::NAN);
    let big = 2.0_f32.powi(100);
    // Factors of one product, an accumulator, and the expected sum.
    let cases = [
        (infinity, 1.0, 0.0, 0x7f80_0000),
        (infinity, -1.0, 5.0, 0xff80_0000),
        (infinity, 0.0, 5.0, 0x7fff_ffff),
        (infinity, 1.0, -infinity, 0x7fff_ffff),
        (nan, 1.0, 1.0, 0x7fff_ffff),
        (1.0, 1.0, nan, 0x7fff_ffff),
        (1.0, 1.0, -infinity, 0xff80_0000),
        (big, big, 0.0, 0x7f80_0000),
        (big, -big, 0.0, 0xff80_0000),
        (0.0, 1.0, 0.0, 0),
        (2.0_f32.powi(-133), 1.0, 0.0, 0x0001_0000),
        (2.0_f32.powi(-100), 2.0_f32.powi(-49), 0.0, 1),
    ];
    let shape = &SHAPES[0];
    for (a, b, c, expected) in cases {
        let at = |is_here: bool, x: f32| if is_here { shape.input.bits(x) } else { 0 };
        let left = matrix(16, 16, |row, k| at((row, k) == (3, 5), a));
        let right = matrix(16, 8, |k, column| at((k, column) == (5, 6), b));
        let sums = matrix(16, 8, |row, column| if (row, column) == (3, 6) { c.to_bits() } else { 0x3f80_0000 });
        for level in levels() {
            for model in MODELS {
                let got = shape.run(level, model, &left, &right, &sums);
                assert_eq!(got[3][6], expected, "{a} * {b} + {c}, {model:?} {level:?}");
                // An infinity or NaN in a times the zeros of the other columns is NaN.
                let beside = if a.is_finite() { 0x3f80_0000 } else { 0x7fff_ffff };
                assert!((0..8).filter(|column| *column != 6).all(|column| got[3][column] == beside));
                assert_eq!(got[4][6], 0x3f80_0000);
            }
        }
    }
}

/// Random operands with narrow, wide and extreme exponents against exact integer arithmetic.
#[test]
fn random_matmuls_round_as_the_models_say() {
    for shape in &SHAPES {
        let mut sequence = Sequence::new(11);
        for round in 0..150 {
            let spread = [2, 8, 24, 60, 250][round % 5];
            let (input, k) = (shape.input, shape.k);
            let a = matrix(16, k, |_, _| input.draw(&mut sequence, spread));
            let b = matrix(k, 8, |_, _| input.draw(&mut sequence, spread));
            let sum_type = if shape.is_narrow() { Input::F16 } else { Input::F32 };
            let c = matrix(16, 8, |_, _| sum_type.draw(&mut sequence, spread));
            for model in MODELS {
                let column_of = |column: usize| b.iter().map(|row| row[column]).collect::<Vec<_>>();
                let expected = matrix(16, 8, |row, column| {
                    let (block, narrow) = (shape.block(model), shape.is_narrow());
                    reference::sum(model, input, block, narrow, &a[row], &column_of(column), c[row][column])
                });
                for level in levels() {
                    let got = shape.run(level, model, &a, &b, &c);
                    assert_eq!(got, expected, "{:?} {model:?} {level:?}, round {round}", shape.shape);
                }
            }
        }
    }
}
