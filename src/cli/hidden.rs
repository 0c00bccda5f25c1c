//! Owns the hidden files beside an output: what they are called, and that they are files of this program's own. No link
//! is followed, and nothing waits for a FIFO.

use std::{
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// Longest name in the usual file systems.
const NAME: usize = 255;

/// The file of this kind beside an output.
pub(crate) fn path(output: &Path, kind: &str) -> PathBuf {
    let name = output.file_name().unwrap_or_default().as_bytes();
    let mut hidden = [b".", name, b".", kind.as_bytes()].concat();
    if hidden.len() > NAME {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        hidden = [b".", &name[..NAME / 2], format!("-{:016x}.{kind}", hasher.finish()).as_bytes()].concat();
    }
    output.with_file_name(std::ffi::OsString::from_vec(hidden))
}

/// A new file of this kind. What a killed run left under its name goes.
pub(crate) fn create(output: &Path, kind: &str) -> Result<(PathBuf, File)> {
    let path = path(output, kind);
    let _ = fs::remove_file(&path);
    let file = options().create_new(true).open(&path).with_context(|| cannot_write(&path))?;
    Ok((path, file))
}

/// The file of this kind, which may be there.
pub(crate) fn open(output: &Path, kind: &str) -> Result<(PathBuf, File)> {
    let path = path(output, kind);
    let file = options().create(true).open(&path).with_context(|| cannot_write(&path))?;
    ensure!(file.metadata()?.is_file(), "`{}` is no file of fastvsr's: remove it", path.display());
    Ok((path, file))
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write `{}`: expected a folder that can be written, without a link of this name", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hidden_and_never_too_long() {
        assert_eq!(path(Path::new("a/b.mp4"), "part"), Path::new("a/.b.mp4.part"));
        let long = |last: &str| path(Path::new(&format!("{}{last}.mp4", "x".repeat(249))), "fastvsr");
        assert!(long("a").as_os_str().len() <= NAME);
        assert_ne!(long("a"), long("b"));
    }
}
