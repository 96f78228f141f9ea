//! AdamW on CUDA: one launch for all tensors. Once the table of tensors is on the device, the host sends only the
//! launch and never waits for the norm.

use std::sync::{Mutex, PoisonError};

use super::{COUNT_MAX, Cuda};
use crate::cuda::{Argument, Buffer, Grid, kernels};
use crate::ops::adamw::{AdamW, AdamWStep, Tensor};
use crate::ops::{Check, OpError, OpResult};
use crate::tensor::{Device, View};

/// A tensor as the kernel reads it: first element, length and address of the copy (each low word, high word), first block,
/// weight decay.
type Row = [u32; 8];

/// The table of the latest call, on the device. Every step has the same tensors, so it is uploaded once.
struct Table {
    rows: Vec<Row>,
    buffer: Buffer<u32>,
}

type Latest = Mutex<Option<Table>>;

/// Rows of all tensors that have elements, and the number of blocks they take.
fn rows(tensors: &mut [Tensor<'_, Cuda>]) -> Result<(Vec<Row>, usize), OpError> {
    let mut blocks = 0;
    let mut rows = Vec::with_capacity(tensors.len());
    for Tensor { range, weight_decay, prepared } in tensors {
        let copy = match prepared {
            Some(prepared) => {
                prepared.weight.check("adamw", prepared.sizes)?;
                prepared.weight.address()
            }
            None => 0,
        };
        let len = range.len();
        if len == 0 {
            continue;
        }
        let words = |number: u64| [number as u32, (number >> 32) as u32];
        let ([s0, s1], [l0, l1], [c0, c1]) = (words(range.start as u64), words(len as u64), words(copy));
        rows.push([s0, s1, l0, l1, c0, c1, blocks as u32, weight_decay.to_bits()]);
        blocks += len.div_ceil(kernels::ADAMW_BLOCK_ELEMENTS as usize);
        Check("adamw")
            .that(blocks <= COUNT_MAX, || format!("takes up to {COUNT_MAX} blocks, these tensors need more"))?;
    }
    Ok((rows, blocks))
}

impl AdamWStep for Cuda {
    fn adamw(&self, mut args: AdamW<'_, Self>) -> OpResult {
        args.check()?;
        let (rows, blocks) = rows(&mut args.tensors)?;
        if blocks == 0 {
            return Ok(());
        }
        let latest = self.kept::<Latest>();
        let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
        let table = match latest.take().filter(|table| table.rows == rows) {
            Some(table) => table,
            None => {
                let words = rows.as_flattened();
                let mut buffer = self.scratch(words.len())?;
                self.write(self.view_mut(&mut buffer, 0..words.len()), words)?;
                Table { buffer, rows }
            }
        };
        let table = latest.insert(table);
        let constants = args.constants();
        let arguments = [
            args.weight.argument(),
            args.moment1.argument(),
            args.moment2.argument(),
            args.gradient.argument(),
            table.buffer.read_argument(),
            Argument::count(table.rows.len()),
            args.norm.argument(),
            Argument::F64(args.clip_norm),
            Argument::F32(args.learning_rate),
            Argument::F32(constants.beta1),
            Argument::F32(constants.beta2),
            Argument::F32(constants.step_size),
            Argument::F32(constants.inverse_root_correction),
            Argument::F32(constants.epsilon),
        ];
        let grid = Grid { blocks, threads: (kernels::ADAMW_THREADS, 1), dynamic_shared_bytes: 0 };
        // Safety: the order is the kernel's. `args.check` holds the four views to one length, the ranges of the table to that
        // length and apart from each other, and each range to the sizes of its copy; `rows` holds each copy to these sizes, and
        // `args` borrows the copies for writing; they are whole buffers, which start on 256 bytes. The table has a row for each
        // of the count.
        unsafe { self.launch(&kernels::ADAMW_F32, grid, arguments) }?;
        Ok(())
    }
}
