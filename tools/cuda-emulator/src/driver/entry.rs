//! The border to C: how an entry point runs, and the pointers that C programs pass.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::reports;
use super::status::{Answer, Refusal, Status};

thread_local! {
    /// Set while a host function of a stream runs: it may not call the driver.
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Runs the body of an entry point and turns what happens into a `CUresult`: no panic crosses the border, and a refusal
/// with a sentence is reported under the name of the call.
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

/// A place where C wants an answer. Same layout as the pointer.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the answer.
    ///
    /// # Errors
    /// `INVALID_VALUE` when the pointer is null or misaligned.
    pub fn put(&self, value: T) -> Answer {
        if self.0.is_null() || !self.0.is_aligned() {
            return Err(Status::INVALID_VALUE.because("the place for the answer is null or misaligned"));
        }
        // Safety: not null and aligned; that it may be written is the promise of every caller of the C interface.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Writes the answer unless the caller passed null to say that it does not want it.
    pub fn put_if_wanted(&self, value: T) -> Answer {
        if self.0.is_null() { Ok(()) } else { self.put(value) }
    }
}

impl From<*mut std::ffi::c_void> for Out<std::ffi::c_void> {
    /// A place whose type another argument tells.
    fn from(pointer: *mut std::ffi::c_void) -> Self {
        Out(pointer)
    }
}

impl Out<std::ffi::c_void> {
    /// The place as one for a `T`.
    pub fn cast<T>(&self) -> Out<T> {
        Out(self.0.cast())
    }
}

impl Out<u32> {
    /// Reads the value that the place holds before it is written.
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
        // Safety: not null and aligned; that it holds a value is the promise of every caller of the C interface.
        Ok(unsafe { self.0.read() })
    }
}

/// A text that C passes.
///
/// # Errors
/// `INVALID_VALUE` when it is null or not UTF-8.
pub fn text<'a>(pointer: *const std::ffi::c_char) -> Answer<&'a str> {
    if pointer.is_null() {
        return Err(Status::INVALID_VALUE.because("a name is null"));
    }
    // Safety: not null; C texts end with a zero by convention.
    let text = unsafe { std::ffi::CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Status::INVALID_VALUE.because("a name is not UTF-8"))
}
