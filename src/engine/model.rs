//! Owns a model: the stages of a package on one device, for frames of any size or of one, and the passing of tensors from
//! stage to stage.
//!
//! Tensors between stages stay in the device's memory; frames enter and leave as 8-bit RGB in host memory.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use ort::{
    environment::Environment,
    memory::MemoryInfo,
    value::{DynValue, Tensor},
};

use super::{
    device::{Device, host_memory},
    error::Error,
    stage::{AxisNames, Inputs, Stage, Target, lengths, same_shape},
    state::{RecurrentState, State},
    tiles::{self, Tiling},
    worker::Ticket,
};
use crate::{
    frames::{RGB, Size, filled, with_room},
    model::{Manifest, Package, StageKind},
};

/// The stages of a model, in running order.
#[derive(Debug)]
pub(super) struct Model {
    stages: Vec<Stage>,
    /// What they run on.
    pub(super) device: Device,
    /// Where the stages work.
    memory: MemoryInfo<'static>,
    /// Where frames enter and leave, and where tiles are cut and merged.
    host: MemoryInfo<'static>,
    scale: usize,
    /// Frames before and after a frame that a plain network sees with it.
    context: [usize; 2],
}

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

impl Model {
    /// Makes the stages of a package for frames of any size, checks every signature, and runs one small frame: a provider
    /// that registers may still be unable to run, and a graph may lie about its output.
    ///
    /// # Errors
    /// If a graph cannot be loaded or run, or does not fit its manifest.
    pub(super) fn load(
        environment: &Environment,
        device: Device,
        package: &Package,
        ticket: &Ticket,
    ) -> Result<Self, Error> {
        let mut model = Self::empty(device, package)?;
        for graph in &package.graphs {
            let before = model.stages.last();
            let stage = Stage::load(environment, device, graph, before, &HashMap::new(), None, ticket)?;
            if let Some(Err(detail)) = stage.plain.as_ref().map(|plain| plain.check(&package.manifest)) {
                return Err(Error::Signature { stage: graph.kind, file: graph.manifest.file.clone(), detail });
            }
            model.stages.push(stage);
        }
        let (size, count) = (smallest(&package.manifest), model.frames_at_once(package.manifest.time.minimum));
        let frames = grey(count, size).map_err(|err| Error::run(model.stages[0].kind, size, &err))?;
        let mut state = model.blank(size)?;
        model.run(&frames, size, &mut state, None, None, ticket)?;
        Ok(model)
    }

    /// Makes the stages for frames of the padded size `size` alone, one a run, and runs one frame through them. A provider
    /// that compiles its graphs makes faster ones of known shapes. `names` are those of the axes of the model for any size;
    /// `cache` is a folder for what is compiled; asked before each stage, `is_wanted` may end it.
    ///
    /// # Errors
    /// As [`Self::load`]; [`Error::Cancelled`] if it is not wanted.
    pub(super) fn for_size(
        environment: &Environment,
        device: Device,
        package: &Package,
        names: &[AxisNames],
        size: Size,
        cache: Option<&Path>,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Self, Error> {
        let ticket = Ticket::default();
        let mut model = Self::empty(device, package)?;
        let frames = grey(model.frames_at_once(1), size);
        let frames = frames.map_err(|err| Error::run(package.graphs[0].kind, size, &err))?;
        let mut latent: Option<DynValue> = None;
        for (graph, names) in package.graphs.iter().zip(names) {
            if !is_wanted() {
                return Err(Error::Cancelled);
            }
            let failed = |err: ort::Error| Error::run(graph.kind, size, &err);
            let before = model.stages.last();
            let mut blank =
                graph.manifest.state.iter().map(|state| State::blank(state, size)).collect::<ort::Result<Vec<_>>>();
            let states = blank.as_mut().map_err(|err| Error::run(graph.kind, size, err))?;
            let states = states.iter_mut().map(|state| state.whole().map(|value| &*value));
            let states = states.collect::<ort::Result<Vec<_>>>().map_err(failed)?;
            let inputs = Inputs { frames: &frames, latent: latent.as_ref(), states: &states };
            let lengths = lengths(names, before, &graph.manifest, &inputs);
            let mut stage = Stage::load(environment, device, graph, before, &lengths, cache, &ticket)?;
            let outputs = stage.run(&inputs, Target::Tensor(&model.memory), &model.memory, &ticket);
            latent = outputs.map_err(failed)?.into_iter().next();
            model.stages.push(stage);
        }
        Ok(model)
    }

    fn empty(device: Device, package: &Package) -> Result<Self, Error> {
        let scale = package.manifest.geometry.scale;
        let time = package.manifest.time;
        let context = if package.manifest.is_plain() { [time.look_back, time.look_ahead] } else { [0, 0] };
        Ok(Self { stages: Vec::new(), device, memory: device.memory()?, host: host_memory()?, scale, context })
    }

    /// Frames in a run where so many would be upscaled together; a plain network makes one out of those that it sees.
    fn frames_at_once(&self, together: usize) -> usize {
        self.context.iter().sum::<usize>() + together
    }

    /// The free axes of every graph.
    pub(super) fn axis_names(&self) -> Vec<AxisNames> {
        self.stages.iter().map(Stage::axis_names).collect()
    }

    /// Whether a run upscales one frame: with state, or as a plain network.
    pub(super) fn is_frame_by_frame(&self) -> bool {
        self.stages.iter().any(|stage| !stage.states.is_empty() || stage.plain.is_some())
    }

    /// Where in a window of `length` frames those are that the model sees for frame `index`: that one, unless it is a plain
    /// network that sees more, for which the window's ends are repeated.
    pub(super) fn seen(&self, index: usize, length: usize) -> impl Iterator<Item = usize> {
        let [before, after] = self.context;
        (0..=before + after).map(move |n| (index + n).saturating_sub(before).min(length - 1))
    }

    /// Recurrent state of a stream that begins, for frames of the padded size `size`.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn blank(&self, size: Size) -> Result<RecurrentState, Error> {
        RecurrentState::blank(&self.stages, size).map_err(|err| Error::run(StageKind::Decoder, size, &err))
    }

    /// Runs all stages on `frames`, `[T, H, W, 3]` of the padded size `size`; where there is recurrent state, T is 1, and of a
    /// plain network's frames one comes out. Writes RGB rows without gaps, `scale` times the size, into `target`; without one it gives them as a tensor
    /// `[T, scale H, scale W, 3]` in host memory. The state advances when all stages are through, so that a frame that fails
    /// can be tried again; in tiles it advances on the way.
    ///
    /// # Errors
    /// If a stage fails; [`Error::Cancelled`] if its user left.
    pub(super) fn run(
        &mut self,
        frames: &DynValue,
        size: Size,
        state: &mut RecurrentState,
        tiling: Option<Tiling>,
        mut target: Option<&mut [u8]>,
        ticket: &Ticket,
    ) -> Result<(Option<DynValue>, Timings), Error> {
        let size_hr = size.scaled(self.scale);
        let mut timings = Timings::default();
        let mut latent: Option<DynValue> = None;
        let mut advanced = Vec::new();
        for (stage, states) in self.stages.iter_mut().zip(&mut state.0) {
            let begin = Instant::now();
            let kind = stage.kind;
            let failed = |err: ort::Error| {
                if ticket.is_cancelled() { Error::Cancelled } else { Error::run(kind, size, &err) }
            };
            let target = target.take_if(|_| kind == StageKind::Decoder);
            let has_target = target.is_some();
            latent = if let Some(tiling) = tiling {
                let states = states.iter_mut().map(State::tiled).collect::<ort::Result<Vec<_>>>();
                let mut states = states.map_err(failed)?;
                let inputs = Inputs { frames, latent: latent.as_ref(), states: &[] };
                tiles::run(stage, &inputs, &mut states, size, tiling, &self.host, target, ticket).map_err(failed)?
            } else {
                let old = states.iter_mut().map(|state| state.whole().map(|value| &*value));
                let old = old.collect::<ort::Result<Vec<_>>>().map_err(failed)?;
                let inputs = Inputs { frames, latent: latent.as_ref(), states: &old };
                let target = match target {
                    Some(pixels) => Target::Frame(pixels, size_hr),
                    None if kind == StageKind::Decoder => Target::Tensor(&self.host),
                    None => Target::Tensor(&self.memory),
                };
                let mut outputs = stage.run(&inputs, target, &self.memory, ticket).map_err(failed)?;
                let new_states = outputs.split_off(outputs.len() - stage.states.len());
                for ((state, old), new) in stage.states.iter().zip(&old).zip(&new_states) {
                    same_shape(&state.output, old.shape(), new.shape()).map_err(failed)?;
                }
                advanced.push((states, new_states));
                outputs.pop()
            };
            if kind == StageKind::Decoder && !has_target {
                let count = if stage.plain.is_some() { 1 } else { frames.shape()[0] as usize };
                let expected = [count, size_hr.height, size_hr.width, RGB].map(|axis| axis as i64);
                let got = latent.as_ref().map_or(&[][..], |frames| &**frames.shape());
                same_shape("frames_hr", &expected, got).map_err(failed)?;
            }
            timings.add(kind, begin.elapsed());
        }
        for (states, new) in advanced {
            *states = new.into_iter().map(State::Whole).collect();
        }
        Ok((latent, timings))
    }
}

/// Frames of the padded size `size` as a tensor `[T, H, W, 3]`.
///
/// # Errors
/// If there is no memory for it.
pub(super) fn tensor<F: AsRef<[u8]>>(frames: &[F], size: Size) -> ort::Result<DynValue> {
    let mut pixels = with_room(frames.len() * size.rgb_bytes()).map_err(ort::Error::wrap)?;
    frames.iter().for_each(|frame| pixels.extend_from_slice(frame.as_ref()));
    Ok(Tensor::from_array(([frames.len(), size.height, size.width, RGB], pixels))?.into_dyn())
}

/// Size of the frames that show whether a model runs.
pub(super) fn smallest(manifest: &Manifest) -> Size {
    manifest.fixed().unwrap_or_else(|| manifest.padded(Size { width: 16, height: 16 }))
}

fn grey(count: usize, size: Size) -> ort::Result<DynValue> {
    let frame = filled(127, size.rgb_bytes()).map_err(ort::Error::wrap)?;
    tensor(&vec![frame.as_slice(); count], size)
}
