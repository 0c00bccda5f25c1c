//! Owns what the user sets: the values of the element's properties, as `glib::Properties` reads and writes them, and what
//! they mean.

use std::{path::PathBuf, time::Duration};

use super::overload::OnOverload;
use crate::{color_fix::ColorFix, engine, model};

/// Largest window, in frames; the same limit as in a model's manifest.
pub(super) const MAX_WINDOW: u32 = 1024;

/// Largest scale; the same limit as in a model's manifest.
pub(super) const MAX_SCALE: u32 = 16;

/// Value of `processing-latency` that has it measured.
pub(super) const MEASURED: u64 = u64::MAX;

/// What runs the graphs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstFastVsrExecutionProvider")]
pub enum ExecutionProvider {
    /// The first that works of TensorRT, CUDA, WebGPU, OpenVINO and CPU.
    #[default]
    #[enum_value(name = "Auto: the first that works of TensorRT, CUDA, WebGPU, OpenVINO, CPU", nick = "auto")]
    Auto,
    /// ONNX Runtime's own kernels.
    #[enum_value(name = "CPU: ONNX Runtime's own kernels", nick = "cpu")]
    Cpu,
    /// OpenVINO on the CPU.
    #[enum_value(name = "OpenVINO: Intel's and AMD's CPUs, bf16 where they have it", nick = "openvino")]
    OpenVino,
    /// OpenVINO on an Intel GPU.
    #[enum_value(name = "OpenVINO on Intel's GPUs", nick = "openvino-gpu")]
    OpenVinoGpu,
    /// OpenVINO on an Intel NPU.
    #[enum_value(name = "OpenVINO on Intel's NPUs", nick = "openvino-npu")]
    OpenVinoNpu,
    /// WebGPU on any GPU that Vulkan can use.
    #[enum_value(name = "WebGPU: any GPU with a Vulkan driver", nick = "webgpu")]
    WebGpu,
    /// CUDA on an NVIDIA GPU.
    #[enum_value(name = "CUDA: NVIDIA GPUs", nick = "cuda")]
    Cuda,
    /// TensorRT on an NVIDIA GPU.
    #[enum_value(name = "TensorRT: NVIDIA GPUs, engines built at the first run", nick = "tensorrt")]
    TensorRt,
    /// TensorRT for RTX on an NVIDIA GPU.
    #[enum_value(name = "TensorRT for RTX: NVIDIA GPUs from the 30 series on", nick = "tensorrt-rtx")]
    TensorRtRtx,
}

/// Arithmetic inside the graphs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstFastVsrPrecision")]
pub enum Precision {
    /// The fastest that keeps the picture: bf16 in OpenVINO on CPUs where it is fast, int8 on other CPUs if the model has it,
    /// fp16 in TensorRT, else fp32.
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
    /// 8-bit integers, where the model has them: CPU, OpenVINO, TensorRT.
    #[enum_value(name = "8-bit integers, where the model has them (CPU, OpenVINO, TensorRT)", nick = "int8")]
    Int8,
}

impl ExecutionProvider {
    /// The engine's provider; `None`: it chooses.
    pub fn provider(self) -> Option<engine::Provider> {
        match self {
            Self::Auto => None,
            Self::Cpu => Some(engine::Provider::Cpu),
            Self::OpenVino => Some(engine::Provider::OpenVino),
            Self::OpenVinoGpu => Some(engine::Provider::OpenVinoGpu),
            Self::OpenVinoNpu => Some(engine::Provider::OpenVinoNpu),
            Self::WebGpu => Some(engine::Provider::WebGpu),
            Self::Cuda => Some(engine::Provider::Cuda),
            Self::TensorRt => Some(engine::Provider::TensorRt),
            Self::TensorRtRtx => Some(engine::Provider::TensorRtRtx),
        }
    }
}

impl Precision {
    /// The engine's precision; `None`: it chooses.
    pub fn precision(self) -> Option<engine::Precision> {
        match self {
            Self::Auto => None,
            Self::Fp32 => Some(engine::Precision::Fp32),
            Self::Bf16 => Some(engine::Precision::Bf16),
            Self::Fp16 => Some(engine::Precision::Fp16),
            Self::Int8 => Some(engine::Precision::Int8),
        }
    }
}

/// The values of the properties.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// `None`: the embedded model.
    pub(super) model: Option<String>,
    pub(super) execution_provider: ExecutionProvider,
    pub(super) device_id: i32,
    pub(super) precision: Precision,
    pub(super) window: u32,
    pub(super) scale: u32,
    pub(super) processing_latency: u64,
    pub(super) runtime_library: Option<String>,
    pub(super) passthrough: bool,
    pub(super) scene_cuts: bool,
    pub(super) max_memory: u64,
    pub(super) on_overload: OnOverload,
    pub(super) color_fix: ColorFix,
    pub(super) stats_interval: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: None,
            execution_provider: ExecutionProvider::default(),
            device_id: 0,
            precision: Precision::default(),
            window: 0,
            scale: 0,
            processing_latency: MEASURED,
            runtime_library: None,
            passthrough: false,
            scene_cuts: true,
            max_memory: 0,
            on_overload: OnOverload::default(),
            color_fix: ColorFix::default(),
            stats_interval: 0,
        }
    }
}

impl Settings {
    /// Name or folder of the model.
    pub(super) fn model(&self) -> String {
        self.model.clone().unwrap_or_else(|| model::DEFAULT.into())
    }

    /// Output pixels per input pixel; `None`: what downstream asks for, else the model's.
    pub(super) fn scale(&self) -> Option<usize> {
        Some(self.scale as usize).filter(|scale| *scale > 0)
    }

    /// Time to allow for a window; `None`: what is measured.
    pub(super) fn processing_latency(&self) -> Option<gst::ClockTime> {
        Some(self.processing_latency).filter(|ns| *ns != MEASURED).map(gst::ClockTime::from_nseconds)
    }

    /// The ONNX Runtime to load; `None`: the first that is found.
    pub(super) fn runtime_library(&self) -> Option<PathBuf> {
        self.runtime_library.as_ref().map(PathBuf::from)
    }

    /// Time between messages with the statistics; `None`: there are none.
    pub(super) fn stats_interval(&self) -> Option<Duration> {
        Some(self.stats_interval).filter(|ns| *ns > 0).map(Duration::from_nanos)
    }

    /// Bytes that upscaling may take; `None`: no limit.
    pub(super) fn max_memory(&self) -> Option<u64> {
        Some(self.max_memory).filter(|bytes| *bytes > 0)
    }
}
