//! The result of each form, derived from its name, in exact arithmetic and bit by bit as the ISA describes it.

use super::types::Type;
use super::{bits, conversions, floats, integers};

/// The expected value of a lane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expected {
    Bits(u64),
    /// An approximation of this number, within one unit in the last place of the result type.
    Near(f64),
    /// The ISA leaves the result open.
    Anything,
}

pub type Meaning = Box<dyn Fn(&[u64]) -> Expected>;

/// A form's reference.
pub struct Reference {
    pub sources: Vec<Type>,
    pub result: Type,
    pub meaning: Meaning,
}

impl Reference {
    pub fn new(sources: &[Type], result: Type, meaning: impl Fn(&[u64]) -> Expected + 'static) -> Option<Reference> {
        Some(Reference { sources: sources.to_vec(), result, meaning: Box::new(meaning) })
    }

    /// A reference with exact results.
    pub fn exact(sources: &[Type], result: Type, meaning: impl Fn(&[u64]) -> u64 + 'static) -> Option<Reference> {
        Reference::new(sources, result, move |x| Expected::Bits(meaning(x)))
    }

    /// The same in both halves of packed types.
    pub fn packed(ty: Type, n: usize, meaning: impl Fn(&[u64]) -> Expected + 'static) -> Option<Reference> {
        Reference::new(&vec![ty; n], ty, move |x| {
            let half = |shift: u32| meaning(&x.iter().map(|x| x >> shift & 0xffff).collect::<Vec<_>>());
            match (half(0), half(16)) {
                (Expected::Bits(low), Expected::Bits(high)) => Expected::Bits(high << 16 | low),
                // Approximations of halves are tested as single values.
                _ => Expected::Anything,
            }
        })
    }
}

/// A parsed form name.
pub struct Name<'a> {
    pub op: &'a str,
    /// The words between the operation and the types.
    pub flags: Vec<&'a str>,
    pub types: Vec<Type>,
}

impl<'a> Name<'a> {
    pub fn of(name: &'a str) -> Name<'a> {
        let mut parts = name.split('.');
        let op = parts.next().unwrap_or("");
        let (types, flags): (Vec<_>, Vec<_>) = parts.partition(|part| Type::of(part).is_some());
        Name { op, flags, types: types.into_iter().filter_map(Type::of).collect() }
    }

    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }
}

/// None for a name without a reference; the coverage test then fails.
pub fn reference(name: &str) -> Option<Reference> {
    let name = Name::of(name);
    integers::reference(&name)
        .or_else(|| bits::reference(&name))
        .or_else(|| floats::reference(&name))
        .or_else(|| conversions::reference(&name))
}
