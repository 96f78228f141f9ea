//! The C interface: status codes, entry points, pointers and handles.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use crate::driver;

/// A `cublasStatus_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    pub const SUCCESS: Status = Status(0);
    pub const NOT_INITIALIZED: Status = Status(1);
    pub const INVALID_VALUE: Status = Status(7);
    pub const EXECUTION_FAILED: Status = Status(13);
    pub const INTERNAL_ERROR: Status = Status(14);
    pub const NOT_SUPPORTED: Status = Status(15);

    /// The C name.
    pub fn name(self) -> &'static std::ffi::CStr {
        match self.0 {
            0 => c"CUBLAS_STATUS_SUCCESS",
            1 => c"CUBLAS_STATUS_NOT_INITIALIZED",
            3 => c"CUBLAS_STATUS_ALLOC_FAILED",
            7 => c"CUBLAS_STATUS_INVALID_VALUE",
            8 => c"CUBLAS_STATUS_ARCH_MISMATCH",
            11 => c"CUBLAS_STATUS_MAPPING_ERROR",
            13 => c"CUBLAS_STATUS_EXECUTION_FAILED",
            14 => c"CUBLAS_STATUS_INTERNAL_ERROR",
            15 => c"CUBLAS_STATUS_NOT_SUPPORTED",
            16 => c"CUBLAS_STATUS_LICENSE_ERROR",
            _ => c"CUBLAS_STATUS_UNKNOWN",
        }
    }

    /// An error with this code and a sentence for the reports.
    pub fn because(self, message: impl Into<String>) -> Refusal {
        Refusal { status: self, message: message.into() }
    }
}

/// Why an entry point returned an error; an empty message is not reported.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: Status,
    pub message: String,
}

/// What entry points return.
pub type Answer<T = ()> = Result<T, Refusal>;

/// Runs the body of an entry point. It catches panics, which must not reach C, and reports errors.
pub fn entry(name: &str, body: impl FnOnce() -> Answer) -> u32 {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::SUCCESS.0,
        Ok(Err(Refusal { status, message })) => {
            if !message.is_empty() {
                driver::report(&format!("{name}: {message} [{}]", status.name().to_string_lossy()));
            }
            status.0
        }
        Err(_) => {
            driver::report(&format!("{name}: the emulator itself failed. Please report this"));
            Status::INTERNAL_ERROR.0
        }
    }
}

/// A pointer to a result. It has the layout of the pointer.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the result.
    pub fn put(&self, value: T) -> Answer {
        self.put_at(0, value)
    }

    /// Writes one element of an array of results.
    pub fn put_at(&self, index: usize, value: T) -> Answer {
        if self.0.is_null() || !self.0.is_aligned() {
            return Err(Status::INVALID_VALUE.because("the pointer for the result is null or misaligned"));
        }
        // Safety: not null and aligned; the caller promises room for as many results as it asked for.
        unsafe { self.0.add(index).write(value) };
        Ok(())
    }
}

/// A value passed by pointer. It has the layout of the pointer.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// Reads the value, or `None` for null.
    pub fn get(&self) -> Option<T> {
        // Safety: not null; every caller of the C interface promises that it points to a value.
        (!self.0.is_null()).then(|| unsafe { self.0.read_unaligned() })
    }
}

/// The bytes of an attribute that is being set.
pub fn attribute_bytes<'a>(buffer: *const c_void, length: usize) -> Answer<&'a [u8]> {
    if buffer.is_null() || length > 64 {
        return Err(Status::INVALID_VALUE.because("no value for the attribute"));
    }
    // Safety: the caller promises `length` bytes at its pointer, which is not null.
    Ok(unsafe { std::slice::from_raw_parts(buffer.cast(), length) })
}

/// Writes the value of a queried attribute. Its size is written in any case.
pub fn answer_attribute(buffer: *mut c_void, length: usize, written: Out<usize>, value: &[u8]) -> Answer {
    if !written.0.is_null() {
        written.put(value.len())?;
    }
    if length == 0 {
        return Ok(());
    }
    if buffer.is_null() || length < value.len() {
        return Err(Status::INVALID_VALUE.because(format!("the attribute has {} bytes", value.len())));
    }
    // Safety: the caller owns `length` bytes at `buffer`, at least as many as the value has.
    unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), buffer.cast(), value.len()) };
    Ok(())
}

/// Objects that C refers to by handles. Handles are never reused, so stale and invented ones are recognised.
pub struct Table<T> {
    objects: Mutex<(u64, BTreeMap<u64, T>)>,
    /// Marks the handles of this table.
    mark: u64,
}

impl<T: Clone> Table<T> {
    /// An empty table. `mark` is the top byte of its handles and differs between tables.
    pub const fn new(mark: u8) -> Self {
        Table { objects: Mutex::new((0, BTreeMap::new())), mark: (mark as u64) << 56 }
    }

    fn with<R>(&self, body: impl FnOnce(&mut u64, &mut BTreeMap<u64, T>) -> R) -> R {
        let mut objects = self.objects.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (last, map) = &mut *objects;
        body(last, map)
    }

    /// Adds an object.
    pub fn add(&self, object: T) -> *mut c_void {
        self.with(|last, map| {
            *last += 1;
            map.insert(self.mark | *last, object);
            (self.mark | *last) as usize as *mut c_void
        })
    }

    /// A copy of an object.
    pub fn get(&self, handle: *mut c_void) -> Answer<T> {
        self.change(handle, |object| Ok(object.clone()))
    }

    /// Calls `body` with an object.
    pub fn change<R>(&self, handle: *mut c_void, body: impl FnOnce(&mut T) -> Answer<R>) -> Answer<R> {
        self.with(|_, map| match map.get_mut(&(handle as usize as u64)) {
            Some(object) => body(object),
            None => {
                Err(Status::INVALID_VALUE.because(format!("{handle:?} is not a handle of this kind, or was destroyed")))
            }
        })
    }

    /// Removes an object.
    pub fn remove(&self, handle: *mut c_void) -> Answer {
        match self.with(|_, map| map.remove(&(handle as usize as u64))) {
            Some(_) => Ok(()),
            None => {
                Err(Status::INVALID_VALUE.because(format!("{handle:?} is not a handle of this kind, or was destroyed")))
            }
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetStatusName(status: u32) -> *const c_char {
    Status(status).name().as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetStatusString(status: u32) -> *const c_char {
    Status(status).name().as_ptr()
}
