//! Tensor-core matmuls and tile loads. The expected values were derived by hand from the tables of the PTX ISA, not by running
//! anything; a GPU and the emulator must both produce them.
//!
//! Fragments of mma.m16n8k16 ("Matrix fragments for mma.m16n8k16 with floating point type"): a lane is 4 g + t, and
//!
//!   a0..a7 are in row g (a0 a1 a4 a5) or g + 8 (a2 a3 a6 a7), column 2 t + i % 2, plus 8 from a4 on;
//!   b0..b3 are in row 2 t + i % 2, plus 8 from b2 on, column g;
//!   c0..c3 are in row g (c0 c1) or g + 8 (c2 c3), column 2 t + i % 2.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use half::bf16;

use super::on_a_gpu;

/// Compiled from `vectors.cu` by the command at its top.
const PTX: &str = include_str!("vectors.ptx");

const LANES: usize = 32;
const ONE_WARP: LaunchConfig = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

/// A kernel of the file on a device.
struct Opened {
    ordinal: usize,
    stream: Arc<CudaStream>,
    function: CudaFunction,
}

/// Loads the kernel on every device, in separate contexts, so that a fault of another test does not affect them.
fn open(name: &str) -> Vec<Opened> {
    if !on_a_gpu() {
        cuda_emulator::load().expect("the emulator's libraries are beside the test programs");
    }
    let ordinals = if on_a_gpu() { 0..1 } else { 0..2 };
    let open = |ordinal: usize| {
        let context = CudaContext::new_non_primary(ordinal, 0).unwrap();
        // Safety: there is one stream.
        unsafe { context.disable_event_tracking() };
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        Opened { ordinal, stream: context.new_stream().unwrap(), function: module.load_function(name).unwrap() }
    };
    ordinals.map(open).collect()
}

/// (lane, index of the element in the lane's fragment, value)
type Element = (usize, usize, f32);

/// One mma instruction. Elements that are not listed are zero; in the result, they are those of c.
struct MmaCase {
    what: &'static str,
    a: Vec<Element>,
    b: Vec<Element>,
    c: Vec<Element>,
    expected: Vec<Element>,
}

fn case<const A: usize, const B: usize, const E: usize>(
    what: &'static str,
    a: [Element; A],
    b: [Element; B],
    expected: [Element; E],
) -> MmaCase {
    MmaCase { what, a: a.into(), b: b.into(), c: vec![], expected: expected.into() }
}

/// Registers of all lanes, two elements to a register, the first in the lower half.
fn packed(elements: &[Element], registers: usize) -> Vec<u32> {
    let mut packed = vec![0; LANES * registers];
    for (lane, i, value) in elements {
        let narrow = bf16::from_f32(*value);
        assert!(narrow.to_f32() == *value || value.is_nan(), "{value} is not a bf16");
        packed[lane * registers + i / 2] |= u32::from(narrow.to_bits()) << (16 * (i % 2));
    }
    packed
}

fn spread(elements: &[Element], values: &mut [f32]) {
    for (lane, i, value) in elements {
        values[lane * 4 + i] = *value;
    }
}

impl MmaCase {
    fn check(&self, opened: &Opened) {
        let Opened { ordinal, stream, function } = opened;
        let mut expected = vec![0.0; LANES * 4];
        spread(&self.c, &mut expected);
        let mut c = stream.clone_htod(&expected).unwrap();
        spread(&self.expected, &mut expected);
        let a = stream.clone_htod(&packed(&self.a, 4)).unwrap();
        let b = stream.clone_htod(&packed(&self.b, 2)).unwrap();
        // Safety: the kernel reads 4 and 2 words per lane, and reads and writes 4 floats per lane.
        unsafe { stream.launch_builder(function).arg(&mut c).arg(&a).arg(&b).launch(ONE_WARP) }.unwrap();
        let got = stream.clone_dtoh(&c).unwrap();
        for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let same = got == expected || got.is_nan() && expected.is_nan();
            let (lane, i) = (at / 4, at % 4);
            assert!(same, "device {ordinal}, {}: c{i} of lane {lane} is {got}, expected {expected}", self.what);
        }
    }
}

/// The elements that `of` returns for every value in `0..count`.
fn each(count: usize, of: impl Fn(usize) -> Vec<Element>) -> Vec<Element> {
    (0..count).flat_map(of).collect()
}

/// One element of A and one of B: every half of every register, rows and columns in both halves.
#[test]
fn one_element_of_a_times_one_of_b() {
    let cases = [
        case("A(0,0) B(0,0)", [(0, 0, 1.0)], [(0, 0, 1.0)], [(0, 0, 1.0)]),
        // g = 5, column 9 = 2·0 + 1 + 8; k = 9 likewise, g = 6; (5, 6) is g = 5, t = 3.
        case("A(5,9) B(9,6)", [(20, 5, 3.0)], [(24, 3, 7.0)], [(23, 0, 21.0)]),
        case("A(15,15) B(15,7)", [(31, 7, -2.0)], [(31, 3, 0.5)], [(31, 3, -1.0)]),
        case("A(8,6) B(6,3)", [(3, 2, 5.0)], [(15, 0, 1.0)], [(1, 3, 5.0)]),
        case("A(10,12) B(12,1)", [(10, 6, 1.5)], [(6, 2, -4.0)], [(8, 3, -6.0)]),
        case("A(1,3) B(3,2)", [(5, 1, 9.0)], [(9, 1, 11.0)], [(5, 0, 99.0)]),
        case("A(12,1) B(1,5)", [(16, 3, 2.0)], [(20, 1, 8.0)], [(18, 3, 16.0)]),
        case("A(4,10) B(10,4)", [(17, 4, 0.25)], [(17, 2, 2.0)], [(18, 0, 0.5)]),
        case("A(0,0) B(1,0): not the same k", [(0, 0, 1.0)], [(0, 1, 1.0)], []),
        case("A(0,0) B(8,0): not the same k", [(0, 0, 1.0)], [(0, 2, 1.0)], []),
        case("A(7,15) B(15,0): far exponents", [(31, 5, 2f32.powi(100))], [(3, 3, 2f32.powi(-100))], [(28, 0, 1.0)]),
    ];
    for opened in open("matmul") {
        cases.iter().for_each(|case| case.check(&opened));
    }
}

/// Row 2 of A holds 2^k: lanes 8 to 11, whose columns are 2 t, 2 t + 1, 2 t + 8 and 2 t + 9.
fn powers() -> Vec<Element> {
    vec![
        (8, 0, 1.0),
        (8, 1, 2.0),
        (9, 0, 4.0),
        (9, 1, 8.0),
        (10, 0, 16.0),
        (10, 1, 32.0),
        (11, 0, 64.0),
        (11, 1, 128.0),
        (8, 4, 256.0),
        (8, 5, 512.0),
        (9, 4, 1024.0),
        (9, 5, 2048.0),
        (10, 4, 4096.0),
        (10, 5, 8192.0),
        (11, 4, 16384.0),
        (11, 5, 32768.0),
    ]
}

#[test]
fn every_k_of_a_is_multiplied_by_the_same_k_of_b_once() {
    // Column n of B is one at k = 2 n: lane 5 n for n < 4, lane 5 n - 4 (k - 8 = 2 (n - 4)) from there on.
    let (first, second) = ([0, 5, 10, 15], [16, 21, 26, 31]);
    let column = |element: usize| {
        let lower = first.iter().map(|lane| (*lane, element, 1.0));
        lower.chain(second.iter().map(|lane| (*lane, element + 2, 1.0))).collect::<Vec<_>>()
    };
    let cases = [
        MmaCase {
            what: "all k in column 4",
            a: powers(),
            b: each(4, |t| (0..4).map(|i| (16 + t, i, 1.0)).collect()),
            c: vec![],
            expected: vec![(10, 0, 65535.0)],
        },
        MmaCase {
            what: "k = 2 n in column n",
            a: powers(),
            b: column(0),
            c: vec![],
            expected: vec![
                (8, 0, 1.0),
                (8, 1, 4.0),
                (9, 0, 16.0),
                (9, 1, 64.0),
                (10, 0, 256.0),
                (10, 1, 1024.0),
                (11, 0, 4096.0),
                (11, 1, 16384.0),
            ],
        },
        MmaCase {
            what: "k = 2 n + 1 in column n",
            a: powers(),
            b: column(1),
            c: vec![],
            expected: vec![
                (8, 0, 2.0),
                (8, 1, 8.0),
                (9, 0, 32.0),
                (9, 1, 128.0),
                (10, 0, 512.0),
                (10, 1, 2048.0),
                (11, 0, 8192.0),
                (11, 1, 32768.0),
            ],
        },
    ];
    for opened in open("matmul") {
        cases.iter().for_each(|case| case.check(&opened));
    }
}

#[test]
fn every_element_of_the_result_is_separate_and_c_is_added() {
    let power = |exponent: usize| (1u32 << exponent) as f32;
    let cases = [
        // A(r, 0) = 2^r: lanes 4 g, a0 and a2. B(0, n) = 2 n + 1: lanes 4 n, b0. Odd numbers times powers are 128 numbers.
        MmaCase {
            what: "2^r (2 n + 1)",
            a: each(8, |g| vec![(4 * g, 0, power(g)), (4 * g, 2, power(g + 8))]),
            b: each(8, |n| vec![(4 * n, 0, (2 * n + 1) as f32)]),
            c: vec![],
            expected: each(32, |lane| {
                let (g, t) = (lane / 4, lane % 4);
                let [even, odd] = [(4 * t + 1) as f32, (4 * t + 3) as f32];
                vec![
                    (lane, 0, power(g) * even),
                    (lane, 1, power(g) * odd),
                    (lane, 2, power(g + 8) * even),
                    (lane, 3, power(g + 8) * odd),
                ]
            }),
        },
        MmaCase {
            what: "sixteen ones and a half",
            a: each(32, |lane| (0..8).map(|i| (lane, i, 1.0)).collect()),
            b: each(32, |lane| (0..4).map(|i| (lane, i, 1.0)).collect()),
            c: each(32, |lane| (0..4).map(|i| (lane, i, 0.5)).collect()),
            expected: each(32, |lane| (0..4).map(|i| (lane, i, 16.5)).collect()),
        },
        // c has the layout of the result; one of its elements is cancelled.
        MmaCase {
            what: "c, and A(9,2) B(2,6) = -111 at lane 7, c2",
            a: vec![(5, 2, -3.0)],
            b: vec![(25, 0, 37.0)],
            c: each(32, |lane| (0..4).map(|i| (lane, i, (4 * lane + i + 81) as f32)).collect()),
            expected: vec![(7, 2, 0.0)],
        },
        // (1 + 2^-7)² = 1 + 2^-6 + 2^-14: a product is not rounded to bf16, nor to anything else.
        MmaCase {
            what: "an exact product and -1",
            a: vec![(0, 0, 1.0078125)],
            b: vec![(0, 0, 1.0078125)],
            c: vec![(0, 0, -1.0)],
            expected: vec![(0, 0, 1.0 / 64.0 + 1.0 / 16384.0)],
        },
        MmaCase {
            what: "a negative zero adds nothing",
            a: vec![(0, 0, -0.0)],
            b: vec![(0, 0, 1.0)],
            c: vec![(0, 0, -3.0)],
            expected: vec![(0, 0, -3.0)],
        },
    ];
    for opened in open("matmul") {
        cases.iter().for_each(|case| case.check(&opened));
    }
}

#[test]
fn infinities_and_nans_reach_exactly_the_results_that_use_them() {
    let row_1 = |first: f32| each(4, |t| vec![(4 + t, 0, if t == 0 { first } else { NAN }), (4 + t, 1, NAN)]);
    let cases = [
        // Infinity times the zeros of the other columns is NaN.
        MmaCase {
            what: "A(1,0) = ∞, B(0,0) = 2",
            a: vec![(4, 0, INF)],
            b: vec![(0, 0, 2.0)],
            c: vec![],
            expected: row_1(INF),
        },
        MmaCase {
            what: "A(1,0) = ∞, B(0,0) = -2",
            a: vec![(4, 0, INF)],
            b: vec![(0, 0, -2.0)],
            c: vec![],
            expected: row_1(-INF),
        },
        // Row 3, k = 0 and 1, against columns of ones.
        MmaCase {
            what: "∞ - ∞",
            a: vec![(12, 0, INF), (12, 1, -INF)],
            b: each(8, |n| vec![(4 * n, 0, 1.0), (4 * n, 1, 1.0)]),
            c: vec![],
            expected: each(4, |t| vec![(12 + t, 0, NAN), (12 + t, 1, NAN)]),
        },
        MmaCase {
            what: "c = -∞ and c = NaN at (15, 6) and (15, 7)",
            a: vec![(0, 0, 1.0)],
            b: vec![(0, 0, 1.0)],
            c: vec![(31, 2, -INF), (31, 3, NAN)],
            expected: vec![(0, 0, 1.0), (31, 2, -INF), (31, 3, NAN)],
        },
        // Column 5 is t = 2, the odd element, of every g.
        MmaCase {
            what: "B(2,5) = NaN",
            a: vec![],
            b: vec![(21, 0, NAN)],
            c: vec![],
            expected: each(8, |g| vec![(4 * g + 2, 1, NAN), (4 * g + 2, 3, NAN)]),
        },
        MmaCase {
            what: "A(13,15) = NaN",
            a: vec![(23, 7, NAN)],
            b: vec![],
            c: vec![],
            expected: each(4, |t| vec![(20 + t, 2, NAN), (20 + t, 3, NAN)]),
        },
    ];
    for opened in open("matmul") {
        cases.iter().for_each(|case| case.check(&opened));
    }
}

/// The row of shared memory, of eight numbers, whose address a lane passes.
type Row = fn(usize) -> usize;

/// (lane, [lower half, upper half] of each of its four registers), each derived by hand.
type Lane = (usize, [[u32; 2]; 4]);

/// Loads tiles with `ldmatrix.x4` from the numbers 0 to 255 in shared memory, in rows of eight. Checks some lanes against values
/// derived by hand, and all lanes against a formula.
fn check_tiles(name: &str, what: &str, row: Row, lanes: &[Lane], all: impl Fn(usize, usize) -> [usize; 2]) {
    let numbers: Vec<bf16> = (0..256).map(bf16::from_bits).collect();
    let rows: Vec<u32> = (0..LANES).map(|lane| 8 * row(lane) as u32).collect();
    for Opened { ordinal, stream, function } in open(name) {
        let mut out = stream.clone_htod(&[u32::MAX; 4 * LANES]).unwrap();
        let (numbers, rows) = (stream.clone_htod(&numbers).unwrap(), stream.clone_htod(&rows).unwrap());
        // Safety: the kernel reads 256 numbers and one word per lane, and writes four words per lane; all rows are inside.
        unsafe { stream.launch_builder(&function).arg(&mut out).arg(&numbers).arg(&rows).launch(ONE_WARP) }.unwrap();
        let got = stream.clone_dtoh(&out).unwrap();
        let halves = |lane: usize| std::array::from_fn(|j| [got[4 * lane + j] & 0xffff, got[4 * lane + j] >> 16]);
        for (lane, expected) in lanes {
            let got: [[u32; 2]; 4] = halves(*lane);
            assert_eq!(got, *expected, "device {ordinal}, {name}, {what}: lane {lane}");
        }
        for lane in 0..LANES {
            let expected: [[u32; 2]; 4] = std::array::from_fn(|tile| all(tile, lane).map(|number| number as u32));
            let got: [[u32; 2]; 4] = halves(lane);
            assert_eq!(got, expected, "device {ordinal}, {name}, {what}: lane {lane}");
        }
    }
}

/// Lane 4 g + t receives elements 2 t and 2 t + 1 of row g of each tile.
#[test]
fn tiles_are_loaded_by_rows() {
    let in_order: [Lane; 3] = [
        (0, [[0, 1], [64, 65], [128, 129], [192, 193]]),
        (5, [[10, 11], [74, 75], [138, 139], [202, 203]]),
        (31, [[62, 63], [126, 127], [190, 191], [254, 255]]),
    ];
    check_tiles(
        "tiles",
        "rows in order",
        |lane| lane,
        &in_order,
        |tile, lane| [0, 1].map(|i| 64 * tile + 2 * lane + i),
    );
    // Row r of tile j is row 31 - 8 j - r of memory: lane 5 (g = 1, t = 1) gets elements 2 and 3 of rows 30, 22, 14 and 6.
    let reversed: [Lane; 3] = [
        (0, [[248, 249], [184, 185], [120, 121], [56, 57]]),
        (5, [[242, 243], [178, 179], [114, 115], [50, 51]]),
        (31, [[198, 199], [134, 135], [70, 71], [6, 7]]),
    ];
    check_tiles(
        "tiles",
        "rows reversed",
        |lane| 31 - lane,
        &reversed,
        |tile, lane| [0, 1].map(|i| 8 * (31 - 8 * tile - lane / 4) + 2 * (lane % 4) + i),
    );
    // Lanes 16 to 23 pass the row addresses of the third tile; all of them pass row 3.
    let same: [Lane; 2] =
        [(5, [[10, 11], [74, 75], [26, 27], [202, 203]]), (28, [[56, 57], [120, 121], [24, 25], [248, 249]])];
    let row: Row = |lane| if lane / 8 == 2 { 3 } else { lane };
    check_tiles("tiles", "one row eight times", row, &same, |tile, lane| {
        [0, 1].map(|i| 8 * if tile == 2 { 3 } else { 8 * tile + lane / 4 } + 2 * (lane % 4) + i)
    });
}

/// With `.trans`, lane 4 g + t receives elements (2 t, g) and (2 t + 1, g).
#[test]
fn tiles_are_loaded_by_columns() {
    let in_order: [Lane; 3] = [
        (0, [[0, 8], [64, 72], [128, 136], [192, 200]]),
        (5, [[17, 25], [81, 89], [145, 153], [209, 217]]),
        (31, [[55, 63], [119, 127], [183, 191], [247, 255]]),
    ];
    check_tiles(
        "tiles_transposed",
        "rows in order",
        |lane| lane,
        &in_order,
        |tile, lane| [0, 1].map(|i| 64 * tile + 8 * (2 * (lane % 4) + i) + lane / 4),
    );
    let reversed: [Lane; 3] = [
        (0, [[248, 240], [184, 176], [120, 112], [56, 48]]),
        (5, [[233, 225], [169, 161], [105, 97], [41, 33]]),
        (31, [[207, 199], [143, 135], [79, 71], [15, 7]]),
    ];
    check_tiles(
        "tiles_transposed",
        "rows reversed",
        |lane| 31 - lane,
        &reversed,
        |tile, lane| [0, 1].map(|i| 8 * (31 - 8 * tile - 2 * (lane % 4) - i) + lane / 4),
    );
}
