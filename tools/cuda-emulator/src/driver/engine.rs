//! The interface between the driver and the machine, in the driver's terms.

use std::ffi::CString;
use std::sync::{Mutex, Once, PoisonError};

use super::command::Failure;
use super::ranges;
use super::reports;
use super::status::{Answer, Refusal, Status};
use crate::counters::Counters;
use crate::fatbin::{self, FatbinError};
use crate::fault::{Fault, FaultKind};
use crate::ir::{LoadError, Program};
use crate::machine::{Device, LaunchConfig, SymbolAddresses};
use crate::memory::global;
use crate::options::Options;
use crate::tensor_core::Model;

/// A parameter of a kernel.
#[derive(Clone, Debug)]
pub struct ParameterInfo {
    pub offset: usize,
    pub size: usize,
    /// Byte offsets of the pointers that the kernel uses in this parameter.
    pub pointers: Vec<usize>,
}

/// A kernel as the host sees it.
#[derive(Clone, Debug)]
pub struct KernelInfo {
    pub name: CString,
    pub parameters: Vec<ParameterInfo>,
    pub parameter_bytes: usize,
    pub static_shared: u32,
    pub local_bytes: u32,
    pub max_threads: u32,
    pub registers: u32,
}

/// Grid and block of a launch, and dynamic shared memory in bytes.
pub type Dimensions = LaunchConfig;

/// A program ready to run.
pub struct Loaded {
    pub kernels: Vec<KernelInfo>,
    pub target: (u32, u32),
    program: Program,
}

impl Loaded {
    pub fn from_image(image: &[u8], capability: (u32, u32)) -> Answer<Self> {
        let text = match std::str::from_utf8(image) {
            Ok(text) => text.trim_end_matches('\0'),
            Err(_) => fatbin::ptx_for(image, capability).map_err(refuse_image)?,
        };
        let program = Program::load(text).map_err(refuse_program)?;
        if program.target > capability {
            let ((major, minor), (has_major, has_minor)) = (program.target, capability);
            let message = format!("the PTX is for sm_{major}{minor}, the device is sm_{has_major}{has_minor}");
            return Err(Status::NO_BINARY_FOR_GPU.because(message));
        }
        let kernels = program.kernels.iter().map(KernelInfo::of).collect();
        Ok(Loaded { kernels, target: program.target, program })
    }
}

fn refuse_image(error: FatbinError) -> Refusal {
    let status = match error {
        FatbinError::NoneFor { .. } | FatbinError::NoPtx => Status::NO_BINARY_FOR_GPU,
        _ => Status::INVALID_IMAGE,
    };
    status.because(error.to_string())
}

fn refuse_program(error: LoadError) -> Refusal {
    Status::INVALID_PTX.because(error.to_string())
}

impl KernelInfo {
    fn of(kernel: &crate::ir::Kernel) -> Self {
        let parameter = |p: &crate::ir::Parameter| ParameterInfo {
            offset: p.offset as usize,
            size: p.size as usize,
            pointers: p.pointers.iter().map(|at| *at as usize).collect(),
        };
        KernelInfo {
            name: CString::new(kernel.name.as_str()).unwrap_or_default(),
            parameters: kernel.parameters.iter().map(parameter).collect(),
            parameter_bytes: kernel.parameter_bytes as usize,
            static_shared: kernel.static_shared,
            local_bytes: kernel.local_bytes,
            max_threads: kernel.max_threads,
            registers: kernel.registers,
        }
    }
}

/// Addresses of the variables of a module: (name, address, bytes), in program order.
pub struct Globals(Vec<(String, u64, u64)>);

impl Globals {
    pub fn symbol(&self, name: &str) -> Option<(u64, u64)> {
        self.0.iter().find(|(known, ..)| known == name).map(|(_, address, bytes)| (*address, *bytes))
    }
}

/// The settings of this thread as device options.
fn options(capability: (u32, u32)) -> Answer<Options> {
    let wrong = |key: &str, text: &str, expected: &str| {
        let key = key.to_uppercase().replace('-', "_");
        Status::INVALID_VALUE.because(format!("PATARM_EMULATOR_{key}={text}: expected {expected}"))
    };
    let number = |key: &str| match reports::setting(key) {
        None => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| wrong(key, &text, "a number")),
    };
    let default = Options::default();
    let checks = match reports::setting("checks").as_deref() {
        None | Some("1") => true,
        Some("0") => false,
        Some(text) => return Err(wrong("checks", text, "0 or 1")),
    };
    let tensor_core = match reports::setting("tensor-core").as_deref() {
        None => None,
        Some("ampere") => Some(Model::Ampere),
        Some("hopper") => Some(Model::Hopper),
        Some("fma") => Some(Model::Fma),
        Some(text) => return Err(wrong("tensor-core", text, "ampere, hopper or fma")),
    };
    let memory = number("memory")?.unwrap_or(default.memory);
    Ok(Options { checks, tensor_core, memory, capability, order_seed: number("seed")?, ..default })
}

/// Device memory in bytes, from the settings.
pub fn memory_bytes() -> Answer<u64> {
    Ok(options((8, 0))?.memory)
}

/// The machine of one context.
pub struct Engine {
    device: Device,
    stats: bool,
}

impl Engine {
    pub fn new(capability: (u32, u32), number: u16) -> Answer<Self> {
        let stats = reports::setting("stats").as_deref() == Some("1");
        if stats {
            print_totals_at_exit();
        }
        Ok(Engine { device: Device::numbered(options(capability)?, number), stats })
    }

    pub fn capability(&self) -> (u32, u32) {
        self.device.options.capability
    }

    pub fn order_seed(&self) -> Option<u64> {
        self.device.options.order_seed
    }

    /// Allocates a module's variables in device memory and writes their initial values.
    pub fn allocate_globals(&mut self, loaded: &Loaded) -> Answer<Globals> {
        let memory = &mut self.device.memory;
        let mut variables = Vec::new();
        for symbol in &loaded.program.symbols {
            let no_room = || Status::OUT_OF_MEMORY.because(format!("no room for the variable {}", symbol.name));
            let address = memory.allocate(symbol.size).map_err(|_| no_room())?;
            let written = match &symbol.bytes {
                Some(bytes) => memory.write(address, bytes),
                None => memory.fill(address, 0, symbol.size),
            };
            written.map_err(|fault| Status::INVALID_IMAGE.because(fault.to_string()))?;
            if symbol.constant {
                memory.make_constant(address);
            }
            variables.push((symbol.name.clone(), address, symbol.size));
        }
        Ok(Globals(variables))
    }

    pub fn free_globals(&mut self, globals: &Globals) -> Result<(), Failure> {
        globals.0.iter().try_for_each(|(_, address, _)| self.free(*address))
    }

    pub fn launch(
        &mut self,
        loaded: &Loaded,
        index: usize,
        globals: &Globals,
        shape: &Dimensions,
        parameters: &[u8],
    ) -> Result<(), Failure> {
        let symbols = SymbolAddresses(globals.0.iter().map(|(_, address, _)| *address).collect());
        let kernel = &loaded.program.kernels[index];
        let result = self.device.launch(&loaded.program, kernel, &symbols, shape, parameters);
        if self.stats {
            let counters = std::mem::take(&mut self.device.counters);
            add_totals(&counters);
        }
        result.map_err(failure)
    }

    pub fn allocate(&mut self, bytes: u64) -> Option<u64> {
        self.device.memory.allocate(bytes).ok()
    }

    pub fn free_bytes(&self) -> u64 {
        self.device.memory.free_bytes()
    }

    pub fn total_bytes(&self) -> u64 {
        self.device.memory.limit()
    }

    pub fn free(&mut self, address: u64) -> Result<(), Failure> {
        self.device.memory.free(address).map_err(failure)
    }

    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        self.device.memory.read(address, bytes).map_err(failure)
    }

    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.device.memory.write(address, bytes).map_err(failure)
    }

    pub fn fill(&mut self, address: u64, byte: u8, n: u64) -> Result<(), Failure> {
        self.device.memory.fill(address, byte, n).map_err(failure)
    }

    pub fn copy(&mut self, to: u64, from: u64, n: u64) -> Result<(), Failure> {
        self.device.memory.copy(to, from, n).map_err(failure)
    }

    /// Makes a range of an allocation a buffer of the program's own sub-allocator.
    pub fn allocate_buffer(&mut self, address: u64, bytes: u64) -> Result<(), Failure> {
        self.device.memory.allocate_buffer(address, bytes).map_err(failure)
    }

    pub fn free_buffer(&mut self, address: u64) -> Result<(), Failure> {
        self.device.memory.free_buffer(address).map_err(failure)
    }

    /// Start and size of the live allocation that contains this address.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        self.device.memory.allocation(address)
    }

    pub fn is_device_address(&self, address: u64) -> bool {
        (global::BASE..global::END).contains(&address)
    }

    /// Allocations that were never freed, one line each.
    pub fn leaks(&self) -> Vec<String> {
        self.device.memory.live().map(|(start, bytes)| format!("{bytes} bytes at {start:#x}")).collect()
    }
}

/// Counters of all contexts with the setting `stats`.
static TOTALS: Mutex<Counters> = Mutex::new(Counters::NONE);

/// Removes and returns the counters, so that they are not printed at exit.
pub fn take_totals() -> Counters {
    std::mem::take(&mut TOTALS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Adds to the counters.
pub fn add_totals(counters: &Counters) {
    TOTALS.lock().unwrap_or_else(PoisonError::into_inner).merge(counters);
}

/// Contexts often live as long as the program, so the table is printed when the program ends.
fn print_totals_at_exit() {
    extern "C" fn print() {
        let table = TOTALS.lock().unwrap_or_else(PoisonError::into_inner).table();
        if !table.is_empty() {
            eprintln!("{table}");
        }
        eprint!("{}", ranges::table());
    }
    static ONCE: Once = Once::new();
    // Safety: `print` is a function of this library, which is never unloaded, and uses only data that lives until the
    // process ends.
    ONCE.call_once(|| {
        if unsafe { libc::atexit(print) } != 0 {
            eprintln!("cuda-emulator: counters cannot be printed at exit");
        }
    });
}

/// Converts a fault to the code for the program and the text for people.
fn failure(fault: Fault) -> Failure {
    let status = match fault.kind {
        FaultKind::IllegalAddress => Status::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => Status::MISALIGNED_ADDRESS,
        FaultKind::Trap => Status::ILLEGAL_INSTRUCTION,
        FaultKind::Deadlock => Status::LAUNCH_TIMEOUT,
        FaultKind::Launch => Status::INVALID_VALUE,
        FaultKind::Uninitialised | FaultKind::Race | FaultKind::Synchronisation | FaultKind::Unsupported => {
            Status::LAUNCH_FAILED
        }
    };
    Failure { status, report: fault.to_string() }
}
