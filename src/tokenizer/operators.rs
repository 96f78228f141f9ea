//! Operators of Python that do more than minijinja's, or that make something whose size a template decides.

use minijinja::value::{Rest, Tuple, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::cost::{ITEM_BYTES, items_of, pay};
use super::format::percent;
use super::methods::integer;
use super::python::{str_of, whole};

fn impossible(operator: &str, left: &Value, right: &Value) -> Error {
    let kinds = (left.kind(), right.kind());
    Error::new(
        ErrorKind::InvalidOperation,
        format!("tried to use {operator} operator on unsupported types {} and {}", kinds.0, kinds.1),
    )
}

fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}

/// `left % right`: Python's formatting of text, or the remainder of numbers with the sign of the divisor.
pub(super) fn remainder(state: &State, left: Value, right: Value) -> Result<Value, Error> {
    if let Some(text) = left.as_str() {
        return percent(state, text, &right).map(Value::from);
    }
    let impossible = || impossible("%", &left, &right);
    if let (Some(a), Some(b)) = (whole(&left), whole(&right)) {
        let remainder = a.checked_rem(b).ok_or_else(impossible)?;
        return Ok(integer(if remainder != 0 && (remainder < 0) != (b < 0) { remainder + b } else { remainder }));
    }
    if !is_number(&left) || !is_number(&right) {
        return Err(impossible());
    }
    let (a, b) = (f64::try_from(left.clone())?, f64::try_from(right.clone())?);
    let remainder = if b == 0.0 { return Err(impossible()) } else { a % b };
    Ok(Value::from(if remainder != 0.0 && (remainder < 0.0) != (b < 0.0) { remainder + b } else { remainder }))
}

/// `left * right`: the product of numbers, or a text or a list over and over.
pub(super) fn product(state: &State, left: Value, right: Value) -> Result<Value, Error> {
    if is_number(&left) && is_number(&right) {
        if let (true, true) = (is_whole(&left), is_whole(&right)) {
            let both = whole(&left).zip(whole(&right)).and_then(|(a, b)| a.checked_mul(b));
            let large = || Error::new(ErrorKind::InvalidOperation, "a product has more than 127 bits");
            return both.map(integer).ok_or_else(large);
        }
        return Ok(Value::from(f64::try_from(left)? * f64::try_from(right)?));
    }
    let (repeated, count) = if is_number(&left) { (&right, &left) } else { (&left, &right) };
    let count = whole(count).ok_or_else(|| impossible("*", &left, &right))?;
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    match repeated.kind() {
        ValueKind::String => {
            let text = repeated.as_str().unwrap_or_default();
            pay(state, text.len().saturating_mul(count))?;
            Ok(Value::from(if text.is_empty() { String::new() } else { text.repeat(count) }))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items = items_of(state, repeated)?;
            pay(state, items.len().saturating_mul(count).saturating_mul(ITEM_BYTES))?;
            let times = if items.is_empty() { 0 } else { count };
            let all: Vec<Value> = std::iter::repeat_n(&items, times).flatten().cloned().collect();
            Ok(if repeated.is_tuple() { Value::from(Tuple::from(all)) } else { Value::from(all) })
        }
        _ => Err(impossible("*", &left, &right)),
    }
}

fn is_whole(value: &Value) -> bool {
    value.is_integer() || value.kind() == ValueKind::Bool
}

/// `a ~ b ~ …`: the texts of all values.
pub(super) fn concatenation(state: &State, values: Rest<Value>) -> Result<String, Error> {
    let mut out = String::new();
    for value in values.iter() {
        match value.as_str() {
            Some(text) => {
                pay(state, text.len())?;
                out.push_str(text);
            }
            None => out.push_str(&str_of(state, value)?),
        }
    }
    Ok(out)
}
