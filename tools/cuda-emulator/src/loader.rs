//! Replaces the CUDA driver of this process by the emulator. Call [`load`] before the first call of cudarc.
//!
//! cudarc opens `libcuda.so` by name. The emulator's library has exactly that soname, so once it is loaded from any
//! path, the dynamic linker returns it for cudarc's request; `libcublasLt.so` works the same way. This needs no
//! environment variable and no installation. A package lists `cuda-emulator` and `cuda-emulator-cublaslt` in its
//! dev-dependencies, and cargo builds both libraries next to every test binary, in `target/<profile>/deps`.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::counters::Counters;

/// Why the emulator cannot be loaded.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "{library} was not found in {searched}: list cuda-emulator and cuda-emulator-cublaslt in [dev-dependencies], so \
         that cargo builds them beside the tests"
    )]
    NotFound { library: &'static str, searched: String },
    #[error("{} cannot be loaded: {reason}", path.display())]
    NotLoadable { path: PathBuf, reason: String },
    #[error("another {soname} is already loaded: call cuda_emulator::load() before the first call of cudarc")]
    TooLate { soname: &'static str },
}

/// The driver and the cuBLASLt library: file name, soname, and a function that only the emulator's version has.
const LIBRARIES: [(&str, &CStr, &CStr); 2] = [
    ("libcuda_emulator.so", c"libcuda.so", c"patarm_emulator_interface"),
    ("libcuda_emulator_cublaslt.so", c"libcublasLt.so", c"patarm_emulator_cublaslt"),
];

/// Loads both libraries once; later calls return the first result. Prints a line on stderr, so that an emulated run is
/// not mistaken for a run on a device.
///
/// # Errors
/// A library is missing, or another driver is already loaded.
pub fn load() -> Result<(), LoadError> {
    static LOADED: OnceLock<Result<(), LoadError>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        for (file, soname, mark) in LIBRARIES {
            open(&find(file)?, soname, mark)?;
        }
        eprintln!("cuda-emulator: CUDA is emulated in this process");
        Ok(())
    });
    loaded.clone()
}

/// Changes a setting (see README.md) for contexts that this thread creates from now on. An empty value resets it.
///
/// # Errors
/// See [`load`], which this calls.
pub fn configure(key: &str, value: &str) -> Result<(), LoadError> {
    load()?;
    type Configure = extern "C" fn(*const c_char, *const c_char) -> u32;
    if let (Some(function), Ok(key), Ok(value)) =
        (symbol(c"patarm_emulator_configure"), CString::new(key), CString::new(value))
    {
        // Safety: the emulator's library exports the function with this signature.
        let configure: Configure = unsafe { std::mem::transmute(function) };
        configure(key.as_ptr(), value.as_ptr());
    }
    Ok(())
}

/// Removes and returns the reports of this thread: faults, refused calls and leaks, one paragraph each. Empty without
/// the emulator.
pub fn reports() -> String {
    take_text(c"patarm_emulator_reports")
}

/// Removes and returns the counters of all contexts that were created with the setting `stats`. Kernels run only when
/// the program waits for them, so synchronise first.
pub fn counters() -> Counters {
    Counters::parse(&take_text(c"patarm_emulator_counters")).expect("the library's text is the one this crate writes")
}

/// Reads the text that a function of the library writes into a buffer. The function returns the size it needs.
fn take_text(name: &CStr) -> String {
    type Fill = extern "C" fn(*mut u8, usize) -> usize;
    let Some(function) = symbol(name) else { return String::new() };
    // Safety: the emulator's library exports such functions with this signature.
    let fill: Fill = unsafe { std::mem::transmute(function) };
    let mut text = vec![0; fill(std::ptr::null_mut(), 0)];
    fill(text.as_mut_ptr(), text.len());
    String::from_utf8_lossy(&text).into_owned()
}

/// Where cargo puts the libraries: next to the running binary, one folder up (an installed program or an example), in
/// its `deps`, and in the `deps` of the build that compiled this crate.
fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(own) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        folders.push(own.to_owned());
        folders.push(own.join("deps"));
        folders.extend(own.parent().map(|parent| parent.join("deps")));
        folders.extend(own.parent().map(Path::to_owned));
    }
    // OUT_DIR is <target>/<profile>/build/<package>/out.
    folders.extend(Path::new(env!("OUT_DIR")).ancestors().nth(3).map(|profile| profile.join("deps")));
    folders
}

fn find(library: &'static str) -> Result<PathBuf, LoadError> {
    let folders = folders();
    let found = folders.iter().map(|folder| folder.join(library)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let searched: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        LoadError::NotFound { library, searched: searched.join(", ") }
    })
}

/// Loads a library and never unloads it, and checks that a later search for the soname finds it.
fn open(path: &Path, soname: &'static CStr, mark: &CStr) -> Result<(), LoadError> {
    let reason = |reason: String| LoadError::NotLoadable { path: path.to_owned(), reason };
    let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| reason(error.to_string()))?;
    // Safety: the library is ours; its initialisers run only Rust's runtime code.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        // Safety: dlerror returns null or a text that is valid until the next call in this thread.
        let text = unsafe { libc::dlerror() };
        let text = if text.is_null() { c"unknown reason" } else { unsafe { CStr::from_ptr(text) } };
        return Err(reason(text.to_string_lossy().into_owned()));
    }
    // Safety: opens by name a library that is already loaded.
    let by_name = unsafe { libc::dlopen(soname.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    // Safety: the handle is open; the mark is a C string.
    if by_name.is_null() || unsafe { libc::dlsym(by_name, mark.as_ptr()) }.is_null() {
        return Err(LoadError::TooLate { soname: soname.to_str().unwrap_or_default() });
    }
    Ok(())
}

/// A function of the driver library, if the loaded driver is the emulator.
pub(crate) fn symbol(name: &CStr) -> Option<*mut c_void> {
    // Safety: searches the loaded libraries and loads nothing.
    let handle = unsafe { libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        return None;
    }
    // Safety: the handle is open; the name is a C string.
    let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}
