//! The rules of this repository that a compiler does not know: lengths, where `unsafe` may stand, words and names that
//! have no place in tracked files.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a source file without its tests: what is questioned, and what is too long.
const LINES_QUESTIONED: usize = 500;
const LINES_MAX: usize = 700;

/// The directories whose files may say `unsafe`: leaf modules of the I/O shell.
const UNSAFE_ALLOWED_UNDER: &str = "mirror/engine/";

/// An unsafe leaf module is short enough to be read as a whole.
const UNSAFE_LINES_MAX: usize = 400;

struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Tracked files and new ones that are not ignored, as text; what is not UTF-8 (a corpus) has no words.
fn sources() -> Vec<Source> {
    let listed = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root())
        .output()
        .expect("git lists the files of this repository");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let paths = String::from_utf8(listed.stdout).expect("paths of this repository are UTF-8");
    let sources: Vec<Source> = paths
        .split_terminator('\0')
        .filter_map(|path| {
            Some(Source { path: path.to_owned(), text: std::fs::read_to_string(root().join(path)).ok()? })
        })
        .collect();
    assert!(sources.iter().any(|it| it.path == "Cargo.toml"), "not the repository's root: {:?}", root());
    sources
}

fn is_rust(source: &Source) -> bool {
    source.path.ends_with(".rs")
}

/// A file of tests only: `tests/x.rs`, `x/tests.rs`, `x/tests/y.rs`.
fn is_test_file(source: &Source) -> bool {
    let path = Path::new(&source.path).with_extension("");
    path.components().any(|part| part.as_os_str() == "tests")
}

/// The text up to the module of tests, which stands last.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |start| &text[..start])
}

/// Lines with their numbers, without comments: `// unsafe` is a word, not a block.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line.split("//").next().unwrap_or(line)))
}

fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(inside) && !line[at + word.len()..].starts_with(inside))
}

/// A needle that is written in two halves here, so that this file does not find itself.
fn joined(halves: &[(&str, &str)]) -> Vec<String> {
    halves.iter().map(|(first, second)| format!("{first}{second}")).collect()
}

fn occurrences(sources: &[Source], needles: &[String], wanted: impl Fn(&Source) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| wanted(source)) {
        for (index, line) in source.text.lines().enumerate() {
            for needle in needles.iter().filter(|needle| line.contains(needle.as_str())) {
                found.push(format!("{}:{}: {needle}", source.path, index + 1));
            }
        }
    }
    found
}

#[test]
fn source_files_are_short() {
    let mut too_long = Vec::new();
    for source in sources().iter().filter(|it| is_rust(it) && !is_test_file(it)) {
        let lines = without_tests(&source.text).lines().count();
        if lines > LINES_MAX {
            too_long.push(format!("{}: {lines} lines", source.path));
        } else if lines > LINES_QUESTIONED {
            println!("questioned: {}: {lines} lines", source.path);
        }
    }
    assert!(too_long.is_empty(), "longer than {LINES_MAX} lines without tests: {too_long:#?}");
}

#[test]
fn unsafe_stands_only_in_short_leaf_modules_of_the_engine() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|it| is_rust(it) && it.path != "e2e/tests/tidy.rs") {
        let Some((line, _)) =
            code_lines(&source.text).find(|(_, line)| has_word(line, "unsafe") && !line.contains('"'))
        else {
            continue;
        };
        let lines = without_tests(&source.text).lines().count();
        // A module that has modules of its own is no leaf.
        let is_leaf = !source.path.ends_with("/lib.rs")
            && !code_lines(without_tests(&source.text)).any(|(_, line)| {
                let line = line.trim().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
                line.starts_with("mod ") && line.trim_end().ends_with(';')
            });
        if !source.path.starts_with(UNSAFE_ALLOWED_UNDER) || !is_leaf || lines > UNSAFE_LINES_MAX {
            found.push(format!("{}:{line} (leaf: {is_leaf}, {lines} lines)", source.path));
        }
    }
    assert!(found.is_empty(), "`unsafe` belongs in leaf modules below {UNSAFE_ALLOWED_UNDER}: {found:#?}");
}

#[test]
fn no_registry_and_no_path_of_a_machine_is_named() {
    let needles = joined(&[
        ("proxy.", "golang"),
        ("static.", "crates"),
        ("index.", "crates"),
        ("files.", "pythonhosted"),
        ("registry.", "npmjs"),
        ("deb.", "debian.org"),
        ("repo.", "maven"),
        ("repo1.", "maven"),
        ("/wo", "rk/"),
        ("/ro", "ot/"),
        ("/fa", "rm/"),
        ("/tm", "p/w-"),
    ]);
    let found = occurrences(&sources(), &needles, |source| source.path != "Cargo.lock");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn nothing_is_left_unfinished() {
    let needles = joined(&[
        ("todo", "!("),
        ("unimplemented", "!("),
        ("TO", "DO"),
        ("FIX", "ME"),
        ("XX", "X"),
        ("not implemented ", "yet"),
        ("#[igno", "re"),
        ("dbg", "!("),
    ]);
    let found = occurrences(&sources(), &needles, |source| is_rust(source) || source.path.starts_with("scripts/"));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn tests_wait_for_states_and_not_for_times() {
    let needles = joined(&[("thread::", "sleep("), ("time::", "sleep("), (" sleep", "(")]);
    let found = occurrences(&sources(), &needles, |source| is_rust(source) && is_test_file(source));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_words_of_the_vocabulary_are_used() {
    let found: Vec<String> = sources()
        .iter()
        .filter(|source| is_rust(source))
        .flat_map(|source| {
            ["Manager", "Handler", "Helper", "Util", "Common"].into_iter().flat_map(move |noun| {
                code_lines(&source.text)
                    .filter(move |(_, line)| {
                        ["struct ", "enum ", "trait "].iter().any(|kind| {
                            line.find(kind).is_some_and(|at| {
                                let name: String =
                                    line[at + kind.len()..].chars().take_while(|c| c.is_alphanumeric()).collect();
                                name.ends_with(noun)
                            })
                        })
                    })
                    .map(move |(number, _)| format!("{}:{number}: {noun}", source.path))
            })
        })
        .collect();
    assert!(found.is_empty(), "names that say nothing: {found:#?}");
}

#[test]
fn versions_stand_only_in_the_workspace_table() {
    let found: Vec<String> = sources()
        .iter()
        .filter(|source| source.path.ends_with("/Cargo.toml") && !source.path.contains("/fuzz/"))
        .flat_map(|source| {
            let mut in_dependencies = false;
            source.text.lines().enumerate().filter_map(move |(index, line)| {
                if line.starts_with('[') {
                    in_dependencies = line.contains("dependencies");
                }
                let names_version = in_dependencies && line.contains('=') && !line.contains("workspace = true");
                let is_option = line.trim_start().starts_with('#') || line.trim_start().starts_with("features");
                (names_version && !is_option).then(|| format!("{}:{}: {line}", source.path, index + 1))
            })
        })
        .collect();
    assert!(found.is_empty(), "dependencies are `x.workspace = true`: {found:#?}");
}

#[test]
fn the_readme_names_its_two_commands() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("there is a README");
    for command in ["make demo", "make test"] {
        assert!(readme.contains(command), "README.md does not name `{command}`");
    }
}
