//! Element types, devices with their buffers and views, and safetensors files.

pub mod device;
pub mod dtype;
pub mod fetch;
pub mod host_memory;
pub mod profile;
pub mod safetensors;

pub use device::{Device, DeviceError, LOGITS_MAX, Mut, Ref, View, replay_size};
pub use dtype::{DType, Element};
pub use fetch::Fetch;
pub use profile::{OpTime, Phase, Profile, ProfileDetail};
