//! Owns what is known of ONNX Runtime's execution providers: their names, the packages that have them, and the precisions that
//! each computes in.

use std::fmt;

use ort::{
    ep::{self, ExecutionProvider},
    memory::DeviceType,
};

use super::{
    cpu::Cpu,
    error::Error,
    plugins::{self, Plugin},
};

/// An execution provider of ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    /// TensorRT on an NVIDIA GPU.
    TensorRt,
    /// TensorRT for RTX on an NVIDIA GPU: it compiles in seconds.
    TensorRtRtx,
    /// CUDA on an NVIDIA GPU.
    Cuda,
    /// WebGPU on any GPU that Vulkan can use.
    WebGpu,
    /// OpenVINO on the CPU.
    OpenVino,
    /// OpenVINO on an Intel GPU.
    OpenVinoGpu,
    /// OpenVINO on an Intel NPU.
    OpenVinoNpu,
    /// ONNX Runtime's own kernels on the CPU.
    Cpu,
}

/// Arithmetic inside the graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats (on CUDA: TF32 in matrix units).
    Fp32,
    /// bfloat16.
    Bf16,
    /// 16-bit floats.
    Fp16,
    /// 8-bit integers, where a package has them.
    Int8,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::TensorRt,
        Self::TensorRtRtx,
        Self::Cuda,
        Self::WebGpu,
        Self::OpenVino,
        Self::OpenVinoGpu,
        Self::OpenVinoNpu,
        Self::Cpu,
    ];

    /// Those that are tried where nobody has chosen, in this order.
    pub(super) const AUTO: [Self; 5] = [Self::TensorRt, Self::Cuda, Self::WebGpu, Self::OpenVino, Self::Cpu];

    /// Its name, as in the element's `execution-provider` property.
    pub fn name(self) -> &'static str {
        match self {
            Self::TensorRt => "tensorrt",
            Self::TensorRtRtx => "tensorrt-rtx",
            Self::Cuda => "cuda",
            Self::WebGpu => "webgpu",
            Self::OpenVino => "openvino",
            Self::OpenVinoGpu => "openvino-gpu",
            Self::OpenVinoNpu => "openvino-npu",
            Self::Cpu => "cpu",
        }
    }

    /// The Python package of an ONNX Runtime that was compiled with it, if there is one.
    pub(super) fn package(self) -> Option<&'static str> {
        match self {
            Self::TensorRt | Self::Cuda => Some("onnxruntime-gpu"),
            Self::TensorRtRtx => None,
            Self::WebGpu => Some("onnxruntime-webgpu"),
            Self::OpenVino | Self::OpenVinoGpu | Self::OpenVinoNpu => Some("onnxruntime-openvino"),
            Self::Cpu => Some("onnxruntime"),
        }
    }

    /// Whether the loaded ONNX Runtime was compiled with it. That it also works is known only after a session was made and run.
    pub(super) fn is_compiled_in(self) -> bool {
        let is_available = match self {
            Self::TensorRt => ep::TensorRT::is_available(),
            Self::TensorRtRtx => return false,
            Self::Cuda => ep::CUDA::is_available(),
            Self::WebGpu => ep::WebGPU::is_available(),
            Self::OpenVino | Self::OpenVinoGpu | Self::OpenVinoNpu => ep::OpenVINO::is_available(),
            Self::Cpu => ep::CPU::is_available(),
        };
        is_available.unwrap_or(false)
    }

    /// The plugin that has it, if there is one, and what it is to run on.
    pub(super) fn plugin(self) -> Option<(&'static Plugin, DeviceType)> {
        match self {
            Self::TensorRtRtx => Some((&plugins::TENSORRT_RTX, DeviceType::GPU)),
            Self::WebGpu => Some((&plugins::WEBGPU, DeviceType::GPU)),
            Self::OpenVino => Some((&plugins::OPENVINO, DeviceType::CPU)),
            Self::OpenVinoGpu => Some((&plugins::OPENVINO, DeviceType::GPU)),
            Self::OpenVinoNpu => Some((&plugins::OPENVINO, DeviceType::NPU)),
            Self::TensorRt | Self::Cuda | Self::Cpu => None,
        }
    }

    /// What it wants of the machine.
    pub(super) fn wants(self) -> &'static str {
        match self {
            Self::TensorRt | Self::Cuda => "an NVIDIA GPU and its driver",
            Self::TensorRtRtx => "an NVIDIA GPU of the 30 series or newer, and its driver",
            Self::WebGpu => "a GPU that Linux lists in /sys/class/drm",
            Self::OpenVino => "a CPU of Intel's",
            Self::OpenVinoGpu => "an Intel GPU and its driver: `apt install intel-opencl-icd` brings it",
            Self::OpenVinoNpu => "an Intel NPU and its driver, Intel's package `intel-level-zero-npu`",
            Self::Cpu => "a CPU",
        }
    }

    /// The precisions that it can compute in, the fastest that keeps the picture first. A package has integers only where they
    /// do.
    pub(super) fn precisions(self) -> &'static [Precision] {
        use Precision::{Bf16, Fp16, Fp32, Int8};
        match self {
            Self::TensorRt => &[Fp16, Fp32, Bf16, Int8],
            Self::OpenVino => in_openvino(&Cpu::here()),
            Self::Cpu => &[Int8, Fp32],
            Self::OpenVinoGpu => &[Fp16, Fp32],
            Self::OpenVinoNpu => &[Fp16],
            Self::TensorRtRtx | Self::Cuda | Self::WebGpu => &[Fp32],
        }
    }

    pub(super) fn refuse(self, reason: impl fmt::Display) -> Error {
        Error::Provider { provider: self.name(), reason: reason.to_string() }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The precisions of OpenVINO on a CPU.
///
/// In matrix units (AMX) bfloat16 is as fast as integers. In AMD's vector units integers take 0.6 to 0.7 of bfloat16's time, and
/// that half of single precision's; in those of Intel's server CPUs without AMX bfloat16 took 1.65 times as long as single precision.
fn in_openvino(cpu: &Cpu) -> &'static [Precision] {
    use Precision::{Bf16, Fp32, Int8};
    if cpu.has("amx_bf16") {
        &[Bf16, Int8, Fp32]
    } else if cpu.has("avx512_bf16") && cpu.is_of_amd() {
        &[Int8, Bf16, Fp32]
    } else {
        &[Int8, Fp32, Bf16]
    }
}

impl Precision {
    /// Its name, as in the element's `precision` property.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_comes_first_in_matrix_units_and_after_integers_in_those_of_amd() {
        use Precision::{Bf16, Fp32, Int8};
        let order = |vendor: &str, flags: &str| {
            in_openvino(&Cpu::parse(&format!("processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n")))
        };
        assert_eq!(order("GenuineIntel", "fpu avx512_bf16 amx_bf16 amx_tile"), [Bf16, Int8, Fp32]);
        assert_eq!(order("AuthenticAMD", "fpu avx512_bf16 avx512_vnni"), [Int8, Bf16, Fp32]);
        assert_eq!(order("GenuineIntel", "fpu avx512_bf16 avx512_vnni"), [Int8, Fp32, Bf16]);
        assert_eq!(order("AuthenticAMD", "fpu avx2"), [Int8, Fp32, Bf16]);
        assert_eq!(in_openvino(&Cpu::parse("")), [Int8, Fp32, Bf16]);
    }
}
