//! One column of a Parquet file: the levels and values of a row at a time.

use parquet::basic::{ConvertedType, LogicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, FloatType,
    Int32Type, Int64Type, Int96, Int96Type,
};
use parquet::errors::Result;
use parquet::schema::types::{ColumnDescPtr, ColumnDescriptor};
use serde_json::{Number, Value, json};

use super::pages::Pages;
use crate::data::lines::{ROW_BYTES_MAX, too_long};

/// The most values of one row in one column.
const VALUES_MAX: usize = 1 << 22;

/// A column with the levels and values of the row that was read last, and how far they have been taken.
pub(super) struct Column {
    reader: Box<dyn Values>,
    max_def: i16,
    def: Vec<i16>,
    rep: Vec<i16>,
    values: Vec<Value>,
    /// Levels of the row, and the first of them and of the values that is not taken.
    levels: usize,
    at: usize,
    value_at: usize,
}

impl Column {
    /// A column that stands before its first row.
    pub fn new(descriptor: ColumnDescPtr, pages: Pages) -> Self {
        let meaning = Meaning::of(&descriptor);
        let max_def = descriptor.max_def_level();
        let reader = typed(get_column_reader(descriptor, Box::new(pages)), meaning);
        let (def, rep, values) = (Vec::new(), Vec::new(), Vec::new());
        Self { reader, max_def, def, rep, values, levels: 0, at: 0, value_at: 0 }
    }

    /// Reads the next row; false after the last. The bytes of its values are added to `bytes`, those of the row. The inner error
    /// says why the row is of no use; the next one can be read all the same.
    pub fn read(&mut self, bytes: &mut usize) -> Result<std::result::Result<bool, String>> {
        (self.at, self.value_at, self.levels) = (0, 0, 0);
        self.def.clear();
        self.rep.clear();
        self.values.clear();
        let (rows, levels) = self.reader.read(&mut self.def, &mut self.rep)?;
        self.levels = levels;
        if rows == 0 {
            return Ok(Ok(false));
        }
        if levels > VALUES_MAX {
            return Ok(Err(format!("has {levels} values in a column; the most is {VALUES_MAX}")));
        }
        Ok(self.reader.convert(&mut self.values, bytes).map(|()| true))
    }

    /// The level of definition of what comes next; `None` at the end of the row.
    pub fn def(&self) -> Option<i16> {
        let def = self.def.get(self.at).copied();
        if self.max_def > 0 { def } else { (self.at < self.levels).then_some(0) }
    }

    /// The level of repetition of what comes next; `None` at the end of the row.
    pub fn rep(&self) -> Option<i16> {
        (self.at < self.levels).then(|| self.rep.get(self.at).copied().unwrap_or(0))
    }

    /// Takes what comes next: a value, or null. `None` at the end of the row.
    pub fn take(&mut self) -> Option<Value> {
        let is_value = self.def()? == self.max_def;
        self.at += 1;
        if !is_value {
            return Some(Value::Null);
        }
        let value = self.values.get_mut(self.value_at)?;
        self.value_at += 1;
        Some(value.take())
    }
}

/// A column of values of some type.
trait Values {
    /// Reads the levels of the next row, and keeps its values. Answers with the number of rows, 0 or 1, and of levels.
    fn read(&mut self, def: &mut Vec<i16>, rep: &mut Vec<i16>) -> Result<(usize, usize)>;

    /// The values that were read as JSON.
    fn convert(&mut self, values: &mut Vec<Value>, bytes: &mut usize) -> std::result::Result<(), String>;
}

struct Typed<T: DataType> {
    reader: ColumnReaderImpl<T>,
    meaning: Meaning,
    buffer: Vec<T::T>,
}

impl<T: DataType> Values for Typed<T>
where
    T::T: AsJson,
{
    fn read(&mut self, def: &mut Vec<i16>, rep: &mut Vec<i16>) -> Result<(usize, usize)> {
        self.buffer.clear();
        let (rows, values, levels) = self.reader.read_records(1, Some(def), Some(rep), &mut self.buffer)?;
        Ok((rows, levels.max(values)))
    }

    fn convert(&mut self, values: &mut Vec<Value>, bytes: &mut usize) -> std::result::Result<(), String> {
        *bytes = self.buffer.iter().map(AsJson::bytes).fold(*bytes, usize::saturating_add);
        if *bytes > ROW_BYTES_MAX {
            return Err(too_long());
        }
        for value in &self.buffer {
            values.push(value.as_json(self.meaning)?);
        }
        Ok(())
    }
}

fn typed(reader: ColumnReader, meaning: Meaning) -> Box<dyn Values> {
    fn boxed<T: DataType>(reader: ColumnReaderImpl<T>, meaning: Meaning) -> Box<dyn Values>
    where
        T::T: AsJson,
    {
        Box::new(Typed { reader, meaning, buffer: Vec::new() })
    }
    match reader {
        ColumnReader::BoolColumnReader(reader) => boxed::<BoolType>(reader, meaning),
        ColumnReader::Int32ColumnReader(reader) => boxed::<Int32Type>(reader, meaning),
        ColumnReader::Int64ColumnReader(reader) => boxed::<Int64Type>(reader, meaning),
        ColumnReader::Int96ColumnReader(reader) => boxed::<Int96Type>(reader, meaning),
        ColumnReader::FloatColumnReader(reader) => boxed::<FloatType>(reader, meaning),
        ColumnReader::DoubleColumnReader(reader) => boxed::<DoubleType>(reader, meaning),
        ColumnReader::ByteArrayColumnReader(reader) => boxed::<ByteArrayType>(reader, meaning),
        ColumnReader::FixedLenByteArrayColumnReader(reader) => boxed::<FixedLenByteArrayType>(reader, meaning),
    }
}

/// What the stored values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// What they look like. Dates and times stay the numbers that they are.
    Stored,
    Unsigned,
    Text,
    /// Digits after the point.
    Decimal(i32),
    HalfFloat,
}

impl Meaning {
    fn of(column: &ColumnDescriptor) -> Self {
        match (column.logical_type_ref(), column.converted_type()) {
            (Some(LogicalType::Integer(kind)), _) if !kind.is_signed => Self::Unsigned,
            (Some(LogicalType::String | LogicalType::Enum | LogicalType::Json), _) => Self::Text,
            (Some(LogicalType::Decimal(_)), _) | (_, ConvertedType::DECIMAL) => Self::Decimal(column.type_scale()),
            (Some(LogicalType::Float16), _) => Self::HalfFloat,
            (_, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON) => Self::Text,
            (_, ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64) => {
                Self::Unsigned
            }
            _ => Self::Stored,
        }
    }
}

/// A stored value as JSON.
trait AsJson {
    /// The bytes that it takes.
    fn bytes(&self) -> usize {
        8
    }

    fn as_json(&self, meaning: Meaning) -> std::result::Result<Value, String>;
}

impl AsJson for bool {
    fn as_json(&self, _: Meaning) -> std::result::Result<Value, String> {
        Ok(Value::from(*self))
    }
}

impl AsJson for i32 {
    fn as_json(&self, meaning: Meaning) -> std::result::Result<Value, String> {
        match meaning {
            Meaning::Unsigned => Ok(Value::from(self.cast_unsigned())),
            _ => i64::from(*self).as_json(meaning),
        }
    }
}

impl AsJson for i64 {
    fn as_json(&self, meaning: Meaning) -> std::result::Result<Value, String> {
        Ok(match meaning {
            Meaning::Unsigned => Value::from(self.cast_unsigned()),
            Meaning::Decimal(scale) => decimal((*self).into(), scale),
            _ => Value::from(*self),
        })
    }
}

impl AsJson for Int96 {
    fn as_json(&self, _: Meaning) -> std::result::Result<Value, String> {
        Ok(json!(self.data()))
    }
}

impl AsJson for f32 {
    /// The shortest number that names this one: 0.1, and not the nearest of 64 bits.
    fn as_json(&self, meaning: Meaning) -> std::result::Result<Value, String> {
        self.to_string().parse().unwrap_or(f64::from(*self)).as_json(meaning)
    }
}

impl AsJson for f64 {
    /// What is no number is null, as in JSON.
    fn as_json(&self, _: Meaning) -> std::result::Result<Value, String> {
        Ok(Number::from_f64(*self).map_or(Value::Null, Value::Number))
    }
}

impl AsJson for ByteArray {
    fn bytes(&self) -> usize {
        self.len()
    }

    fn as_json(&self, meaning: Meaning) -> std::result::Result<Value, String> {
        let bytes = self.data();
        match (meaning, std::str::from_utf8(bytes)) {
            // Old writers do not say that bytes are text.
            (Meaning::Text | Meaning::Stored, Ok(text)) => Ok(Value::from(text)),
            (Meaning::Text, Err(error)) => Err(format!("is not UTF-8: {error}")),
            (Meaning::HalfFloat, _) if bytes.len() == 2 => {
                half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32().as_json(meaning)
            }
            (Meaning::Decimal(scale), _) if (1..=16).contains(&bytes.len()) => {
                let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
                Ok(decimal(bytes.iter().fold(sign, |number, byte| number << 8 | i128::from(*byte)), scale))
            }
            // An object, so that nobody takes it for a prompt.
            _ => Ok(json!({"bytes": bytes.len()})),
        }
    }
}

impl AsJson for FixedLenByteArray {
    fn bytes(&self) -> usize {
        self.len()
    }

    fn as_json(&self, meaning: Meaning) -> std::result::Result<Value, String> {
        ByteArray::from(self.clone()).as_json(meaning)
    }
}

/// A decimal number as text, since JSON's numbers may round it.
fn decimal(number: i128, scale: i32) -> Value {
    let digits = number.unsigned_abs().to_string();
    let after = usize::try_from(scale).unwrap_or(0).min(64);
    let digits = format!("{digits:0>width$}", width = after + 1);
    let (whole, part) = digits.split_at(digits.len() - after);
    let point = if after > 0 { "." } else { "" };
    Value::from(format!("{}{whole}{point}{part}", if number < 0 { "-" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_values_are_spelled_as_json_has_them() {
        assert_eq!(0.1_f32.as_json(Meaning::Stored).unwrap().to_string(), "0.1");
        assert_eq!(f64::NAN.as_json(Meaning::Stored).unwrap(), Value::Null);
        assert_eq!((-1_i32).as_json(Meaning::Unsigned).unwrap(), json!(u32::MAX));
        assert_eq!((-1_i64).as_json(Meaning::Unsigned).unwrap(), json!(u64::MAX));
        let bytes = |bytes: &[u8], meaning| ByteArray::from(bytes.to_vec()).as_json(meaning);
        assert_eq!(bytes("é".as_bytes(), Meaning::Stored).unwrap(), "é");
        assert_eq!(bytes(b"\xff\xd8", Meaning::Stored).unwrap(), json!({"bytes": 2}));
        assert!(bytes(b"\xff", Meaning::Text).unwrap_err().contains("not UTF-8"));
        assert_eq!(bytes(&half::f16::from_f32(1.5).to_le_bytes(), Meaning::HalfFloat).unwrap(), json!(1.5));
        for (stored, scale, text) in [(12345, 2, "123.45"), (-5, 2, "-0.05"), (7, 0, "7")] {
            assert_eq!(i64::from(stored).as_json(Meaning::Decimal(scale)).unwrap(), text);
            assert_eq!(bytes(&i32::to_be_bytes(stored), Meaning::Decimal(scale)).unwrap(), text);
        }
    }
}
