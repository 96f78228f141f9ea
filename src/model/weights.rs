//! Where the weights of a model come from, or what they are: read a piece of a tensor at a time, so that nothing holds them
//! twice.

use std::ops::Range;

use super::directory::DirectoryError;
use super::parameters::Parameter;
use super::{ModelDirectory, ParameterTable, Qwen3};
use crate::ops::{Backend, OpError};
use crate::tensor::DeviceError;

/// Weights that cannot be read, or a model that has no room for them.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Op(#[from] OpError),
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// The weights of one model.
pub trait Weights: Sync {
    /// Reads elements `range` of parameter `index` of the model's table.
    fn read(&self, index: usize, parameter: &Parameter, range: Range<usize>, to: &mut [f32]) -> Result<(), LoadError>;
}

/// Elements that are read at a time, where there is a choice: 64 MiB.
pub const PIECE: usize = 16 << 20;

/// An arena.
impl Weights for [f32] {
    fn read(&self, _: usize, parameter: &Parameter, range: Range<usize>, to: &mut [f32]) -> Result<(), LoadError> {
        to.copy_from_slice(&self[parameter.range()][range]);
        Ok(())
    }
}

/// An arena.
impl Weights for Vec<f32> {
    fn read(&self, index: usize, parameter: &Parameter, range: Range<usize>, to: &mut [f32]) -> Result<(), LoadError> {
        self[..].read(index, parameter, range, to)
    }
}

impl Weights for ModelDirectory {
    fn read(&self, index: usize, parameter: &Parameter, range: Range<usize>, to: &mut [f32]) -> Result<(), LoadError> {
        Ok(self.read(index, parameter, range, to)?)
    }
}

/// The master weights.
impl<B: Backend> Weights for Qwen3<B> {
    fn read(&self, _: usize, parameter: &Parameter, range: Range<usize>, to: &mut [f32]) -> Result<(), LoadError> {
        let Range { start, end } = range;
        let view = self.backend.view(self.master(), parameter.offset + start..parameter.offset + end);
        Ok(self.backend.read(view, to)?)
    }
}

/// Reads the elements `range` of an arena of these weights: the padding between tensors is 0.
pub fn read_arena<W: Weights + ?Sized>(
    weights: &W,
    table: &ParameterTable,
    range: Range<usize>,
    to: &mut [f32],
) -> Result<(), LoadError> {
    to.fill(0.0);
    let parameters = table.parameters();
    let first = parameters.partition_point(|parameter| parameter.range().end <= range.start);
    for (index, parameter) in parameters.iter().enumerate().skip(first) {
        let of = parameter.range();
        if of.start >= range.end {
            break;
        }
        let (start, end) = (of.start.max(range.start), of.end.min(range.end));
        let part = start - of.start..end - of.start;
        weights.read(index, parameter, part, &mut to[start - range.start..end - range.start])?;
    }
    Ok(())
}

/// The weights of a model on paper, which nothing reads.
pub struct Unread;

impl Weights for Unread {
    fn read(&self, _: usize, parameter: &Parameter, _: Range<usize>, _: &mut [f32]) -> Result<(), LoadError> {
        panic!("{}: paper has nothing to be filled", parameter.name)
    }
}
