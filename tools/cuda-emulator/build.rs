//! Sets the soname `libcuda.so`, so that a later `dlopen("libcuda.so")` by cudarc finds the library that is already
//! loaded instead of searching the system.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    println!("cargo:rerun-if-changed=build.rs");
}
