//! Element types, host tensors and safetensors files.
