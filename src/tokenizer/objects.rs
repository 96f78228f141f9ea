//! Objects of Python that templates meet and that are neither lists nor mappings: ranges, the views of a mapping, generators,
//! cyclers and joiners.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, Value, from_args};
use minijinja::{Error, ErrorKind, State};

/// Items of a range, at most: what the sandbox of Jinja allows.
const RANGE_MAX: i128 = 100_000;

fn fault(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.to_string())
}

/// `range(start, stop, step)`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    start: i64,
    stop: i64,
    step: i64,
    count: usize,
}

/// The function `range`.
pub(super) fn range(args: Rest<Value>) -> Result<Value, Error> {
    let whole = |value: &Value| match i64::try_from(value.clone()) {
        Ok(number) if value.is_integer() || matches!(value.kind(), minijinja::value::ValueKind::Bool) => Ok(number),
        _ => Err(fault(&format!("range: expected an integer, got {}", value.kind()))),
    };
    let (start, stop, step) = match &args[..] {
        [stop] => (0, whole(stop)?, 1),
        [start, stop] => (whole(start)?, whole(stop)?, 1),
        [start, stop, step] => (whole(start)?, whole(stop)?, whole(step)?),
        _ => return Err(fault("range: expected one to three numbers")),
    };
    let (from, to, by) = (i128::from(start), i128::from(stop), i128::from(step));
    let count = match by {
        0 => return Err(fault("range: the step is zero")),
        1.. => (to - from + by - 1) / by,
        _ => (from - to - by - 1) / -by,
    };
    if count > RANGE_MAX {
        return Err(fault(&format!("range: more than {RANGE_MAX} items")));
    }
    Ok(Value::from_object(Range { start, stop, step, count: usize::try_from(count).unwrap_or(0) }))
}

impl Range {
    /// As Python prints it.
    pub fn repr(&self) -> String {
        let Self { start, stop, step, .. } = self;
        if *step == 1 { format!("range({start}, {stop})") } else { format!("range({start}, {stop}, {step})") }
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = key.as_usize().filter(|index| *index < self.count)?;
        Some(Value::from(self.start + self.step * i64::try_from(index).ok()?))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.count)
    }
}

/// `keys()`, `values()` or `items()` of a mapping.
#[derive(Debug)]
pub(super) struct View {
    pub name: &'static str,
    pub items: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let view = Arc::clone(self);
        Enumerator::Iter(Box::new((0..view.items.len()).map(move |index| view.items[index].clone())))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.items.len())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        !self.items.is_empty()
    }
}

/// What `map`, `select` and their like return: it is always true, has no length, and can be gone through once.
#[derive(Debug)]
pub(super) struct Generator {
    /// What is left, in reverse order.
    left: Mutex<Vec<Value>>,
}

impl Generator {
    /// A generator of these items.
    pub fn of(mut items: Vec<Value>) -> Value {
        items.reverse();
        Value::from_object(Self { left: Mutex::new(items) })
    }

    /// What is left, without going through it.
    pub fn peek(&self) -> Vec<Value> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let generator = Arc::clone(self);
        Enumerator::Iter(Box::new(std::iter::from_fn(move || {
            generator.left.lock().unwrap_or_else(PoisonError::into_inner).pop()
        })))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// Whether a value is one of the iterators above: no list.
pub(super) fn is_python_iterator(value: &Value) -> bool {
    value.downcast_object_ref::<View>().is_some() || value.downcast_object_ref::<Generator>().is_some()
}

/// `cycler(…)`: one of its items after the other.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

/// The function `cycler`.
pub(super) fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(fault("cycler: expected at least one item"));
    }
    Ok(Value::from_object(Cycler { items: items.0, at: AtomicUsize::new(0) }))
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = self.at.load(Ordering::Relaxed) % self.items.len();
        (key.as_str() == Some("current")).then(|| self.items[at].clone())
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        match method {
            "next" => Ok(self.items[self.at.fetch_add(1, Ordering::Relaxed) % self.items.len()].clone()),
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::new(ErrorKind::UnknownMethod, format!("a cycler has no method {method}"))),
        }
    }
}

/// `joiner(separator)`: nothing at first, then the separator.
#[derive(Debug)]
struct Joiner {
    separator: Value,
    used: AtomicBool,
}

/// The function `joiner`.
pub(super) fn joiner(separator: Option<Value>) -> Value {
    let separator = separator.unwrap_or_else(|| Value::from(", "));
    Value::from_object(Joiner { separator, used: AtomicBool::new(false) })
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        Ok(if self.used.swap(true, Ordering::Relaxed) { self.separator.clone() } else { Value::from("") })
    }
}
