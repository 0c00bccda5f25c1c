//! Owns one stage of a model: a graph as a session, checked against the contract, and its runs.

use std::{collections::HashMap, path::Path, sync::Arc};

use ort::{
    environment::Environment,
    memory::MemoryInfo,
    session::{RunOptions, Session},
    value::{DynValue, Tensor, TensorElementType, TensorRefMut, ValueType},
};

use super::{
    device::Device,
    error::Error,
    plain::{self, Plain},
    worker::Ticket,
};
use crate::{
    frames::{RGB, Size, filled},
    model::{Graph, StageKind, StageManifest, StateManifest},
    tiling::Layout,
};

const FRAMES: &str = "frames";
const FRAMES_HR: &str = "frames_hr";
const LATENT: &str = "latent";
const DENOISED: &str = "denoised";

/// A graph that can run.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) kind: StageKind,
    pub(super) states: Vec<StateManifest>,
    /// How far the stage sees, in input pixels; `None` if nobody knows.
    pub(super) halo: Option<usize>,
    /// What the graph takes if it is a plain network, in the place of the contract's.
    pub(super) plain: Option<Plain>,
    session: Session,
    /// Name of the latent that the stage takes; none for the first stage.
    latent: Option<&'static str>,
    /// Whether the stage also sees the input frames.
    takes_frames: bool,
    output: &'static str,
}

/// What a stage gets.
pub(super) struct Inputs<'a> {
    /// RGB frames, `[T, H, W, 3]`.
    pub(super) frames: &'a DynValue,
    /// Output of the stage before.
    pub(super) latent: Option<&'a DynValue>,
    /// Recurrent state after the frame before.
    pub(super) states: &'a [&'a DynValue],
}

/// Where a stage leaves its output.
pub(super) enum Target<'a> {
    /// In a tensor in this memory.
    Tensor(&'a MemoryInfo<'static>),
    /// In the caller's memory, as one RGB frame of this size.
    Frame(&'a mut [u8], Size),
}

/// One axis of a tensor in a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    Free(&'static str),
    Fixed(usize),
    /// Fixed, and the graph has to say so: else a state of planes passes for one whose channels come last.
    Known(usize),
}

/// The free axes of a graph: for each of its inputs the names that it gives to them, empty where it gives none.
pub(super) type AxisNames = Vec<(String, Vec<String>)>;

impl Stage {
    /// Makes a stage of a graph, behind the stage `before`. The axes named in `lengths` are of that length in every run;
    /// `cache` is a folder for what is compiled.
    ///
    /// # Errors
    /// If the graph cannot be made into a session, or does not fit its manifest.
    pub(super) fn load(
        environment: &Environment,
        device: Device,
        graph: &Graph,
        before: Option<&Self>,
        lengths: &HashMap<&str, i64>,
        cache: Option<&Path>,
        ticket: &Ticket,
    ) -> Result<Self, Error> {
        let (kind, file) = (graph.kind, graph.manifest.file.clone());
        let session = device.session(environment, graph, lengths, cache, ticket).map_err(|err| {
            if ticket.is_cancelled() {
                return Error::Cancelled;
            }
            Error::Graph { stage: kind, file: file.clone(), reason: err.to_string() }
        })?;
        let latent = before.map(|stage| stage.output);
        let mut stage = Self {
            kind,
            states: graph.manifest.state.clone(),
            halo: graph.manifest.halo,
            plain: None,
            takes_frames: latent.is_none() || session.inputs().iter().any(|input| input.name() == FRAMES),
            session,
            latent,
            output: match kind {
                StageKind::Encoder => LATENT,
                StageKind::Unet => DENOISED,
                StageKind::Decoder => FRAMES_HR,
            },
        };
        let checked = match graph.manifest.range {
            Some(white) => Plain::of(&stage.session, white).map(|plain| stage.plain = Some(plain)),
            None => stage.check(),
        };
        checked.map_err(|detail| Error::Signature { stage: kind, file, detail })?;
        Ok(stage)
    }

    /// Compares the graph's signature with the contract.
    fn check(&self) -> Result<(), String> {
        use Axis::{Fixed, Free, Known};
        use TensorElementType::{Float32, Uint8};

        let pixels = [Free("T"), Free("H"), Free("W"), Fixed(RGB)];
        let latent = [Free("T"), Free("C"), Free("h"), Free("w")];
        let state = |channels| [Fixed(1), Free("h"), Free("w"), channels];

        let mut inputs: Vec<(&str, TensorElementType, [Axis; 4])> = Vec::new();
        inputs.extend(self.latent.map(|name| (name, Float32, latent)));
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

    /// The free axes of the graph.
    pub(super) fn axis_names(&self) -> AxisNames {
        let names = |ty: &ValueType| match ty {
            ValueType::Tensor { dimension_symbols, .. } => dimension_symbols.to_vec(),
            _ => Vec::new(),
        };
        self.session.inputs().iter().map(|input| (input.name().to_string(), names(input.dtype()))).collect()
    }

    /// Runs the session; gives the stage's output, unless it lies in the caller's memory, then its new states, which lie in
    /// `memory`.
    ///
    /// # Errors
    /// In ONNX Runtime's words; of no meaning if `ticket` was cancelled meanwhile.
    pub(super) fn run(
        &mut self,
        inputs: &Inputs,
        target: Target,
        memory: &MemoryInfo<'static>,
        ticket: &Ticket,
    ) -> ort::Result<Vec<DynValue>> {
        if let Some(plain) = self.plain.clone() {
            return self.run_plain(&plain, inputs.frames, target, ticket);
        }
        // A binding that is used again would hand out the same output memory again, while the state of the frame
        // before still lies in it.
        let mut binding = self.session.create_binding()?;
        if let (Some(name), Some(value)) = (self.latent, inputs.latent) {
            binding.bind_input(name, value)?;
        }
        if self.takes_frames {
            binding.bind_input(FRAMES, inputs.frames)?;
        }
        for (state, value) in self.states.iter().zip(inputs.states) {
            binding.bind_input(&state.input, *value)?;
        }
        let mut names = Vec::with_capacity(1 + self.states.len());
        match target {
            Target::Frame(pixels, size) => {
                let shape = [1, size.height, size.width, RGB];
                binding.bind_output(self.output, TensorRefMut::from_array_view_mut((shape, pixels))?)?;
            }
            Target::Tensor(memory) => {
                binding.bind_output_to_device(self.output, memory)?;
                names.push(self.output);
            }
        }
        for state in &self.states {
            binding.bind_output_to_device(&state.output, memory)?;
            names.push(&state.output);
        }

        let options = Arc::new(RunOptions::new()?);
        let session = &mut self.session;
        let mut outputs = interruptible(ticket, &options, || session.run_binding_with_options(&binding, &options))?;
        Ok(names.into_iter().filter_map(|name| outputs.remove(name)).collect())
    }

    /// Runs a plain network on the frames that it sees at once; gives the one that it makes, unless that lies in the caller's
    /// memory.
    fn run_plain(
        &mut self,
        plain: &Plain,
        frames: &DynValue,
        target: Target,
        ticket: &Ticket,
    ) -> ort::Result<Vec<DynValue>> {
        let made = self.infer(&plain.planes(frames)?, ticket)?;
        let size = plain.size_of(made.shape())?;
        match target {
            Target::Frame(pixels, wanted) => {
                let axes = |size: Size| [size.height as i64, size.width as i64];
                same_shape(&plain.output, &axes(wanted), &axes(size))?;
                plain.write(&made, pixels)?;
                Ok(Vec::new())
            }
            Target::Tensor(_) => {
                let mut pixels = filled(0, size.rgb_bytes()).map_err(ort::Error::wrap)?;
                plain.write(&made, &mut pixels)?;
                Ok(vec![Tensor::from_array(([1, size.height, size.width, RGB], pixels))?.into_dyn()])
            }
        }
    }

    /// Runs a plain network on what it takes; gives what it makes, in host memory.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(super) fn infer(&mut self, planes: &DynValue, ticket: &Ticket) -> ort::Result<DynValue> {
        let options = Arc::new(RunOptions::new()?);
        let session = &mut self.session;
        let inputs = ort::inputs![planes.view()];
        let outputs = interruptible(ticket, &options, || session.run_with_options(inputs, &options))?;
        Ok(outputs.into_iter().next().expect("a plain network has an output").1)
    }
}

/// Makes a run with `options`, which ends early if `ticket` is cancelled.
fn interruptible<T>(ticket: &Ticket, options: &Arc<RunOptions>, run: impl FnOnce() -> T) -> T {
    let options = Arc::clone(options);
    ticket.interruptible(move || drop(options.terminate()), run)
}

/// What the named axes of a graph measure for these inputs, which go to the stage behind `before`, or to a plain network. A
/// name that would need two lengths is left free.
pub(super) fn lengths<'a>(
    names: &'a AxisNames,
    before: Option<&Stage>,
    StageManifest { state: states, range, .. }: &StageManifest,
    inputs: &Inputs,
) -> HashMap<&'a str, i64> {
    let latent = before.map(|stage| stage.output);
    let mut lengths: HashMap<&str, Option<i64>> = HashMap::new();
    for (input, names) in names {
        let state = states.iter().position(|state| state.input == *input).map(|index| inputs.states[index]);
        let value = match input.as_str() {
            FRAMES => Some(inputs.frames),
            name if latent == Some(name) => inputs.latent,
            _ => state,
        };
        let shape = match range {
            Some(_) => plain::shape_of(names.len(), inputs.frames.shape()),
            None => value.map_or(Vec::new(), |value| value.shape().to_vec()),
        };
        for (name, length) in names.iter().zip(&shape) {
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

/// Checks the shape of what a run made; the signature alone does not tell sizes.
///
/// # Errors
/// With both shapes.
pub(super) fn same_shape(name: &str, expected: &[i64], got: &[i64]) -> ort::Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(ort::Error::new(format!("expected `{name}` of shape {expected:?}, got {got:?}")))
}

/// Where a tensor's channels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    /// `[T, C, h, w]`: the latents between stages.
    First,
    /// `[T, h, w, C]`: frames and states.
    Last,
}

impl Channels {
    /// In a stage's output: frames are bytes, latents are numbers.
    pub(super) fn of(value: &DynValue) -> Self {
        if *value.data_type() == TensorElementType::Uint8 { Self::Last } else { Self::First }
    }

    /// Index of the axis of rows; that of columns is the next.
    fn rows(self) -> usize {
        match self {
            Self::First => 2,
            Self::Last => 1,
        }
    }

    /// `shape`, which covers `from`, if it covered `to`.
    pub(super) fn resized(self, shape: &[i64], from: Size, to: Size) -> Vec<i64> {
        let rows = self.rows();
        let mut shape = shape.to_vec();
        shape[rows] = shape[rows] * to.height as i64 / from.height as i64;
        shape[rows + 1] = shape[rows + 1] * to.width as i64 / from.width as i64;
        shape
    }

    /// How a tensor of `shape` that covers `size` input pixels lies in memory.
    pub(super) fn layout(self, shape: &[i64], size: Size) -> Layout {
        let axis = |index: usize| shape[index] as usize;
        let (outer, inner) = match self {
            Self::First => (axis(0) * axis(1), 1),
            Self::Last => (axis(0), axis(3)),
        };
        let cells = axis(self.rows() + 1);
        let (stride, scale) = if cells < size.width { (size.width / cells, 1) } else { (1, cells / size.width) };
        Layout { outer, inner, stride, scale }
    }
}
