//! Everything that can go wrong between a model package and its output frames, each with what the user can do next.

use std::path::PathBuf;

use crate::{frames::Size, model::StageKind};

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller cancelled the wait; nothing is wrong. Start again with a fresh stream.
    #[error("cancelled")]
    Cancelled,

    /// No ONNX Runtime library was found: install one, or name it.
    #[error(
        "ONNX Runtime was not found; install it with `pip install onnxruntime-openvino` (CPU) or \
         `pip install onnxruntime-gpu` (NVIDIA) in the active Python environment, or name the library in the property \
         `runtime-library` or in ORT_DYLIB_PATH. Tried: {}",
        list(.tried)
    )]
    RuntimeMissing {
        /// Places that were searched.
        tried: Vec<String>,
    },

    /// Libraries were found or named, and none of them could be used.
    #[error(
        "ONNX Runtime cannot be loaded; expected version 1.23 or later, got {}; name a library that works in the \
         property `runtime-library` or in ORT_DYLIB_PATH, or install one with `pip install onnxruntime-openvino`",
        list(.reasons)
    )]
    RuntimeUnusable {
        /// One reason per library.
        reasons: Vec<String>,
    },

    /// The process has loaded another library than the one asked for, and cannot load a second.
    #[error(
        "this process already runs ONNX Runtime from `{}`, which was loaded first; expected `{}`: one process can load \
         one library, so set the same `runtime-library` on every fastvsr element",
        loaded.display(),
        asked.display()
    )]
    RuntimeMismatch {
        /// The library in use.
        loaded: PathBuf,
        /// The library asked for.
        asked: PathBuf,
    },

    /// The execution provider cannot run here: choose another, or install what the reason names.
    #[error("execution provider `{provider}` does not work here: {reason}")]
    Provider {
        /// Its name, as in the element's `execution-provider` property.
        provider: &'static str,
        /// Why, in ONNX Runtime's words or ours.
        reason: String,
    },

    /// The model package cannot be read.
    #[error("{0:#}")]
    Model(anyhow::Error),

    /// A graph cannot be made into a session.
    #[error("the {stage} graph `{file}` cannot be loaded: {reason}")]
    Graph {
        /// Stage of the package.
        stage: StageKind,
        /// File in the package.
        file: String,
        /// ONNX Runtime's message.
        reason: String,
    },

    /// A graph does not have the inputs and outputs that the contract demands.
    #[error("the {stage} graph `{file}` does not fit its manifest: {detail}")]
    Signature {
        /// Stage of the package.
        stage: StageKind,
        /// File in the package.
        file: String,
        /// What was expected and what the graph has.
        detail: String,
    },

    /// The frames need more memory than they may have.
    #[error("frames of {size} need about {needed} MiB, expected at most {limit} MiB: {reason}")]
    Memory {
        /// Padded input size.
        size: String,
        /// What is needed at the least, in MiB.
        needed: usize,
        /// What was allowed, in MiB.
        limit: u64,
        /// What to do.
        reason: &'static str,
    },

    /// The device has no memory left, not even for one small tile.
    #[error(
        "the {stage} ran out of memory on a frame of {size}, in the smallest parts that the model allows; expected less \
         than the device has, got: {reason}; make the frames smaller or free memory"
    )]
    OutOfMemory {
        /// Stage of the package.
        stage: StageKind,
        /// Padded input size.
        size: String,
        /// ONNX Runtime's message.
        reason: String,
    },

    /// A run failed.
    #[error("the {stage} failed on a frame of {size}: {reason}")]
    Run {
        /// Stage of the package.
        stage: StageKind,
        /// Padded input size.
        size: String,
        /// ONNX Runtime's message, or what came out and what was expected.
        reason: String,
    },

    /// The system has no thread to give: end other programs, or raise the limit of processes.
    #[error("no thread can be started: {reason}; end other programs, or raise the limit (`ulimit -u`)")]
    Thread {
        /// What the system says.
        reason: String,
    },

    /// A bug: the job panicked. The model's other users go on.
    #[error("internal error while upscaling: {0}; please report it")]
    Panicked(String),
}

impl Error {
    /// Why a stage failed on frames of `size`; a lack of memory is told apart, as smaller parts may mend it.
    pub(super) fn run(stage: StageKind, size: Size, reason: &dyn std::fmt::Display) -> Self {
        let (size, reason) = (format!("{}x{}", size.width, size.height), reason.to_string());
        // ONNX Runtime has no error code for it. All of these name what failed by what was asked for: std's and ONNX
        // Runtime's allocators, `CUDNN_STATUS_ALLOC_FAILED`, `CUBLAS_STATUS_ALLOC_FAILED`, `cudaErrorMemoryAllocation`.
        let text = reason.to_lowercase();
        if ["out of memory", "outofmemory", "alloc"].iter().any(|words| text.contains(words)) {
            return Self::OutOfMemory { stage, size, reason };
        }
        Self::Run { stage, size, reason }
    }
}

fn list(items: &[String]) -> String {
    items.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_memory_is_known_in_the_words_of_every_library() {
        let size = Size { width: 8, height: 8 };
        let is_memory = |reason: &str| matches!(Error::run(StageKind::Unet, size, &reason), Error::OutOfMemory { .. });
        for reason in [
            "bad allocation",
            "std::bad_alloc",
            "Failed to allocate memory for requested buffer of size 4096",
            "CUDA failure 2: out of memory",
            "CUDNN failure 4002: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
            "memory allocation failed because the memory allocator returned an error",
        ] {
            assert!(is_memory(reason), "{reason}");
        }
        assert!(!is_memory("Non-zero status code returned while running Conv node"));
    }
}
