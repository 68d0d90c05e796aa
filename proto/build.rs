//! Compiles the `.proto` files in pure Rust: no `protoc` is needed to build Weft.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "otlp/trace.proto",
        "weft/discovery/v1/discovery.proto",
        "weft/identity/v1/identity.proto",
        "weft/replica/v1/replica.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
