//! Owns the devices that graphs run on: an execution provider in one precision on one piece of hardware, with its options,
//! its libraries, and the one function that makes a session.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use ort::{
    environment::Environment,
    ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch},
    memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType},
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
};

use super::{cpu::Cpu, error::Error, nvidia, runtime::Runtime, unwinder, vulkan, worker::Ticket};
use crate::model::Graph;

/// An execution provider of ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    /// TensorRT on an NVIDIA GPU.
    TensorRt,
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

/// What graphs run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// Who runs them.
    pub provider: Provider,
    /// In which arithmetic.
    pub precision: Precision,
    /// Number of the GPU.
    pub id: i32,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::TensorRt, Self::Cuda, Self::WebGpu, Self::OpenVino, Self::OpenVinoGpu, Self::OpenVinoNpu, Self::Cpu];

    /// Those that are tried where nobody has chosen, in this order.
    pub(super) const AUTO: [Self; 5] = [Self::TensorRt, Self::Cuda, Self::WebGpu, Self::OpenVino, Self::Cpu];

    /// Its name, as in the element's `execution-provider` property.
    pub fn name(self) -> &'static str {
        match self {
            Self::TensorRt => "tensorrt",
            Self::Cuda => "cuda",
            Self::WebGpu => "webgpu",
            Self::OpenVino => "openvino",
            Self::OpenVinoGpu => "openvino-gpu",
            Self::OpenVinoNpu => "openvino-npu",
            Self::Cpu => "cpu",
        }
    }

    /// Whether the loaded library was compiled with it, and else the Python package that has it. That it also works is
    /// known only after a session was made and run.
    fn compiled_in(self) -> Result<(), String> {
        let (available, package) = match self {
            Self::TensorRt => (ep::TensorRT::is_available(), "onnxruntime-gpu"),
            Self::Cuda => (ep::CUDA::is_available(), "onnxruntime-gpu"),
            Self::WebGpu => (ep::WebGPU::is_available(), "onnxruntime-webgpu"),
            Self::OpenVino | Self::OpenVinoGpu | Self::OpenVinoNpu => {
                (ep::OpenVINO::is_available(), "onnxruntime-openvino")
            }
            Self::Cpu => (ep::CPU::is_available(), "onnxruntime"),
        };
        if available.unwrap_or(false) {
            return Ok(());
        }
        Err(format!("the loaded ONNX Runtime was built without it; `pip install {package}` has it"))
    }

    /// The precisions that it can compute in, the fastest that keeps the picture first. A package has integers only where they
    /// do.
    fn precisions(self) -> &'static [Precision] {
        use Precision::{Bf16, Fp16, Fp32, Int8};
        match self {
            Self::TensorRt => &[Fp16, Fp32, Bf16, Int8],
            Self::OpenVino => in_openvino(&Cpu::here()),
            Self::Cpu => &[Int8, Fp32],
            Self::OpenVinoGpu => &[Fp16, Fp32],
            Self::OpenVinoNpu => &[Fp16],
            Self::Cuda | Self::WebGpu => &[Fp32],
        }
    }

    fn refuse(self, reason: impl fmt::Display) -> Error {
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

impl Device {
    /// A provider in the precision that is asked for, or in its fastest that keeps the picture. `has_int8`: whether the model
    /// can be had in integers.
    ///
    /// # Errors
    /// If the provider, or the model, cannot compute in that precision.
    pub(super) fn new(
        provider: Provider,
        precision: Option<Precision>,
        id: i32,
        has_int8: bool,
    ) -> Result<Self, Error> {
        let possible =
            provider.precisions().iter().copied().filter(|possible| has_int8 || *possible != Precision::Int8);
        let possible: Vec<Precision> = possible.collect();
        let precision = precision.unwrap_or(possible[0]);
        if !possible.contains(&precision) {
            let (last, others) = possible.split_last().expect("every provider has one");
            let others: String = others.iter().map(|precision| format!(", {}", precision.name())).collect();
            let lacks = if precision == Precision::Int8 && !has_int8 { ", which the model lacks" } else { "" };
            let (last, got) = (last.name(), precision.name());
            return Err(provider.refuse(format!("precision: expected auto{others} or {last}, got {got}{lacks}")));
        }
        Ok(Self { provider, precision, id })
    }

    /// Whether it compiles graphs, and makes faster ones for a known frame size.
    pub(super) fn compiles(self) -> bool {
        use Provider::{OpenVino, OpenVinoGpu, OpenVinoNpu, TensorRt};
        matches!(self.provider, OpenVino | OpenVinoGpu | OpenVinoNpu | TensorRt)
    }

    /// Whether what it compiles takes so long, and says so little about the process it was compiled in, that it is kept for
    /// the next one.
    pub(super) fn caches(self) -> bool {
        self.provider == Provider::TensorRt
    }

    /// What serves frames of any size until there is something compiled for theirs: the first frame would wait minutes for
    /// TensorRT.
    pub(super) fn for_any_size(self) -> Self {
        match self.provider {
            Provider::TensorRt => Self { provider: Provider::Cuda, precision: Precision::Fp32, ..self },
            _ => self,
        }
    }

    /// Memory in which tensors pass from one stage to the next.
    ///
    /// # Errors
    /// If ONNX Runtime has none of that kind.
    pub(super) fn memory(self) -> Result<MemoryInfo<'static>, Error> {
        use Provider::{Cpu, Cuda, OpenVino, OpenVinoGpu, OpenVinoNpu, TensorRt, WebGpu};
        let (hardware, id) = match self.provider {
            Cuda | TensorRt => (AllocationDevice::CUDA, self.id),
            WebGpu => (AllocationDevice::WEBGPU_BUFFER, 0),
            Cpu | OpenVino | OpenVinoGpu | OpenVinoNpu => return host_memory(),
        };
        MemoryInfo::new(hardware, id, AllocatorType::Device, MemoryType::Default)
            .map_err(|err| self.provider.refuse(err))
    }

    /// Loads what the provider needs and registers it, so that it is known to be here; gives the files that what it compiles
    /// depends on. `is_chosen`: whether somebody asked for this provider.
    ///
    /// # Errors
    /// If the provider is not compiled into the runtime, or a library is missing: with the command that brings it.
    pub(super) fn open(self, runtime: &Runtime, is_chosen: bool) -> Result<Vec<PathBuf>, Error> {
        self.provider.compiled_in().map_err(|reason| self.provider.refuse(reason))?;
        let Runtime { environment, library } = runtime;
        let mut files = vec![library.clone()];
        match self.provider {
            Provider::Cpu => {}
            Provider::Cuda | Provider::TensorRt => {
                let names = nvidia::libraries(self.provider == Provider::TensorRt);
                let (loaded, missing) = nvidia::load(&names, library);
                let advice = nvidia::advice(&missing).unwrap_or_default();
                if nvidia::lacks_cudnn(&missing) {
                    return Err(self.provider.refuse(advice));
                }
                for provider in [Provider::Cuda, self.provider] {
                    unwinder::reconcile_provider(environment, library, provider.name());
                }
                // What is missing may be another version's name: only the provider knows whether it lacks it.
                self.builder(environment, None)
                    .map_err(|err| self.provider.refuse(format!("{err}; {advice}").trim_end_matches("; ")))?;
                files.extend(loaded);
            }
            Provider::WebGpu => {
                let adapters = vulkan::adapters().map_err(|reason| self.provider.refuse(reason))?;
                if !is_chosen && adapters.iter().all(|adapter| adapter.is_software) {
                    let names: Vec<_> = adapters.into_iter().map(|adapter| adapter.name).collect();
                    let reason = format!("Vulkan has no GPU, only a program on the CPU ({})", names.join(", "));
                    return Err(self.provider.refuse(reason));
                }
            }
            Provider::OpenVino | Provider::OpenVinoGpu | Provider::OpenVinoNpu => {
                unwinder::reconcile_provider(environment, library, Provider::OpenVino.name());
                let needed = match self.provider {
                    Provider::OpenVinoGpu => "an Intel GPU and its driver: `apt install intel-opencl-icd` brings it",
                    Provider::OpenVinoNpu => "an Intel NPU and its driver, Intel's package `intel-level-zero-npu`",
                    _ => return Ok(files),
                };
                self.builder(environment, None)
                    .map_err(|err| self.provider.refuse(format!("expected {needed}; got: {err}")))?;
            }
        }
        Ok(files)
    }

    /// Makes a session of a graph. The axes named in `lengths` are of that length in every run; `cache` is a folder for what
    /// is compiled.
    ///
    /// # Errors
    /// In ONNX Runtime's words; of no meaning if `ticket` was cancelled meanwhile.
    pub(super) fn session(
        self,
        environment: &Environment,
        graph: &Graph,
        lengths: &HashMap<&str, i64>,
        cache: Option<&Path>,
        ticket: &Ticket,
    ) -> ort::Result<Session> {
        let mut builder = self.builder(environment, cache)?;
        for (name, length) in lengths {
            builder = builder.with_dimension_override(name, *length)?;
        }
        // Bytes that were read and hashed are what runs. With a list of files ONNX Runtime opens none by itself, and names the
        // one that it misses; an empty list is none, so one of no use is always in it.
        builder = builder.with_external_initializer_file_in_memory("listed in the manifest", Arc::from([0u8]))?;
        for (name, bytes) in &graph.data {
            builder = builder.with_external_initializer_file_in_memory(name, Arc::clone(bytes))?;
        }
        let canceler = builder.canceler();
        let interrupt = move || drop(canceler.cancel());
        let int8 = graph.int8.as_ref().filter(|_| self.precision == Precision::Int8);
        ticket.interruptible(interrupt, || builder.commit_from_memory(int8.unwrap_or(&graph.bytes)))
    }

    fn builder(self, environment: &Environment, cache: Option<&Path>) -> ort::Result<SessionBuilder> {
        let builder = Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            // Threads of a stage that has just run would spin on the cores that the next one needs: measured, the
            // three stages then take 1.6 times as long on two cores.
            .with_intra_op_spinning(false)?;
        Ok(builder.with_execution_providers(self.providers(cache))?)
    }

    /// The list that ONNX Runtime gets, most preferred first. A provider that is not usable is an error at registration,
    /// never a silent fall to the CPU.
    fn providers(self, cache: Option<&Path>) -> Vec<ExecutionProviderDispatch> {
        // The arena is off in `CPU::default()`: every run would then allocate its activations anew.
        let cpu = ep::CPU::default().with_arena_allocator(true).build();
        match self.provider {
            Provider::Cpu => vec![cpu],
            Provider::WebGpu => vec![ep::WebGPU::default().build().error_on_failure(), cpu],
            Provider::OpenVino => vec![self.openvino("CPU"), cpu],
            Provider::OpenVinoGpu => vec![self.openvino("GPU"), cpu],
            Provider::OpenVinoNpu => vec![self.openvino("NPU"), cpu],
            Provider::Cuda => vec![self.cuda(), cpu],
            Provider::TensorRt => vec![self.tensorrt(cache), self.cuda(), cpu],
        }
    }

    fn openvino(self, hardware: &str) -> ExecutionProviderDispatch {
        let hint = match self.precision {
            Precision::Bf16 => "bf16",
            Precision::Fp16 => "f16",
            Precision::Fp32 | Precision::Int8 => "f32",
        };
        ep::OpenVINO::default()
            .with_device_type(hardware)
            // ONNX Runtime's documentation asks for a file of this; the provider reads it as JSON.
            .with_arbitrary_config(
                "load_config",
                format!(r#"{{"{hardware}":{{"INFERENCE_PRECISION_HINT":"{hint}"}}}}"#),
            )
            .build()
            .error_on_failure()
    }

    fn cuda(self) -> ExecutionProviderDispatch {
        ep::CUDA::default()
            .with_device_id(self.id)
            // The exhaustive default looks for algorithms again at every new frame size.
            .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
            .with_tf32(true)
            // As much memory as is asked for; the default takes twice as much at every step, beyond any `max-memory`.
            .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
            .build()
            .error_on_failure()
    }

    fn tensorrt(self, cache: Option<&Path>) -> ExecutionProviderDispatch {
        let mut tensorrt = ep::TensorRT::default().with_device_id(self.id);
        // Older libraries do not know every option: one is set only where it is wanted.
        match self.precision {
            Precision::Fp16 => tensorrt = tensorrt.with_fp16(true),
            Precision::Bf16 => tensorrt = tensorrt.with_bf16(true),
            Precision::Int8 => tensorrt = tensorrt.with_int8(true),
            Precision::Fp32 => {}
        }
        if let Some(folder) = cache {
            tensorrt = tensorrt
                .with_engine_cache(true)
                .with_engine_cache_path(folder.display())
                .with_timing_cache(true)
                .with_timing_cache_path(folder.display());
        }
        tensorrt.build().error_on_failure()
    }
}

/// Memory in which frames enter and leave, and in which tiles are cut and merged.
///
/// # Errors
/// If ONNX Runtime has none.
pub(super) fn host_memory() -> Result<MemoryInfo<'static>, Error> {
    MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
        .map_err(|err| Provider::Cpu.refuse(err))
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

    #[test]
    fn precisions_that_a_provider_lacks_are_refused_with_those_that_it_has() {
        for (provider, precision) in [
            (Provider::Cpu, Precision::Bf16),
            (Provider::Cpu, Precision::Fp16),
            (Provider::OpenVino, Precision::Fp16),
            (Provider::Cuda, Precision::Fp16),
        ] {
            let message = Device::new(provider, Some(precision), 0, true).unwrap_err().to_string();
            assert!(message.contains("expected auto") && message.contains(precision.name()), "{message}");
        }
        let message = Device::new(Provider::Cpu, Some(Precision::Int8), 0, false).unwrap_err().to_string();
        assert!(message.contains("expected auto or fp32, got int8, which the model lacks"), "{message}");
    }

    #[test]
    fn every_provider_has_a_precision_of_its_own_and_all_but_the_npu_take_single() {
        for provider in Provider::ALL {
            for has_int8 in [true, false] {
                let own = Device::new(provider, None, 0, has_int8).unwrap();
                assert_eq!(Device::new(provider, Some(own.precision), 0, has_int8).unwrap(), own);
                let single = Device::new(provider, Some(Precision::Fp32), 0, has_int8);
                assert_eq!(single.is_ok(), provider != Provider::OpenVinoNpu);
            }
        }
    }

    #[test]
    fn integers_are_taken_by_themselves_where_the_model_has_them() {
        assert_eq!(Device::new(Provider::Cpu, None, 0, true).unwrap().precision, Precision::Int8);
        assert_eq!(Device::new(Provider::Cpu, None, 0, false).unwrap().precision, Precision::Fp32);
        assert_eq!(Device::new(Provider::Cuda, None, 0, true).unwrap().precision, Precision::Fp32);
    }

    #[test]
    fn while_tensorrt_compiles_cuda_serves_on_the_same_gpu() {
        let device = Device::new(Provider::TensorRt, None, 1, true).unwrap();
        let first = device.for_any_size();
        assert_eq!((first.provider, first.precision, first.id), (Provider::Cuda, Precision::Fp32, 1));
        let cpu = Device::new(Provider::Cpu, None, 0, true).unwrap();
        assert_eq!(cpu.for_any_size(), cpu);
    }
}
