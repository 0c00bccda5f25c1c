//! Owns the reading of folders from environment variables, and the folder that this code was installed in.
//!
//! A variable that is set and empty is an unset one, and a relative folder is none at all: joined to it, a path would lead
//! into whatever folder the program was started in, and code or models would be taken from there.

use std::{
    env,
    ffi::{CStr, OsStr, c_void},
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt,
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

/// The loaded file that has this address, as the loader calls it: a program is called what it was started as, which need not
/// be a path.
pub(crate) fn file_of(address: *const c_void) -> Option<PathBuf> {
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: `dladdr` reads nothing at the address, and fills `info` if it gives something else than zero.
    let found = unsafe { libc::dladdr(address, info.as_mut_ptr()) } != 0;
    // SAFETY: filled, and the name is the loader's.
    let name = found.then(|| unsafe { CStr::from_ptr(info.assume_init().dli_fname) })?;
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// The folder of the file that this code is in: the plugin's, or that of the program that it is compiled into.
pub(crate) fn own() -> Option<PathBuf> {
    let plugin = file_of(own as *const c_void).filter(|file| file.is_absolute());
    let file = plugin.or_else(|| env::current_exe().ok())?;
    Some(file.canonicalize().ok()?.parent()?.to_owned())
}

/// The Python package that this code is in: `fastvsr`, with the program in `bin` and the plugin in `gstreamer-1.0`.
pub(crate) fn python_package() -> Option<PathBuf> {
    let own = own().filter(|own| own.ends_with("fastvsr/bin") || own.ends_with("fastvsr/gstreamer-1.0"))?;
    own.parent().map(PathBuf::from)
}
