//! Names the shared library: with the soname `libcuda.so` a later `dlopen("libcuda.so")` by cudarc finds the library
//! that is already loaded instead of searching the machine.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    println!("cargo:rerun-if-changed=build.rs");
}
