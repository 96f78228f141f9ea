//! Reads goldens and compares with them.

use std::path::PathBuf;

use patarm::model::{Qwen3, directory};
use patarm::ops::Backend;
use serde_json::Value;

/// One golden case: its numbers and its tensors.
pub struct Golden {
    folder: PathBuf,
    pub json: Value,
    bytes: Vec<u8>,
}

impl Golden {
    pub fn load(case: &str) -> Self {
        // Test binaries may travel to a machine with a GPU: see tools/gpu-check.
        let root = std::env::var_os("PATARM_ROOT").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let folder = root.join("tests/goldens").join(case);
        let json = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
        Self { folder, json, bytes }
    }

    /// The model that the case was computed with.
    pub fn model<B: Backend>(&self, backend: &B) -> Qwen3<B> {
        let folder = self.json["model"].as_str().map_or(self.folder.clone(), |relative| self.folder.join(relative));
        let (config, weights) = directory::load(&folder).unwrap();
        Qwen3::new(backend, config, &weights, 64).unwrap()
    }

    pub fn tensor(&self, name: &str) -> Vec<f32> {
        let tensors = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap_or_else(|_| panic!("golden tensor {name}"));
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
        tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// Names of tensors that start with `prefix`.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let tensors = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        let mut names: Vec<String> =
            tensors.names().into_iter().filter(|n| n.starts_with(prefix)).map(String::from).collect();
        names.sort();
        names
    }
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

pub fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Largest difference as a share of the largest expected number, with its index.
pub fn assert_near(what: &str, got: &[f32], expected: &[f32], limit: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: number of elements");
    let scale = expected.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
    let (index, error) = got
        .iter()
        .zip(expected)
        .map(|(g, e)| (f64::from(*g) - f64::from(*e)).abs() / scale)
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap();
    let (g, e) = (got[index], expected[index]);
    assert!(error <= limit, "{what}[{index}]: expected {e}, got {g}: {error:.2e} of the largest, limit {limit:.0e}");
}

/// Relative error in the Euclidean norm, with the largest single difference in the message.
pub fn assert_near_l2(what: &str, got: &[f32], expected: &[f32], limit: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: number of elements");
    let square = |x: f64| x * x;
    let norm: f64 = expected.iter().map(|e| square(f64::from(*e))).sum::<f64>().sqrt();
    let differences = got.iter().zip(expected).map(|(g, e)| (f64::from(*g) - f64::from(*e)).abs());
    let error = differences.clone().map(square).sum::<f64>().sqrt() / norm;
    let (index, largest) = differences.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(
        error <= limit,
        "{what}: relative L2 error {error:.2e}, limit {limit:.0e}; largest {largest:.2e} at {index}"
    );
}
