//! Owns the reading of folders from environment variables.
//!
//! A variable that is set and empty is an unset one, and a relative folder is none at all: joined to it, a path would lead
//! into whatever folder the program was started in, and code or models would be taken from there.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The folder that a variable names.
pub(crate) fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute())
}

/// The folders that a variable lists, separated as in `PATH`; those of `default` if it is not set.
pub(crate) fn list(name: &str, default: &str) -> Vec<PathBuf> {
    let listed = env::var_os(name).filter(|value| !value.is_empty()).unwrap_or_else(|| default.into());
    env::split_paths(&listed).filter(|folder| folder.is_absolute()).collect()
}

/// One of the user's base folders: `variable`, else `below` the home (XDG Base Directory Specification).
pub(crate) fn of_user(name: &str, below: &str) -> Option<PathBuf> {
    variable(name).or_else(|| variable("HOME").map(|home| home.join(below)))
}

/// The entries of a folder; none if it cannot be read.
pub(crate) fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path())
}
