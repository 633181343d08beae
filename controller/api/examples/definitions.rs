//! Prints the definitions of the custom resources as YAML documents.
fn main() -> Result<(), serde_json::Error> {
    for definition in lockstep_api::definitions() {
        println!("---\n{}", serde_json::to_string_pretty(&definition)?);
    }
    Ok(())
}
