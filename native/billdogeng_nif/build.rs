//! How the library is linked. Here and not in `.cargo/config.toml`, whose flags a user's RUSTFLAGS replace.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        // The VM unloads a library when its stub module is purged; our threads would lose the code they run.
        Ok("linux" | "android" | "freebsd") => {
            println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete")
        }
        // The VM's functions are there only once it has loaded us.
        Ok("macos") => println!("cargo::rustc-cdylib-link-arg=-Wl,-undefined,dynamic_lookup"),
        _ => {}
    }
}
