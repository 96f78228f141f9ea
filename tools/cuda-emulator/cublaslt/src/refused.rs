//! Entry points that the emulator does not implement. They return `NOT_SUPPORTED` and report their name; without them, cudarc
//! would panic on a missing symbol. The list is every function that cudarc 0.19.10 can load, minus those of the other modules.

use crate::entry::{Status, entry};

/// Defines a function for each name that returns an error. It ignores its arguments, which C allows.
macro_rules! refuse {
    ($($name:ident,)*) => { $(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> u32 {
            entry(stringify!($name), || Err(Status::NOT_SUPPORTED.because("the emulator does not have this function")))
        }
    )* };
}

#[rustfmt::skip]
refuse! {
    cublasLtEmulationDescCreate, cublasLtEmulationDescDestroy, cublasLtEmulationDescGetAttribute,
    cublasLtEmulationDescInit_internal, cublasLtEmulationDescSetAttribute, cublasLtGroupedMatrixLayoutCreate,
    cublasLtGroupedMatrixLayoutInit_internal, cublasLtHeuristicsCacheGetCapacity, cublasLtHeuristicsCacheSetCapacity,
    cublasLtLoggerForceDisable, cublasLtLoggerOpenFile, cublasLtLoggerSetCallback, cublasLtLoggerSetFile,
    cublasLtLoggerSetLevel, cublasLtLoggerSetMask, cublasLtMatmulAlgoCapGetAttribute, cublasLtMatmulAlgoCheck,
    cublasLtMatmulAlgoCheckForStream, cublasLtMatmulAlgoConfigGetAttribute, cublasLtMatmulAlgoConfigSetAttribute,
    cublasLtMatmulAlgoGetHeuristicForStream, cublasLtMatmulAlgoGetIds, cublasLtMatmulAlgoInit,
    cublasLtMatmulDescInit_internal, cublasLtMatmulPreferenceGetAttribute, cublasLtMatmulPreferenceInit_internal,
    cublasLtMatrixLayoutInit_internal, cublasLtMatrixTransform, cublasLtMatrixTransformDescCreate,
    cublasLtMatrixTransformDescDestroy, cublasLtMatrixTransformDescGetAttribute,
    cublasLtMatrixTransformDescInit_internal, cublasLtMatrixTransformDescSetAttribute,
}
