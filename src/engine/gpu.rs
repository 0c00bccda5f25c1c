//! Owns what is known of NVIDIA GPUs without asking a GPU: whether the machine has one, which libraries ONNX Runtime's
//! providers lack and where to get them, and what an engine compiled for a GPU depends on.

use std::{
    error::Error as _,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::{Error, Provider};

/// What the driver tells of itself and its GPUs.
const DRIVER: &str = "/proc/driver/nvidia";

/// Libraries whose versions a compiled engine depends on.
const LIBRARIES: [&str; 5] = ["libnvinfer", "libnvonnxparser", "libcudart", "libcudnn", "libcublas"];

/// Whether the machine has an NVIDIA GPU.
pub(super) fn is_present() -> bool {
    Path::new(DRIVER).join("version").exists() || Path::new("/dev/nvidiactl").exists()
}

/// Calls `register` until it works, loading the libraries that it lacks from the Python packages beside the ONNX Runtime
/// in `library`, where the system's loader does not look.
///
/// # Errors
/// If a library is missing, with the command that brings it; any other error of `register` in its own words.
pub(super) fn with_libraries(
    provider: Provider,
    library: &Path,
    mut register: impl FnMut() -> Result<(), String>,
) -> Result<(), Error> {
    let folders = package_folders(library);
    loop {
        let Err(reason) = register() else { return Ok(()) };
        let refuse = |reason| Error::Provider { provider, reason };
        let loaded = missing_library(&reason).map_or(Ok(false), |name| load(name, &folders));
        if !loaded.map_err(refuse)? {
            return Err(refuse(reason));
        }
    }
}

/// The file that the system's loader did not find, from its message.
fn missing_library(reason: &str) -> Option<&str> {
    let (before, _) = reason.split_once(": cannot open shared object file")?;
    before.rsplit([' ', ':', '"', '\'']).next().filter(|name| name.contains(".so"))
}

/// Loads a library and what it needs from the first of `folders` that has it. `false` if it was loaded already, which
/// cannot be what was missing.
fn load(name: &str, folders: &[PathBuf]) -> Result<bool, String> {
    let Some(file) = folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file()) else {
        return Err(format!("`{name}` is missing; {}", advice(name)));
    };
    if is_loaded(&file) {
        return Ok(false);
    }
    loop {
        // SAFETY: the libraries are those that ONNX Runtime's provider would load by itself; they stay for good.
        match unsafe { Library::open(Some(&file), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => {
                std::mem::forget(library);
                return Ok(true);
            }
            Err(err) => {
                // What the system said is behind the error.
                let reason = err.source().map_or_else(|| err.to_string(), ToString::to_string);
                let needed = missing_library(&reason).filter(|needed| *needed != name);
                if !needed.map_or(Ok(false), |needed| load(needed, folders))? {
                    return Err(reason);
                }
            }
        }
    }
}

/// How to get a library.
fn advice(name: &str) -> String {
    let version = name.rsplit_once(".so.").map_or("", |(_, version)| version.split('.').next().unwrap_or_default());
    if name.starts_with("libcuda.so") {
        "it belongs to NVIDIA's driver".into()
    } else if name.starts_with("libnv") && !name.starts_with("libnvrtc") {
        format!("`pip install 'tensorrt-cu13-libs=={version}.*'` has it")
    } else {
        "`pip install 'onnxruntime-gpu[cuda,cudnn]'` has it".into()
    }
}

/// Where NVIDIA's Python packages put their libraries, in the environment that ONNX Runtime is from.
fn package_folders(library: &Path) -> Vec<PathBuf> {
    // PACKAGES/onnxruntime/capi/libonnxruntime.so.1.31.1
    let Some(packages) = library.ancestors().nth(3) else { return Vec::new() };
    let listed = fs::read_dir(packages.join("nvidia")).into_iter().flatten().flatten();
    let mut folders: Vec<_> = listed.map(|entry| entry.path().join("lib")).filter(|folder| folder.is_dir()).collect();
    folders.push(packages.join("tensorrt_libs"));
    folders.sort();
    folders
}

fn is_loaded(file: &Path) -> bool {
    let Ok(file) = file.canonicalize() else { return false };
    mapped().contains(&file)
}

/// Files that the process has mapped.
fn mapped() -> Vec<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut files: Vec<_> =
        maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..]))).collect();
    files.sort();
    files.dedup();
    files
}

/// The driver, the GPUs and the libraries, in a form that differs when any of them does.
pub(super) fn fingerprint(library: &Path) -> String {
    let mut lines = driver(Path::new(DRIVER));
    let name = |file: &PathBuf| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut files: Vec<_> =
        mapped().into_iter().filter(|file| LIBRARIES.iter().any(|library| name(file).starts_with(library))).collect();
    files.push(library.into());
    lines.extend(files.iter().map(|file| {
        let facts = fs::metadata(file).map(|facts| (facts.len(), facts.mtime()));
        format!("{} {:?}", file.display(), facts.ok())
    }));
    lines.join("\n")
}

/// The models of the machine's NVIDIA GPUs, in the order of their places on the bus, as the driver tells them.
pub fn models() -> Vec<String> {
    gpus(Path::new(DRIVER)).into_iter().map(|(_, model)| model).collect()
}

/// Places on the bus, and models.
fn gpus(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder.join("gpus")).into_iter().flatten().flatten();
    let mut gpus: Vec<_> = entries
        .filter_map(|gpu| {
            let text = fs::read_to_string(gpu.path().join("information")).ok()?;
            let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_string();
            Some((gpu.file_name().to_string_lossy().into_owned(), model))
        })
        .collect();
    gpus.sort();
    gpus
}

fn driver(folder: &Path) -> Vec<String> {
    let version = fs::read_to_string(folder.join("version")).unwrap_or_default();
    let gpus = gpus(folder).into_iter().map(|(place, model)| format!("{place} {model}"));
    gpus.chain(version.lines().next().map(String::from)).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Compiles an empty library that needs another, if the machine has a compiler.
    fn stub(folder: &Path, name: &str, needs: Option<&Path>) -> Option<PathBuf> {
        let file = folder.join(name);
        let source = folder.join("stub.c");
        fs::create_dir_all(folder).unwrap();
        fs::write(&source, "").unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-Wl,--no-as-needed", &format!("-Wl,-soname,{name}"), "-o"])
            .arg(&file)
            .arg(source);
        let made = cc.args(needs).status();
        made.is_ok_and(|status| status.success()).then_some(file)
    }

    /// Loads as ONNX Runtime does, whose message begins with words of its own.
    fn open(file: &Path) -> Result<(), String> {
        // SAFETY: the library is empty.
        let library = unsafe { Library::open(Some(file), RTLD_NOW) };
        library
            .map(std::mem::forget)
            .map_err(|err| format!("Failed to load library with error: {}", err.source().unwrap()))
    }

    #[test]
    fn libraries_of_python_packages_are_found_with_what_they_need() {
        let packages = tempfile::tempdir().unwrap();
        let folder = |name: &str| packages.path().join("nvidia").join(name).join("lib");
        let made = stub(&folder("lt"), "libfastvsrtestlt.so.13", None)
            .and_then(|lt| stub(&folder("blas"), "libfastvsrtestblas.so.13", Some(&lt)))
            .and_then(|blas| stub(packages.path(), "libfastvsrtestprovider.so", Some(&blas)));
        let Some(provider) = made else { return eprintln!("skipped: there is no C compiler") };
        assert!(open(&provider).is_err());
        let runtime = packages.path().join("onnxruntime/capi/libonnxruntime.so.1");
        with_libraries(Provider::Cuda, &runtime, || open(&provider)).unwrap();
    }

    #[test]
    fn a_library_that_is_nowhere_is_named_with_the_package_that_has_it() {
        for (name, package) in [
            ("libcublasLt.so.13", "onnxruntime-gpu[cuda,cudnn]"),
            ("libnvrtc.so.13", "onnxruntime-gpu[cuda,cudnn]"),
            ("libcudnn.so.9", "onnxruntime-gpu[cuda,cudnn]"),
            ("libnvinfer.so.10", "tensorrt-cu13-libs==10.*"),
            ("libcuda.so.1", "driver"),
        ] {
            let register = || {
                let reason = "cannot open shared object file: No such file or directory";
                Err(format!("Failed to load library libonnxruntime_providers_cuda.so with error: {name}: {reason}"))
            };
            let library = Path::new("/nowhere/onnxruntime/capi/libonnxruntime.so.1");
            let message = with_libraries(Provider::Cuda, library, register).unwrap_err().to_string();
            assert!(message.contains(&format!("`{name}` is missing")) && message.contains(package), "{message}");
        }
    }

    #[test]
    fn another_reason_is_handed_on() {
        let register = || Err("CUDA failure 100: no CUDA-capable device is detected".to_string());
        let message = with_libraries(Provider::Cuda, Path::new("/"), register).unwrap_err().to_string();
        assert!(message.contains("no CUDA-capable device"), "{message}");
    }

    #[test]
    fn a_library_that_is_loaded_and_still_missing_is_no_endless_loop() {
        let packages = tempfile::tempdir().unwrap();
        let folder = packages.path().join("nvidia/any/lib");
        let Some(_) = stub(&folder, "libfastvsrtestloop.so.1", None) else {
            return eprintln!("skipped: there is no C compiler");
        };
        let register = || Err("error: libfastvsrtestloop.so.1: cannot open shared object file: no".to_string());
        let runtime = packages.path().join("onnxruntime/capi/libonnxruntime.so.1");
        assert!(with_libraries(Provider::Cuda, &runtime, register).is_err());
    }

    #[test]
    fn the_driver_tells_its_gpus() {
        let folder = tempfile::tempdir().unwrap();
        let gpu = folder.path().join("gpus/0000:41:00.0");
        fs::create_dir_all(&gpu).unwrap();
        fs::write(gpu.join("information"), "Model: \t\t NVIDIA H200\nIRQ:   \t\t 1\n").unwrap();
        fs::write(folder.path().join("version"), "NVRM version: 580.65\nGCC version: 12\n").unwrap();
        assert_eq!(driver(folder.path()), ["0000:41:00.0 NVIDIA H200", "NVRM version: 580.65"]);
        assert!(driver(&folder.path().join("none")).is_empty());
    }

    #[test]
    fn a_library_that_was_replaced_gives_another_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libonnxruntime.so");
        fs::write(&library, "old").unwrap();
        let before = fingerprint(&library);
        assert_eq!(before, fingerprint(&library));
        fs::write(&library, "newer").unwrap();
        assert_ne!(before, fingerprint(&library));
    }
}
