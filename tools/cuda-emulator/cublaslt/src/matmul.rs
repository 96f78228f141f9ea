//! `cublasLtMatmul` and the heuristic that offers algorithms for it.

use std::ffi::c_void;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::algorithm::{Algorithm, COUNT, Opaque, Reduction};
use crate::descriptors::{DESCRIPTORS, HANDLES, LAYOUTS, PREFERENCES, Preference};
use crate::driver::{self, MemoryFault, MemoryTable};
use crate::entry::{Answer, In, Out, Status, entry};
use crate::multiply::{self, Matrix};
use crate::problem::{Element, Operand, Problem};

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct HeuristicResult {
    algorithm: Opaque,
    workspace: usize,
    state: u32,
    waves: f32,
    reserved: [i32; 4],
}

/// A matmul that is ready to run: addresses, scale factors and order of summation.
struct Job {
    problem: Problem,
    algorithm: Algorithm,
    alpha: f32,
    beta: f32,
    a: u64,
    b: u64,
    c: u64,
    d: u64,
}

impl Job {
    fn run(&self, memory: &MemoryTable) -> Result<(), MemoryFault> {
        let Problem { rows, cols, depth, batch, .. } = self.problem;
        for matrix in 0..batch {
            let problem = &self.problem;
            let a = load(memory, &problem.a, self.a, matrix, problem.tf32)?;
            let b = load(memory, &problem.b, self.b, matrix, problem.tf32)?;
            let a = Matrix { values: &a, rows: problem.a.rows as usize, transposed: problem.transpose_a };
            let b = Matrix { values: &b, rows: problem.b.rows as usize, transposed: problem.transpose_b };
            let size = [rows as usize, cols as usize, depth as usize];
            let mut sums = multiply::multiply(a, b, size, self.algorithm, self.problem.d.element);
            sums.iter_mut().for_each(|sum| *sum *= self.alpha);
            if self.beta != 0.0 {
                let c = load(memory, &problem.c, self.c, matrix, false)?;
                sums.iter_mut().zip(&c).for_each(|(sum, c)| *sum = c.mul_add(self.beta, *sum));
            }
            self.apply_epilogue(memory, matrix, &mut sums)?;
            store(memory, &problem.d, self.d, matrix, &sums)?;
        }
        Ok(())
    }

    /// Bias and activation, in f32, before the only rounding.
    fn apply_epilogue(&self, memory: &MemoryTable, matrix: u64, sums: &mut [f32]) -> Result<(), MemoryFault> {
        let rows = self.problem.rows;
        if let Some((address, stride)) = self.problem.epilogue.bias {
            let bias = Operand { element: self.problem.d.element, rows, cols: 1, leading: rows, stride };
            let bias = load(memory, &bias, address, matrix, false)?;
            for column in sums.chunks_exact_mut(rows as usize) {
                column.iter_mut().zip(&bias).for_each(|(sum, bias)| *sum += bias);
            }
        }
        if self.problem.epilogue.relu {
            sums.iter_mut().filter(|sum| **sum < 0.0).for_each(|sum| *sum = 0.0);
        }
        Ok(())
    }
}

/// Reads a matrix as dense column-major f32, column by column, because the gaps between columns may be uninitialised.
fn load(memory: &MemoryTable, operand: &Operand, base: u64, matrix: u64, tf32: bool) -> Result<Vec<f32>, MemoryFault> {
    let dense = operand.leading == operand.rows;
    let (columns, length) = if dense { (1, operand.rows * operand.cols) } else { (operand.cols, operand.rows) };
    let length = length as usize;
    let mut values = vec![0.0; length * columns as usize];
    let mut bytes = vec![0; length * operand.element.bytes()];
    for (column, values) in values.chunks_exact_mut(length).enumerate() {
        memory.read(operand.column(base, matrix, column as u64), &mut bytes)?;
        widen(operand.element, &bytes, values);
    }
    if tf32 {
        values.iter_mut().for_each(|value| *value = multiply::round_to_tf32(*value));
    }
    Ok(values)
}

fn widen(element: Element, bytes: &[u8], values: &mut [f32]) {
    let bits = |pair: &[u8; 2]| u16::from_ne_bytes(*pair);
    match element {
        Element::F32 => {
            let quads = bytes.as_chunks::<4>().0;
            values.iter_mut().zip(quads).for_each(|(value, quad)| *value = f32::from_ne_bytes(*quad));
        }
        Element::Bf16 => {
            let pairs = bytes.as_chunks::<2>().0;
            values.iter_mut().zip(pairs).for_each(|(value, pair)| *value = bf16::from_bits(bits(pair)).to_f32());
        }
        Element::F16 => {
            let halves: Vec<f16> = bytes.as_chunks::<2>().0.iter().map(|pair| f16::from_bits(bits(pair))).collect();
            halves.convert_to_f32_slice(values);
        }
    }
}

/// Rounds and writes column by column, so that the gaps between columns do not change.
fn store(memory: &MemoryTable, d: &Operand, base: u64, matrix: u64, sums: &[f32]) -> Result<(), MemoryFault> {
    let dense = d.leading == d.rows;
    let length = if dense { sums.len() } else { d.rows as usize };
    for (column, sums) in sums.chunks_exact(length).enumerate() {
        let bytes: Vec<u8> = match d.element {
            Element::F32 => sums.iter().flat_map(|sum| sum.to_ne_bytes()).collect(),
            Element::Bf16 => sums.iter().flat_map(|sum| bf16::from_f32(*sum).to_bits().to_ne_bytes()).collect(),
            Element::F16 => sums.iter().flat_map(|sum| f16::from_f32(*sum).to_bits().to_ne_bytes()).collect(),
        };
        memory.write(d.column(base, matrix, column as u64), &bytes)?;
    }
    Ok(())
}

fn problem(descriptor: *mut c_void, layouts: [*mut c_void; 4]) -> Answer<Problem> {
    let [a, b, c, d] = layouts;
    let layouts = [LAYOUTS.get(a)?, LAYOUTS.get(b)?, LAYOUTS.get(c)?, LAYOUTS.get(d)?];
    Problem::new(&DESCRIPTORS.get(descriptor)?, [&layouts[0], &layouts[1], &layouts[2], &layouts[3]])
}

/// Returns up to `requested` algorithms that fit the workspace, always in the same order for a shape.
#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: *mut c_void,
    descriptor: *mut c_void,
    a: *mut c_void,
    b: *mut c_void,
    c: *mut c_void,
    d: *mut c_void,
    preference: *mut c_void,
    requested: i32,
    results: Out<HeuristicResult>,
    count: Out<i32>,
) -> u32 {
    entry("cublasLtMatmulAlgoGetHeuristic", || {
        HANDLES.get(handle)?;
        count.put(0)?;
        if requested < 1 {
            return Err(Status::INVALID_VALUE.because("the number of requested algorithms is not positive"));
        }
        let problem = problem(descriptor, [a, b, c, d])?;
        let Preference { workspace_max, alignments, reductions } = PREFERENCES.get(preference)?;
        let mut offered: Vec<Algorithm> = Vec::new();
        for index in 0..COUNT {
            let algorithm = Algorithm::choose(&problem, driver::seed(), index, reductions);
            if algorithm.workspace(&problem) <= workspace_max && !offered.contains(&algorithm) {
                offered.push(algorithm);
            }
        }
        if offered.is_empty() {
            offered.push(Algorithm::choose(&problem, driver::seed(), 0, reductions).whole());
        }
        offered.truncate(requested as usize);
        for (index, algorithm) in offered.iter().enumerate() {
            let workspace = algorithm.workspace(&problem) as usize;
            let result = HeuristicResult {
                algorithm: algorithm.encode(alignments),
                workspace,
                state: 0,
                waves: 1.0,
                reserved: [0; 4],
            };
            results.put_at(index, result)?;
        }
        count.put(offered.len() as i32)
    })
}

/// D = α·op(A)·op(B) + β·C with the epilogue, as a task of the stream. If β = 0, C is not read. Without an algorithm, the first
/// one of the heuristic that fits the workspace is used, with any reduction.
#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmul(
    handle: *mut c_void,
    descriptor: *mut c_void,
    alpha: In<f32>,
    a: u64,
    a_layout: *mut c_void,
    b: u64,
    b_layout: *mut c_void,
    beta: In<f32>,
    c: u64,
    c_layout: *mut c_void,
    d: u64,
    d_layout: *mut c_void,
    algorithm: In<Opaque>,
    workspace: u64,
    workspace_bytes: usize,
    stream: *mut c_void,
) -> u32 {
    entry("cublasLtMatmul", || {
        HANDLES.get(handle)?;
        let problem = problem(descriptor, [a_layout, b_layout, c_layout, d_layout])?;
        let (Some(alpha), Some(beta)) = (alpha.get(), beta.get()) else {
            return Err(Status::INVALID_VALUE.because("alpha or beta is null"));
        };
        let alignments = algorithm.get().map_or([1; 4], |opaque| Algorithm::alignments(&opaque));
        let algorithm = choose(&problem, algorithm, workspace, workspace_bytes)?;
        let job = Job { problem, algorithm, alpha, beta, a, b, c, d };
        check_addresses(&job, alignments)?;
        driver::submit(stream, Box::new(move |memory| job.run(memory)))
    })
}

fn choose(problem: &Problem, wanted: In<Opaque>, workspace: u64, workspace_bytes: usize) -> Answer<Algorithm> {
    let room = if workspace == 0 { 0 } else { workspace_bytes as u64 };
    match wanted.get() {
        Some(opaque) => {
            let algorithm = Algorithm::decode(&opaque)
                .ok_or_else(|| Status::INVALID_VALUE.because("the algorithm does not come from the heuristic"))?;
            let needed = algorithm.workspace(problem);
            if needed > room {
                return Err(Status::INVALID_VALUE
                    .because(format!("the algorithm needs {needed} bytes of workspace, got {room}")));
            }
            Ok(algorithm)
        }
        None => {
            let choose = |index| Algorithm::choose(problem, driver::seed(), index, Reduction::MASK);
            let fits = (0..COUNT).map(choose).find(|algorithm| algorithm.workspace(problem) <= room);
            Ok(fits.unwrap_or_else(|| choose(0).whole()))
        }
    }
}

/// Checks that addresses are aligned to the element and to the algorithm's alignment, and that the output does not overlap an
/// input, which would be a race on a GPU.
fn check_addresses(job: &Job, alignments: [u64; 4]) -> Answer {
    let Problem { a, b, c, d, batch, .. } = &job.problem;
    let operands = [("A", a, job.a), ("B", b, job.b), ("C", c, job.c), ("D", d, job.d)];
    for ((name, operand, address), alignment) in operands.into_iter().zip(alignments) {
        let read = name != "C" || job.beta != 0.0;
        if read && (address == 0 || !address.is_multiple_of(operand.element.bytes() as u64)) {
            return Err(Status::INVALID_VALUE.because(format!("{name} at {address:#x} is null or misaligned")));
        }
        if read && !address.is_multiple_of(alignment.max(1)) {
            return Err(Status::INVALID_VALUE.because(format!(
                "{name} at {address:#x} is not aligned to the {alignment} bytes that the algorithm was requested for"
            )));
        }
    }
    let (first, end) = d.span(job.d, *batch);
    for (name, operand, address) in &operands[..2] {
        let (other, other_end) = operand.span(*address, *batch);
        if first < other_end && other < end {
            return Err(Status::INVALID_VALUE.because(format!("D overlaps {name}: the matmul would race with itself")));
        }
    }
    Ok(())
}
