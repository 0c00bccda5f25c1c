//! Owns the ONNX Runtime sessions of one model and the passing of tensors from stage to stage.
//!
//! Stages without recurrent state run once per window; from the first stage with state on, they run once per frame.
//! Tensors between stages stay in the provider's memory (on a GPU: on the device); frames enter and leave as 8-bit RGB
//! in host memory.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ort::{
    environment::Environment,
    memory::MemoryInfo,
    session::{IoBinding, RunOptions, Session, builder::GraphOptimizationLevel},
    value::{DynValue, Shape, Tensor, TensorElementType, TensorRefMut, ValueType},
};

use super::{Error, Precision, Provider, provider, worker::Ticket};
use crate::{
    frames::{RGB, Size},
    model::{Graph, Package, Stage, StageKind, StateManifest},
};

const FRAMES: &str = "frames";
const FRAMES_HR: &str = "frames_hr";
const LATENT: &str = "latent";
const DENOISED: &str = "denoised";

/// The sessions of a model, in running order.
#[derive(Debug)]
pub(super) struct Sessions {
    stages: Vec<Loaded>,
    memory: MemoryInfo<'static>,
    scale: usize,
}

#[derive(Debug)]
struct Loaded {
    kind: StageKind,
    session: Session,
    states: Vec<StateManifest>,
    /// Name of what the stage before hands over; none for the first stage.
    input: Option<&'static str>,
    /// Whether the stage also sees the input frames.
    takes_frames: bool,
    output: &'static str,
}

/// A window on its way through the stages: what the stages without state made of it.
#[derive(Debug)]
pub(super) struct Window {
    size: Size,
    frames: Tensor<u8>,
    /// Output of the last stage that ran, for all frames of the window; none if no stage ran yet.
    carried: Option<DynValue>,
    /// Index of the first stage that still has to run, frame by frame.
    next: usize,
    count: usize,
}

/// Recurrent state of one stream: the tensors of every stage that has some.
#[derive(Debug)]
pub(super) struct Memory(Vec<Vec<DynValue>>);

/// Time spent in each stage.
#[derive(Debug, Default, Clone, Copy)]
pub struct Timings {
    /// f8 encoder.
    pub encoder: Duration,
    /// One-step UNet.
    pub unet: Duration,
    /// f16 decoder.
    pub decoder: Duration,
}

impl Timings {
    fn add(&mut self, kind: StageKind, time: Duration) {
        *match kind {
            StageKind::Encoder => &mut self.encoder,
            StageKind::Unet => &mut self.unet,
            StageKind::Decoder => &mut self.decoder,
        } += time;
    }

    /// All stages together.
    pub fn total(&self) -> Duration {
        self.encoder + self.unet + self.decoder
    }
}

impl std::ops::AddAssign for Timings {
    fn add_assign(&mut self, other: Self) {
        self.encoder += other.encoder;
        self.unet += other.unet;
        self.decoder += other.decoder;
    }
}

/// One axis of a tensor in a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    Free(&'static str),
    Fixed(usize),
}

impl Sessions {
    /// Makes the sessions of a package on one provider, checks every signature, and runs one small frame: a provider
    /// that registers may still be unable to run, and a graph may lie about its output.
    pub(super) fn load(
        environment: &Environment,
        package: &Package,
        provider: Provider,
        precision: Precision,
        device: i32,
    ) -> Result<Self, Error> {
        let providers = provider::dispatch(provider, precision, device, &package.manifest.name)?;
        let refuse = |err: &dyn std::fmt::Display| Error::Provider { provider, reason: err.to_string() };
        let memory = provider.memory(device).map_err(|err| refuse(&err))?;

        let mut stages: Vec<Loaded> = Vec::with_capacity(package.stages.len());
        for stage in &package.stages {
            let mut builder = Session::builder(environment)
                .and_then(|builder| Ok(builder.with_optimization_level(GraphOptimizationLevel::Level3)?))
                .and_then(|builder| Ok(builder.with_execution_providers(&providers)?))
                .map_err(|err| refuse(&err))?;
            let session = match &stage.graph {
                Graph::Bytes(bytes) => builder.commit_from_memory(bytes),
                Graph::File(path) => builder.commit_from_file(path),
            };
            let session = session.map_err(|err| Error::Graph {
                stage: stage.kind,
                file: stage.file.clone(),
                reason: err.to_string(),
            })?;
            let input = stages.last().map(|before| before.output);
            stages.push(Loaded::new(session, stage, input)?);
        }
        let mut sessions = Self { stages, memory, scale: package.manifest.geometry.scale };
        // TensorRT would build an engine for a size that nobody asked for, which takes minutes.
        if provider != Provider::TensorRt {
            sessions.probe(package)?;
        }
        Ok(sessions)
    }

    fn probe(&mut self, package: &Package) -> Result<(), Error> {
        let side = package.manifest.geometry.multiple.max(16).next_multiple_of(package.manifest.geometry.multiple);
        let size = Size { width: side, height: side };
        let count = package.manifest.time.minimum;
        let window = self.window(vec![127; count * size.rgb_bytes()], count, size, &Ticket::default())?;
        let mut memory = self.blank(size)?;
        self.frame(&window.0, 0, &mut memory, None, &Ticket::default())?;
        Ok(())
    }

    /// Recurrent state of a stream that begins, for frames of the padded size `size`.
    pub(super) fn blank(&self, size: Size) -> Result<Memory, Error> {
        let zeros = |kind: StageKind, state: &StateManifest| {
            let shape = [1, state.channels, size.height / state.stride, size.width / state.stride];
            Tensor::from_array((shape, vec![0f32; shape.iter().product()]))
                .map(Tensor::into_dyn)
                .map_err(|err| failed(kind, size, &err))
        };
        let stages = self.stages.iter();
        let states = stages.map(|stage| stage.states.iter().map(|state| zeros(stage.kind, state)).collect());
        states.collect::<Result<_, _>>().map(Memory)
    }

    /// Whether a window of several frames may be encoded in one run. Cutting one frame out of it again is only done in
    /// host memory.
    pub(super) fn batches(&self) -> bool {
        self.memory.is_cpu_accessible() || self.stages.iter().all(|stage| stage.states.is_empty())
    }

    /// Runs the stages that need no state on a whole window: `count` padded frames, `[count, H, W, 3]`.
    pub(super) fn window(
        &mut self,
        frames: Vec<u8>,
        count: usize,
        size: Size,
        ticket: &Ticket,
    ) -> Result<(Window, Timings), Error> {
        let frames = Tensor::from_array(([count, size.height, size.width, RGB], frames))
            .map_err(|err| failed(self.stages[0].kind, size, &err))?;
        let mut window = Window { size, frames, carried: None, next: 0, count };
        let mut timings = Timings::default();
        for stage in self.stages.iter_mut().take_while(|stage| stage.states.is_empty()) {
            let begin = Instant::now();
            // The last stage's frames leave for the host, whatever memory the stages work in.
            let memory = match stage.kind {
                StageKind::Decoder => &host(size)?,
                _ => &self.memory,
            };
            let kind = stage.kind;
            window.carried = stage
                .run(ticket, |stage, binding| {
                    stage.bind_inputs(binding, window.carried.as_ref(), &window.frames, &[])?;
                    binding.bind_output_to_device(stage.output, memory)
                })
                .map_err(|err| failure(kind, size, ticket, &err))?
                .pop();
            window.next += 1;
            timings.add(kind, begin.elapsed());
        }
        if window.next == self.stages.len() {
            window.check_output(self.scale)?;
        }
        Ok((window, timings))
    }

    /// Finishes frame `index` of a window: runs the remaining stages, advances `memory`, and writes RGB
    /// `[scale H, scale W, 3]` into `out`. Without `out` it only checks that there is such a frame.
    pub(super) fn frame(
        &mut self,
        window: &Window,
        index: usize,
        memory: &mut Memory,
        mut out: Option<&mut [u8]>,
        ticket: &Ticket,
    ) -> Result<Timings, Error> {
        let size = window.size;
        let hr = size.scaled(self.scale);
        if window.next == self.stages.len() {
            let pixels = window.output(index, hr)?;
            if let Some(out) = out {
                out.copy_from_slice(pixels);
            }
            return Ok(Timings::default());
        }
        let (frame, mut handed) =
            window.frame(index).map_err(|err| failed(self.stages[window.next].kind, size, &err))?;
        let mut timings = Timings::default();
        for (stage, states) in self.stages.iter_mut().zip(&mut memory.0).skip(window.next) {
            let begin = Instant::now();
            let kind = stage.kind;
            let mut outputs = stage
                .run(ticket, |stage, binding| {
                    let handed = handed.as_ref().or(window.carried.as_ref());
                    stage.bind_inputs(binding, handed, frame.as_ref().unwrap_or(&window.frames), states)?;
                    match out.as_deref_mut() {
                        Some(out) if kind == StageKind::Decoder => {
                            let target = TensorRefMut::from_array_view_mut(([1, hr.height, hr.width, RGB], out))?;
                            binding.bind_output(stage.output, target)?;
                        }
                        _ => binding.bind_output_to_device(stage.output, &self.memory)?,
                    }
                    stage.states.iter().try_for_each(|state| binding.bind_output_to_device(&state.output, &self.memory))
                })
                .map_err(|err| failure(kind, size, ticket, &err))?;
            let new_states = outputs.split_off(1);
            for ((state, old), new) in stage.states.iter().zip(&*states).zip(&new_states) {
                same_shape(kind, size, &state.output, old.shape(), Some(new.shape()))?;
            }
            *states = new_states;
            handed = outputs.pop();
            if kind == StageKind::Decoder {
                let expected = [1, hr.height, hr.width, RGB].map(|axis| axis as i64);
                same_shape(kind, size, FRAMES_HR, &expected, handed.as_ref().map(|frames| &**frames.shape()))?;
            }
            timings.add(kind, begin.elapsed());
        }
        Ok(timings)
    }
}

impl Window {
    /// One frame of the window and what the stages made of it; `None` where the window has only this frame and its
    /// own tensors serve.
    fn frame(&self, index: usize) -> ort::Result<(Option<Tensor<u8>>, Option<DynValue>)> {
        if self.count == 1 {
            return Ok((None, None));
        }
        let frame = cut(&self.frames, index, self.count)?;
        let carried = self.carried.as_ref().map(|carried| -> ort::Result<DynValue> {
            let (shape, data) = carried.try_extract_tensor::<f32>()?;
            Ok(cut_slice(shape, data, index, self.count)?.into_dyn())
        });
        Ok((Some(frame), carried.transpose()?))
    }

    /// Output frame `index` of a model without state.
    fn output(&self, index: usize, hr: Size) -> Result<&[u8], Error> {
        let carried = self.carried.as_ref().expect("all stages ran");
        let (_, data) =
            carried.try_extract_tensor::<u8>().map_err(|err| failed(StageKind::Decoder, self.size, &err))?;
        Ok(&data[index * hr.rgb_bytes()..][..hr.rgb_bytes()])
    }

    fn check_output(&self, scale: usize) -> Result<(), Error> {
        let hr = self.size.scaled(scale);
        let expected = [self.count, hr.height, hr.width, RGB].map(|axis| axis as i64);
        let got = self.carried.as_ref().map(|carried| &**carried.shape());
        same_shape(StageKind::Decoder, self.size, FRAMES_HR, &expected, got)
    }
}

impl Loaded {
    fn new(session: Session, stage: &Stage, input: Option<&'static str>) -> Result<Self, Error> {
        let output = match stage.kind {
            StageKind::Encoder => LATENT,
            StageKind::Unet => DENOISED,
            StageKind::Decoder => FRAMES_HR,
        };
        let takes_frames = input.is_none() || session.inputs().iter().any(|input| input.name() == FRAMES);
        let loaded = Self { kind: stage.kind, session, states: stage.states.clone(), input, takes_frames, output };
        loaded.check().map_err(|detail| Error::Signature { stage: stage.kind, file: stage.file.clone(), detail })?;
        Ok(loaded)
    }

    /// Compares the graph's signature with the contract.
    fn check(&self) -> Result<(), String> {
        use Axis::{Fixed, Free};
        use TensorElementType::{Float32, Uint8};

        let pixels = [Free("T"), Free("H"), Free("W"), Fixed(RGB)];
        let latent = [Free("T"), Free("C"), Free("h"), Free("w")];
        let state = |state: &StateManifest| [Fixed(1), Fixed(state.channels), Free("h"), Free("w")];

        let mut inputs: Vec<(&str, TensorElementType, [Axis; 4])> = Vec::new();
        inputs.extend(self.input.map(|name| (name, Float32, latent)));
        inputs.extend(self.takes_frames.then_some((FRAMES, Uint8, pixels)));
        inputs.extend(self.states.iter().map(|s| (s.input.as_str(), Float32, state(s))));

        let mut outputs = vec![match self.kind {
            StageKind::Decoder => (self.output, Uint8, pixels),
            _ => (self.output, Float32, latent),
        }];
        outputs.extend(self.states.iter().map(|s| (s.output.as_str(), Float32, state(s))));

        for (side, wanted, have) in
            [("input", &inputs, self.session.inputs()), ("output", &outputs, self.session.outputs())]
        {
            let names = || have.iter().map(|outlet| outlet.name()).collect::<Vec<_>>().join(", ");
            for (name, ty, axes) in wanted {
                let outlet = have.iter().find(|outlet| outlet.name() == *name);
                let outlet = outlet.ok_or_else(|| format!("expected an {side} `{name}`, got {}", names()))?;
                if !fits(outlet.dtype(), *ty, axes) {
                    let expected = describe(*ty, axes);
                    return Err(format!("expected {side} `{name}` to be {expected}, got {}", outlet.dtype()));
                }
            }
            if let Some(other) = have.iter().find(|outlet| wanted.iter().all(|(name, ..)| *name != outlet.name())) {
                let expected = wanted.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
                return Err(format!("expected no {side} but {expected}, got `{}` as well", other.name()));
            }
        }
        Ok(())
    }

    fn bind_inputs(
        &self,
        binding: &mut IoBinding,
        handed: Option<&DynValue>,
        frames: &Tensor<u8>,
        states: &[DynValue],
    ) -> ort::Result<()> {
        if let (Some(name), Some(value)) = (self.input, handed) {
            binding.bind_input(name, value)?;
        }
        if self.takes_frames {
            binding.bind_input(FRAMES, frames)?;
        }
        self.states.iter().zip(states).try_for_each(|(state, value)| binding.bind_input(&state.input, value))
    }

    /// Runs the session on what `bind` binds; gives the stage's output, then its new states.
    fn run(
        &mut self,
        ticket: &Ticket,
        bind: impl FnOnce(&Self, &mut IoBinding) -> ort::Result<()>,
    ) -> ort::Result<Vec<DynValue>> {
        // A binding that is used again would hand out the same output memory again, while the state of the frame
        // before still lies in it.
        let mut binding = self.session.create_binding()?;
        bind(self, &mut binding)?;
        let options = Arc::new(RunOptions::new()?);
        let interrupt = Arc::clone(&options);
        let names = std::iter::once(self.output).chain(self.states.iter().map(|state| state.output.as_str()));
        let session = &mut self.session;
        let mut outputs = ticket.interruptible(
            move || drop(interrupt.terminate()),
            || session.run_binding_with_options(&binding, &options),
        )?;
        Ok(names.filter_map(|name| outputs.remove(name)).collect())
    }
}

/// Memory from which frames can be read without a copy.
fn host(size: Size) -> Result<MemoryInfo<'static>, Error> {
    Provider::Cpu.memory(0).map_err(|err| failed(StageKind::Decoder, size, &err))
}

fn cut(tensor: &Tensor<u8>, index: usize, count: usize) -> ort::Result<Tensor<u8>> {
    let (shape, data) = tensor.try_extract_tensor::<u8>()?;
    cut_slice(shape, data, index, count)
}

/// Entry `index` of `count` along the first axis, as a tensor of its own.
fn cut_slice<T>(shape: &Shape, data: &[T], index: usize, count: usize) -> ort::Result<Tensor<T>>
where
    T: ort::value::PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static,
{
    let length = data.len() / count;
    let mut shape: Vec<i64> = shape.to_vec();
    shape[0] = 1;
    Tensor::from_array((shape, data[index * length..][..length].to_vec()))
}

fn fits(have: &ValueType, wanted: TensorElementType, axes: &[Axis]) -> bool {
    let ValueType::Tensor { ty, shape, .. } = have else { return false };
    *ty == wanted
        && shape.len() == axes.len()
        && shape.iter().zip(axes).all(|(have, axis)| match axis {
            Axis::Free(_) => true,
            Axis::Fixed(wanted) => *have < 0 || *have == *wanted as i64,
        })
}

fn describe(ty: TensorElementType, axes: &[Axis]) -> String {
    let axes = axes.iter().map(|axis| match axis {
        Axis::Free(name) => (*name).to_string(),
        Axis::Fixed(size) => size.to_string(),
    });
    format!("{ty} [{}]", axes.collect::<Vec<_>>().join(", "))
}

/// Checks what a run made; the signature alone does not tell sizes.
fn same_shape(stage: StageKind, size: Size, name: &str, expected: &[i64], got: Option<&[i64]>) -> Result<(), Error> {
    if got == Some(expected) {
        return Ok(());
    }
    Err(failed(stage, size, &format!("expected `{name}` of shape {expected:?}, got {:?}", got.unwrap_or_default())))
}

fn failed(stage: StageKind, size: Size, reason: &dyn std::fmt::Display) -> Error {
    Error::Run { stage, size: format!("{}x{}", size.width, size.height), reason: reason.to_string() }
}

/// A run ended with an error: because somebody cancelled it, or by itself?
fn failure(stage: StageKind, size: Size, ticket: &Ticket, reason: &ort::Error) -> Error {
    if ticket.is_cancelled() { Error::Cancelled } else { failed(stage, size, reason) }
}
