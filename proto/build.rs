//! Compiles the protocol files with protox: no protoc need be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["node/v1/node.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
