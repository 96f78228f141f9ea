//! The boundary to C: runs entry points, and reads and writes the pointers that C programs pass.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::reports;
use super::status::{Answer, Refusal, Status};

thread_local! {
    /// Set while a host function of a stream runs, because it must not call the driver.
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Runs the body of an entry point and converts its result to a `CUresult`. No panic crosses the boundary, and a
/// refusal with a message is reported under the name of the call.
pub fn entry(name: &str, body: impl FnOnce() -> Answer) -> u32 {
    if IN_HOST_FUNCTION.get() {
        reports::add(format!("{name}: a host function of a stream may not call the driver"));
        return Status::NOT_PERMITTED.0;
    }
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::SUCCESS.0,
        Ok(Err(Refusal { status, message })) => {
            if let Some(message) = message {
                reports::add(format!("{name}: {message} [{}]", status.name()));
            }
            status.0
        }
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown panic");
            reports::add(format!("{name}: the emulator itself failed: {text}. Please report this"));
            Status::UNKNOWN.0
        }
    }
}

/// Calls a host function of the program from a stream.
pub fn call_host_function(function: extern "C" fn(*mut std::ffi::c_void), argument: usize) {
    IN_HOST_FUNCTION.set(true);
    function(argument as *mut std::ffi::c_void);
    IN_HOST_FUNCTION.set(false);
}

/// A pointer where C wants a result. Same layout as the pointer.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the result.
    ///
    /// # Errors
    /// `INVALID_VALUE` when the pointer is null or misaligned.
    pub fn put(&self, value: T) -> Answer {
        if self.0.is_null() || !self.0.is_aligned() {
            return Err(Status::INVALID_VALUE.because("the result pointer is null or misaligned"));
        }
        // Safety: not null and aligned; callers of the C interface promise that it is writable.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Writes the result, unless the caller passed null because it does not want it.
    pub fn put_if_wanted(&self, value: T) -> Answer {
        if self.0.is_null() { Ok(()) } else { self.put(value) }
    }
}

impl From<*mut std::ffi::c_void> for Out<std::ffi::c_void> {
    /// A pointer whose type depends on another argument.
    fn from(pointer: *mut std::ffi::c_void) -> Self {
        Out(pointer)
    }
}

impl Out<std::ffi::c_void> {
    /// The pointer with the type `T`.
    pub fn cast<T>(&self) -> Out<T> {
        Out(self.0.cast())
    }
}

impl Out<u32> {
    /// Reads the value before it is overwritten.
    pub fn get(&self) -> Answer<u32> {
        In(self.0.cast_const()).get()
    }
}

/// A value that C passes by pointer. Same layout as the pointer.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// Reads the value.
    ///
    /// # Errors
    /// `INVALID_VALUE` when the pointer is null or misaligned.
    pub fn get(&self) -> Answer<T> {
        if self.0.is_null() || !self.0.is_aligned() {
            return Err(Status::INVALID_VALUE.because("a pointer argument is null or misaligned"));
        }
        // Safety: not null and aligned; callers of the C interface promise that it holds a value.
        Ok(unsafe { self.0.read() })
    }
}

/// A string argument.
///
/// # Errors
/// `INVALID_VALUE` when it is null or not UTF-8.
pub fn text<'a>(pointer: *const std::ffi::c_char) -> Answer<&'a str> {
    if pointer.is_null() {
        return Err(Status::INVALID_VALUE.because("a name is null"));
    }
    // Safety: not null; C strings end with a zero.
    let text = unsafe { std::ffi::CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Status::INVALID_VALUE.because("a name is not UTF-8"))
}
