//! Opens a device: its context, its one stream, and all kernels of this binary.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, sys};

use super::arena::Arena;
use super::blas::Blas;
use super::kernels::{ARCHITECTURES, IMAGES};
use super::pending_copy::PinnedPool;
use super::staging::Staging;
use super::synchronisation_count::SynchronisationCount;
use super::timing::Timing;
use super::{CudaError, kernels};

/// The driver interface that the kernels were compiled for: CUDA 13.0.
pub(super) const DRIVER_VERSION_MIN: i32 = 13000;

/// Dynamic shared memory that a launch may use without setting the function's attribute.
const SHARED_BYTES_DEFAULT: usize = 48 << 10;

/// Whether a device whose name starts with "Emulated" is accepted. Nobody should train on one without knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulation {
    Refused,
    Allowed,
}

/// A CUDA device and all resources that ops need. Clones share the device.
#[derive(Clone)]
pub struct Cuda {
    opened: Arc<Opened>,
}

struct Opened {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    blas: Blas,
    arena: Arc<Arena>,
    staging: Mutex<Staging>,
    synchronisations: SynchronisationCount,
    pinned_pool: Arc<PinnedPool>,
    timing: Timing,
    /// By [`kernels::Kernel::index`].
    functions: Vec<CudaFunction>,
    /// Dynamic shared memory that a launch of each function may have, in bytes.
    shared_allowed: Vec<AtomicUsize>,
    /// How often each function was sent to a stream.
    launch_counts: Vec<AtomicU64>,
    name: String,
    capability: (i32, i32),
    memory_bytes: usize,
    /// By its type: see [`Cuda::kept`].
    kept: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl Cuda {
    /// Opens device `ordinal` and loads all kernels. Every cause of failure has its own error.
    pub fn open(ordinal: usize, emulation: Emulation) -> Result<Self, CudaError> {
        check_driver()?;
        let count = CudaContext::device_count().map_err(CudaError::driver("counting the devices"))? as usize;
        if ordinal >= count {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        let context = CudaContext::new(ordinal).map_err(CudaError::driver(format!("opening device {ordinal}")))?;
        // Safety: all commands go to one stream, whose order puts reads after writes and frees after both.
        unsafe { context.disable_event_tracking() };
        let asking = || CudaError::driver(format!("querying device {ordinal}"));
        let name = context.name().map_err(asking())?;
        if emulation == Emulation::Refused && name.starts_with("Emulated") {
            return Err(CudaError::Emulated { ordinal, name });
        }
        let capability = context.compute_capability().map_err(asking())?;
        let memory_bytes = context.total_mem().map_err(asking())?;
        let stream = context.new_stream().map_err(CudaError::driver("creating a stream"))?;
        let functions = kernels::load(&context, IMAGES).map_err(|error| match error {
            CudaError::Driver { error: DriverError(sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU), .. } => {
                CudaError::Architecture { name: name.clone(), capability, architectures: ARCHITECTURES }
            }
            other => other,
        })?;
        let arena = Arc::new(Arena::new(&context, &stream));
        let blas = Blas::new(&arena)?;
        let shared_allowed = functions.iter().map(|_| AtomicUsize::new(SHARED_BYTES_DEFAULT)).collect();
        let launch_counts = functions.iter().map(|_| AtomicU64::new(0)).collect();
        let opened = Opened {
            context,
            stream,
            blas,
            arena,
            staging: Mutex::default(),
            synchronisations: SynchronisationCount::default(),
            pinned_pool: Arc::default(),
            timing: Timing::default(),
            functions,
            shared_allowed,
            launch_counts,
            name,
            capability,
            memory_bytes,
            kept: Mutex::default(),
        };
        Ok(Self { opened: Arc::new(opened) })
    }

    /// Whether both are the same opened device.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.opened, &other.opened)
    }

    /// The device's name, such as "NVIDIA H100 80GB HBM3".
    pub fn name(&self) -> &str {
        &self.opened.name
    }

    /// Compute capability, such as (9, 0).
    pub fn capability(&self) -> (i32, i32) {
        self.opened.capability
    }

    /// Whether it is the emulator.
    pub fn is_emulated(&self) -> bool {
        self.opened.name.starts_with("Emulated")
    }

    /// The device's total memory in bytes, used or free.
    pub fn total_bytes(&self) -> usize {
        self.opened.memory_bytes
    }

    /// Waits for all commands so far, and reports a fault of any of them.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.synchronisations().host_waits();
        self.opened.stream.synchronize().map_err(CudaError::driver("waiting for the device"))
    }

    /// State that an op's launchers keep between calls on this device: one value of each type, empty at first.
    pub(crate) fn kept<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        // A panic while the lock is held cannot leave the map half changed, so a poisoned lock is safe to use.
        let mut kept = self.opened.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let value = kept.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(T::default()));
        value.clone().downcast().expect("the key of an entry is its type")
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.opened.context
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.opened.stream
    }

    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.opened.arena
    }

    pub(super) fn staging(&self) -> MutexGuard<'_, Staging> {
        // A write that failed half-way only leaves a gap in the ring.
        self.opened.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the host has waited for commands that it sent since the previous wait.
    pub fn synchronisation_count(&self) -> u64 {
        self.synchronisations().count()
    }

    /// How many writes were too large for page-locked memory ([`Staging::BYTES_MAX`]). Before it copies one, the driver waits
    /// for all commands so far.
    pub fn pageable_write_count(&self) -> u64 {
        self.staging().pageable_count()
    }

    pub(super) fn synchronisations(&self) -> &SynchronisationCount {
        &self.opened.synchronisations
    }

    pub(super) fn pinned_pool(&self) -> &Arc<PinnedPool> {
        &self.opened.pinned_pool
    }

    pub(super) fn timing(&self) -> &Timing {
        &self.opened.timing
    }

    pub(super) fn blas(&self) -> &Blas {
        &self.opened.blas
    }

    pub(super) fn shared_allowed(&self, index: usize) -> &AtomicUsize {
        &self.opened.shared_allowed[index]
    }

    pub(super) fn count_launch(&self, index: usize) {
        self.opened.launch_counts[index].fetch_add(1, Ordering::Relaxed);
    }

    /// Every kernel of this binary, and how often it was sent to a stream of this device, captures of graphs included. Replays of
    /// a graph are not counted.
    pub fn launch_counts(&self) -> Vec<(&'static str, u64)> {
        let names = IMAGES.iter().flat_map(|image| image.kernels.iter().copied());
        names.zip(&self.opened.launch_counts).map(|(name, count)| (name, count.load(Ordering::Relaxed))).collect()
    }

    pub(super) fn function(&self, index: usize) -> &CudaFunction {
        &self.opened.functions[index]
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.opened.capability;
        write!(f, "Cuda({}, sm_{major}{minor})", self.opened.name)
    }
}

/// The driver's version, such as 13000. cudarc panics if the library is missing, so this is called before anything else.
pub(super) fn driver_version() -> Result<i32, CudaError> {
    // Safety: loads the library that all later calls use, and runs its initialisers, as any use of CUDA does.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    let mut version = 0;
    // Safety: the driver writes one integer through the pointer.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(CudaError::driver("querying the driver's version"))?;
    Ok(version)
}

/// Checks that there is a driver, that it is new enough, and that it finds a device.
pub(super) fn check_driver() -> Result<(), CudaError> {
    let version = driver_version()?;
    if version < DRIVER_VERSION_MIN {
        return Err(CudaError::DriverTooOld { expected: DRIVER_VERSION_MIN, got: version });
    }
    cudarc::driver::result::init().map_err(|error| match error {
        DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE) => CudaError::NoDevice { ordinal: 0, count: 0 },
        other => CudaError::Driver { what: "initialising the driver".into(), error: other },
    })
}
