//! Matmuls by cuBLASLt.
//!
//! All sums are f32, also those of a matmul that is split along k: see [`reductions`].
//!
//! The algorithm comes from the library's heuristic, never from timing, and is cached per shape. The same shape is always
//! summed in the same order, so a resumed run gives the same bits. Another number of rows may get another algorithm: unlike on
//! the CPU, a row's bits may depend on the other rows of its batch.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::CudaStream;
use half::bf16;

use super::arena::{Allocation, Arena};
use super::command::StreamCommand;
use super::{Cuda, CudaError, View, ViewMut};
use crate::memory::labelled;
use crate::tensor::{DType, Element};

/// NVIDIA recommends this size for Hopper; Ampere needs less.
static WORKSPACE_BYTES: usize = 32 << 20;
/// The largest alignment that any algorithm uses.
const ALIGNMENT_MAX: u64 = 256;
/// Shapes in the cache. Training has some hundreds; at this number the cache is emptied.
const PLANS_MAX: usize = 4096;

/// A row-major matrix to multiply. `leading` is the distance between the starts of two rows, in elements.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    pub matrix: View<'a, bf16>,
    pub leading: usize,
    /// Whether the transpose is multiplied.
    pub transposed: bool,
}

/// `out[m, n] = a[m, k] · b[k, n]`, all row-major, added to `out` if `accumulate` is set. The operands are bf16, the sums f32,
/// rounded once. `out` is bf16 or f32.
pub struct Matmul<'a, T> {
    pub out: ViewMut<'a, T>,
    /// [m, k], or [k, m] when transposed
    pub a: Operand<'a>,
    /// [k, n], or [n, k] when transposed
    pub b: Operand<'a>,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub accumulate: bool,
}

/// The library handle, its workspace, and the plans of all shapes so far.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: Allocation,
    plans: Mutex<HashMap<Shape, PreparedMatmul>>,
}

// Safety: any thread may use a cuBLASLt handle; the plans are behind a lock.
unsafe impl Send for Blas {}
// Safety: as above.
unsafe impl Sync for Blas {}

/// Everything that the choice of algorithm may depend on. The library is column-major, so its first operand is our second one
/// and its rows are our columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    /// (m, n, k) of the library
    sizes: [usize; 3],
    /// Distances between the columns of its A, B and C.
    leading: [usize; 3],
    transposed: [bool; 2],
    out: DType,
    /// Of the addresses of A, B and C.
    alignments: [u32; 3],
}

/// The arguments of one call of `cublasLtMatmul`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MatmulCall {
    shape: Shape,
    /// Of A, B and C.
    addresses: [u64; 3],
    accumulate: bool,
}

impl MatmulCall {
    /// The fewest bytes it can read and write. An output that is accumulated to counts twice.
    pub fn bytes(&self) -> u64 {
        let [m, n, k] = self.shape.sizes.map(|size| size as u64);
        let out_passes = if self.accumulate { 2 } else { 1 };
        (m * k + k * n) * DType::Bf16.bytes() as u64 + out_passes * m * n * self.shape.out.bytes() as u64
    }

    /// A multiplication and an addition for each of m·n·k.
    pub fn flops(&self) -> u64 {
        2 * self.shape.sizes.iter().map(|size| *size as u64).product::<u64>()
    }
}

/// The library's descriptors for a shape, and its algorithm.
struct PreparedMatmul {
    description: sys::cublasLtMatmulDesc_t,
    /// A, B, and C, which is also D.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// Safety: descriptors are plain host memory, and are used under the lock of the plans.
unsafe impl Send for PreparedMatmul {}

impl Drop for PreparedMatmul {
    fn drop(&mut self) {
        // Safety: created by `PreparedMatmul::new` and destroyed only here. An error could not be handled.
        unsafe {
            let _ = result::destroy_matmul_desc(self.description);
            self.layouts.iter().for_each(|layout| {
                let _ = result::destroy_matrix_layout(*layout);
            });
        }
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).clear();
        // Safety: created by `Blas::new` and destroyed only here. An error could not be handled.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// The library that was found.
#[derive(Debug)]
pub struct BlasInfo {
    /// "13.0.2"
    pub version: String,
    /// The file it was loaded from.
    pub path: String,
}

/// Loads the library.
///
/// # Errors
/// [`CudaError::NoBlas`] with the folders that were searched.
pub(super) fn find() -> Result<(), CudaError> {
    // Safety: loads the library that all later calls use, and runs its initialisers.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    let path = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let path = if path.is_empty() { "which is not set".to_owned() } else { format!("which is {path}") };
    Err(CudaError::NoBlas { searched: format!("LD_LIBRARY_PATH, {path}, and the system's own folders") })
}

/// Loads the library and returns its version and file.
pub(super) fn info() -> Result<BlasInfo, CudaError> {
    find()?;
    // Safety: the library is loaded; the function takes no arguments and has no effect.
    let version = unsafe { sys::cublasLtGetVersion() };
    // 130002 is 13.0.2.
    let version = format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100);
    // Safety: only the address is used. The library stays loaded until the process ends.
    let function = unsafe { sys::culib().get::<unsafe extern "C" fn() -> usize>(b"cublasLtGetVersion\0") };
    let path = function.ok().and_then(|function| file_of(*function as *const c_void));
    Ok(BlasInfo { version, path: path.unwrap_or_else(|| "a file that the linker does not name".into()) })
}

/// The file that a function was loaded from.
fn file_of(function: *const c_void) -> Option<String> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // Safety: `dladdr` looks up the address and fills the struct, for which all zeros is a valid value.
    let info = unsafe {
        let found = libc::dladdr(function, info.as_mut_ptr()) != 0;
        found.then(|| info.assume_init())?
    };
    // Safety: a name that is not null is a C string owned by the linker, which lives as long as the library.
    let name = (!info.dli_fname.is_null()).then(|| unsafe { std::ffi::CStr::from_ptr(info.dli_fname) })?;
    let name = name.to_string_lossy().into_owned();
    // Libraries are often symbolic links; the file they point to has the full version in its name.
    Some(std::fs::canonicalize(&name).map_or(name, |path| path.display().to_string()))
}

impl Blas {
    /// Loads cuBLASLt and allocates its workspace; [`CudaError::NoBlas`] if the library cannot be found.
    pub fn new(arena: &Arc<Arena>) -> Result<Self, CudaError> {
        find()?;
        let failed = CudaError::blas("creating a handle");
        let handle = result::create_handle().map_err(failed)?;
        let workspace = labelled("matmul workspace", || arena.allocate(WORKSPACE_BYTES))?;
        Ok(Self { handle, workspace, plans: Mutex::default() })
    }
}

impl Blas {
    /// Sends a matmul to a stream. [`Cuda::matmul`] has checked it against its views.
    pub fn send(&self, call: &MatmulCall, stream: &CudaStream) -> Result<(), CudaError> {
        let MatmulCall { shape, addresses, accumulate } = call;
        let [n, m, k] = shape.sizes;
        let failed = || CudaError::blas(format!("multiplying [{m}, {k}] by [{k}, {n}]"));
        let Blas { handle, workspace, plans } = self;
        let mut plans = plans.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= PLANS_MAX {
            plans.clear();
        }
        let plan = match plans.entry(*shape) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(PreparedMatmul::new(*handle, shape).map_err(failed())?)
            }
        };
        let [first, second, output] = addresses.map(|address| address as *mut c_void);
        let [a_layout, b_layout, c_layout] = plan.layouts;
        let (alpha, beta) = (1f32, if *accumulate { 1f32 } else { 0f32 });
        // Safety: `Cuda::matmul` checked operands and output against their views and borrowed the output for writing; the one
        // stream orders all uses of the workspace; alpha and beta are read before the call returns.
        unsafe {
            result::matmul(
                *handle,
                plan.description,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                first,
                a_layout,
                second,
                b_layout,
                output,
                c_layout,
                output,
                c_layout,
                &plan.algorithm,
                workspace.address as *mut c_void,
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        }
        .map_err(failed())
    }
}

/// How the parts of a matmul that is split along k may be added up, as a mask of the library's reduction schemes. The library's
/// default allows all of them. Decode steps are split the most, because their matmuls have few rows and long sums.
///
/// - `COMPUTE_TYPE` (the workspace holds the parts in the compute type, f32, and a separate step adds them): always allowed.
/// - `OUTPUT_TYPE` (the workspace holds the parts in the output's type): only if that is f32. Otherwise each part would be
///   rounded to bf16.
/// - `INPLACE` (each part is added to the output, in the output's type): never. For bf16 it rounds after every part, and the
///   documentation does not promise an order of the parts, so the same call could give different bits.
/// - `NONE` has no bit: a sum in one part is always allowed.
fn reductions(out: DType) -> u32 {
    use sys::cublasLtReductionScheme_t as Scheme;
    let f32_parts = Scheme::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
    if out == DType::F32 { f32_parts | Scheme::CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE as u32 } else { f32_parts }
}

impl PreparedMatmul {
    fn new(handle: sys::cublasLtHandle_t, shape: &Shape) -> Result<Self, CublasError> {
        let Shape { sizes: [m, n, k], leading, transposed, out, .. } = *shape;
        let f32_code = sys::cudaDataType_t::CUDA_R_32F;
        let code = |dtype| if dtype == DType::F32 { f32_code } else { sys::cudaDataType_t::CUDA_R_16BF };
        let stored = |rows, cols, transposed| if transposed { (cols, rows) } else { (rows, cols) };
        let matrices = [
            (code(DType::Bf16), stored(m, k, transposed[0]), leading[0]),
            (code(DType::Bf16), stored(k, n, transposed[1]), leading[1]),
            (code(out), (m, n), leading[2]),
        ];
        let mut layouts = [std::ptr::null_mut(); 3];
        for (layout, (kind, (rows, cols), leading)) in layouts.iter_mut().zip(matrices) {
            *layout = result::create_matrix_layout(kind, rows as u64, cols as u64, leading as i64)?;
        }
        let description = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, f32_code)?;
        // From here on `drop` destroys everything, also after an error.
        let mut plan = Self { description, layouts, algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] } };
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let flags = [Attribute::CUBLASLT_MATMUL_DESC_TRANSA, Attribute::CUBLASLT_MATMUL_DESC_TRANSB];
        for (attribute, transposed) in flags.into_iter().zip(transposed) {
            let value = i32::from(transposed);
            // Safety: the attribute is an i32 and is copied.
            unsafe { result::set_matmul_desc_attribute(description, attribute, (&raw const value).cast(), 4) }?;
        }
        plan.algorithm = plan.ask(handle, shape)?;
        Ok(plan)
    }

    /// The heuristic's first choice for this shape.
    fn ask(&self, handle: sys::cublasLtHandle_t, shape: &Shape) -> Result<sys::cublasLtMatmulAlgo_t, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = result::create_matmul_pref()?;
        let [a, b, c] = shape.alignments;
        let numbers = [
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c),
            (Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions(shape.out)),
        ];
        let [first, second, out] = self.layouts;
        let bytes = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // Safety: attributes have these types and are copied; all objects are alive.
        let answer = unsafe {
            result::set_matmul_pref_attribute(preference, bytes, (&raw const WORKSPACE_BYTES).cast(), 8)
                .and_then(|()| {
                    numbers.iter().try_for_each(|(attribute, value)| {
                        result::set_matmul_pref_attribute(preference, *attribute, (value as *const u32).cast(), 4)
                    })
                })
                .and_then(|()| {
                    let description = self.description;
                    result::get_matmul_algo_heuristic(handle, description, first, second, out, out, preference)
                })
        };
        // Safety: created above.
        unsafe { result::destroy_matmul_pref(preference) }?;
        Ok(answer?.algo)
    }
}

impl Operand<'_> {
    /// An operand that is multiplied as it is stored.
    pub fn plain(matrix: View<'_, bf16>, leading: usize) -> Operand<'_> {
        Operand { matrix, leading, transposed: false }
    }

    /// An operand whose transpose is multiplied.
    pub fn transposed(matrix: View<'_, bf16>, leading: usize) -> Operand<'_> {
        Operand { matrix, leading, transposed: true }
    }

    fn check(&self, name: &str, [rows, cols]: [usize; 2]) {
        let (rows, cols) = if self.transposed { (cols, rows) } else { (rows, cols) };
        let (needed, got) = ((rows - 1) * self.leading + cols, crate::tensor::View::len(&self.matrix));
        assert!(self.leading >= cols, "{name}: rows have {cols} elements, but start {} elements apart", self.leading);
        assert!(got >= needed, "{name} has {got} elements, the matmul reads {needed}");
    }
}

impl Cuda {
    /// Puts a matmul on the stream.
    ///
    /// # Panics
    ///
    /// When a view is smaller than the sizes say: launchers check sizes first.
    pub fn matmul<T: Element>(&self, matmul: Matmul<'_, T>) -> Result<(), CudaError> {
        let Matmul { out, a, b, m, n, k, accumulate } = matmul;
        assert!(matches!(T::DTYPE, DType::F32 | DType::Bf16), "a matmul's output is bf16 or f32, not {}", T::DTYPE);
        if m == 0 || n == 0 {
            return Ok(());
        }
        assert!(k > 0, "a matmul needs at least one term per sum");
        a.check("a", [m, k]);
        b.check("b", [k, n]);
        assert_eq!(crate::tensor::View::len(&out), m * n, "`out` must be dense");
        let addresses = [b.matrix.address(), a.matrix.address(), out.address()];
        let shape = Shape {
            sizes: [n, m, k],
            leading: [b.leading, a.leading, n],
            transposed: [b.transposed, a.transposed],
            out: T::DTYPE,
            alignments: addresses.map(|address| (1 << address.trailing_zeros().min(ALIGNMENT_MAX.ilog2())) as u32),
        };
        self.submit(StreamCommand::Matmul(MatmulCall { shape, addresses, accumulate }))
    }
}
