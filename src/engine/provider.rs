//! Owns the choice of execution provider and precision, and each provider's options for ONNX Runtime.

use std::{fmt, path::Path};

use ort::{
    ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch},
    memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType},
};

use super::{Error, sessions::Place};

/// What runs the graphs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, glib::Enum)]
#[enum_type(name = "GstFastVsrExecutionProvider")]
pub enum Provider {
    /// The first that works of TensorRT, CUDA, OpenVINO and CPU.
    #[default]
    #[enum_value(name = "Auto: the first that works of TensorRT, CUDA, OpenVINO, CPU", nick = "auto")]
    Auto,
    /// ONNX Runtime's own kernels.
    #[enum_value(name = "CPU: ONNX Runtime's own kernels", nick = "cpu")]
    Cpu,
    /// OpenVINO on the CPU.
    #[enum_value(name = "OpenVINO: Intel's and AMD's CPUs, bf16 where they have it", nick = "openvino")]
    OpenVino,
    /// CUDA on an NVIDIA GPU.
    #[enum_value(name = "CUDA: NVIDIA GPUs", nick = "cuda")]
    Cuda,
    /// TensorRT on an NVIDIA GPU.
    #[enum_value(name = "TensorRT: NVIDIA GPUs, engines built at the first run", nick = "tensorrt")]
    TensorRt,
}

/// Arithmetic inside the graphs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, glib::Enum)]
#[enum_type(name = "GstFastVsrPrecision")]
pub enum Precision {
    /// The fastest that keeps the picture: bf16 in OpenVINO on CPUs that have it, fp16 in TensorRT, else fp32.
    #[default]
    #[enum_value(name = "Auto: the provider's fastest that keeps the picture", nick = "auto")]
    Auto,
    /// 32-bit floats (on CUDA: TF32 in matrix units).
    #[enum_value(name = "32-bit floating point", nick = "fp32")]
    Fp32,
    /// bfloat16: OpenVINO, TensorRT.
    #[enum_value(name = "bfloat16 (OpenVINO, TensorRT)", nick = "bf16")]
    Bf16,
    /// 16-bit floats: TensorRT.
    #[enum_value(name = "16-bit floating point (TensorRT)", nick = "fp16")]
    Fp16,
}

impl Provider {
    /// The providers to try, in order.
    pub(super) fn candidates(self) -> &'static [Self] {
        match self {
            Self::Auto => &[Self::TensorRt, Self::Cuda, Self::OpenVino, Self::Cpu],
            Self::Cpu => &[Self::Cpu],
            Self::OpenVino => &[Self::OpenVino],
            Self::Cuda => &[Self::Cuda],
            Self::TensorRt => &[Self::TensorRt],
        }
    }

    /// The short name, as in the element's `execution-provider` property.
    pub fn nick(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::OpenVino => "openvino",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }

    /// Whether the loaded library was compiled with this provider. That it also works is known only after a session
    /// was made and run.
    fn compiled_in(self) -> bool {
        let available = match self {
            Self::Auto | Self::Cpu => ep::CPU::is_available(),
            Self::OpenVino => ep::OpenVINO::is_available(),
            Self::Cuda => ep::CUDA::is_available(),
            Self::TensorRt => ep::TensorRT::is_available(),
        };
        available.unwrap_or(false)
    }

    /// Whether it compiles graphs, and makes faster ones for a known frame size.
    pub(super) fn compiles(self) -> bool {
        matches!(self, Self::OpenVino | Self::TensorRt)
    }

    /// Whether it runs on an NVIDIA GPU.
    pub(super) fn is_gpu(self) -> bool {
        matches!(self, Self::Cuda | Self::TensorRt)
    }

    /// Memory in which tensors pass from one stage to the next.
    pub(super) fn memory(self, device: i32) -> ort::Result<MemoryInfo<'static>> {
        match self {
            Self::Cuda | Self::TensorRt => {
                MemoryInfo::new(AllocationDevice::CUDA, device, AllocatorType::Device, MemoryType::Default)
            }
            Self::Auto | Self::Cpu | Self::OpenVino => {
                MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
            }
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.nick())
    }
}

impl Precision {
    /// The short name, as in the element's `precision` property.
    pub fn nick(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        }
    }

    /// What `self` means for a provider.
    ///
    /// # Errors
    /// If the provider cannot compute in it.
    pub(super) fn resolve(self, provider: Provider) -> Result<Self, Error> {
        match (provider, self) {
            (Provider::Cpu | Provider::Cuda, Self::Auto) => Ok(Self::Fp32),
            (Provider::OpenVino, Self::Auto) if cpu_has_bf16() => Ok(Self::Bf16),
            (Provider::OpenVino, Self::Auto) => Ok(Self::Fp32),
            (Provider::TensorRt, Self::Auto) => Ok(Self::Fp16),
            (_, Self::Fp32) | (Provider::OpenVino, Self::Bf16) | (Provider::TensorRt, Self::Bf16 | Self::Fp16) => {
                Ok(self)
            }
            _ => {
                let possible = match provider {
                    Provider::OpenVino => "auto, fp32 or bf16",
                    Provider::TensorRt => "auto, fp32, bf16 or fp16",
                    _ => "auto or fp32",
                };
                let reason = format!("precision: expected {possible}, got {}", self.nick());
                Err(Error::Provider { provider, reason })
            }
        }
    }
}

fn cpu_has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// The list that ONNX Runtime gets for a provider, most preferred first. A provider that is not usable is an error at
/// registration, never a silent fall to the CPU. `cache` is a folder for what is compiled.
pub(super) fn dispatch(place: Place, cache: Option<&Path>) -> Result<Vec<ExecutionProviderDispatch>, Error> {
    let Place { provider, precision, device } = place;
    if !provider.compiled_in() {
        let package = match provider {
            Provider::OpenVino => "onnxruntime-openvino",
            Provider::Cuda | Provider::TensorRt => "onnxruntime-gpu",
            Provider::Auto | Provider::Cpu => "onnxruntime",
        };
        let reason = format!("the loaded ONNX Runtime was built without it; `pip install {package}` has it");
        return Err(Error::Provider { provider, reason });
    }
    // The arena is off in `CPU::default()`: every run would then allocate its activations anew.
    let cpu = ep::CPU::default().with_arena_allocator(true).build();
    Ok(match provider {
        Provider::Auto | Provider::Cpu => vec![cpu],
        Provider::OpenVino => vec![openvino(precision), cpu],
        Provider::Cuda => vec![cuda(device), cpu],
        Provider::TensorRt => vec![tensorrt(precision, device, cache), cuda(device), cpu],
    })
}

fn openvino(precision: Precision) -> ExecutionProviderDispatch {
    let hint = if precision == Precision::Bf16 { "bf16" } else { "f32" };
    ep::OpenVINO::default()
        .with_device_type("CPU")
        // The text itself, not a path to it.
        .with_arbitrary_config("load_config", format!(r#"{{"CPU":{{"INFERENCE_PRECISION_HINT":"{hint}"}}}}"#))
        .build()
        .error_on_failure()
}

fn cuda(device: i32) -> ExecutionProviderDispatch {
    ep::CUDA::default()
        .with_device_id(device)
        // The exhaustive default measures every algorithm again for every new frame size.
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        .with_tf32(true)
        // As much memory as is asked for; the default takes twice as much at every step, beyond any `max-memory`.
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
        .build()
        .error_on_failure()
}

fn tensorrt(precision: Precision, device: i32, cache: Option<&Path>) -> ExecutionProviderDispatch {
    let tensorrt = ep::TensorRT::default()
        .with_device_id(device)
        .with_fp16(precision == Precision::Fp16)
        .with_bf16(precision == Precision::Bf16);
    match cache {
        Some(folder) => tensorrt
            .with_engine_cache(true)
            .with_engine_cache_path(folder.display())
            .with_timing_cache(true)
            .with_timing_cache_path(folder.display()),
        None => tensorrt,
    }
    .build()
    .error_on_failure()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precisions_that_a_provider_lacks_are_refused_with_those_that_it_has() {
        for (provider, precision) in [
            (Provider::Cpu, Precision::Bf16),
            (Provider::Cpu, Precision::Fp16),
            (Provider::OpenVino, Precision::Fp16),
            (Provider::Cuda, Precision::Fp16),
        ] {
            let message = precision.resolve(provider).unwrap_err().to_string();
            assert!(message.contains("expected auto") && message.contains(precision.nick()), "{message}");
        }
    }

    #[test]
    fn auto_is_resolved_to_something_definite() {
        for provider in Provider::Auto.candidates() {
            assert_ne!(Precision::Auto.resolve(*provider).unwrap(), Precision::Auto);
        }
    }

    #[test]
    fn only_auto_may_choose() {
        for provider in [Provider::Cpu, Provider::OpenVino, Provider::Cuda, Provider::TensorRt] {
            assert_eq!(provider.candidates(), [provider]);
        }
    }
}
