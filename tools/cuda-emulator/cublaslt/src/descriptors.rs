//! Matrix layouts, matmul descriptors and preferences: how the host describes a matmul, attribute by attribute.
//!
//! Setting an unknown attribute is an error, so that nothing is silently ignored.

use std::ffi::c_void;

use crate::algorithm::Reduction;
use crate::driver;
use crate::entry::{Answer, In, Out, Status, Table, answer_attribute, attribute_bytes, entry};

/// `cublasLtMatrixLayout_t`: a column-major matrix, or a batch of them with a constant stride.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    /// `cudaDataType`.
    pub kind: u32,
    pub order: i32,
    pub rows: u64,
    pub cols: u64,
    /// Elements from one column to the next.
    pub leading: i64,
    pub batch: i32,
    /// Elements from one matrix of the batch to the next.
    pub stride: i64,
}

/// `cublasLtMatmulDesc_t`.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    pub compute: u32,
    pub scale: u32,
    pub pointer_mode: i32,
    pub transpose_a: i32,
    pub transpose_b: i32,
    pub transpose_c: i32,
    pub epilogue: u32,
    pub bias: u64,
    pub bias_stride: i64,
    pub bias_kind: i32,
}

/// `cublasLtMatmulPreference_t`.
#[derive(Clone, Copy, Debug)]
pub struct Preference {
    pub workspace_max: u64,
    /// The addresses of A, B, C and D will be multiples of these bytes.
    pub alignments: [u32; 4],
    /// The allowed bits of [`Reduction`]; a sum in one part is always allowed.
    pub reductions: u32,
}

impl Preference {
    /// As on a GPU: no workspace, addresses aligned as the allocator aligns them, every reduction allowed.
    pub const DEFAULT: Preference = Preference { workspace_max: 0, alignments: [256; 4], reductions: Reduction::MASK };
}

pub static LAYOUTS: Table<Layout> = Table::new(0xb1);
pub static DESCRIPTORS: Table<Descriptor> = Table::new(0xb2);
pub static PREFERENCES: Table<Preference> = Table::new(0xb3);
pub static HANDLES: Table<()> = Table::new(0xb4);

/// A value with the exact size of an attribute.
fn exact<const N: usize>(bytes: &[u8]) -> Answer<[u8; N]> {
    bytes.try_into().map_err(|_| {
        Status::INVALID_VALUE.because(format!("the attribute has {N} bytes, the value has {}", bytes.len()))
    })
}

fn unknown<T>(what: &str, attribute: u32) -> Answer<T> {
    Err(Status::NOT_SUPPORTED.because(format!("the emulator does not know {what} attribute {attribute}")))
}

impl Layout {
    fn set(&mut self, attribute: u32, value: &[u8]) -> Answer {
        match attribute {
            0 => self.kind = u32::from_ne_bytes(exact(value)?),
            1 => self.order = i32::from_ne_bytes(exact(value)?),
            2 => self.rows = u64::from_ne_bytes(exact(value)?),
            3 => self.cols = u64::from_ne_bytes(exact(value)?),
            4 => self.leading = i64::from_ne_bytes(exact(value)?),
            5 => self.batch = i32::from_ne_bytes(exact(value)?),
            6 => self.stride = i64::from_ne_bytes(exact(value)?),
            _ => return unknown("matrix layout", attribute),
        }
        Ok(())
    }

    fn get(&self, attribute: u32) -> Answer<Vec<u8>> {
        Ok(match attribute {
            0 => self.kind.to_ne_bytes().to_vec(),
            1 => self.order.to_ne_bytes().to_vec(),
            2 => self.rows.to_ne_bytes().to_vec(),
            3 => self.cols.to_ne_bytes().to_vec(),
            4 => self.leading.to_ne_bytes().to_vec(),
            5 => self.batch.to_ne_bytes().to_vec(),
            6 => self.stride.to_ne_bytes().to_vec(),
            _ => return unknown("matrix layout", attribute),
        })
    }
}

impl Descriptor {
    fn set(&mut self, attribute: u32, value: &[u8]) -> Answer {
        match attribute {
            0 => self.compute = u32::from_ne_bytes(exact(value)?),
            1 => self.scale = u32::from_ne_bytes(exact(value)?),
            2 => self.pointer_mode = i32::from_ne_bytes(exact(value)?),
            3 => self.transpose_a = i32::from_ne_bytes(exact(value)?),
            4 => self.transpose_b = i32::from_ne_bytes(exact(value)?),
            5 => self.transpose_c = i32::from_ne_bytes(exact(value)?),
            7 => self.epilogue = u32::from_ne_bytes(exact(value)?),
            8 => self.bias = u64::from_ne_bytes(exact(value)?),
            10 => self.bias_stride = i64::from_ne_bytes(exact(value)?),
            26 => self.bias_kind = i32::from_ne_bytes(exact(value)?),
            _ => return unknown("matmul", attribute),
        }
        Ok(())
    }

    fn get(&self, attribute: u32) -> Answer<Vec<u8>> {
        Ok(match attribute {
            0 => self.compute.to_ne_bytes().to_vec(),
            1 => self.scale.to_ne_bytes().to_vec(),
            2 => self.pointer_mode.to_ne_bytes().to_vec(),
            3 => self.transpose_a.to_ne_bytes().to_vec(),
            4 => self.transpose_b.to_ne_bytes().to_vec(),
            5 => self.transpose_c.to_ne_bytes().to_vec(),
            7 => self.epilogue.to_ne_bytes().to_vec(),
            8 => self.bias.to_ne_bytes().to_vec(),
            10 => self.bias_stride.to_ne_bytes().to_vec(),
            26 => self.bias_kind.to_ne_bytes().to_vec(),
            _ => return unknown("matmul", attribute),
        })
    }
}

impl Preference {
    /// Search mode and wave limit are accepted and ignored: they only restrict a search, and the emulator does not search.
    fn set(&mut self, attribute: u32, value: &[u8]) -> Answer {
        match attribute {
            1 => self.workspace_max = u64::from_ne_bytes(exact(value)?),
            5..=8 => self.alignments[attribute as usize - 5] = u32::from_ne_bytes(exact(value)?),
            3 => {
                let mask = u32::from_ne_bytes(exact(value)?);
                if mask > Reduction::MASK {
                    return Err(
                        Status::INVALID_VALUE.because(format!("a mask of reductions has three bits, got {mask:#x}"))
                    );
                }
                self.reductions = mask;
            }
            0 | 9 => {}
            _ => return unknown("preference", attribute),
        }
        Ok(())
    }
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtCreate(slot: Out<*mut c_void>) -> u32 {
    entry("cublasLtCreate", || {
        driver::check()?;
        slot.put(HANDLES.add(()))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtDestroy(handle: *mut c_void) -> u32 {
    entry("cublasLtDestroy", || HANDLES.remove(handle))
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatrixLayoutCreate(slot: Out<*mut c_void>, kind: u32, rows: u64, cols: u64, leading: i64) -> u32 {
    entry("cublasLtMatrixLayoutCreate", || {
        slot.put(LAYOUTS.add(Layout { kind, order: 0, rows, cols, leading, batch: 1, stride: 0 }))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatrixLayoutDestroy(layout: *mut c_void) -> u32 {
    entry("cublasLtMatrixLayoutDestroy", || LAYOUTS.remove(layout))
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatrixLayoutSetAttribute(
    layout: *mut c_void,
    attribute: u32,
    value: *const c_void,
    length: usize,
) -> u32 {
    entry("cublasLtMatrixLayoutSetAttribute", || {
        let value = attribute_bytes(value, length)?;
        LAYOUTS.change(layout, |layout| layout.set(attribute, value))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatrixLayoutGetAttribute(
    layout: *mut c_void,
    attribute: u32,
    value: *mut c_void,
    length: usize,
    written: Out<usize>,
) -> u32 {
    entry("cublasLtMatrixLayoutGetAttribute", || {
        answer_attribute(value, length, written, &LAYOUTS.get(layout)?.get(attribute)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulDescCreate(slot: Out<*mut c_void>, compute: u32, scale: u32) -> u32 {
    entry("cublasLtMatmulDescCreate", || {
        slot.put(DESCRIPTORS.add(Descriptor {
            compute,
            scale,
            pointer_mode: 0,
            transpose_a: 0,
            transpose_b: 0,
            transpose_c: 0,
            epilogue: 1,
            bias: 0,
            bias_stride: 0,
            bias_kind: -1,
        }))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulDescDestroy(descriptor: *mut c_void) -> u32 {
    entry("cublasLtMatmulDescDestroy", || DESCRIPTORS.remove(descriptor))
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulDescSetAttribute(
    descriptor: *mut c_void,
    attribute: u32,
    value: *const c_void,
    length: usize,
) -> u32 {
    entry("cublasLtMatmulDescSetAttribute", || {
        let value = attribute_bytes(value, length)?;
        DESCRIPTORS.change(descriptor, |descriptor| descriptor.set(attribute, value))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulDescGetAttribute(
    descriptor: *mut c_void,
    attribute: u32,
    value: *mut c_void,
    length: usize,
    written: Out<usize>,
) -> u32 {
    entry("cublasLtMatmulDescGetAttribute", || {
        answer_attribute(value, length, written, &DESCRIPTORS.get(descriptor)?.get(attribute)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceCreate(slot: Out<*mut c_void>) -> u32 {
    entry("cublasLtMatmulPreferenceCreate", || slot.put(PREFERENCES.add(Preference::DEFAULT)))
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceDestroy(preference: *mut c_void) -> u32 {
    entry("cublasLtMatmulPreferenceDestroy", || PREFERENCES.remove(preference))
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: *mut c_void,
    attribute: u32,
    value: *const c_void,
    length: usize,
) -> u32 {
    entry("cublasLtMatmulPreferenceSetAttribute", || {
        let value = attribute_bytes(value, length)?;
        PREFERENCES.change(preference, |preference| preference.set(attribute, value))
    })
}

/// Major, minor or patch version (0, 1, 2) of the interface, which is that of CUDA 13.0.
#[unsafe(no_mangle)]
extern "C" fn cublasLtGetProperty(property: u32, slot: Out<i32>) -> u32 {
    entry("cublasLtGetProperty", || slot.put(if property == 0 { 13 } else { 0 }))
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetVersion() -> usize {
    130_000
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetCudartVersion() -> usize {
    13_000
}

/// Only the emulator's library has this function.
#[unsafe(no_mangle)]
extern "C" fn patarm_emulator_cublaslt(version: In<u32>) -> u32 {
    version.get().unwrap_or(1)
}
