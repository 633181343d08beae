//! The replicas' files themselves, compared byte by byte while no engine runs.

use anyhow::{Context, Result, anyhow, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const COMPARE_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 4096;
/// Differing blocks that are named; the first few tell the story.
const DIFFERENT_NAMED_MAX: usize = 8;

/// The data file of the only replica of this size below a node's pool.
pub fn data_file(pool: &Path, size_bytes: u64) -> Result<PathBuf> {
    let mut found = Vec::new();
    collect(pool, size_bytes, &mut found)?;
    match found.len() {
        1 => found.pop().ok_or_else(|| anyhow!("a list of one is not empty")),
        _ => Err(anyhow!("{} files of {size_bytes} bytes below {}: {found:?}", found.len(), pool.display())),
    }
}

fn collect(directory: &Path, size_bytes: u64, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let entry = entry.context("list a pool")?;
        let metadata = entry.metadata().context("look at a file of a pool")?;
        if metadata.is_dir() {
            collect(&entry.path(), size_bytes, found)?;
        } else if metadata.len() == size_bytes {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Compares files of one length, and returns how many bytes were compared. A difference names blocks.
pub fn compare(paths: &[PathBuf], size_bytes: u64) -> Result<u64> {
    let files = paths
        .iter()
        .map(|path| File::open(path).with_context(|| format!("open {}", path.display())))
        .collect::<Result<Vec<_>>>()?;
    let [first, others @ ..] = files.as_slice() else { return Ok(0) };
    let (mut left, mut right) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
    let (mut offset, mut different) = (0, Vec::new());
    while offset < size_bytes {
        let length = usize::try_from(size_bytes - offset).map_or(COMPARE_BYTES, |left| left.min(COMPARE_BYTES));
        first.read_exact_at(&mut left[..length], offset).context("read a replica")?;
        for (other, path) in others.iter().zip(&paths[1..]) {
            other.read_exact_at(&mut right[..length], offset).context("read a replica")?;
            if left[..length] != right[..length] {
                note_blocks(offset, &left[..length], &right[..length], path, &mut different);
            }
        }
        offset += length as u64;
    }
    ensure!(
        different.is_empty(),
        "replicas differ from {} in {} blocks: {:?}",
        paths[0].display(),
        different.len(),
        &different[..different.len().min(DIFFERENT_NAMED_MAX)]
    );
    Ok(size_bytes)
}

fn note_blocks(offset: u64, left: &[u8], right: &[u8], path: &Path, different: &mut Vec<(PathBuf, u64)>) {
    let blocks = left.chunks(BLOCK_BYTES).zip(right.chunks(BLOCK_BYTES));
    for (index, (left, right)) in (offset / BLOCK_BYTES as u64..).zip(blocks) {
        if left != right {
            different.push((path.to_path_buf(), index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{compare, data_file};
    use std::fs;

    #[test]
    fn one_changed_byte_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let size = 3 << 20;
        let paths = ["a", "b"].map(|node| {
            let pool = dir.path().join(node).join("volumes");
            fs::create_dir_all(&pool).unwrap();
            fs::write(pool.join("data"), vec![7; size]).unwrap();
            fs::write(pool.join("metadata"), [0; 512]).unwrap();
            data_file(&dir.path().join(node), size as u64).unwrap()
        });
        assert_eq!(compare(&paths, size as u64).unwrap(), size as u64);
        let mut changed = vec![7; size];
        changed[2 << 20] = 8;
        fs::write(&paths[1], &changed).unwrap();
        let error = compare(&paths, size as u64).unwrap_err().to_string();
        assert!(error.contains("1 blocks") && error.contains("512"), "{error}");
    }
}
