//! Owns the ONNX Runtime library of the process: finding it, loading it once, and its one `Environment`.
//!
//! A process can load one library and build one environment, ever: both live in a static that is never dropped.

use std::{
    env,
    error::Error as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use once_cell::sync::OnceCell;
use ort::{LoadDynamicError, environment::Environment, logging::LogLevel};

use super::{error::Error, unwinder};
use crate::folders;

/// A loaded library and its environment.
#[derive(Debug)]
pub struct Runtime {
    /// File that was loaded.
    pub library: PathBuf,
    pub(super) environment: Environment,
}

/// How much one of ONNX Runtime's messages matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warning,
    /// What was done.
    Info,
    /// All the rest.
    Trace,
}

/// Receives ONNX Runtime's own messages.
pub type Log = fn(Severity, &str);

static RUNTIME: OnceCell<Runtime> = OnceCell::new();

/// Gives the process's ONNX Runtime, loading it at the first call. `library` is the user's choice; without one the
/// search goes: `ORT_DYLIB_PATH`, beside the Python package that this code is in, the folders in `beside` (the plugin's own), the
/// system, the active Python environment.
///
/// # Errors
/// If none is found, none can be used, or another one than `library` is loaded already.
pub fn load(library: Option<&Path>, beside: &[PathBuf], log: Log) -> Result<&'static Runtime, Error> {
    let runtime = RUNTIME.get_or_try_init(|| find(library, beside, log))?;
    match library {
        Some(asked) if !same_file(asked, &runtime.library) => {
            Err(Error::RuntimeMismatch { loaded: runtime.library.clone(), asked: asked.into() })
        }
        _ => Ok(runtime),
    }
}

fn find(library: Option<&Path>, beside: &[PathBuf], log: Log) -> Result<Runtime, Error> {
    let variable = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    let named = library.map(PathBuf::from).or_else(|| variable.map(PathBuf::from));
    let (found, tried) = match named {
        // A library that somebody named is used or refused, never replaced by another.
        Some(path) => (vec![path], Vec::new()),
        None => search(beside),
    };
    if found.is_empty() {
        return Err(Error::RuntimeMissing { tried });
    }
    let mut reasons = Vec::new();
    for path in found {
        unwinder::reconcile_runtime(&path);
        match ort::init_from(&path) {
            Ok(builder) => {
                let environment = builder
                    .with_name("fastvsr")
                    .with_telemetry(false)
                    .with_logger(Arc::new(move |level: LogLevel, _: &str, _: &str, _: &str, text: &str| {
                        let severity = match level {
                            // A run that its user interrupted went well.
                            _ if text.contains("terminate flag") => Severity::Trace,
                            LogLevel::Fatal | LogLevel::Error => Severity::Error,
                            LogLevel::Warning => Severity::Warning,
                            LogLevel::Info => Severity::Info,
                            LogLevel::Verbose => Severity::Trace,
                        };
                        log(severity, text)
                    }))
                    .build()
                    .map_err(|err| Error::RuntimeUnusable { reasons: vec![format!("`{}`: {err}", path.display())] })?;
                // With a logger ONNX Runtime starts at its most verbose level.
                environment.set_log_level(LogLevel::Warning);
                return Ok(Runtime { library: path, environment });
            }
            Err(err) => reasons.push(reason(&path, &err)),
        }
    }
    Err(Error::RuntimeUnusable { reasons })
}

/// Why a library cannot be used, with its path.
fn reason(path: &Path, err: &LoadDynamicError) -> String {
    match err {
        // The error itself says only that it failed; what the system said is behind it.
        LoadDynamicError::Dlopen { error, .. } => error.source().map_or_else(|| err.to_string(), ToString::to_string),
        LoadDynamicError::InvalidVersionString => format!("{}: {err}", path.display()),
        _ => err.to_string(),
    }
}

/// Libraries that exist, best first, and the places searched.
fn search(beside: &[PathBuf]) -> (Vec<PathBuf>, Vec<String>) {
    let package = folders::python_package().map(|package| package.with_file_name("onnxruntime").join("capi"));
    let mut searched: Vec<PathBuf> = package.into_iter().chain(beside.iter().cloned()).collect();
    searched.extend(folders::list("LD_LIBRARY_PATH", ""));
    searched.extend(
        ["/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
            .map(PathBuf::from),
    );
    let mut tried: Vec<String> = searched.iter().map(|folder| folder.display().to_string()).collect();

    // pipx and uv put the program into an environment that is not active: PREFIX/bin/fastvsr.
    let own = env::current_exe().ok().and_then(|file| Some(file.parent()?.parent()?.to_owned()));
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(folders::variable);
    let user = folders::variable("HOME").map(|home| home.join(".local"));
    for prefix in environments.chain(own).chain(user).chain(["/usr/local", "/usr"].map(PathBuf::from)) {
        let place = format!("{}/lib/python3*/*-packages/onnxruntime/capi", prefix.display());
        if !tried.contains(&place) {
            tried.push(place);
            searched.extend(python_packages(&prefix));
        }
    }
    (searched.iter().filter_map(|folder| library_in(folder)).collect(), tried)
}

/// Folders of an `onnxruntime` package installed under a Python prefix.
fn python_packages(prefix: &Path) -> Vec<PathBuf> {
    folders::entries(&prefix.join("lib"))
        .filter(|python| python.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")))
        .flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages)))
        .map(|packages| packages.join("onnxruntime/capi"))
        .filter(|capi| capi.is_dir())
        .collect()
}

/// The library in a folder, the newest if there are several. Python wheels ship it with its version in the name and without
/// the usual link.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let version = |file: &PathBuf| -> Option<Vec<u32>> {
        let rest = file.file_name()?.to_str()?.strip_prefix("libonnxruntime.so")?;
        rest.split_terminator('.').skip(1).map(|part| part.parse().ok()).collect()
    };
    let found = folders::entries(folder).filter_map(|file| Some((version(&file)?, file)));
    found.max().map(|(_, file)| file)
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["libonnxruntime.so", "libonnxruntime.so.1.9.0", "libonnxruntime.so.1.24.1", "libonnxruntime.so.old"]
        {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(library_in(folder.path()), Some(folder.path().join("libonnxruntime.so.1.24.1")));
    }

    #[test]
    fn the_versioned_library_of_a_wheel_is_found() {
        let prefix = tempfile::tempdir().unwrap();
        let capi = prefix.path().join("lib/python3.11/site-packages/onnxruntime/capi");
        std::fs::create_dir_all(&capi).unwrap();
        for name in ["libonnxruntime.so.1.24.1", "libonnxruntime_providers_shared.so", "onnxruntime.py"] {
            std::fs::write(capi.join(name), "").unwrap();
        }
        let folders = python_packages(prefix.path());
        assert_eq!(folders, std::slice::from_ref(&capi));
        assert_eq!(library_in(&folders[0]), Some(capi.join("libonnxruntime.so.1.24.1")));
    }

    #[test]
    fn what_is_beside_the_plugin_comes_first() {
        let plugins = tempfile::tempdir().unwrap();
        let ours = plugins.path().join("libonnxruntime.so.1.24.1");
        std::fs::write(&ours, "").unwrap();
        let (found, tried) = search(&[plugins.path().into()]);
        assert_eq!(found.first(), Some(&ours));
        assert!(tried[0] == plugins.path().display().to_string());
    }
}
