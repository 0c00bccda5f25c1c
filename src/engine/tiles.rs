//! Owns the running of a stage tile by tile, on frames that would need too much memory in one piece.

use std::collections::VecDeque;

use half::f16;
use ort::{
    memory::MemoryInfo,
    value::{DynValue, Tensor, TensorElementType},
};

use super::{
    stage::{Channels, Inputs, Stage, Target, same_shape},
    state::{Tiled, tensor, to_halves},
    worker::Ticket,
};
use crate::{
    frames::{Size, filled},
    tiling::{Rect, Tile, split, split_fixed},
};

/// How frames are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tiling {
    /// As a limit of memory demands.
    Limited {
        /// Largest side of a tile's core, in pixels of the padded input frame.
        side: usize,
        /// All edges are multiples of this.
        multiple: usize,
    },
    /// Into tiles of this very size, halo included, the only one that the graph takes.
    Fixed(Size),
}

impl Tiling {
    /// The largest side of a tile, without its halo where it has one around it.
    pub(super) fn side(self) -> usize {
        match self {
            Self::Limited { side, .. } => side,
            Self::Fixed(size) => size.width.max(size.height),
        }
    }

    /// The tiles of a frame of `size` for a stage.
    fn split(self, size: Size, stage: &Stage) -> Vec<Tile> {
        match self {
            Self::Limited { side, multiple } => split(size, side, stage.halo.unwrap_or(0), multiple),
            Self::Fixed(tile) => split_fixed(size, tile, stage.halo.unwrap_or(usize::MAX)),
        }
    }
}

/// Where an output of the stage is put together.
enum Merged<'a> {
    /// What the next stage's tiles read: half the size, as with the state.
    Latent(Vec<f16>),
    Frames(Vec<u8>),
    /// Memory that the caller gave.
    Target(&'a mut [u8]),
}

/// Runs a stage on frames of `size`, as [`Stage::run`] does, but on one tile after the other. All tensors, in and out,
/// are in `host` memory, those for the next stage in half precision. The state is advanced in place: a tile's new state
/// waits until no later tile reads the old one. Gives the output, unless `target` takes it.
///
/// # Errors
/// As [`Stage::run`]; the state may have been advanced in part.
#[expect(clippy::too_many_arguments, reason = "what a run needs, and nothing that belongs together")]
pub(super) fn run(
    stage: &mut Stage,
    inputs: &Inputs,
    states: &mut [&mut Tiled],
    size: Size,
    tiling: Tiling,
    host: &MemoryInfo<'static>,
    target: Option<&mut [u8]>,
    ticket: &Ticket,
) -> ort::Result<Option<DynValue>> {
    let mut output: Option<(Merged, Vec<i64>)> = target.map(|target| (Merged::Target(target), Vec::new()));
    let tiles = tiling.split(size, stage);
    let mut waiting: VecDeque<(Tile, Vec<Vec<f16>>)> = VecDeque::new();
    for (number, tile) in tiles.iter().enumerate() {
        let frames = crop(inputs.frames, size, tile.input)?;
        let latent = inputs.latent.map(|latent| crop(latent, size, tile.input)).transpose()?;
        let old = states.iter().map(|state| state.crop(size, tile.input)).collect::<ort::Result<Vec<_>>>()?;
        let old: Vec<&DynValue> = old.iter().collect();
        let part = Inputs { frames: &frames, latent: latent.as_ref(), states: &old };
        let mut outputs = stage.run(&part, Target::Tensor(host), host, ticket)?;
        let new_states = outputs.split_off(outputs.len() - old.len());
        for ((manifest, old), new) in stage.states.iter().zip(&old).zip(&new_states) {
            same_shape(&manifest.output, old.shape(), new.shape())?;
        }
        if let Some(made) = outputs.pop() {
            let channels = Channels::of(&made);
            let layout = channels.layout(made.shape(), tile.input.size);
            if output.is_none() {
                let values = layout.values(size);
                let merged = match channels {
                    Channels::Last => filled(0, values).map(Merged::Frames),
                    Channels::First => filled(f16::ZERO, values).map(Merged::Latent),
                };
                let shape = channels.resized(made.shape(), tile.input.size, size);
                output = Some((merged.map_err(ort::Error::wrap)?, shape));
            }
            match output.as_mut().map(|(merged, _)| merged).expect("it was just made") {
                Merged::Latent(values) => {
                    layout.paste(&to_halves(made.try_extract_tensor::<f32>()?.1)?, *tile, values, size);
                }
                Merged::Frames(pixels) => layout.paste(made.try_extract_tensor::<u8>()?.1, *tile, pixels, size),
                Merged::Target(pixels) => layout.paste(made.try_extract_tensor::<u8>()?.1, *tile, pixels, size),
            }
        }
        if !states.is_empty() {
            // The core alone, so that what waits is no more than the frame's own.
            let inside = Rect { x: tile.core.x - tile.input.x, y: tile.core.y - tile.input.y, size: tile.core.size };
            let core = |new: &DynValue| {
                let layout = Channels::Last.layout(new.shape(), tile.input.size);
                let core = layout.crop(new.try_extract_tensor::<f32>()?.1, tile.input.size, inside);
                to_halves(&core.map_err(ort::Error::wrap)?)
            };
            waiting.push_back((*tile, new_states.iter().map(core).collect::<ort::Result<_>>()?));
        }
        let unread = |old: &Tile| tiles[number + 1..].iter().all(|later| !later.input.overlaps(old.core));
        while waiting.front().is_some_and(|(old, _)| unread(old)) {
            let (old, new) = waiting.pop_front().expect("it was just seen");
            states.iter_mut().zip(&new).for_each(|(state, new)| state.paste(new, old.core, size));
        }
    }
    Ok(match output {
        Some((Merged::Latent(values), shape)) => Some(Tensor::from_array((shape, values))?.into_dyn()),
        Some((Merged::Frames(pixels), shape)) => Some(Tensor::from_array((shape, pixels))?.into_dyn()),
        Some((Merged::Target(_), _)) | None => None,
    })
}

/// The part of a tensor, which covers `size`, that covers `rect`.
fn crop(value: &DynValue, size: Size, rect: Rect) -> ort::Result<DynValue> {
    let channels = Channels::of(value);
    let (layout, shape) = (channels.layout(value.shape(), size), channels.resized(value.shape(), size, rect.size));
    match value.data_type() {
        TensorElementType::Uint8 => {
            let part = layout.crop(value.try_extract_tensor::<u8>()?.1, size, rect).map_err(ort::Error::wrap)?;
            Ok(Tensor::from_array((shape, part))?.into_dyn())
        }
        _ => {
            let part = layout.crop(value.try_extract_tensor::<f16>()?.1, size, rect).map_err(ort::Error::wrap)?;
            tensor(shape, &part)
        }
    }
}
