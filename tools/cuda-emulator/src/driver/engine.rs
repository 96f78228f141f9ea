//! The seam to the machine: what the driver needs of it, in the driver's words.

use std::collections::BTreeMap;
use std::ffi::CString;

use super::reports;
use super::status::{Answer, Status};
use super::work::Failure;

/// A parameter of a kernel.
#[derive(Clone, Debug)]
pub struct ParameterInfo {
    pub offset: usize,
    pub size: usize,
    /// Byte offsets in the parameter that the kernel uses as pointers.
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
#[derive(Clone, Copy, Debug)]
pub struct Dimensions {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
}

pub struct Loaded {
    pub kernels: Vec<KernelInfo>,
    pub target: (u32, u32),
}
impl Loaded {
    pub fn from_image(_image: &[u8], _capability: (u32, u32)) -> Answer<Self> {
        Ok(Loaded { kernels: Vec::new(), target: (8, 0) })
    }
}
pub struct Placed;
impl Placed {
    pub fn symbol(&self, _name: &str) -> Option<(u64, u64)> {
        None
    }
}

pub fn memory_bytes() -> Answer<u64> {
    match reports::setting("memory") {
        None => Ok(16 << 30),
        Some(text) => text.parse().map_err(|_| Status::INVALID_VALUE.because("PATARM_EMULATOR_MEMORY")),
    }
}

/// The machine of one context.
pub struct Engine {
    allocations: BTreeMap<u64, Vec<u8>>,
    next: u64,
    capability: (u32, u32),
    total: u64,
    used: u64,
}

impl Engine {
    pub fn new(capability: (u32, u32), number: u16) -> Answer<Self> {
        Ok(Engine {
            allocations: BTreeMap::new(),
            next: 0x7000_4000_0000 + ((number as u64) << 36),
            capability,
            total: memory_bytes()?,
            used: 0,
        })
    }
    pub fn capability(&self) -> (u32, u32) {
        self.capability
    }
    pub fn order_seed(&self) -> Option<u64> {
        reports::setting("seed").and_then(|seed| seed.parse().ok())
    }
    pub fn place_globals(&mut self, _: &Loaded) -> Answer<Placed> {
        Ok(Placed)
    }
    pub fn remove_globals(&mut self, _: &Placed) -> Result<(), Failure> {
        Ok(())
    }
    pub fn launch(&mut self, _: &Loaded, _: usize, _: &Placed, _: &Dimensions, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }
    pub fn allocate(&mut self, bytes: u64) -> Option<u64> {
        if self.used + bytes > self.total {
            return None;
        }
        let address = self.next;
        self.next += (bytes + 4096).next_multiple_of(512);
        self.allocations.insert(address, vec![0; bytes as usize]);
        self.used += bytes;
        Some(address)
    }
    pub fn free_bytes(&self) -> u64 {
        self.total - self.used
    }
    pub fn total_bytes(&self) -> u64 {
        self.total
    }
    fn find(&mut self, address: u64, n: u64) -> Result<&mut [u8], Failure> {
        let bad = Failure { status: Status::ILLEGAL_ADDRESS, report: format!("{n} bytes at {address:#x}") };
        let Some((start, bytes)) = self.allocations.range_mut(..=address).next_back() else { return Err(bad) };
        let at = address - start;
        if at + n > bytes.len() as u64 {
            return Err(bad);
        }
        Ok(&mut bytes[at as usize..(at + n) as usize])
    }
    pub fn free(&mut self, address: u64) -> Result<(), Failure> {
        match self.allocations.remove(&address) {
            Some(bytes) => {
                self.used -= bytes.len() as u64;
                Ok(())
            }
            None => Err(Failure { status: Status::ILLEGAL_ADDRESS, report: format!("free of {address:#x}") }),
        }
    }
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        bytes.copy_from_slice(self.find(address, bytes.len() as u64)?);
        Ok(())
    }
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.find(address, bytes.len() as u64)?.copy_from_slice(bytes);
        Ok(())
    }
    pub fn fill(&mut self, address: u64, byte: u8, n: u64) -> Result<(), Failure> {
        self.find(address, n)?.fill(byte);
        Ok(())
    }
    pub fn copy(&mut self, to: u64, from: u64, n: u64) -> Result<(), Failure> {
        let bytes = self.find(from, n)?.to_vec();
        self.write(to, &bytes)
    }
    /// The live allocation that holds this address: its start and size.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        let (start, bytes) = self.allocations.range(..=address).next_back()?;
        (address - start < bytes.len() as u64).then_some((*start, bytes.len() as u64))
    }
    pub fn is_device_address(&self, address: u64) -> bool {
        (0x7000_0000_0000..0x7f00_0000_0000).contains(&address)
    }
    pub fn leaks(&self) -> Vec<String> {
        self.allocations.iter().map(|(start, bytes)| format!("{start:#x} {}", bytes.len())).collect()
    }
    pub fn finish(&mut self) {}
}
