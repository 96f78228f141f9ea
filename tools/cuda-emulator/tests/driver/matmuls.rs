//! Matmuls through cudarc's cuBLASLt.

use std::sync::Arc;

use cudarc::cublaslt::{Activation, CudaBlasLT, Matmul, MatmulConfig, result, sys};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use half::{bf16, f16};

use crate::fixture::{code, context};

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

/// D (rows × cols) of dense column-major matrices, without options.
fn config(rows: usize, cols: usize, depth: usize, [transa, transb]: [bool; 2]) -> MatmulConfig {
    MatmulConfig {
        transa,
        transb,
        transc: false,
        m: rows as u64,
        n: cols as u64,
        k: depth as u64,
        alpha: 1.0,
        lda: if transa { depth } else { rows } as i64,
        ldb: if transb { cols } else { depth } as i64,
        beta: 0.0,
        ldc: rows as i64,
        stride_a: None,
        stride_b: None,
        stride_c: None,
        stride_bias: None,
        batch_size: None,
    }
}

/// The matmul in f64; element (row, col) is at `col * rows + row`.
fn exact(a: &[f32], b: &[f32], config: &MatmulConfig) -> Vec<f64> {
    let (rows, cols, depth) = (config.m as usize, config.n as usize, config.k as usize);
    let at = |values: &[f32], leading: i64, transposed: bool, row: usize, col: usize| {
        let (row, col) = if transposed { (col, row) } else { (row, col) };
        values[col * leading as usize + row] as f64
    };
    let element = |index: usize| {
        let (row, col) = (index % rows, index / rows);
        let term = |term| at(a, config.lda, config.transa, row, term) * at(b, config.ldb, config.transb, term, col);
        (0..depth).map(term).sum::<f64>() * config.alpha as f64
    };
    (0..rows * cols).map(element).collect()
}

#[test]
fn bf16_matmuls_of_every_transpose_are_rounded_once() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let blas = CudaBlasLT::new(stream.clone()).unwrap();
    for flags in 0..4 {
        let config = config(33, 18, 70, [flags & 1 != 0, flags & 2 != 0]);
        let round = |values: Vec<f32>| values.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
        let (a, b) = (round(numbers(33 * 70, 1)), round(numbers(70 * 18, 2)));
        let wide = |values: &[bf16]| values.iter().map(|value| value.to_f32()).collect::<Vec<_>>();
        let expected = exact(&wide(&a), &wide(&b), &config);
        let (a, b) = (stream.clone_htod(&a).unwrap(), stream.clone_htod(&b).unwrap());
        // Safety: the matmul writes it before it is read.
        let mut d = unsafe { stream.alloc::<bf16>(33 * 18) }.unwrap();
        // Safety: sizes fit the configuration.
        unsafe { blas.matmul(config, &a, &b, &mut d, None, None) }.unwrap();
        for (got, expected) in stream.clone_dtoh(&d).unwrap().iter().zip(expected) {
            // Half an ulp of bf16, plus an error of the f32 sum that is far smaller.
            let bound = expected.abs() * 2f64.powi(-8) + 1e-5;
            assert!((got.to_f64() - expected).abs() <= bound, "{got} for {expected}");
        }
    }
}

#[test]
fn alpha_beta_bias_and_relu() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let blas = CudaBlasLT::new(stream.clone()).unwrap();
    let up = |values: &[f32]| stream.clone_htod(&values.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>()).unwrap();
    // One row per output; A = [1 2], B = [[1, -1], [1, -1]]: sums 3 and -3.
    let (a, b, bias) = (up(&[1.0, 2.0]), up(&[1.0, 1.0, -1.0, -1.0]), up(&[0.5]));
    let config = MatmulConfig { alpha: 2.0, beta: 10.0, ..config(1, 2, 2, [false, false]) };
    let matmul = |bias: Option<&CudaSlice<f16>>, act: Option<&Activation>| {
        let mut d = up(&[1.0, 0.25]);
        // Safety: sizes fit the configuration.
        unsafe { blas.matmul(config, &a, &b, &mut d, bias, act) }.map(|()| {
            let values = stream.clone_dtoh(&d).unwrap();
            values.iter().map(|value| value.to_f32()).collect::<Vec<_>>()
        })
    };
    assert_eq!(matmul(None, None).unwrap(), [16.0, -3.5]);
    assert_eq!(matmul(Some(&bias), None).unwrap(), [16.5, -3.0]);
    assert_eq!(matmul(Some(&bias), Some(&Activation::Relu)).unwrap(), [16.5, 0.0]);
    let refused = matmul(None, Some(&Activation::Gelu)).unwrap_err();
    assert_eq!(refused.0, sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
    assert!(cuda_emulator::reports().contains("epilogue 32"));
}

#[test]
fn batches_and_gaps_between_columns() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let blas = CudaBlasLT::new(stream.clone()).unwrap();
    // Two matmuls of 1 × 1 by 1 × 2; the columns of D are 2 apart, the matrices 4.
    let (a, b) = (stream.clone_htod(&[2f32, 3.0]).unwrap(), stream.clone_htod(&[5f32, 7.0]).unwrap());
    let mut d = stream.clone_htod(&[-1f32; 8]).unwrap();
    let config = MatmulConfig {
        ldc: 2,
        stride_a: Some(1),
        stride_b: Some(0),
        stride_c: Some(4),
        batch_size: Some(2),
        ..config(1, 2, 1, [false, false])
    };
    // Safety: sizes fit the configuration.
    unsafe { blas.matmul(config, &a, &b, &mut d, None, None) }.unwrap();
    assert_eq!(stream.clone_dtoh(&d).unwrap(), [10.0, -1.0, 14.0, -1.0, 15.0, -1.0, 21.0, -1.0]);
}

#[test]
fn matmuls_run_in_stream_order_and_are_captured() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let blas = CudaBlasLT::new(stream.clone()).unwrap();
    let mut a = stream.clone_htod(&[2f32]).unwrap();
    let b = stream.clone_htod(&[4f32]).unwrap();
    let mut d = stream.alloc_zeros::<f32>(1).unwrap();
    let config = config(1, 1, 1, [false, false]);
    stream.begin_capture(cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    // Safety: sizes fit the configuration.
    unsafe { blas.matmul(config, &a, &b, &mut d, None, None) }.unwrap();
    let graph = stream.end_capture(cudarc::driver::sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
    for value in [3f32, 5.0] {
        stream.memcpy_htod(&[value], &mut a).unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&d).unwrap(), [4.0 * value]);
    }
}

/// A matmul of bf16 inputs with an f32 output through cudarc's `result` layer, with a chosen algorithm.
struct Raw {
    stream: Arc<CudaStream>,
    a: CudaSlice<bf16>,
    b: CudaSlice<bf16>,
}

impl Raw {
    fn new(stream: &Arc<CudaStream>, rows: usize, cols: usize, depth: usize) -> Raw {
        let up = |count, seed| {
            let values: Vec<_> = numbers(count, seed).into_iter().map(bf16::from_f32).collect();
            stream.clone_htod(&values).unwrap()
        };
        // A is transposed, so row r has the same values for every number of rows.
        Raw { stream: stream.clone(), a: up(rows * depth, 3), b: up(depth * cols, 4) }
    }

    fn run(&self, rows: usize, cols: usize, depth: usize, algorithm_index: usize) -> Vec<f32> {
        let mut d = self.stream.alloc_zeros::<f32>(rows * cols).unwrap();
        let workspace = unsafe { self.stream.alloc::<u8>(1 << 22) }.unwrap();
        let (bf16_code, f32_code) = (sys::cudaDataType_t::CUDA_R_16BF, sys::cudaDataType_t::CUDA_R_32F);
        // Safety: layouts fit the buffers; every object is destroyed once.
        unsafe {
            let handle = result::create_handle().unwrap();
            let a = result::create_matrix_layout(bf16_code, depth as u64, rows as u64, depth as i64).unwrap();
            let b = result::create_matrix_layout(bf16_code, depth as u64, cols as u64, depth as i64).unwrap();
            let out = result::create_matrix_layout(f32_code, rows as u64, cols as u64, rows as i64).unwrap();
            let desc = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, f32_code).unwrap();
            let transposed = 1i32;
            let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
            result::set_matmul_desc_attribute(desc, attribute, (&raw const transposed).cast(), 4).unwrap();
            let preference = result::create_matmul_pref().unwrap();
            let bytes = 1usize << 22;
            let attribute = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(preference, attribute, (&raw const bytes).cast(), 8).unwrap();
            let mut offers = [std::mem::zeroed::<sys::cublasLtMatmulHeuristicResult_t>(); 8];
            let mut count = 0;
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle,
                desc,
                a,
                b,
                out,
                out,
                preference,
                8,
                offers.as_mut_ptr(),
                &mut count,
            )
            .result()
            .unwrap();
            assert!(count >= 2, "the heuristic offers several algorithms");
            let algorithm = &offers[algorithm_index % count as usize].algo;
            let (alpha, beta) = (1f32, 0f32);
            let output = d.device_ptr_mut(&self.stream).0;
            result::matmul(
                handle,
                desc,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                self.a.device_ptr(&self.stream).0 as *const _,
                a,
                self.b.device_ptr(&self.stream).0 as *const _,
                b,
                output as *const _,
                out,
                output as *mut _,
                out,
                algorithm,
                workspace.device_ptr(&self.stream).0 as *mut _,
                bytes,
                self.stream.cu_stream().cast(),
            )
            .unwrap();
            for layout in [a, b, out] {
                result::destroy_matrix_layout(layout).unwrap();
            }
            result::destroy_matmul_desc(desc).unwrap();
            result::destroy_matmul_pref(preference).unwrap();
            result::destroy_handle(handle).unwrap();
        }
        self.stream.clone_dtoh(&d).unwrap()
    }
}

#[test]
fn the_order_of_summation_differs_with_shape_algorithm_and_seed_but_not_from_run_to_run() {
    let first_row = |sums: &[f32], rows: usize| sums.iter().step_by(rows).map(|sum| sum.to_bits()).collect::<Vec<_>>();
    let (cols, depth) = (16, 1500);
    let mut by_shape = std::collections::BTreeSet::new();
    let mut by_seed = std::collections::BTreeSet::new();
    for seed in ["", "1", "2", "3", "4"] {
        cuda_emulator::load().unwrap();
        cuda_emulator::configure("seed", seed).unwrap();
        let context = context();
        let stream = context.new_stream().unwrap();
        if seed.is_empty() {
            for rows in [1, 2, 3, 8, 17, 64] {
                let sums = Raw::new(&stream, rows, cols, depth).run(rows, cols, depth, 0);
                let again = Raw::new(&stream, rows, cols, depth).run(rows, cols, depth, 0);
                assert_eq!(first_row(&sums, 1), first_row(&again, 1));
                by_shape.insert(first_row(&sums, rows));
            }
            let raw = Raw::new(&stream, 4, cols, depth);
            let by_algorithm: std::collections::BTreeSet<_> =
                (0..4).map(|algorithm_index| first_row(&raw.run(4, cols, depth, algorithm_index), 4)).collect();
            assert!(by_algorithm.len() > 1, "all algorithms sum in the same order");
        }
        by_seed.insert(first_row(&Raw::new(&stream, 4, cols, depth).run(4, cols, depth, 0), 4));
    }
    assert!(by_shape.len() > 1, "a row has the same bits in matmuls of every shape");
    assert!(by_seed.len() > 1, "the seed does not change the order");
}

#[test]
fn f32_inputs_are_rounded_to_tf32() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let blas = CudaBlasLT::new(stream.clone()).unwrap();
    let a = stream.clone_htod(&[1.0 + 2f32.powi(-10) + 2f32.powi(-20)]).unwrap();
    let b = stream.clone_htod(&[1f32]).unwrap();
    let mut d = stream.alloc_zeros::<f32>(1).unwrap();
    // Safety: sizes fit the configuration.
    unsafe { blas.matmul(config(1, 1, 1, [false, false]), &a, &b, &mut d, None, None) }.unwrap();
    assert_eq!(stream.clone_dtoh(&d).unwrap(), [1.0 + 2f32.powi(-10)]);
}

#[test]
fn a_matmul_past_the_end_of_its_input_is_a_fault() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let blas = CudaBlasLT::new(stream.clone()).unwrap();
    let (a, b) = (stream.clone_htod(&[1f32; 6]).unwrap(), stream.clone_htod(&[1f32; 6]).unwrap());
    let mut d = stream.alloc_zeros::<f32>(9).unwrap();
    // Safety: the emulator checks every access; A has 6 elements instead of 9.
    unsafe { blas.matmul(config(3, 3, 3, [false, false]), &a, &b, &mut d, None, None) }.unwrap();
    assert_eq!(code(stream.synchronize()), cudarc::driver::sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(cuda_emulator::reports().contains("cublasLtMatmul reads"));
    std::mem::forget(blas); // Its workspace cannot be freed in a broken context.
}

#[test]
fn configurations_outside_the_allow_list_are_refused() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let blas = CudaBlasLT::new(stream.clone()).unwrap();
    let mut d = stream.alloc_zeros::<f32>(8).unwrap();
    let a = stream.clone_htod(&[1f32; 8]).unwrap();
    let refused = |config: MatmulConfig, d: &mut CudaSlice<f32>| {
        // Safety: refused before anything is touched.
        unsafe { blas.matmul(config, &a, &a, d, None, None) }.unwrap_err().0
    };
    let good = config(2, 2, 2, [false, false]);
    let status = refused(MatmulConfig { transc: true, ..good }, &mut d);
    assert_eq!(status, sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
    let status = refused(MatmulConfig { lda: 1, ..good }, &mut d);
    assert_eq!(status, sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE);
    let overlap = MatmulConfig { batch_size: Some(2), stride_a: Some(4), stride_b: Some(4), stride_c: Some(2), ..good };
    assert_eq!(refused(overlap, &mut d), sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE);
    let reports = cuda_emulator::reports();
    assert!(reports.contains("leading dimension 1") && reports.contains("matrices of D overlap"), "{reports}");
}

#[test]
fn an_address_less_aligned_than_the_heuristic_assumed_is_refused() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let blas = CudaBlasLT::new(stream.clone()).unwrap();
    let round = |count| numbers(count, 7).into_iter().map(bf16::from_f32).collect::<Vec<_>>();
    let (a, b) = (stream.clone_htod(&round(4 * 8 + 8)).unwrap(), stream.clone_htod(&round(8 * 4)).unwrap());
    let mut d = stream.alloc_zeros::<bf16>(16).unwrap();
    // cudarc makes no promise about alignment, so the heuristic assumes 256 bytes; 16 bytes into the buffer, the
    // alignment is only 16.
    let shifted = a.slice(8..);
    // Safety: sizes fit the configuration.
    let refused =
        unsafe { blas.matmul(config(4, 4, 8, [false; 2]), &shifted, &b.slice(..), &mut d, None, None) }.unwrap_err();
    assert_eq!(refused.0, sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE);
    let reports = cuda_emulator::reports();
    assert!(reports.contains("A at") && reports.contains("256 bytes"), "{reports}");
}
