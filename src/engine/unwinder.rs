//! Owns how ONNX Runtime's libraries are loaded into a process that has two unwinders.
//!
//! Debian links GStreamer to libunwind, whose `_Unwind_Resume` has the name of libgcc's. In Python that imports numpy and then
//! GStreamer, the C++ library raises exceptions with libgcc, while what is loaded later finds libunwind first and ends the
//! process where it goes on unwinding. ONNX Runtime throws, and catches, where memory runs out or a graph is refused, and
//! OpenVINO whenever it compiles a model. Bound to its own dependencies before the process's (`RTLD_DEEPBIND`) a library takes
//! libgcc's; where all have the same unwinder that would tear them apart.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    path::{Path, PathBuf},
};

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_NOW};
use ort::environment::Environment;

use crate::folders;

/// Binds a library to its own dependencies first, where the loader can do that.
#[cfg(target_env = "gnu")]
const DEEP: c_int = libc::RTLD_DEEPBIND;
#[cfg(not(target_env = "gnu"))]
const DEEP: c_int = 0;

/// What of OpenVINO runs on a CPU, without the number of its version.
const OPENVINO: [&str; 3] = ["libopenvino.so", "libopenvino_onnx_frontend.so", "libopenvino_intel_cpu_plugin.so"];

/// Loads an ONNX Runtime and the OpenVINO in its folder, if loading them in the usual way would tear them from the C++ library.
/// Who loads them later gets what is loaded.
pub(super) fn reconcile_runtime(runtime: &Path) {
    reconcile(runtime.parent().into_iter().flat_map(openvino).chain([runtime.into()]));
}

/// The same for the library of an execution provider, which ONNX Runtime loads from its own folder when the provider is wanted.
pub(super) fn reconcile_provider(environment: &Environment, runtime: &Path, provider: &str) {
    if torn() {
        // It cannot be loaded before `libonnxruntime_providers_shared.so`, by which it finds ONNX Runtime, and which only ONNX
        // Runtime can set up. It does so before it loads any library of a provider, also before one that does not exist.
        let _ = environment.register_ep_library("none", "/nowhere/libonnxruntime_providers_none.so");
    }
    let name = format!("libonnxruntime_providers_{provider}.so");
    reconcile(runtime.parent().into_iter().map(|folder| folder.join(&name)));
}

/// The same for a plugin's library, and for the OpenVINO in its folder.
pub(super) fn reconcile_plugin(library: &Path) {
    reconcile(library.parent().into_iter().flat_map(openvino).chain([library.into()]));
}

fn reconcile(files: impl Iterator<Item = PathBuf>) {
    if !torn() {
        return;
    }
    for file in files {
        // SAFETY: the libraries initialise themselves as they would when ONNX Runtime loads them, a little later.
        let library = unsafe { Library::open(Some(&file), RTLD_LAZY | DEEP) };
        // What is wrong with it is said by those who want it.
        let _ = library.map(std::mem::forget);
    }
}

/// Loads a library for good, bound to the unwinder that it must have.
///
/// # Errors
/// In the system's words.
pub(super) fn open(file: &Path) -> Result<(), String> {
    let deep = if torn() { DEEP } else { 0 };
    // SAFETY: these are libraries that ONNX Runtime's providers would load by themselves; they stay for good.
    let library = unsafe { Library::open(Some(file), RTLD_NOW | libc::RTLD_GLOBAL | deep) };
    // What the system said is behind the error.
    let reason =
        |err: libloading::Error| std::error::Error::source(&err).map_or_else(|| err.to_string(), ToString::to_string);
    library.map(std::mem::forget).map_err(reason)
}

/// Whether the C++ library is bound to another unwinder than what is loaded from now on. It is loaded to be bound at once by
/// Python, and with it libgcc, which is a dependency of its own.
fn torn() -> bool {
    let loaded = loaded();
    let position = |name: &str| loaded.iter().position(|loaded| loaded == name);
    let Some(unwinder) = unwinder().filter(|name| !name.starts_with("libgcc_s.")) else { return false };
    matches!((position("libstdc++.so.6"), position(&unwinder)), (Some(standard), Some(other)) if standard < other)
}

/// The file name of the library whose `_Unwind_Resume` is found first.
fn unwinder() -> Option<String> {
    // SAFETY: the symbol is not called, its address is asked for.
    let resume = unsafe { Library::this().get::<*const c_void>(b"_Unwind_Resume\0") }.ok()?;
    Some(folders::file_of(resume.as_raw_ptr())?.file_name()?.to_string_lossy().into_owned())
}

/// The file names of all libraries of the process, in the order in which they were loaded. `/proc/self/maps` has them by
/// address.
fn loaded() -> Vec<String> {
    unsafe extern "C" fn add(info: *mut libc::dl_phdr_info, _: usize, names: *mut c_void) -> c_int {
        // SAFETY: both pointers are those that dl_iterate_phdr was given and gives, for as long as this runs.
        unsafe { (*names.cast::<Vec<String>>()).push(file_name((*info).dlpi_name)) };
        0
    }
    let mut names = Vec::<String>::new();
    // SAFETY: `add` has the type that is expected, and gets the vector that it expects.
    unsafe { libc::dl_iterate_phdr(Some(add), (&raw mut names).cast()) };
    names
}

/// The last part of a path of the loader's.
///
/// # Safety
/// It ends in a zero.
unsafe fn file_name(path: *const c_char) -> String {
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy();
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// OpenVINO's libraries in a folder, as others name them: `libopenvino.so.2541`, not the copies that wheels have of it.
fn openvino(folder: &Path) -> Vec<PathBuf> {
    OPENVINO.iter().filter_map(|library| versioned(folder, library)).collect()
}

/// The file of a library in a folder: one with a version, of several that with the fewest numbers, which is how others name it.
pub(super) fn versioned(folder: &Path, library: &str) -> Option<PathBuf> {
    let numbers = |file: &PathBuf| -> Option<usize> {
        let version = file.file_name()?.to_str()?.strip_prefix(library)?;
        let is_version = version.is_empty() || version.starts_with('.');
        let is_version = is_version && version.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit());
        is_version.then(|| version.matches('.').count())
    };
    let found = folders::entries(folder).filter_map(|file| Some((numbers(&file)?, file)));
    found.min_by_key(|(numbers, _)| (*numbers == 0, *numbers)).map(|(_, file)| file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_program_that_is_linked_to_its_unwinder_has_one() {
        assert!(loaded().iter().any(|name| name.contains("libc.so")));
        assert!(unwinder().unwrap().contains("libgcc_s"));
        assert!(!torn());
    }

    #[test]
    fn of_each_library_the_name_that_others_use_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let names =
            ["libopenvino.so", "libopenvino.so.2025.4.1", "libopenvino.so.2541", "libopenvino_intel_cpu_plugin.so"];
        for name in names.iter().chain(&["libopenvino_c.so.2541", "libonnxruntime.so.1.24.1"]) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let expected = [names[2], names[3]].map(|name| folder.path().join(name));
        assert_eq!(openvino(folder.path()), expected);
        assert_eq!(openvino(Path::new("/nowhere")), [] as [PathBuf; 0]);
        assert_eq!(versioned(folder.path(), "libonnxruntime.so"), Some(folder.path().join("libonnxruntime.so.1.24.1")));
        assert_eq!(versioned(folder.path(), "libopenvino_c"), None);
    }
}
