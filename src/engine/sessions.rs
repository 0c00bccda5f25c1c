//! Owns the ONNX Runtime sessions of one model and the passing of tensors from stage to stage.
//!
//! Stages without recurrent state run once per window; from the first stage with state on, they run once per frame.
//! Tensors between stages stay in the provider's memory (on a GPU: on the device); frames enter and leave as 8-bit RGB
//! in host memory.

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ort::{
    environment::Environment,
    ep::ExecutionProviderDispatch,
    memory::MemoryInfo,
    session::{
        RunOptions, Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::{DynValue, Outlet, Shape, Tensor, TensorElementType, TensorRefMut, ValueType},
};

use super::{
    Error, Precision, Provider, provider,
    state::State,
    tiles::{self, Tiling},
    worker::Ticket,
};
use crate::{
    frames::{RGB, Size},
    model::{Graph, Manifest, Package, Stage, StageKind, StateManifest},
};

const FRAMES: &str = "frames";
const FRAMES_HR: &str = "frames_hr";
const LATENT: &str = "latent";
const DENOISED: &str = "denoised";

/// The sessions of a model, in running order.
#[derive(Debug)]
pub(super) struct Sessions {
    stages: Vec<Loaded>,
    /// Where the stages work.
    memory: MemoryInfo<'static>,
    /// Where frames enter and leave, and where tiles are cut and merged.
    host: MemoryInfo<'static>,
    scale: usize,
}

/// A stage with its session.
#[derive(Debug)]
pub(super) struct Loaded {
    kind: StageKind,
    session: Session,
    pub(super) states: Vec<StateManifest>,
    /// How far the stage sees, in input pixels.
    pub(super) halo: usize,
    /// Name of what the stage before hands over; none for the first stage.
    input: Option<&'static str>,
    /// Whether the stage also sees the input frames.
    takes_frames: bool,
    output: &'static str,
}

/// What a stage gets.
pub(super) struct Inputs<'a> {
    /// RGB frames, `[T, H, W, 3]`.
    pub(super) frames: Option<&'a DynValue>,
    /// What the stage before has made.
    pub(super) handed: Option<&'a DynValue>,
    /// Recurrent state after the frame before.
    pub(super) states: &'a [&'a DynValue],
}

/// A window on its way through the stages: what the stages without state made of it.
#[derive(Debug)]
pub(super) struct Window {
    size: Size,
    frames: DynValue,
    /// Output of the last stage that ran, for all frames of the window; none if no stage ran yet.
    carried: Option<DynValue>,
    /// Index of the first stage that still has to run, frame by frame.
    next: usize,
    count: usize,
}

/// Recurrent state of one stream: the tensors of every stage that has some.
#[derive(Debug)]
pub(super) struct Memory(Vec<Vec<State>>);

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
    /// Fixed, and the graph has to say so: else a state of planes passes for one whose channels come last.
    Known(usize),
}

/// Where the sessions of a model run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) provider: Provider,
    pub(super) precision: Precision,
    pub(super) device: i32,
}

/// The free axes of a graph: for each of its inputs the names that it gives to them, empty where it gives none.
pub(super) type Axes = Vec<(String, Vec<String>)>;

impl Sessions {
    /// Makes the sessions of a package, for frames of any size, checks every signature, and runs one small frame: a
    /// provider that registers may still be unable to run, and a graph may lie about its output.
    pub(super) fn load(environment: &Environment, package: &Package, place: Place) -> Result<Self, Error> {
        let providers = provider::dispatch(place, None)?;
        let mut sessions = Self::empty(package, place)?;
        for stage in &package.stages {
            let session = session(environment, stage, place.provider, &providers, &HashMap::new())?;
            let input = sessions.stages.last().map(|before| before.output);
            sessions.stages.push(Loaded::new(session, stage, input)?);
        }
        sessions.probe(package)?;
        Ok(sessions)
    }

    /// Makes sessions for frames of the padded size `size` alone, one frame a run, and runs one through them. A provider
    /// that compiles its graphs makes faster ones of known shapes. `axes` are those of the sessions for any size;
    /// `cache` is a folder for what is compiled.
    pub(super) fn for_size(
        environment: &Environment,
        package: &Package,
        place: Place,
        axes: &[Axes],
        size: Size,
        cache: Option<&Path>,
    ) -> Result<Self, Error> {
        let providers = provider::dispatch(place, cache)?;
        let mut sessions = Self::empty(package, place)?;
        let refuse = |err: ort::Error| Error::Provider { provider: place.provider, reason: err.to_string() };
        let grey = vec![127u8; size.rgb_bytes()];
        let frames = Tensor::from_array(([1, size.height, size.width, RGB], grey)).map_err(refuse)?.into_dyn();
        let mut handed: Option<DynValue> = None;
        for (stage, axes) in package.stages.iter().zip(axes) {
            let input = sessions.stages.last().map(|before| before.output);
            let mut blanks = blank(&stage.states, size);
            let states = blanks.iter_mut().map(|state| state.whole().map(|value| &*value));
            let states = states.collect::<ort::Result<Vec<_>>>().map_err(|err| failed(stage.kind, size, &err))?;
            let inputs = Inputs { frames: Some(&frames), handed: handed.as_ref(), states: &states };
            let lengths = lengths(axes, input, &stage.states, &inputs);
            let session = session(environment, stage, place.provider, &providers, &lengths)?;
            let mut loaded = Loaded::new(session, stage, input)?;
            let ticket = Ticket::default();
            let outputs = loaded.run(&inputs, &sessions.memory, None, &ticket);
            handed = outputs.map_err(|err| failure(stage.kind, size, &ticket, &err))?.into_iter().next();
            sessions.stages.push(loaded);
        }
        Ok(sessions)
    }

    fn empty(package: &Package, place: Place) -> Result<Self, Error> {
        let refuse = |err: ort::Error| Error::Provider { provider: place.provider, reason: err.to_string() };
        let memory = place.provider.memory(place.device).map_err(refuse)?;
        let host = Provider::Cpu.memory(0).map_err(refuse)?;
        Ok(Self { stages: Vec::new(), memory, host, scale: package.manifest.geometry.scale })
    }

    /// The free axes of every graph.
    pub(super) fn axes(&self) -> Vec<Axes> {
        let names = |outlet: &Outlet| match outlet.dtype() {
            ValueType::Tensor { dimension_symbols, .. } => dimension_symbols.to_vec(),
            _ => Vec::new(),
        };
        let stages = self.stages.iter();
        stages.map(|stage| stage.session.inputs().iter().map(|i| (i.name().to_string(), names(i))).collect()).collect()
    }

    fn probe(&mut self, package: &Package) -> Result<(), Error> {
        let size = smallest(&package.manifest);
        let count = package.manifest.time.minimum;
        let window = self.window(vec![127; count * size.rgb_bytes()], count, size, None, &Ticket::default())?;
        let mut memory = self.blank(size);
        self.frame(&window.0, 0, &mut memory, None, None, &Ticket::default())?;
        Ok(())
    }

    /// Recurrent state of a stream that begins, for frames of the padded size `size`.
    pub(super) fn blank(&self, size: Size) -> Memory {
        Memory(self.stages.iter().map(|stage| blank(&stage.states, size)).collect())
    }

    /// Whether a window of several frames may be encoded in one run and cut into frames again, which is only done in
    /// host memory.
    pub(super) fn batches(&self) -> bool {
        self.memory.is_cpu_accessible()
    }

    /// Whether any stage has recurrent state.
    pub(super) fn is_recurrent(&self) -> bool {
        self.stages.iter().any(|stage| !stage.states.is_empty())
    }

    /// Runs the stages that need no state on a whole window: `count` padded frames, `[count, H, W, 3]`.
    pub(super) fn window(
        &mut self,
        frames: Vec<u8>,
        count: usize,
        size: Size,
        tiling: Option<Tiling>,
        ticket: &Ticket,
    ) -> Result<(Window, Timings), Error> {
        let frames = Tensor::from_array(([count, size.height, size.width, RGB], frames))
            .map_err(|err| failed(self.stages[0].kind, size, &err))?
            .into_dyn();
        let mut window = Window { size, frames, carried: None, next: 0, count };
        let mut timings = Timings::default();
        for stage in self.stages.iter_mut().take_while(|stage| stage.states.is_empty()) {
            let begin = Instant::now();
            let kind = stage.kind;
            let inputs = Inputs { frames: Some(&window.frames), handed: window.carried.as_ref(), states: &[] };
            let outputs = match tiling {
                Some(tiling) => tiles::run(stage, &inputs, &mut [], size, tiling, &self.host, None, ticket),
                // The last stage's frames leave for the host, whatever memory the stages work in.
                None if kind == StageKind::Decoder => stage.run(&inputs, &self.host, None, ticket),
                None => stage.run(&inputs, &self.memory, None, ticket),
            };
            window.carried = outputs.map_err(|err| failure(kind, size, ticket, &err))?.pop();
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
        tiling: Option<Tiling>,
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
        // Kept until all stages are through: a frame that fails can be tried again.
        let mut advanced = Vec::new();
        for (stage, states) in self.stages.iter_mut().zip(&mut memory.0).skip(window.next) {
            let begin = Instant::now();
            let kind = stage.kind;
            let mut inputs = Inputs {
                frames: frame.as_ref().or(Some(&window.frames)),
                handed: handed.as_ref().or(window.carried.as_ref()),
                states: &[],
            };
            let target = out.as_deref_mut().filter(|_| kind == StageKind::Decoder);
            let failure = |err: ort::Error| failure(kind, size, ticket, &err);
            let mut outputs = if let Some(tiling) = tiling {
                let mut halves =
                    states.iter_mut().map(State::halves).collect::<ort::Result<Vec<_>>>().map_err(failure)?;
                tiles::run(stage, &inputs, &mut halves, size, tiling, &self.host, target, ticket).map_err(failure)?
            } else {
                let old = states.iter_mut().map(|state| state.whole().map(|value| &*value));
                let old = old.collect::<ort::Result<Vec<_>>>().map_err(failure)?;
                inputs.states = &old;
                let outputs = stage.run(&inputs, &self.memory, target.map(|out| (out, hr)), ticket);
                let mut outputs = outputs.map_err(failure)?;
                let new_states = outputs.split_off(outputs.len() - stage.states.len());
                for ((state, old), new) in stage.states.iter().zip(&old).zip(&new_states) {
                    same_shape(kind, size, &state.output, old.shape(), Some(new.shape()))?;
                }
                advanced.push((states, new_states));
                outputs
            };
            handed = outputs.pop();
            if kind == StageKind::Decoder && out.is_none() {
                let expected = [1, hr.height, hr.width, RGB].map(|axis| axis as i64);
                same_shape(kind, size, FRAMES_HR, &expected, handed.as_ref().map(|frames| &**frames.shape()))?;
            }
            timings.add(kind, begin.elapsed());
        }
        for (states, new) in advanced {
            *states = new.into_iter().map(State::Whole).collect();
        }
        Ok(timings)
    }
}

impl Window {
    /// One frame of the window and what the stages made of it; `None` where the window has only this frame and its
    /// own tensors serve.
    fn frame(&self, index: usize) -> ort::Result<(Option<DynValue>, Option<DynValue>)> {
        if self.count == 1 {
            return Ok((None, None));
        }
        let (shape, data) = self.frames.try_extract_tensor::<u8>()?;
        let frame = cut(shape, data, index, self.count)?;
        let carried = self.carried.as_ref().map(|carried| -> ort::Result<DynValue> {
            let (shape, data) = carried.try_extract_tensor::<f32>()?;
            cut(shape, data, index, self.count)
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
        let (kind, states, halo) = (stage.kind, stage.states.clone(), stage.halo);
        let loaded = Self { kind, session, states, halo, input, takes_frames, output };
        loaded.check().map_err(|detail| Error::Signature { stage: stage.kind, file: stage.file.clone(), detail })?;
        Ok(loaded)
    }

    /// Compares the graph's signature with the contract.
    fn check(&self) -> Result<(), String> {
        use Axis::{Fixed, Free, Known};
        use TensorElementType::{Float32, Uint8};

        let pixels = [Free("T"), Free("H"), Free("W"), Fixed(RGB)];
        let latent = [Free("T"), Free("C"), Free("h"), Free("w")];
        let state = |channels| [Fixed(1), Free("h"), Free("w"), channels];

        let mut inputs: Vec<(&str, TensorElementType, [Axis; 4])> = Vec::new();
        inputs.extend(self.input.map(|name| (name, Float32, latent)));
        inputs.extend(self.takes_frames.then_some((FRAMES, Uint8, pixels)));
        inputs.extend(self.states.iter().map(|s| (s.input.as_str(), Float32, state(Known(s.channels)))));

        let mut outputs = vec![match self.kind {
            StageKind::Decoder => (self.output, Uint8, pixels),
            _ => (self.output, Float32, latent),
        }];
        outputs.extend(self.states.iter().map(|s| (s.output.as_str(), Float32, state(Fixed(s.channels)))));

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

    /// Runs the session; gives the stage's output, then its new states, in `memory`. With a `target` the output is
    /// written there instead, as RGB of the size that goes with it, and only the states are given.
    pub(super) fn run(
        &mut self,
        inputs: &Inputs,
        memory: &MemoryInfo<'static>,
        target: Option<(&mut [u8], Size)>,
        ticket: &Ticket,
    ) -> ort::Result<Vec<DynValue>> {
        // A binding that is used again would hand out the same output memory again, while the state of the frame
        // before still lies in it.
        let mut binding = self.session.create_binding()?;
        if let (Some(name), Some(value)) = (self.input, inputs.handed) {
            binding.bind_input(name, value)?;
        }
        if let (true, Some(value)) = (self.takes_frames, inputs.frames) {
            binding.bind_input(FRAMES, value)?;
        }
        for (state, value) in self.states.iter().zip(inputs.states) {
            binding.bind_input(&state.input, *value)?;
        }
        let mut names = Vec::with_capacity(1 + self.states.len());
        match target {
            Some((out, size)) => {
                let shape = [1, size.height, size.width, RGB];
                binding.bind_output(self.output, TensorRefMut::from_array_view_mut((shape, out))?)?;
            }
            None => names.push(self.output),
        }
        names.extend(self.states.iter().map(|state| state.output.as_str()));
        names.iter().try_for_each(|name| binding.bind_output_to_device(*name, memory))?;

        let options = Arc::new(RunOptions::new()?);
        let interrupt = Arc::clone(&options);
        let session = &mut self.session;
        let mut outputs = ticket.interruptible(
            move || drop(interrupt.terminate()),
            || session.run_binding_with_options(&binding, &options),
        )?;
        Ok(names.into_iter().filter_map(|name| outputs.remove(name)).collect())
    }
}

/// Size of the frames that show whether a model runs.
pub(super) fn smallest(manifest: &Manifest) -> Size {
    let side = manifest.geometry.multiple.max(16).next_multiple_of(manifest.geometry.multiple);
    Size { width: side, height: side }
}

/// Registers a provider, and does nothing with it.
pub(super) fn register(environment: &Environment, place: Place) -> Result<(), Error> {
    builder(environment, place.provider, &provider::dispatch(place, None)?).map(drop)
}

fn builder(
    environment: &Environment,
    provider: Provider,
    providers: &[ExecutionProviderDispatch],
) -> Result<SessionBuilder, Error> {
    Session::builder(environment)
        .and_then(|builder| Ok(builder.with_optimization_level(GraphOptimizationLevel::All)?))
        // Threads of a stage that has just run would spin on the cores that the next one needs: measured, the
        // three stages then take 1.6 times as long on two cores.
        .and_then(|builder| Ok(builder.with_intra_op_spinning(false)?))
        .and_then(|builder| Ok(builder.with_execution_providers(providers)?))
        .map_err(|err| Error::Provider { provider, reason: err.to_string() })
}

fn session(
    environment: &Environment,
    stage: &Stage,
    provider: Provider,
    providers: &[ExecutionProviderDispatch],
    lengths: &HashMap<&str, i64>,
) -> Result<Session, Error> {
    let mut builder = builder(environment, provider, providers)?;
    for (name, length) in lengths {
        let fixed = builder.with_dimension_override(name, *length);
        builder = fixed.map_err(|err| Error::Provider { provider, reason: err.to_string() })?;
    }
    let session = match &stage.graph {
        Graph::Bytes(bytes) => builder.commit_from_memory(bytes),
        Graph::File(path) => builder.commit_from_file(path),
    };
    session.map_err(|err| Error::Graph { stage: stage.kind, file: stage.file.clone(), reason: err.to_string() })
}

/// What the named axes of a graph measure for these inputs. A name that would need two lengths is left free.
fn lengths<'a>(
    axes: &'a Axes,
    handed: Option<&str>,
    states: &[StateManifest],
    inputs: &Inputs,
) -> HashMap<&'a str, i64> {
    let mut lengths: HashMap<&str, Option<i64>> = HashMap::new();
    for (input, names) in axes {
        let state = states.iter().position(|state| state.input == *input).map(|index| inputs.states[index]);
        let value =
            if input == FRAMES { inputs.frames } else { state.or(inputs.handed.filter(|_| handed == Some(input))) };
        for (name, length) in names.iter().zip(value.map_or(&[][..], |value| &**value.shape())) {
            let known = lengths.entry(name).or_insert(Some(*length));
            *known = known.filter(|known| known == length);
        }
    }
    lengths
        .into_iter()
        .filter(|(name, _)| !name.is_empty())
        .filter_map(|(name, length)| Some((name, length?)))
        .collect()
}

/// Zeros for the states of a stage.
fn blank(states: &[StateManifest], size: Size) -> Vec<State> {
    let zeros = |state: &StateManifest| {
        State::blank([1, size.height / state.stride, size.width / state.stride, state.channels])
    };
    states.iter().map(zeros).collect()
}

/// Entry `index` of `count` along the first axis, as a tensor of its own.
fn cut<T>(shape: &Shape, data: &[T], index: usize, count: usize) -> ort::Result<DynValue>
where
    T: ort::value::PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static,
{
    let length = data.len() / count;
    let mut shape: Vec<i64> = shape.to_vec();
    shape[0] = 1;
    Ok(Tensor::from_array((shape, data[index * length..][..length].to_vec()))?.into_dyn())
}

fn fits(have: &ValueType, wanted: TensorElementType, axes: &[Axis]) -> bool {
    let ValueType::Tensor { ty, shape, .. } = have else { return false };
    *ty == wanted
        && shape.len() == axes.len()
        && shape.iter().zip(axes).all(|(have, axis)| match axis {
            Axis::Free(_) => true,
            Axis::Fixed(wanted) => *have < 0 || *have == *wanted as i64,
            Axis::Known(wanted) => *have == *wanted as i64,
        })
}

fn describe(ty: TensorElementType, axes: &[Axis]) -> String {
    let axes = axes.iter().map(|axis| match axis {
        Axis::Free(name) => (*name).to_string(),
        Axis::Fixed(size) | Axis::Known(size) => size.to_string(),
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
    if ticket.is_cancelled() {
        return Error::Cancelled;
    }
    // The providers have no error code for it.
    let text = reason.to_string().to_lowercase();
    if ["out of memory", "allocate", "bad_alloc", "outofmemory"].iter().any(|words| text.contains(words)) {
        return Error::OutOfMemory {
            stage,
            size: format!("{}x{}", size.width, size.height),
            reason: reason.to_string(),
        };
    }
    failed(stage, size, reason)
}
