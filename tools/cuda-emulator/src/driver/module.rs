//! Modules: loads fat binaries and PTX, and finds kernels and global variables in them.

use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

use super::context::Context;
use super::engine::{Globals, Loaded};
use super::entry::{self, Out, entry};
use super::function::Function;
use super::handle::Kind;
use super::queue::Goal;
use super::registry;
use super::status::{Answer, Status};

const FATBIN_MAGIC: u32 = 0xba55_ed50;
/// The struct that nvcc puts around a fat binary in a host object: magic, version, pointer.
const WRAPPER_MAGIC: u32 = 0x4662_43b1;
const ELF_MAGIC: u32 = u32::from_le_bytes([0x7f, b'E', b'L', b'F']);

pub struct Module {
    pub loaded: Arc<Loaded>,
    pub globals: Arc<Globals>,
}

impl Context {
    fn load_module(&mut self, image: &[u8]) -> Answer<u32> {
        let loaded = Loaded::from_image(image, self.engine.capability())?;
        let globals = self.engine.allocate_globals(&loaded)?;
        let serial = self.new_serial();
        self.modules.insert(serial, Module { loaded: Arc::new(loaded), globals: Arc::new(globals) });
        Ok(serial)
    }

    fn module(&self, handle: *mut c_void) -> Answer<(u32, &Module)> {
        let serial = self.serial(handle, Kind::Module)?;
        let module = self.modules.get(&serial);
        Ok((serial, module.ok_or_else(|| Status::INVALID_HANDLE.because("the module was unloaded"))?))
    }

    fn find_function(&mut self, module: *mut c_void, name: &str) -> Answer<u32> {
        let (serial, module) = self.module(module)?;
        let kernels = &module.loaded.kernels;
        let Some(index) = kernels.iter().position(|kernel| kernel.name.to_bytes() == name.as_bytes()) else {
            let names: Vec<_> = kernels.iter().map(|kernel| kernel.name.to_string_lossy()).collect();
            return Err(Status::NOT_FOUND.because(format!("no kernel {name}; the module has {}", names.join(", "))));
        };
        let known = self.functions.iter().find(|(_, function)| function.module == serial && function.index == index);
        if let Some((known, _)) = known {
            return Ok(*known);
        }
        let function = Function::new(serial, index, module.loaded.clone(), module.globals.clone());
        let serial = self.new_serial();
        self.functions.insert(serial, function);
        Ok(serial)
    }
}

/// The bytes of an image whose length is only in its header: a fat binary, or PTX that ends with a zero byte.
fn image_bytes<'a>(image: *const c_void) -> Answer<&'a [u8]> {
    if image.is_null() {
        return Err(Status::INVALID_VALUE.because("the image is null"));
    }
    // Safety: every image has at least four bytes; the read is unaligned.
    let magic = unsafe { image.cast::<u32>().read_unaligned() };
    match magic {
        FATBIN_MAGIC => {
            // Safety: a fat binary starts with 16 bytes: magic, version (2), header length (2), payload length (8).
            let (header, payload) = unsafe {
                let start = image.cast::<u8>();
                (start.add(6).cast::<u16>().read_unaligned(), start.add(8).cast::<u64>().read_unaligned())
            };
            // Safety: the header contains the lengths of header and payload.
            Ok(unsafe { std::slice::from_raw_parts(image.cast(), header as usize + payload as usize) })
        }
        // Safety: the wrapper holds a pointer to the fat binary 8 bytes from its start.
        WRAPPER_MAGIC => image_bytes(unsafe { image.cast::<u8>().add(8).cast::<*const c_void>().read_unaligned() }),
        ELF_MAGIC => Err(Status::NO_BINARY_FOR_GPU
            .because("the image is machine code (a cubin): the emulator runs PTX, so embed a fat binary or PTX")),
        // Safety: any other image is PTX text, which ends with a zero byte.
        _ => Ok(unsafe { CStr::from_ptr(image.cast()) }.to_bytes()),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadData(slot: Out<*mut c_void>, image: *const c_void) -> u32 {
    entry("cuModuleLoadData", || {
        registry::with_current(|context| {
            context.refuse_unsafe_in_capture()?;
            let module = context.load_module(image_bytes(image)?)?;
            slot.put(context.handle(module, Kind::Module))
        })
    })
}

/// Options of the just-in-time compiler have no effect.
#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadDataEx(
    slot: Out<*mut c_void>,
    image: *const c_void,
    _count: u32,
    _options: *mut c_void,
    _values: *mut c_void,
) -> u32 {
    cuModuleLoadData(slot, image)
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadFatBinary(slot: Out<*mut c_void>, image: *const c_void) -> u32 {
    cuModuleLoadData(slot, image)
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoad(slot: Out<*mut c_void>, path: *const c_char) -> u32 {
    entry("cuModuleLoad", || {
        let path = entry::text(path)?;
        let image = std::fs::read(path).map_err(|error| Status::FILE_NOT_FOUND.because(format!("{path}: {error}")))?;
        registry::with_current(|context| {
            context.refuse_unsafe_in_capture()?;
            let module = context.load_module(&image)?;
            slot.put(context.handle(module, Kind::Module))
        })
    })
}

/// Waits for all work, because it may use the module, then frees the module and its global variables.
#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: *mut c_void) -> u32 {
    entry("cuModuleUnload", || {
        registry::with_owner(module, Kind::Module, |context, serial| {
            context.module(module)?;
            context.refuse_unsafe_in_capture()?;
            context.run(Goal::Empty)?;
            if let Some(module) = context.modules.remove(&serial) {
                context.engine.free_globals(&module.globals).map_err(|failure| context.fail(failure))?;
            }
            context.functions.retain(|_, function| function.module != serial);
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunction(slot: Out<*mut c_void>, module: *mut c_void, name: *const c_char) -> u32 {
    entry("cuModuleGetFunction", || {
        let name = entry::text(name)?;
        registry::with_owner(module, Kind::Module, |context, _| {
            let function = context.find_function(module, name)?;
            slot.put(context.handle(function, Kind::Function))
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunctionCount(count: Out<u32>, module: *mut c_void) -> u32 {
    entry("cuModuleGetFunctionCount", || {
        registry::with_owner(module, Kind::Module, |context, _| {
            count.put(context.module(module)?.1.loaded.kernels.len() as u32)
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetGlobal_v2(
    address: Out<u64>,
    bytes: Out<usize>,
    module: *mut c_void,
    name: *const c_char,
) -> u32 {
    entry("cuModuleGetGlobal", || {
        let name = entry::text(name)?;
        registry::with_owner(module, Kind::Module, |context, _| {
            let (_, module) = context.module(module)?;
            let Some((found, size)) = module.globals.symbol(name) else {
                return Err(Status::NOT_FOUND.because(format!("the module has no global variable {name}")));
            };
            address.put_if_wanted(found)?;
            bytes.put_if_wanted(size as usize)
        })
    })
}

/// Every module is loaded eagerly.
#[unsafe(no_mangle)]
extern "C" fn cuModuleGetLoadingMode(slot: Out<u32>) -> u32 {
    entry("cuModuleGetLoadingMode", || slot.put(1))
}
