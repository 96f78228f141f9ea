//! The contexts of the process: reference-counted primary contexts, one per device, and others; and each thread's stack
//! of current contexts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard};

use super::context::Context;
use super::device;
use super::engine::Engine;
use super::handle::{Handle, Kind};
use super::status::{Answer, Status};

struct Registry {
    contexts: BTreeMap<u16, Arc<Mutex<Context>>>,
    /// Device ordinal → the number of its primary context and its reference count.
    primaries: BTreeMap<usize, (u16, usize)>,
    last: u16,
}

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { contexts: BTreeMap::new(), primaries: BTreeMap::new(), last: 0 });

thread_local! {
    static CURRENT: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
}

/// Ignores poisoning: entry points report panics themselves.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn handle_of(number: u16) -> *mut c_void {
    Handle { context: number, serial: 0 }.encode(Kind::Context)
}

impl Registry {
    fn add(&mut self, ordinal: usize) -> Answer<u16> {
        let number = self.last.checked_add(1).ok_or(Status::OUT_OF_MEMORY)?;
        let engine = Engine::new(device::capability(ordinal)?, number)?;
        self.last = number;
        self.contexts.insert(number, Arc::new(Mutex::new(Context::new(number, ordinal, engine))));
        Ok(number)
    }
}

/// Retains the primary context of a device; the first holder creates it.
pub fn retain_primary(device: i32) -> Answer<*mut c_void> {
    let ordinal = device::ordinal(device)?;
    let mut registry = lock(&REGISTRY);
    let number = match registry.primaries.get_mut(&ordinal) {
        Some((number, holders)) => {
            *holders += 1;
            *number
        }
        None => {
            let number = registry.add(ordinal)?;
            registry.primaries.insert(ordinal, (number, 1));
            number
        }
    };
    Ok(handle_of(number))
}

/// Releases the primary context; the last holder ends it.
pub fn release_primary(device: i32) -> Answer {
    let ordinal = device::ordinal(device)?;
    let mut registry = lock(&REGISTRY);
    let Some((number, holders)) = registry.primaries.get_mut(&ordinal) else {
        return Err(Status::INVALID_CONTEXT.because("the primary context is released more often than it was retained"));
    };
    *holders -= 1;
    if *holders == 0 {
        let number = *number;
        registry.primaries.remove(&ordinal);
        let context = registry.contexts.remove(&number);
        drop(registry);
        shut_down(context);
    }
    Ok(())
}

/// Ends the primary context regardless of its holders.
pub fn reset_primary(device: i32) -> Answer {
    let ordinal = device::ordinal(device)?;
    let mut registry = lock(&REGISTRY);
    let removed = registry.primaries.remove(&ordinal).and_then(|(number, _)| registry.contexts.remove(&number));
    drop(registry);
    shut_down(removed);
    Ok(())
}

/// Whether the primary context of a device exists.
pub fn primary_is_active(device: i32) -> Answer<bool> {
    let ordinal = device::ordinal(device)?;
    Ok(lock(&REGISTRY).primaries.contains_key(&ordinal))
}

/// Creates a separate context and makes it current for this thread.
pub fn create(device: i32) -> Answer<*mut c_void> {
    let ordinal = device::ordinal(device)?;
    let number = lock(&REGISTRY).add(ordinal)?;
    CURRENT.with_borrow_mut(|current| current.push(number));
    Ok(handle_of(number))
}

/// Ends a context made by [`create`].
pub fn destroy(context: *mut c_void) -> Answer {
    let number = Handle::decode(context, Kind::Context)?.context;
    let mut registry = lock(&REGISTRY);
    if registry.primaries.values().any(|(primary, _)| *primary == number) {
        return Err(Status::INVALID_CONTEXT.because("a primary context is released, not destroyed"));
    }
    let removed = registry.contexts.remove(&number);
    drop(registry);
    if removed.is_none() {
        return Err(Status::CONTEXT_IS_DESTROYED.because("the context was already destroyed"));
    }
    CURRENT.with_borrow_mut(|current| {
        if current.last() == Some(&number) {
            current.pop();
        }
    });
    shut_down(removed);
    Ok(())
}

fn shut_down(context: Option<Arc<Mutex<Context>>>) {
    if let Some(context) = context {
        lock(&context).shut_down();
    }
}

/// The current context of this thread, or null.
pub fn current_handle() -> *mut c_void {
    CURRENT.with_borrow(|current| current.last().map_or(std::ptr::null_mut(), |number| handle_of(*number)))
}

/// Replaces the context on top of the stack; null leaves none.
pub fn set_current(context: *mut c_void) -> Answer {
    CURRENT.with_borrow_mut(|current| current.pop());
    if context.is_null() { Ok(()) } else { push_current(context) }
}

/// Pushes a context onto the stack.
pub fn push_current(context: *mut c_void) -> Answer {
    let number = Handle::decode(context, Kind::Context)?.context;
    find(number)?;
    CURRENT.with_borrow_mut(|current| current.push(number));
    Ok(())
}

/// Pops the top context off the stack.
pub fn pop_current() -> Answer<*mut c_void> {
    let number = CURRENT.with_borrow_mut(|current| current.pop()).ok_or(Status::INVALID_CONTEXT)?;
    Ok(handle_of(number))
}

fn find(number: u16) -> Answer<Arc<Mutex<Context>>> {
    let found = lock(&REGISTRY).contexts.get(&number).cloned();
    found.ok_or_else(|| Status::CONTEXT_IS_DESTROYED.because("the context was destroyed"))
}

/// Calls `body` with a context, unless it has a sticky fault.
pub fn with_number<T>(number: u16, body: impl FnOnce(&mut Context) -> Answer<T>) -> Answer<T> {
    let context = find(number)?;
    let mut context = lock(&context);
    match context.fault {
        Some(status) => Err(status.into()),
        None => body(&mut context),
    }
}

/// Calls `body` with the current context.
///
/// # Errors
/// `INVALID_CONTEXT` when this thread has none; the context's sticky fault.
pub fn with_current<T>(body: impl FnOnce(&mut Context) -> Answer<T>) -> Answer<T> {
    let number = CURRENT.with_borrow(|current| current.last().copied());
    with_number(number.ok_or_else(|| Status::INVALID_CONTEXT.because("no context is current in this thread"))?, body)
}

/// Calls `body` with the context of this handle; null means the current one.
pub fn with_context<T>(context: *mut c_void, body: impl FnOnce(&mut Context) -> Answer<T>) -> Answer<T> {
    if context.is_null() {
        return with_current(body);
    }
    with_number(Handle::decode(context, Kind::Context)?.context, body)
}

/// Calls `body` with the context that owns an object.
pub fn with_owner<T>(object: *mut c_void, kind: Kind, body: impl FnOnce(&mut Context, u32) -> Answer<T>) -> Answer<T> {
    let handle = Handle::decode(object, kind)?;
    with_number(handle.context, |context| body(context, handle.serial))
}
