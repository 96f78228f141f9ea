//! A checked matmul D = f(α·op(A)·op(B) + β·C): what is allowed, and an error message for everything else.

use half::{bf16, f16};

use crate::descriptors::{Descriptor, Layout};
use crate::entry::{Answer, Status};

const NONE: i32 = 0;
const TRANSPOSED: i32 = 1;

/// Element types (`cudaDataType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    fn from_code(code: u32) -> Answer<Element> {
        match code {
            0 => Ok(Element::F32),
            2 => Ok(Element::F16),
            14 => Ok(Element::Bf16),
            _ => Err(Status::NOT_SUPPORTED.because(format!("data type {code}: only f32 (0), f16 (2), bf16 (14)"))),
        }
    }

    /// The nearest value of this type.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Element::F32 => value,
            Element::F16 => f16::from_f32(value).to_f32(),
            Element::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        if self == Element::F32 { 4 } else { 2 }
    }
}

/// One operand: a column-major matrix or a batch of them.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    pub element: Element,
    pub rows: u64,
    pub cols: u64,
    pub leading: u64,
    pub stride: i64,
}

impl Operand {
    fn new(name: &str, layout: &Layout) -> Answer<Operand> {
        let refuse = |text: String| Err(Status::INVALID_VALUE.because(format!("{name}: {text}")));
        if layout.order != 0 {
            return Err(Status::NOT_SUPPORTED.because(format!("{name}: only column-major layouts (order 0)")));
        }
        if layout.rows == 0 || layout.cols == 0 {
            return refuse(format!("{} × {} elements", layout.rows, layout.cols));
        }
        if layout.leading < layout.rows as i64 {
            return refuse(format!("leading dimension {} is less than {} rows", layout.leading, layout.rows));
        }
        if layout.batch < 1 {
            return refuse(format!("a batch of {}", layout.batch));
        }
        let element = Element::from_code(layout.kind)?;
        let Layout { rows, cols, leading, stride, .. } = *layout;
        Ok(Operand { element, rows, cols, leading: leading as u64, stride })
    }

    /// Address of a column in a matrix of the batch.
    pub fn column(&self, base: u64, matrix: u64, column: u64) -> u64 {
        let offset = self.stride.wrapping_mul(matrix as i64).wrapping_add((column * self.leading) as i64);
        base.wrapping_add_signed(offset.wrapping_mul(self.element.bytes() as i64))
    }

    /// The first address and the one after the last, over the whole batch.
    pub fn span(&self, base: u64, batch: u64) -> (u64, u64) {
        let last = self.column(base, batch - 1, 0).max(base);
        (base, self.column(last, 0, self.cols - 1) + self.rows * self.element.bytes() as u64)
    }
}

/// The operations on a sum before it is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epilogue {
    /// The address of one value per row of D, and the stride between the matrices of the batch, in elements.
    pub bias: Option<(u64, i64)>,
    pub relu: bool,
}

/// A valid matmul: `rows` × `depth` times `depth` × `cols`.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    pub rows: u64,
    pub cols: u64,
    pub depth: u64,
    pub batch: u64,
    pub a: Operand,
    pub b: Operand,
    pub c: Operand,
    pub d: Operand,
    pub transpose_a: bool,
    pub transpose_b: bool,
    /// Inputs are rounded to TF32 (10 bits of fraction) first.
    pub tf32: bool,
    pub epilogue: Epilogue,
}

impl Problem {
    /// Checks the host's description of a matmul.
    ///
    /// # Errors
    /// `INVALID_VALUE` for a contradictory description, `NOT_SUPPORTED` for what is not on the allow-list.
    pub fn new(descriptor: &Descriptor, layouts: [&Layout; 4]) -> Answer<Problem> {
        let [a, b, c, d] = layouts;
        let batch = d.batch;
        if [a, b, c].iter().any(|layout| layout.batch != batch) {
            let batches = layouts.map(|layout| layout.batch);
            return Err(Status::INVALID_VALUE.because(format!("batches of A, B, C, D differ: {batches:?}")));
        }
        let transpose = |name: &str, code: i32| match code {
            NONE => Ok(false),
            TRANSPOSED => Ok(true),
            _ => Err(Status::NOT_SUPPORTED.because(format!("operation {code} on {name}: only none or transpose"))),
        };
        let (transpose_a, transpose_b) =
            (transpose("A", descriptor.transpose_a)?, transpose("B", descriptor.transpose_b)?);
        if transpose("C", descriptor.transpose_c)? {
            return Err(Status::NOT_SUPPORTED.because("C cannot be transposed"));
        }
        let [a, b, c, d] = [Operand::new("A", a)?, Operand::new("B", b)?, Operand::new("C", c)?, Operand::new("D", d)?];
        let (rows, depth) = if transpose_a { (a.cols, a.rows) } else { (a.rows, a.cols) };
        let (depth_b, cols) = if transpose_b { (b.cols, b.rows) } else { (b.rows, b.cols) };
        if depth != depth_b || (d.rows, d.cols) != (rows, cols) || (c.rows, c.cols) != (rows, cols) {
            return Err(Status::INVALID_VALUE.because(format!(
                "op(A) is {rows} × {depth}, op(B) {depth_b} × {cols}, C {} × {}, D {} × {}: they do not fit",
                c.rows, c.cols, d.rows, d.cols
            )));
        }
        check_types(descriptor, [a.element, b.element, c.element, d.element])?;
        if batch > 1 && (d.stride.unsigned_abs()) < (cols - 1) * d.leading + rows {
            return Err(Status::INVALID_VALUE.because(format!("matrices of D overlap: stride {}", d.stride)));
        }
        let epilogue = epilogue(descriptor, d.element)?;
        let tf32 = a.element == Element::F32 && descriptor.compute == 77;
        Ok(Problem { rows, cols, depth, batch: batch as u64, a, b, c, d, transpose_a, transpose_b, tf32, epilogue })
    }

    /// Types and transposes as one number.
    pub fn signature(&self) -> u64 {
        (self.a.element as u64) << 8
            | (self.d.element as u64) << 4
            | (self.transpose_a as u64) << 1
            | self.transpose_b as u64
    }
}

/// The allow-list of types: A and B are equal; C and D are equal, and have the type of A or f32; sums and scale factors are f32.
fn check_types(descriptor: &Descriptor, [a, b, c, d]: [Element; 4]) -> Answer {
    let compute = descriptor.compute;
    let fits = match compute {
        68 | 69 => true,
        77 => a == Element::F32,
        _ => false,
    };
    if !fits
        || descriptor.scale != 0
        || descriptor.pointer_mode != 0
        || a != b
        || c != d
        || (d != a && d != Element::F32)
    {
        return Err(Status::NOT_SUPPORTED.because(format!(
            "A {a:?}, B {b:?}, C {c:?}, D {d:?}, compute type {compute}, scale type {}, pointer mode {}: allowed are \
             equal inputs of f32, f16 or bf16, outputs of the same type or f32, compute type 32F (68, 69; 77 with f32 \
             inputs), f32 scale factors in host memory",
            descriptor.scale, descriptor.pointer_mode
        )));
    }
    Ok(())
}

fn epilogue(descriptor: &Descriptor, d: Element) -> Answer<Epilogue> {
    let (with_bias, relu) = match descriptor.epilogue {
        1 => (false, false),
        2 => (false, true),
        4 => (true, false),
        6 => (true, true),
        other => {
            return Err(
                Status::NOT_SUPPORTED.because(format!("epilogue {other}: only none (1), relu (2), bias (4), both (6)"))
            );
        }
    };
    if with_bias && descriptor.bias == 0 {
        return Err(Status::INVALID_VALUE.because("an epilogue with bias, but no bias pointer"));
    }
    if with_bias && descriptor.bias_kind >= 0 && Element::from_code(descriptor.bias_kind as u32)? != d {
        return Err(Status::NOT_SUPPORTED.because("the bias must have the type of D"));
    }
    Ok(Epilogue { bias: with_bias.then_some((descriptor.bias, descriptor.bias_stride)), relu })
}
