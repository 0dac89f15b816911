//! How the library is linked. Here and not in `.cargo/config.toml`, whose flags a user's RUSTFLAGS replace.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The VM's functions are there only once it has loaded us.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-undefined,dynamic_lookup");
    }
}
