//! Owns the devices that graphs run on: an execution provider in one precision on one piece of hardware, with its options,
//! its libraries, and the one function that makes a session.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use ort::{
    environment::Environment,
    ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProviderDispatch},
    memory::{AllocationDevice, AllocatorType, DeviceType, MemoryInfo, MemoryType},
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
};

use super::{
    cpu,
    error::Error,
    nvidia,
    provider::{Precision, Provider},
    runtime::Runtime,
    unwinder, vulkan,
    worker::Ticket,
};
use crate::model::Graph;

/// Option of OpenVINO's provider. ONNX Runtime's documentation asks for a file of JSON; the provider also reads JSON itself.
const OPENVINO_CONFIG: &str = "load_config";

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
        use Provider::{OpenVino, OpenVinoGpu, OpenVinoNpu, TensorRt, TensorRtRtx};
        matches!(self.provider, OpenVino | OpenVinoGpu | OpenVinoNpu | TensorRt | TensorRtRtx)
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
        use Provider::{Cpu, Cuda, OpenVino, OpenVinoGpu, OpenVinoNpu, TensorRt, TensorRtRtx, WebGpu};
        let (hardware, id) = match self.provider {
            Cuda | TensorRt | TensorRtRtx => (AllocationDevice::CUDA, self.id),
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
    /// If it is neither compiled into the runtime nor a plugin beside it, or a library, a driver or hardware is missing: with what
    /// brings it.
    pub(super) fn open(self, runtime: &Runtime, is_chosen: bool) -> Result<Vec<PathBuf>, Error> {
        let refuse = |reason: String| self.provider.refuse(reason);
        let Runtime { environment, library } = runtime;
        let mut files = vec![library.clone()];
        let is_compiled_in = self.provider.is_compiled_in();
        if !is_compiled_in {
            files.push(self.plug_in(runtime).map_err(refuse)?);
        }
        match self.provider {
            Provider::Cuda | Provider::TensorRt => {
                let names = nvidia::libraries(self.provider == Provider::TensorRt);
                let (loaded, missing) = nvidia::load(&names, library);
                let advice = nvidia::advice(&missing).unwrap_or_default();
                if nvidia::lacks_cudnn(&missing) {
                    return Err(refuse(advice));
                }
                for provider in [Provider::Cuda, self.provider] {
                    unwinder::reconcile_provider(environment, library, provider.name());
                }
                // What is missing may be another version's name: only the provider knows whether it lacks it.
                self.builder(environment, None)
                    .map_err(|err| refuse(format!("{err}; {advice}").trim_end_matches("; ").into()))?;
                files.extend(loaded);
            }
            Provider::WebGpu => {
                let adapters = vulkan::adapters().map_err(refuse)?;
                if !is_chosen && adapters.iter().all(|adapter| adapter.is_software) {
                    let names: Vec<_> = adapters.into_iter().map(|adapter| adapter.name).collect();
                    let names = names.join(", ");
                    return Err(refuse(format!("Vulkan has no GPU, only a program on the CPU ({names})")));
                }
            }
            Provider::OpenVino | Provider::OpenVinoGpu | Provider::OpenVinoNpu if is_compiled_in => {
                unwinder::reconcile_provider(environment, library, Provider::OpenVino.name());
                if self.provider != Provider::OpenVino {
                    let wanted = self.provider.wants();
                    self.builder(environment, None).map_err(|err| refuse(format!("expected {wanted}; got: {err}")))?;
                }
            }
            _ => {}
        }
        Ok(files)
    }

    /// Registers the plugin that has the provider; gives its library.
    fn plug_in(self, runtime: &Runtime) -> Result<PathBuf, String> {
        let Runtime { environment, library } = runtime;
        let found = self.provider.plugin().and_then(|(plugin, kind)| Some((plugin, kind, plugin.find(library)?)));
        let Some((plugin, kind, file)) = found else {
            let packages = [self.provider.package(), self.provider.plugin().map(|(plugin, _)| plugin.package)];
            let commands = packages.into_iter().flatten().map(|package| format!("`pip install {package}`"));
            let commands = commands.collect::<Vec<_>>().join(" or ");
            return Err(format!("the loaded ONNX Runtime was built without it; {commands} has it"));
        };
        let wanted = self.provider.wants();
        plugin.register(environment, &file).map_err(|reason| format!("expected {wanted}; got: {reason}"))?;
        match plugin.hardware(environment, kind).count() {
            0 => Err(format!("expected {wanted}; the plugin `{}` found none", plugin.package)),
            count if self.index(kind) >= count => {
                Err(format!("device-id: expected less than {count}, got {}", self.id))
            }
            _ => Ok(file),
        }
    }

    /// Which of several devices of a kind it is.
    fn index(self, kind: DeviceType) -> usize {
        if kind == DeviceType::GPU { usize::try_from(self.id).unwrap_or(0) } else { 0 }
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
            .with_intra_op_spinning(false)?
            // A number that is chosen also keeps ONNX Runtime from binding its threads to cores, beyond those that are allowed.
            .with_intra_threads(cpu::threads())?;
        let Some((plugin, kind)) = self.provider.plugin().filter(|_| !self.provider.is_compiled_in()) else {
            return Ok(builder.with_execution_providers(self.providers(cache))?);
        };
        let hardware = plugin.hardware(environment, kind).nth(self.index(kind));
        let config = self.openvino_hardware().map(|hardware| (OPENVINO_CONFIG, self.openvino_config(hardware)));
        Ok(builder.with_devices(hardware, Some(&plugin.options(config)))?)
    }

    /// The list that ONNX Runtime gets, most preferred first. A provider that is not usable is an error at registration,
    /// never a silent fall to the CPU.
    fn providers(self, cache: Option<&Path>) -> Vec<ExecutionProviderDispatch> {
        // The arena is off in `CPU::default()`: every run would then allocate its activations anew.
        let cpu = ep::CPU::default().with_arena_allocator(true).build();
        match (self.provider, self.openvino_hardware()) {
            (_, Some(hardware)) => vec![self.openvino(hardware), cpu],
            (Provider::WebGpu, _) => vec![ep::WebGPU::default().build().error_on_failure(), cpu],
            (Provider::Cuda, _) => vec![self.cuda(), cpu],
            (Provider::TensorRt, _) => vec![self.tensorrt(cache), self.cuda(), cpu],
            _ => vec![cpu],
        }
    }

    /// OpenVINO's name for what it runs on; `None` for other providers.
    fn openvino_hardware(self) -> Option<&'static str> {
        match self.provider {
            Provider::OpenVino => Some("CPU"),
            Provider::OpenVinoGpu => Some("GPU"),
            Provider::OpenVinoNpu => Some("NPU"),
            _ => None,
        }
    }

    /// What OpenVINO gets as [`OPENVINO_CONFIG`].
    fn openvino_config(self, hardware: &str) -> String {
        let hint = match self.precision {
            Precision::Bf16 => "bf16",
            Precision::Fp16 => "f16",
            Precision::Fp32 | Precision::Int8 => "f32",
        };
        let threads = match self.provider {
            Provider::OpenVino => format!(r#","INFERENCE_NUM_THREADS":"{}""#, cpu::threads()),
            _ => String::new(),
        };
        format!(r#"{{"{hardware}":{{"INFERENCE_PRECISION_HINT":"{hint}"{threads}}}}}"#)
    }

    fn openvino(self, hardware: &str) -> ExecutionProviderDispatch {
        ep::OpenVINO::default()
            .with_device_type(hardware)
            .with_arbitrary_config(OPENVINO_CONFIG, self.openvino_config(hardware))
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
            // What was timed for one engine holds for all: it lies beside the folders that have one each.
            let beside = folder.parent().unwrap_or(folder);
            tensorrt = tensorrt
                .with_engine_cache(true)
                .with_engine_cache_path(folder.display())
                .with_timing_cache(true)
                .with_timing_cache_path(beside.display());
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
    fn openvino_is_told_what_it_runs_on_and_in_which_precision() {
        let config = |provider, precision| {
            let device = Device::new(provider, precision, 0, true).unwrap();
            device.openvino_hardware().map(|hardware| device.openvino_config(hardware))
        };
        let expected = |hardware, hint| Some(format!(r#"{{"{hardware}":{{"INFERENCE_PRECISION_HINT":"{hint}"}}}}"#));
        let on_cpu = config(Provider::OpenVino, Some(Precision::Bf16)).unwrap();
        assert!(
            on_cpu.starts_with(r#"{"CPU":{"INFERENCE_PRECISION_HINT":"bf16","INFERENCE_NUM_THREADS":""#),
            "{on_cpu}"
        );
        let on_cpu = config(Provider::OpenVino, Some(Precision::Int8)).unwrap();
        assert!(on_cpu.contains(r#""f32""#), "{on_cpu}");
        assert_eq!(config(Provider::OpenVinoGpu, None), expected("GPU", "f16"));
        assert_eq!(config(Provider::OpenVinoNpu, None), expected("NPU", "f16"));
        assert_eq!(config(Provider::WebGpu, None), None);
    }

    #[test]
    fn the_number_of_a_gpu_counts_among_gpus_alone() {
        let index = |provider: Provider| {
            let device = Device::new(provider, None, 1, false).unwrap();
            provider.plugin().map(|(_, kind)| device.index(kind))
        };
        assert_eq!((index(Provider::WebGpu), index(Provider::OpenVinoGpu)), (Some(1), Some(1)));
        assert_eq!((index(Provider::OpenVino), index(Provider::OpenVinoNpu)), (Some(0), Some(0)));
        assert_eq!(index(Provider::Cuda), None);
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
