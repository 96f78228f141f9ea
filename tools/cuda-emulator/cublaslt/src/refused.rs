//! Entry points that the emulator lacks: they refuse with `NOT_SUPPORTED` and report their name, where cudarc would panic
//! on a missing symbol. The list is every function that cudarc 0.19.10 can name, less those of the other modules.

use crate::entry::{Status, entry};

/// Makes a refusing function of each name. The arguments are never looked at: the caller passes them, as C allows.
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
