//! Compiles the protocol files with protox: no protoc need be installed.

use std::error::Error;

/// The control protocol of one node.
const NODE: &str = "node/v1/node.proto";
/// What orchestrators and kubelet say to a storage plugin.
const PLUGIN: [&str; 2] = ["csi/v1/csi.proto", "pluginregistration/v1/registration.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in PLUGIN.iter().chain([&NODE]) {
        println!("cargo:rerun-if-changed={file}");
    }
    tonic_prost_build::configure().compile_fds(protox::compile([NODE], ["."])?)?;

    let plugin = protox::compile(PLUGIN, ["."])?;
    // Without Debug, a message with secrets cannot be printed, whoever tries.
    let secret: Vec<String> = plugin
        .file
        .iter()
        .flat_map(|file| file.message_type.iter().map(move |message| (file.package(), message)))
        .filter(|(_, message)| message.field.iter().any(|field| field.name() == "secrets"))
        .map(|(package, message)| format!(".{package}.{}", message.name()))
        .collect();
    // Maps in an order of their own would make equal messages differ.
    tonic_prost_build::configure().btree_map(".").skip_debug(secret).compile_fds(plugin)?;
    Ok(())
}
