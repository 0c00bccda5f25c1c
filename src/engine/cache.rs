//! Owns the cache of what a provider compiles: a folder for every combination of everything that it depends on.
//!
//! An entry is made in a folder of its own and renamed when it is whole, so that no process sees half of it. It says
//! what it was made for, and the hash of each of its files: one that is stale, foreign or damaged is made anew, and none
//! is ever a reason to fail.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicUsize, Ordering},
};

use sha2::{Digest, Sha256};

/// File in an entry that says what the entry was made for, then the hash and name of every other file.
const SEAL: &str = "entry";

/// The folder for one kind of entries: `fastvsr/KIND` in the user's cache folder. None without a home.
pub(super) fn root(kind: &str) -> Option<PathBuf> {
    env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .map(|folder| folder.join("fastvsr").join(kind))
}

/// Calls `make` with the folder of the entry `key` under `root`: the folder holds what an earlier call has left, or it
/// is empty and what `make` leaves is kept. Without a usable folder `make` gets none.
///
/// # Errors
/// Those of `make` in an empty folder, or in none.
pub(super) fn compiled<T, E>(
    root: Option<&Path>,
    key: &str,
    mut make: impl FnMut(Option<&Path>) -> Result<T, E>,
) -> Result<T, E> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);

    let Some(root) = root else { return make(None) };
    let name = hex(&Sha256::digest(key));
    let entry = root.join(&name);
    if is_whole(&entry, key)
        && let Ok(made) = make(Some(&entry))
    {
        return Ok(made);
    }
    let _ = fs::remove_dir_all(&entry);
    let draft = root.join(format!("{name}.{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    if fs::create_dir_all(&draft).is_err() {
        return make(None);
    }
    let made = make(Some(&draft));
    if made.is_ok() && seal(&draft, key).is_ok() {
        // Fails if another process was first, whose entry is as good.
        let _ = fs::rename(&draft, &entry);
    }
    let _ = fs::remove_dir_all(&draft);
    made
}

fn seal(folder: &Path, key: &str) -> io::Result<()> {
    fs::write(folder.join(SEAL), contents(folder, key)?)
}

fn is_whole(folder: &Path, key: &str) -> bool {
    let sealed = fs::read_to_string(folder.join(SEAL));
    matches!((sealed, contents(folder, key)), (Ok(sealed), Ok(found)) if sealed == found)
}

/// What the seal of a folder says, if the folder is whole.
fn contents(folder: &Path, key: &str) -> io::Result<String> {
    let mut files = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    let mut text = format!("{key}\n");
    for file in files.iter().filter(|file| file.file_name() != SEAL) {
        let hash = hex(&Sha256::digest(fs::read(file.path())?));
        let _ = writeln!(text, "{hash} {}", file.file_name().to_string_lossy());
    }
    Ok(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, os::unix::fs::PermissionsExt, sync::Barrier, thread};

    use super::*;

    /// A compiler that leaves a file, and says whether it found one.
    fn compile(folder: Option<&Path>) -> Result<bool, Infallible> {
        let Some(folder) = folder else { return Ok(false) };
        let found = folder.join("engine").exists();
        if !found {
            fs::write(folder.join("engine"), "compiled").unwrap();
        }
        Ok(found)
    }

    fn entries(root: &Path) -> Vec<PathBuf> {
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn what_was_compiled_is_found_under_the_same_key_alone() {
        let root = tempfile::tempdir().unwrap();
        assert!(!compiled(Some(root.path()), "this GPU", compile).unwrap());
        assert!(compiled(Some(root.path()), "this GPU", compile).unwrap());
        assert!(!compiled(Some(root.path()), "another GPU", compile).unwrap());
        assert_eq!(entries(root.path()).len(), 2);
    }

    #[test]
    fn a_damaged_entry_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        for damage in [
            (|entry: &Path| fs::write(entry.join("engine"), "comp").unwrap()) as fn(&Path),
            |entry| fs::remove_file(entry.join("engine")).unwrap(),
            |entry| fs::remove_file(entry.join(SEAL)).unwrap(),
            |entry| fs::write(entry.join(SEAL), "key\n").unwrap(),
            |entry| fs::write(entry.join("stranger"), "").unwrap(),
            |entry| fs::write(entry.join(SEAL), [0xff; 9]).unwrap(),
        ] {
            compiled(Some(root.path()), "key", compile).unwrap();
            damage(&entries(root.path())[0]);
            assert!(!compiled(Some(root.path()), "key", compile).unwrap());
            assert!(compiled(Some(root.path()), "key", compile).unwrap());
        }
    }

    #[test]
    fn an_entry_that_was_made_for_something_else_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        compiled(Some(root.path()), "theirs", compile).unwrap();
        let ours = root.path().join(hex(&Sha256::digest("ours")));
        fs::rename(&entries(root.path())[0], &ours).unwrap();
        assert!(!compiled(Some(root.path()), "ours", compile).unwrap());
    }

    #[test]
    fn an_entry_that_cannot_be_used_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        compiled(Some(root.path()), "key", compile).unwrap();
        let mut calls = 0;
        let refuse = |folder: Option<&Path>| {
            calls += 1;
            if compile(folder).unwrap() { Err("wrong driver") } else { Ok(()) }
        };
        compiled(Some(root.path()), "key", refuse).unwrap();
        assert_eq!(calls, 2);
    }

    #[test]
    fn what_fails_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let fail = |folder: Option<&Path>| {
            compile(folder).unwrap();
            Err::<(), _>("out of memory")
        };
        assert_eq!(compiled(Some(root.path()), "key", fail), Err("out of memory"));
        assert!(entries(root.path()).is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_done_without() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(!compiled(Some(&file), "key", compile).unwrap());
        assert!(!compiled(None, "key", compile).unwrap());
    }

    #[test]
    fn of_two_who_compile_at_once_both_are_served_and_one_entry_stays() {
        let root = tempfile::tempdir().unwrap();
        let together = Barrier::new(2);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    compiled(Some(root.path()), "key", |folder| {
                        together.wait();
                        compile(folder)
                    })
                });
            }
        });
        assert_eq!(entries(root.path()).len(), 1);
        assert!(compiled(Some(root.path()), "key", compile).unwrap());
    }
}
