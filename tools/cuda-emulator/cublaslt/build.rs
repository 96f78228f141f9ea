//! Sets the name of the shared library, as `tools/cuda-emulator/build.rs` does for the driver.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcublasLt.so");
    println!("cargo:rerun-if-changed=build.rs");
}
