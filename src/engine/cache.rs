//! Owns the cache of what a device compiles: a folder for every combination of everything that it depends on.
//!
//! An entry is made in a folder of its own and renamed when it is whole, so that no process sees half of it. It says
//! what it was made for, and the hash of each of its files: one that is stale, foreign or damaged is made anew, and none
//! is ever a reason to fail. What is loaded from here is code, so a folder that others may write into is not used. The
//! entries that were used last are kept, up to [`LIMIT`].

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use sha2::{Digest, Sha256};

use crate::folders;

/// File in an entry that says what the entry was made for, then the hash and name of every other file. Its time is that of
/// the entry's last use.
const SEAL: &str = "entry";

/// Largest size of all entries of one kind together, in bytes.
const LIMIT: u64 = 4 << 30;

/// Beginning of the names of entries that are being made.
const DRAFT: &str = ".draft-";

/// The folder for one kind of entries: `fastvsr/KIND` in the user's cache folder. None without a home.
pub(super) fn root(kind: &str) -> Option<PathBuf> {
    folders::of_user("XDG_CACHE_HOME", ".cache").map(|folder| folder.join("fastvsr").join(kind))
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
    let Some(root) = root.filter(|root| is_ours(root)) else { return make(None) };
    let entry = root.join(hex(&Sha256::digest(key)));
    let whole = is_whole(&entry, key);
    if whole && let Ok(made) = make(Some(&entry)) {
        let _ = touch(&entry);
        return Ok(made);
    }
    let Ok(draft) = tempfile::Builder::new().prefix(DRAFT).tempdir_in(root) else { return make(None) };
    let made = make(Some(draft.path()))?;
    // Only what has been made anew takes the place of what was there: a failure may have had another reason. What another
    // process has made meanwhile is as good.
    if whole || !is_whole(&entry, key) {
        let _ = fs::remove_dir_all(&entry);
    }
    if seal(draft.path(), key).is_ok() {
        let _ = fs::rename(draft.path(), &entry);
        evict(root, LIMIT);
    }
    Ok(made)
}

/// Makes the folder if there is none; whether nobody else may write into it.
fn is_ours(root: &Path) -> bool {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
    // SAFETY: it asks for a number, and cannot fail.
    let user = unsafe { libc::geteuid() };
    let ours = |facts: fs::Metadata| facts.is_dir() && facts.uid() == user && facts.mode() & 0o022 == 0;
    made.is_ok() && fs::symlink_metadata(root).is_ok_and(ours)
}

/// Removes the entries that were used longest ago until the others are within the limit, and drafts that a process has left
/// behind.
fn evict(root: &Path, limit: u64) {
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);
    let used = |folder: &Path| {
        let seal = fs::metadata(folder.join(SEAL)).or_else(|_| fs::metadata(folder));
        seal.and_then(|facts| facts.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let bytes =
        |folder: &Path| folders::entries(folder).filter_map(|file| Some(fs::metadata(file).ok()?.len())).sum::<u64>();
    let is_draft = |folder: &Path| folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DRAFT));
    let (drafts, mut entries): (Vec<PathBuf>, Vec<PathBuf>) =
        folders::entries(root).partition(|folder| is_draft(folder));
    for draft in drafts.iter().filter(|draft| used(draft).elapsed().is_ok_and(|age| age > DAY)) {
        let _ = fs::remove_dir_all(draft);
    }
    entries.sort_by_key(|entry| std::cmp::Reverse(used(entry)));
    let mut total = 0;
    for (number, entry) in entries.iter().enumerate() {
        total += bytes(entry);
        // The newest stays, however large it is.
        if total > limit && number > 0 {
            let _ = fs::remove_dir_all(entry);
        }
    }
}

fn touch(entry: &Path) -> io::Result<()> {
    fs::File::open(entry.join(SEAL))?.set_modified(SystemTime::now())
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
    fn a_good_entry_outlives_a_failure_that_is_not_its_own() {
        let root = tempfile::tempdir().unwrap();
        compiled(Some(root.path()), "key", compile).unwrap();
        assert_eq!(compiled(Some(root.path()), "key", |_| Err::<(), _>("no GPU today")), Err("no GPU today"));
        assert!(compiled(Some(root.path()), "key", compile).unwrap());
    }

    #[test]
    fn a_folder_that_others_can_write_into_is_done_without() {
        let root = tempfile::tempdir().unwrap();
        compiled(Some(root.path()), "key", compile).unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!compiled(Some(root.path()), "key", compile).unwrap());
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path(), &link).unwrap();
        assert!(!is_ours(&link));
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let root = tempfile::tempdir().unwrap();
        let long_ago = |key: &str, hours: u64| {
            compiled(Some(root.path()), key, compile).unwrap();
            let seal = root.path().join(hex(&Sha256::digest(key))).join(SEAL);
            let time = SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
            fs::File::open(seal).unwrap().set_modified(time).unwrap();
        };
        [("old", 3), ("older", 5), ("new", 1)].iter().for_each(|(key, hours)| long_ago(key, *hours));
        // Who is used again is no longer old.
        assert!(compiled(Some(root.path()), "older", compile).unwrap());
        let size = |entry: PathBuf| folders::entries(&entry).map(|file| fs::metadata(file).unwrap().len()).sum::<u64>();
        let limit = entries(root.path()).into_iter().map(size).sum::<u64>() - 1;
        evict(root.path(), limit);
        assert!(compiled(Some(root.path()), "older", compile).unwrap());
        assert!(compiled(Some(root.path()), "new", compile).unwrap());
        assert!(!compiled(Some(root.path()), "old", compile).unwrap());
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
