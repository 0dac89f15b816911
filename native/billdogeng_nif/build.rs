//! Links the library. Not in `.cargo/config.toml`: a user's RUSTFLAGS would replace its flags.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The VM provides its functions when it loads the library.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-undefined,dynamic_lookup");
    }
}
