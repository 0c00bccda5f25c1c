//! Owns what is known of NVIDIA GPUs without asking a GPU: whether the machine has one, the libraries of ONNX Runtime's
//! providers, where they lie and who has them, and what an engine compiled for a GPU depends on.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use ort::ep::cuda::{CUDA_DYLIBS, CUDNN_DYLIBS};

use super::unwinder;
use crate::folders;

/// What the driver tells of itself and its GPUs.
const DRIVER: &str = "/proc/driver/nvidia";

/// TensorRT's libraries, after what they need.
const TENSORRT: [&str; 2] = ["libnvinfer.so.10", "libnvonnxparser.so.10"];

/// The library by which cuDNN is opened.
const CUDNN: &str = CUDNN_DYLIBS[0];

/// Whether the machine has an NVIDIA GPU.
pub(super) fn is_present() -> bool {
    Path::new(DRIVER).join("version").exists() || Path::new("/dev/nvidiactl").exists()
}

/// The libraries of CUDA's provider, and of TensorRT's if that is wanted, by the names that ONNX Runtime's newest packages
/// ask for.
pub(super) fn libraries(tensorrt: bool) -> Vec<&'static str> {
    let tensorrt = if tensorrt { &TENSORRT[..] } else { &[] };
    CUDA_DYLIBS.iter().chain(CUDNN_DYLIBS).chain(tensorrt).copied().collect()
}

/// Loads libraries: those of the Python packages beside the ONNX Runtime in `runtime`, where the system's loader does not
/// look, and else those that it finds. A package may have another version than the one that is named: it is made for the ONNX
/// Runtime beside it. Gives the files that were loaded, and the names of what is nowhere.
pub(super) fn load(names: &[&'static str], runtime: &Path) -> (Vec<PathBuf>, Vec<&'static str>) {
    let files: Vec<PathBuf> = package_folders(runtime).iter().flat_map(|folder| folders::entries(folder)).collect();
    let (mut loaded, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        let stem = unversioned(name);
        let of_package = files.iter().find(|file| {
            file.file_name()
                .is_some_and(|name| unversioned(&name.to_string_lossy()) == stem && name.len() > stem.len() + 3)
        });
        let file = of_package.cloned().unwrap_or_else(|| name.into());
        match unwinder::open(&file) {
            Ok(()) => loaded.push(file),
            Err(_) => missing.push(*name),
        }
    }
    (loaded, missing)
}

/// What is missing, and the commands that bring it; `None` if nothing is.
pub(super) fn advice(missing: &[&'static str]) -> Option<String> {
    let (tensorrt, cuda): (Vec<&str>, Vec<&str>) = missing.iter().partition(|name| TENSORRT.contains(name));
    let parts = [(cuda, "'onnxruntime-gpu[cuda,cudnn]'"), (tensorrt, "'tensorrt-cu13-libs==10.*'")];
    let parts = parts.iter().filter(|(names, _)| !names.is_empty());
    let parts: Vec<_> = parts
        .map(|(names, package)| format!("`{}` missing: `pip install {package}` has it", names.join("`, `")))
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Whether cuDNN is among what is missing: since 1.31 ONNX Runtime opens it at the first convolution, and does not notice its
/// absence before.
pub(super) fn lacks_cudnn(missing: &[&'static str]) -> bool {
    missing.contains(&CUDNN)
}

/// The name of a library without version: `libcudart` of `libcudart.so.13`.
fn unversioned(name: &str) -> &str {
    name.split_once(".so").map_or(name, |(stem, _)| stem)
}

/// Where NVIDIA's Python packages put their libraries, in the environment that ONNX Runtime is from.
fn package_folders(runtime: &Path) -> Vec<PathBuf> {
    // PACKAGES/onnxruntime/capi/libonnxruntime.so.1.31.1
    let Some(packages) = runtime.ancestors().nth(3) else { return Vec::new() };
    let nvidia = packages.join("nvidia");
    let listed = folders::entries(&nvidia).map(|package| package.join("lib"));
    let mut found: Vec<_> = listed.filter(|folder| folder.is_dir()).collect();
    found.push(packages.join("tensorrt_libs"));
    found.sort();
    found
}

/// The driver, the GPUs and the libraries, in a form that differs when any of them does.
pub(super) fn fingerprint(libraries: &[PathBuf]) -> String {
    let mut lines = driver(Path::new(DRIVER));
    lines.extend(libraries.iter().map(|file| {
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
    let mut gpus: Vec<_> = folders::entries(&folder.join("gpus"))
        .filter_map(|gpu| {
            let text = fs::read_to_string(gpu.join("information")).ok()?;
            let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_string();
            Some((gpu.file_name()?.to_string_lossy().into_owned(), model))
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

    /// Compiles an empty library, which every machine that builds this can.
    fn stub(folder: &Path, name: &str) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        let (file, source) = (folder.join(name), folder.join("stub.c"));
        fs::write(&source, "").unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", &format!("-Wl,-soname,{name}"), "-o"]).arg(&file).arg(source);
        assert!(cc.status().unwrap().success());
        file
    }

    #[test]
    fn libraries_of_python_packages_are_found_whatever_their_version() {
        let packages = tempfile::tempdir().unwrap();
        let folder = |name: &str| packages.path().join("nvidia").join(name).join("lib");
        let blas = stub(&folder("blas"), "libfastvsrtestblas.so.12");
        let rt = stub(&packages.path().join("tensorrt_libs"), "libfastvsrtestrt.so.10");
        stub(&folder("blas"), "libfastvsrtestblasLt.so.12");
        let runtime = packages.path().join("onnxruntime/capi/libonnxruntime.so.1");
        let names = ["libfastvsrtestblas.so.13", "libfastvsrtestrt.so.10", "libfastvsrtestnone.so.1"];
        assert_eq!(load(&names, &runtime), (vec![blas, rt], vec!["libfastvsrtestnone.so.1"]));
    }

    #[test]
    fn what_is_missing_is_named_with_the_package_that_has_it() {
        let said = advice(&["libcublasLt.so.13", "libcudnn.so.9"]).unwrap();
        assert!(
            said.contains("`libcublasLt.so.13`, `libcudnn.so.9`") && said.contains("onnxruntime-gpu[cuda,cudnn]"),
            "{said}"
        );
        assert!(!said.contains("tensorrt"), "{said}");
        assert!(advice(&["libnvinfer.so.10"]).unwrap().contains("tensorrt-cu13-libs==10.*"));
        assert_eq!(advice(&[]), None);
    }

    #[test]
    fn cudnn_is_missed_by_its_own_name() {
        assert!(libraries(false).contains(&CUDNN) && !libraries(false).contains(&TENSORRT[0]));
        assert!(lacks_cudnn(&[CUDNN]) && !lacks_cudnn(&["libcufft.so.12"]));
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
        let before = fingerprint(std::slice::from_ref(&library));
        assert_eq!(before, fingerprint(std::slice::from_ref(&library)));
        fs::write(&library, "newer").unwrap();
        assert_ne!(before, fingerprint(std::slice::from_ref(&library)));
    }
}
