//! One JSON value into one Arrow column.
//!
//! Promises: a value is checked and converted before anything is appended; what does not fit is an
//! error that shows the value. A `string` column takes any value but null: a string as its text,
//! anything else as its JSON.
//! Never does: round a number that a column cannot hold, or recurse deeper than the column's type.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, Int32Builder, Int64Builder, NullBufferBuilder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::array::{ArrayRef, ListArray, StructArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::compute::kernels::cast_utils::{Parser, parse_decimal, string_to_timestamp_nanos};
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Field, FieldRef, Fields};
use sonic_rs::{JsonValueTrait, LazyValue};

use super::{BadRecord, shown};

/// A converted value, ready to be appended to a column of its type.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Null,
    Boolean(bool),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    Decimal(i128),
    Text(Cow<'a, str>),
    Bytes(Vec<u8>),
    Items(Vec<Value<'a>>),
    Members(Vec<Value<'a>>),
}

/// A column under construction.
pub(super) struct ColumnBuilder {
    name: String,
    data_type: DataType,
    store: Store,
}

enum Store {
    Boolean(BooleanBuilder),
    Int(Int32Builder),
    Long(Int64Builder),
    Float(Float32Builder),
    Double(Float64Builder),
    Decimal(Decimal128Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Time(TimestampMicrosecondBuilder),
    List { field: FieldRef, ends: Vec<i32>, valid: NullBufferBuilder, items: Box<ColumnBuilder> },
    Struct { fields: Fields, valid: NullBufferBuilder, members: Vec<ColumnBuilder> },
}

/// Rows a builder makes room for at first.
const ROWS: usize = 1024;

impl ColumnBuilder {
    pub(super) fn new(field: &Field) -> Self {
        let data_type = field.data_type().clone();
        let store = match &data_type {
            DataType::Boolean => Store::Boolean(BooleanBuilder::new()),
            DataType::Int32 => Store::Int(Int32Builder::new()),
            DataType::Int64 => Store::Long(Int64Builder::new()),
            DataType::Float32 => Store::Float(Float32Builder::new()),
            DataType::Float64 => Store::Double(Float64Builder::new()),
            DataType::Decimal128(..) => {
                Store::Decimal(Decimal128Builder::new().with_data_type(data_type.clone()))
            }
            DataType::Binary => Store::Bytes(BinaryBuilder::new()),
            DataType::Date32 => Store::Date(Date32Builder::new()),
            DataType::Timestamp(..) => {
                Store::Time(TimestampMicrosecondBuilder::new().with_data_type(data_type.clone()))
            }
            DataType::List(item) => Store::List {
                field: Arc::clone(item),
                ends: vec![0],
                valid: NullBufferBuilder::new(ROWS),
                items: Box::new(Self::new(item)),
            },
            DataType::Struct(fields) => Store::Struct {
                fields: fields.clone(),
                valid: NullBufferBuilder::new(ROWS),
                members: fields.iter().map(|member| Self::new(member)).collect(),
            },
            // Every other type of a declared column is text; see `schema::parse_type`.
            _ => Store::Text(StringBuilder::new()),
        };
        Self { name: field.name().clone(), data_type, store }
    }

    /// The value as this column takes it.
    pub(super) fn convert<'a>(&self, value: &'a LazyValue<'a>) -> Result<Value<'a>, BadRecord> {
        let raw = value.as_raw_str();
        if value.is_null() {
            return Ok(Value::Null);
        }
        let fitting = match &self.store {
            Store::Text(_) => text(value).or(Some(Cow::Borrowed(raw))).map(Value::Text),
            Store::Boolean(_) => value.as_bool().map(Value::Boolean),
            Store::Int(_) => raw.parse().ok().map(Value::Int),
            Store::Long(_) => raw.parse().ok().map(Value::Long),
            Store::Float(_) => number(value).map(|number: f32| Value::Float(number)),
            Store::Double(_) => number(value).map(|number: f64| Value::Double(number)),
            Store::Decimal(_) => decimal(value, &self.data_type).map(Value::Decimal),
            Store::Bytes(_) => text(value).and_then(|text| base64(&text)).map(Value::Bytes),
            Store::Date(_) => text(value).and_then(|text| Date32Type::parse(&text)).map(Value::Int),
            Store::Time(_) => micros(value).map(Value::Long),
            Store::List { items, .. } => match value.clone().into_array_iter() {
                Some(elements) => return items.convert_items(elements),
                None => None,
            },
            Store::Struct { members, .. } => match value.is_object() {
                true => return convert_members(members, value),
                false => None,
            },
        };
        fitting.ok_or_else(|| BadRecord::Mismatch {
            column: self.name.clone(),
            detail: format!("{} is no {}", shown(raw), self.data_type),
        })
    }

    fn convert_items<'a>(
        &self,
        elements: sonic_rs::ArrayJsonIter<'a>,
    ) -> Result<Value<'a>, BadRecord> {
        let mut items = Vec::new();
        for element in elements {
            let element = element.map_err(|error| BadRecord::Malformed(error.to_string()))?;
            items.push(own(self.convert(&element)?));
        }
        Ok(Value::Items(items))
    }

    /// Appends a value made by [`Self::convert`]. One of another type is appended as null, which
    /// cannot happen: a column is only given what it converted.
    pub(super) fn append(&mut self, value: Value<'_>) {
        match (&mut self.store, value) {
            (Store::Boolean(builder), Value::Boolean(value)) => builder.append_value(value),
            (Store::Int(builder), Value::Int(value)) => builder.append_value(value),
            (Store::Date(builder), Value::Int(value)) => builder.append_value(value),
            (Store::Long(builder), Value::Long(value)) => builder.append_value(value),
            (Store::Time(builder), Value::Long(value)) => builder.append_value(value),
            (Store::Float(builder), Value::Float(value)) => builder.append_value(value),
            (Store::Double(builder), Value::Double(value)) => builder.append_value(value),
            (Store::Decimal(builder), Value::Decimal(value)) => builder.append_value(value),
            (Store::Text(builder), Value::Text(value)) => builder.append_value(value),
            (Store::Bytes(builder), Value::Bytes(value)) => builder.append_value(value),
            (Store::List { ends, valid, items, .. }, Value::Items(values)) => {
                let end = ends.last().copied().unwrap_or(0);
                // A record has at most 10 MiB, and a chunk of records far fewer than 2^31 items.
                ends.push(end.saturating_add(i32::try_from(values.len()).unwrap_or(i32::MAX)));
                valid.append_non_null();
                values.into_iter().for_each(|value| items.append(value));
            }
            (Store::Struct { valid, members, .. }, Value::Members(values)) => {
                valid.append_non_null();
                members.iter_mut().zip(values).for_each(|(member, value)| member.append(value));
            }
            _ => self.append_null(),
        }
    }

    fn append_null(&mut self) {
        match &mut self.store {
            Store::Boolean(builder) => builder.append_null(),
            Store::Int(builder) => builder.append_null(),
            Store::Long(builder) => builder.append_null(),
            Store::Float(builder) => builder.append_null(),
            Store::Double(builder) => builder.append_null(),
            Store::Decimal(builder) => builder.append_null(),
            Store::Text(builder) => builder.append_null(),
            Store::Bytes(builder) => builder.append_null(),
            Store::Date(builder) => builder.append_null(),
            Store::Time(builder) => builder.append_null(),
            Store::List { ends, valid, .. } => {
                ends.push(ends.last().copied().unwrap_or(0));
                valid.append_null();
            }
            Store::Struct { valid, members, .. } => {
                valid.append_null();
                members.iter_mut().for_each(Self::append_null);
            }
        }
    }

    pub(super) fn finish(&mut self) -> ArrayRef {
        match &mut self.store {
            Store::Boolean(builder) => Arc::new(builder.finish()),
            Store::Int(builder) => Arc::new(builder.finish()),
            Store::Long(builder) => Arc::new(builder.finish()),
            Store::Float(builder) => Arc::new(builder.finish()),
            Store::Double(builder) => Arc::new(builder.finish()),
            Store::Decimal(builder) => Arc::new(builder.finish()),
            Store::Text(builder) => Arc::new(builder.finish()),
            Store::Bytes(builder) => Arc::new(builder.finish()),
            Store::Date(builder) => Arc::new(builder.finish()),
            Store::Time(builder) => Arc::new(builder.finish()),
            Store::List { field, ends, valid, items } => {
                let ends = std::mem::replace(ends, vec![0]);
                Arc::new(ListArray::new(
                    Arc::clone(field),
                    OffsetBuffer::new(ScalarBuffer::from(ends)),
                    items.finish(),
                    valid.finish(),
                ))
            }
            Store::Struct { fields, valid, members } => Arc::new(StructArray::new(
                fields.clone(),
                members.iter_mut().map(Self::finish).collect(),
                valid.finish(),
            )),
        }
    }
}

fn convert_members<'a>(
    columns: &[ColumnBuilder],
    object: &LazyValue<'a>,
) -> Result<Value<'a>, BadRecord> {
    let mut values = Vec::with_capacity(columns.len());
    for column in columns {
        values.push(match object.get(column.name.as_str()) {
            Some(value) => own(column.convert(&value)?),
            None => Value::Null,
        });
    }
    Ok(Value::Members(values))
}

/// A value that no longer borrows from a short-lived view of the document.
fn own<'a>(value: Value<'_>) -> Value<'a> {
    match value {
        Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
        Value::Items(items) => Value::Items(items.into_iter().map(own).collect()),
        Value::Members(members) => Value::Members(members.into_iter().map(own).collect()),
        Value::Null => Value::Null,
        Value::Boolean(value) => Value::Boolean(value),
        Value::Int(value) => Value::Int(value),
        Value::Long(value) => Value::Long(value),
        Value::Float(value) => Value::Float(value),
        Value::Double(value) => Value::Double(value),
        Value::Decimal(value) => Value::Decimal(value),
        Value::Bytes(value) => Value::Bytes(value),
    }
}

/// The text of a JSON string.
fn text<'a>(value: &'a LazyValue<'a>) -> Option<Cow<'a, str>> {
    value.as_str().map(Cow::Borrowed)
}

/// A JSON number as a floating point number; one beyond its range does not fit.
fn number<T: std::str::FromStr + Into<f64> + Copy>(value: &LazyValue<'_>) -> Option<T> {
    if !value.is_number() {
        return None;
    }
    let number: T = value.as_raw_str().parse().ok()?;
    Into::<f64>::into(number).is_finite().then_some(number)
}

/// A JSON number, or a string that holds one, without loss of digits.
fn decimal(value: &LazyValue<'_>, data_type: &DataType) -> Option<i128> {
    let DataType::Decimal128(precision, scale) = data_type else { return None };
    let digits = match value.is_number() {
        true => Cow::Borrowed(value.as_raw_str()),
        false => text(value)?,
    };
    let fraction = digits.split_once('.').map_or("", |(_, fraction)| fraction);
    let exact = fraction.len() <= usize::from(scale.unsigned_abs());
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
    if !exact || !plain || !digits.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    parse_decimal::<Decimal128Type>(&digits, *precision, *scale).ok()
}

/// Milliseconds since the epoch as a JSON integer, or RFC 3339 as a string; as microseconds.
fn micros(value: &LazyValue<'_>) -> Option<i64> {
    if value.is_number() {
        return value.as_raw_str().parse::<i64>().ok()?.checked_mul(1_000);
    }
    string_to_timestamp_nanos(&text(value)?).ok().map(|nanos| nanos.div_euclid(1_000))
}

/// Standard base64 with padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    base64_simd::STANDARD.decode_to_vec(text).ok()
}
