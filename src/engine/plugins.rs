//! Owns ONNX Runtime's plugins: execution providers in packages of their own, for an ONNX Runtime that was built without them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Mutex,
};

use once_cell::sync::Lazy;
use ort::{environment::Environment, memory::DeviceType};

use super::unwinder;
use crate::sync::lock;

/// A plugin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plugin {
    /// The provider's name in ONNX Runtime.
    provider: &'static str,
    /// The Python package that has it, as pip names it.
    pub(super) package: &'static str,
    /// The folder of that package.
    folder: &'static str,
    library: &'static str,
    /// Libraries of the same folder that it needs, and for which the system's loader does not look there; without version.
    needs: &'static [&'static str],
}

pub(super) const OPENVINO: Plugin = Plugin {
    provider: "OpenVINOExecutionProvider",
    package: "onnxruntime-ep-openvino",
    folder: "onnxruntime_ep_openvino",
    library: "libonnxruntime_providers_openvino_plugin.so",
    needs: &[],
};

pub(super) const WEBGPU: Plugin = Plugin {
    provider: "WebGpuExecutionProvider",
    package: "onnxruntime-ep-webgpu",
    folder: "onnxruntime_ep_webgpu",
    library: "libonnxruntime_providers_webgpu.so",
    needs: &[],
};

pub(super) const TENSORRT_RTX: Plugin = Plugin {
    provider: "NvTensorRTRTXExecutionProvider",
    package: "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    folder: "onnxruntime_ep_nv_tensorrt_rtx",
    library: "libonnxruntime_providers_nv_tensorrt_rtx.so",
    needs: &["libcudart.so", "libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so"],
};

/// What came of registering a plugin's library, by its path: a process does that once.
static REGISTERED: Lazy<Mutex<HashMap<PathBuf, Result<(), String>>>> = Lazy::new(Mutex::default);

impl Plugin {
    /// Its library: in its package, in the environment that ONNX Runtime is from, or beside ONNX Runtime.
    pub(super) fn find(&self, runtime: &Path) -> Option<PathBuf> {
        // PACKAGES/onnxruntime/capi/libonnxruntime.so.1.32.0
        let package = runtime.ancestors().nth(3).map(|packages| packages.join(self.folder));
        let folders = package.into_iter().chain(runtime.parent().map(Path::to_path_buf));
        folders.map(|folder| folder.join(self.library)).find(|file| file.is_file())
    }

    /// Makes ONNX Runtime know its library.
    ///
    /// # Errors
    /// In ONNX Runtime's words.
    pub(super) fn register(&self, environment: &Environment, file: &Path) -> Result<(), String> {
        let register = || {
            unwinder::reconcile_plugin(file);
            for library in self.needs {
                // What of it is nowhere is named by the loader, below.
                let found = file.parent().and_then(|folder| unwinder::versioned(folder, library));
                let _ = found.map(|library| unwinder::open(&library));
            }
            environment.register_ep_library(self.package, file).map_err(|err| err.to_string())
        };
        lock(&REGISTERED).entry(file.to_path_buf()).or_insert_with(register).clone()
    }

    /// What of the machine's hardware of one kind it can use.
    pub(super) fn hardware<'e>(
        &self,
        environment: &'e Environment,
        kind: DeviceType,
    ) -> impl Iterator<Item = ort::device::Device<'e>> {
        let devices = environment.devices().filter(|device| device.ep().is_ok_and(|name| name == self.provider));
        devices.filter(move |device| device.hardware_device().ty() == kind)
    }

    /// Options as a session takes them, by the provider's name.
    pub(super) fn options(&self, options: impl IntoIterator<Item = (&'static str, String)>) -> Vec<(String, String)> {
        options.into_iter().map(|(name, value)| (format!("{}.{name}", self.provider), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_plugin_is_found_in_its_package_and_beside_the_runtime() {
        let packages = tempfile::tempdir().unwrap();
        let runtime = packages.path().join("onnxruntime/capi/libonnxruntime.so.1.32.0");
        assert_eq!(WEBGPU.find(&runtime), None);
        for folder in [packages.path().join("onnxruntime/capi"), packages.path().join(WEBGPU.folder)] {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(WEBGPU.library), "").unwrap();
            assert_eq!(WEBGPU.find(&runtime), Some(folder.join(WEBGPU.library)));
        }
        assert_eq!(OPENVINO.find(&runtime), None);
    }
}
