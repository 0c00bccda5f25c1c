//! Owns the ONNX Runtime library of the process: finding it, loading it once, and its one `Environment`.
//!
//! A process can load one library and build one environment, ever: both live in a static that is never dropped.

use std::{
    env,
    error::Error as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use once_cell::sync::OnceCell;
use ort::{LoadDynamicError, environment::Environment, logging::LogLevel};

use super::Error;

/// A loaded library and its environment.
#[derive(Debug)]
pub struct Runtime {
    /// File that was loaded.
    pub library: PathBuf,
    pub(super) environment: Environment,
}

/// Receives ONNX Runtime's own messages: severity, and text.
pub type Log = fn(LogLevel, &str);

static RUNTIME: OnceCell<Runtime> = OnceCell::new();

/// Gives the process's ONNX Runtime, loading it at the first call. `library` is the user's choice; without one the
/// search goes: `ORT_DYLIB_PATH`, the folders in `beside` (the plugin's own), the system, the active Python environment.
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
    let named = library.map(PathBuf::from).or_else(|| env::var_os("ORT_DYLIB_PATH").map(PathBuf::from));
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
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        super::unwinder::reconcile(&path);
        match ort::init_from(&path) {
            Ok(builder) => {
                let environment = builder
                    .with_name("fastvsr")
                    .with_telemetry(false)
                    .with_logger(Arc::new(move |level: LogLevel, _: &str, _: &str, _: &str, text: &str| {
                        // A run that its user interrupted went well.
                        let level = if text.contains("terminate flag") { LogLevel::Verbose } else { level };
                        log(level, text)
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
    let mut folders = beside.to_vec();
    let loader = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    folders.extend(env::split_paths(&loader).filter(|dir| !dir.as_os_str().is_empty()));
    folders.extend(
        ["/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
            .map(PathBuf::from),
    );
    let mut tried: Vec<String> = folders.iter().map(|dir| dir.display().to_string()).collect();

    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let user = env::var_os("HOME").map(|home| Path::new(&home).join(".local"));
    for prefix in environments.chain(user).chain(["/usr/local", "/usr"].map(PathBuf::from)) {
        tried.push(format!("{}/lib/python3*/*-packages/onnxruntime/capi", prefix.display()));
        folders.extend(python_packages(&prefix));
    }
    (folders.iter().filter_map(|dir| library_in(dir)).collect(), tried)
}

/// Folders of an `onnxruntime` package installed under a Python prefix.
fn python_packages(prefix: &Path) -> Vec<PathBuf> {
    let pythons = fs::read_dir(prefix.join("lib")).into_iter().flatten().flatten();
    pythons
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .flat_map(|entry| ["site-packages", "dist-packages"].map(|name| entry.path().join(name)))
        .map(|packages| packages.join("onnxruntime/capi"))
        .filter(|capi| capi.is_dir())
        .collect()
}

/// The library in a folder. Python wheels ship it with its version in the name and without the usual link.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name == "libonnxruntime.so" || name.starts_with("libonnxruntime.so.")
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.pop()
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
    fn the_versioned_library_of_a_wheel_is_found() {
        let prefix = tempfile::tempdir().unwrap();
        let capi = prefix.path().join("lib/python3.11/site-packages/onnxruntime/capi");
        fs::create_dir_all(&capi).unwrap();
        for name in ["libonnxruntime.so.1.24.1", "libonnxruntime_providers_shared.so", "onnxruntime.py"] {
            fs::write(capi.join(name), "").unwrap();
        }
        let folders = python_packages(prefix.path());
        assert_eq!(folders, std::slice::from_ref(&capi));
        assert_eq!(library_in(&folders[0]), Some(capi.join("libonnxruntime.so.1.24.1")));
    }

    #[test]
    fn what_is_beside_the_plugin_comes_first() {
        let plugins = tempfile::tempdir().unwrap();
        let ours = plugins.path().join("libonnxruntime.so.1.24.1");
        fs::write(&ours, "").unwrap();
        let (found, tried) = search(&[plugins.path().into()]);
        assert_eq!(found.first(), Some(&ours));
        assert!(tried[0] == plugins.path().display().to_string());
    }
}
