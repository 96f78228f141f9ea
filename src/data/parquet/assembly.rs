//! From columns to rows: lists and objects from the levels at which their values repeat and are defined (Melnik et al., Dremel:
//! Interactive Analysis of Web-Scale Datasets, 2010).

use std::ops::Range;

use parquet::basic::{ConvertedType, LogicalType, Repetition};
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Value};

use super::column::Column;

/// A field of the schema, with the columns that it takes its values from.
pub(super) enum Node {
    Column(usize),
    Object(Vec<(String, Node)>),
    /// Null where the level of definition is below `def`.
    Optional {
        def: i16,
        columns: Range<usize>,
        inner: Box<Node>,
    },
    /// Empty where the level of definition is below `def`; the next element begins at the level of repetition `rep`.
    List {
        def: i16,
        rep: i16,
        columns: Range<usize>,
        element: Box<Node>,
    },
    /// The same of entries that are objects of a key and a value.
    Map(Box<Node>),
}

/// The levels at which a field stands.
#[derive(Clone, Copy)]
struct Levels {
    def: i16,
    rep: i16,
}

/// The fields of a schema. An error if one of them has no columns: nothing would say how often it is there.
pub(super) fn fields_of(schema: &Type) -> Result<Node, String> {
    let mut columns = 0;
    fields(schema.get_fields(), Levels { def: 0, rep: 0 }, &mut columns)
}

fn fields(types: &[TypePtr], levels: Levels, columns: &mut usize) -> Result<Node, String> {
    if types.is_empty() {
        return Err("its schema has an object without fields".to_string());
    }
    let field = |kind: &TypePtr| Ok((kind.name().to_string(), field(kind, levels, columns)?));
    types.iter().map(field).collect::<Result<_, String>>().map(Node::Object)
}

fn field(kind: &Type, Levels { def, rep }: Levels, columns: &mut usize) -> Result<Node, String> {
    let first = *columns;
    Ok(match kind.get_basic_info().repetition() {
        Repetition::REQUIRED => content(kind, Levels { def, rep }, columns)?,
        Repetition::OPTIONAL => {
            let inner = Box::new(content(kind, Levels { def: def + 1, rep }, columns)?);
            Node::Optional { def: def + 1, columns: first..*columns, inner }
        }
        Repetition::REPEATED => {
            let element = Box::new(content(kind, Levels { def: def + 1, rep: rep + 1 }, columns)?);
            Node::List { def: def + 1, rep: rep + 1, columns: first..*columns, element }
        }
    })
}

/// A field without regard to how often it is there.
fn content(kind: &Type, levels: Levels, columns: &mut usize) -> Result<Node, String> {
    if kind.is_primitive() {
        *columns += 1;
        return Ok(Node::Column(*columns - 1));
    }
    let info = kind.get_basic_info();
    let annotation = (info.logical_type_ref(), info.converted_type());
    let repeated = match kind.get_fields() {
        [only] if only.get_basic_info().repetition() == Repetition::REPEATED => Some(only),
        _ => None,
    };
    match (annotation, repeated) {
        ((Some(LogicalType::List), _) | (_, ConvertedType::LIST), Some(repeated)) => {
            list(kind, repeated, levels, columns)
        }
        ((Some(LogicalType::Map), _) | (_, ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE), Some(repeated))
            if repeated.is_group() && repeated.get_fields().len() == 2 =>
        {
            Ok(Node::Map(Box::new(field(repeated, levels, columns)?)))
        }
        _ => fields(kind.get_fields(), levels, columns),
    }
}

/// A list has a repeated field in it. Usually that has one field, the element; older writers leave this level out (the rules are
/// those of the format's page on logical types).
fn list(kind: &Type, repeated: &Type, levels: Levels, columns: &mut usize) -> Result<Node, String> {
    let inner = if repeated.is_group() { repeated.get_fields() } else { &[] };
    match inner {
        [element] if repeated.name() != "array" && repeated.name() != format!("{}_tuple", kind.name()) => {
            let first = *columns;
            let (def, rep) = (levels.def + 1, levels.rep + 1);
            let element = Box::new(field(element, Levels { def, rep }, columns)?);
            Ok(Node::List { def, rep, columns: first..*columns, element })
        }
        _ => field(repeated, levels, columns),
    }
}

impl Node {
    /// Takes a value from the columns, each of which stands at a row.
    pub fn take(&self, columns: &mut [Column]) -> Result<Value, String> {
        match self {
            Self::Column(index) => columns[*index].take().ok_or_else(unfit),
            Self::Object(fields) => {
                let mut object = Map::with_capacity(fields.len());
                for (name, field) in fields {
                    object.insert(name.clone(), field.take(columns)?);
                }
                Ok(Value::Object(object))
            }
            Self::Optional { def, columns: range, inner } => match columns[range.start].def().ok_or_else(unfit)? {
                level if level < *def => pass(&mut columns[range.clone()]).map(|()| Value::Null),
                _ => inner.take(columns),
            },
            Self::List { def, rep, columns: range, element } => {
                let mut elements = Vec::new();
                if columns[range.start].def().ok_or_else(unfit)? < *def {
                    pass(&mut columns[range.clone()])?;
                    return Ok(Value::Array(elements));
                }
                loop {
                    elements.push(element.take(columns)?);
                    if columns[range.start].rep().is_none_or(|level| level < *rep) {
                        return Ok(Value::Array(elements));
                    }
                }
            }
            Self::Map(entries) => entries.take(columns).map(object_of),
        }
    }
}

/// Passes over the levels that say that something is not there: one in each of its columns.
fn pass(columns: &mut [Column]) -> Result<(), String> {
    columns.iter_mut().try_for_each(|column| column.take().map(drop).ok_or_else(unfit))
}

fn unfit() -> String {
    "its columns do not fit together".to_string()
}

/// An object from a list of entries, each an object of a key and a value.
fn object_of(entries: Value) -> Value {
    let Value::Array(entries) = entries else { return entries };
    let entry = |entry: Value| match entry {
        Value::Object(entry) => {
            let mut parts = entry.into_iter().map(|(_, part)| part);
            let key = match parts.next() {
                Some(Value::String(key)) => key,
                key => key.unwrap_or_default().to_string(),
            };
            (key, parts.next().unwrap_or_default())
        }
        other => (other.to_string(), Value::Null),
    };
    Value::Object(entries.into_iter().map(entry).collect())
}
