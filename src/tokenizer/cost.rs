//! What a template may make. minijinja charges fuel for every instruction and for what exists already; what a method, a filter
//! or an operator makes in one step is paid here before it is made, and so is the text that a value is written as. Nothing
//! grows by another way, so that a template is refused while it is small.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Bytes for one unit of fuel: fewer than minijinja gives for what it copies, since what is made must be held.
const BYTES_A_UNIT: usize = 16;

/// How much more a byte costs of a value written as text: that walks through the whole value.
pub(super) const WRITTEN: usize = 4;

/// What an item of a list is reckoned at, in bytes.
pub(super) const ITEM_BYTES: usize = 32;

/// Pays for `bytes` that are about to be made; an error if the template has made too much.
pub(super) fn pay(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes.div_ceil(BYTES_A_UNIT) as u64).map_err(|_| too_much())
}

/// The bytes that can still be made.
pub(super) fn left(state: &State) -> usize {
    let units = state.fuel_levels().map_or(u64::MAX, |(_, left)| left);
    usize::try_from(units).unwrap_or(usize::MAX).saturating_mul(BYTES_A_UNIT)
}

/// The items of a value, each paid for. As in Python, nothing can be looped over in a number or in none.
pub(super) fn items_of(state: &State, value: &Value) -> Result<Vec<Value>, Error> {
    if value.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "none cannot be looped over"));
    }
    let mut items = Vec::new();
    for item in value.try_iter()?.checked() {
        pay(state, ITEM_BYTES)?;
        items.push(item?);
    }
    Ok(items)
}

/// Lists that minijinja has not made yet (slices, sums) as lists.
pub(super) fn is_lazy(value: &Value) -> bool {
    value.kind() == ValueKind::Iterable && !super::objects::is_python_iterator(value)
}

fn too_much() -> Error {
    Error::new(ErrorKind::OutOfFuel, "the template makes more text or longer lists than a rendering may")
}
