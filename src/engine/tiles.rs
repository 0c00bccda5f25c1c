//! Owns the running of a stage tile by tile, on frames that would need too much memory in one piece.

use std::collections::VecDeque;

use half::{f16, slice::HalfFloatSliceExt};
use ort::{
    memory::MemoryInfo,
    value::{DynValue, Tensor, TensorElementType},
};

use super::{
    sessions::{Inputs, Loaded},
    state::{Halves, to_halves},
    worker::Ticket,
};
use crate::{
    frames::Size,
    tiling::{Layout, Rect, Tile, split},
};

/// How frames are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Largest side of a tile's core, in pixels of the padded input frame.
    pub(super) side: usize,
    /// All edges are multiples of this.
    pub(super) multiple: usize,
}

/// Where an output of the stage is put together.
enum Merged<'a> {
    /// What the next stage's tiles read: half the size, as with the state.
    Halves(Vec<f16>),
    Bytes(Vec<u8>),
    /// Memory that the caller gave.
    Given(&'a mut [u8]),
}

/// Runs a stage on frames of `size`, as [`Loaded::run`] does, but on one tile after the other. All tensors, in and out,
/// are in host memory, those for the next stage in half precision. The state is advanced in place: a tile's new state
/// waits until no later tile reads the old one.
#[expect(clippy::too_many_arguments, reason = "what a run needs, and nothing that belongs together")]
pub(super) fn run(
    stage: &mut Loaded,
    inputs: &Inputs,
    states: &mut [&mut Halves],
    size: Size,
    tiling: Tiling,
    host: &MemoryInfo<'static>,
    target: Option<&mut [u8]>,
    ticket: &Ticket,
) -> ort::Result<Vec<DynValue>> {
    let has_target = target.is_some();
    let mut output: Option<(Merged, Vec<i64>)> = target.map(|target| (Merged::Given(target), Vec::new()));
    let tiles = split(size, tiling.side, stage.halo, tiling.multiple);
    let mut waiting: VecDeque<(Tile, Vec<Vec<f16>>)> = VecDeque::new();
    for (number, tile) in tiles.iter().enumerate() {
        let crop = |value: &DynValue| crop(value, size, tile.input);
        let frames = inputs.frames.map(crop).transpose()?;
        let handed = inputs.handed.map(crop).transpose()?;
        let old = states.iter().map(|state| state.crop(size, tile.input)).collect::<ort::Result<Vec<_>>>()?;
        let old: Vec<&DynValue> = old.iter().collect();
        let part = Inputs { frames: frames.as_ref(), handed: handed.as_ref(), states: &old };
        let mut outputs = stage.run(&part, host, None, ticket)?;
        let new_states = outputs.split_off(outputs.len() - old.len());
        for ((manifest, old), new) in stage.states.iter().zip(&old).zip(&new_states) {
            if old.shape() != new.shape() {
                let (name, expected, got) = (&manifest.output, old.shape(), new.shape());
                return Err(ort::Error::new(format!("expected `{name}` of shape {expected:?}, got {got:?}")));
            }
        }
        if let Some(made) = outputs.pop() {
            let order = Order::of(&made);
            let layout = order.layout(made.shape(), tile.input.size);
            let (merged, _) = output.get_or_insert_with(|| {
                let merged = match order {
                    Order::Packed => Merged::Bytes(vec![0; layout.values(size)]),
                    Order::Planes => Merged::Halves(vec![f16::ZERO; layout.values(size)]),
                };
                (merged, order.resized(made.shape(), tile.input.size, size))
            });
            match merged {
                Merged::Halves(tensor) => {
                    layout.paste(&to_halves(made.try_extract_tensor::<f32>()?.1), *tile, tensor, size);
                }
                Merged::Bytes(tensor) => layout.paste(made.try_extract_tensor::<u8>()?.1, *tile, tensor, size),
                Merged::Given(tensor) => layout.paste(made.try_extract_tensor::<u8>()?.1, *tile, tensor, size),
            }
        }
        if !states.is_empty() {
            // The core alone, so that what waits is no more than the frame's own.
            let inside = Rect { x: tile.core.x - tile.input.x, y: tile.core.y - tile.input.y, size: tile.core.size };
            let core = |new: &DynValue| -> ort::Result<Vec<f16>> {
                let layout = Order::Packed.layout(new.shape(), tile.input.size);
                Ok(to_halves(&layout.crop(new.try_extract_tensor::<f32>()?.1, tile.input.size, inside)))
            };
            waiting.push_back((*tile, new_states.iter().map(core).collect::<ort::Result<_>>()?));
        }
        let unread = |old: &Tile| tiles[number + 1..].iter().all(|later| !later.input.overlaps(old.core));
        while waiting.front().is_some_and(|(old, _)| unread(old)) {
            let (old, new) = waiting.pop_front().expect("it was just seen");
            states.iter_mut().zip(&new).for_each(|(state, new)| state.paste(new, old.core, size));
        }
    }
    if has_target {
        return Ok(Vec::new());
    }
    output
        .map(|(merged, shape)| match merged {
            Merged::Halves(tensor) => Ok(Tensor::from_array((shape, tensor))?.into_dyn()),
            Merged::Bytes(tensor) => Ok(Tensor::from_array((shape, tensor))?.into_dyn()),
            Merged::Given(_) => unreachable!("there is no target"),
        })
        .into_iter()
        .collect()
}

impl Halves {
    /// The part that covers `rect`, for a run.
    fn crop(&self, size: Size, rect: Rect) -> ort::Result<DynValue> {
        let layout = Order::Packed.layout(&self.shape, size);
        let shape = Order::Packed.resized(&self.shape, size, rect.size);
        Ok(Tensor::from_array((shape, layout.crop(&self.data, size, rect).to_f32_vec()))?.into_dyn())
    }

    /// Writes the part that covers `rect`.
    fn paste(&mut self, part: &[f16], rect: Rect, size: Size) {
        let layout = Order::Packed.layout(&self.shape, size);
        layout.paste(part, Tile { input: rect, core: rect }, &mut self.data, size);
    }
}

/// The part of a tensor, which covers `size`, that covers `rect`.
fn crop(value: &DynValue, size: Size, rect: Rect) -> ort::Result<DynValue> {
    let order = Order::of(value);
    let (layout, shape) = (order.layout(value.shape(), size), order.resized(value.shape(), size, rect.size));
    Ok(match value.data_type() {
        TensorElementType::Uint8 => {
            Tensor::from_array((shape, layout.crop(value.try_extract_tensor::<u8>()?.1, size, rect)))?.into_dyn()
        }
        TensorElementType::Float16 => {
            let halves = layout.crop(value.try_extract_tensor::<f16>()?.1, size, rect);
            Tensor::from_array((shape, halves.to_f32_vec()))?.into_dyn()
        }
        _ => Tensor::from_array((shape, layout.crop(value.try_extract_tensor::<f32>()?.1, size, rect)))?.into_dyn(),
    })
}

/// The order of a tensor's axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// `[T, h, w, C]`: frames and states.
    Packed,
    /// `[T, C, h, w]`: what one stage hands to the next.
    Planes,
}

impl Order {
    /// That of frames, which are bytes, and of what stages hand on, which are numbers.
    fn of(value: &DynValue) -> Self {
        if *value.data_type() == TensorElementType::Uint8 { Self::Packed } else { Self::Planes }
    }

    /// Index of the axis of rows; that of columns is the next.
    fn rows(self) -> usize {
        match self {
            Self::Packed => 1,
            Self::Planes => 2,
        }
    }

    /// `shape`, which covers `from`, if it covered `to`.
    fn resized(self, shape: &[i64], from: Size, to: Size) -> Vec<i64> {
        let rows = self.rows();
        let mut shape = shape.to_vec();
        shape[rows] = shape[rows] * to.height as i64 / from.height as i64;
        shape[rows + 1] = shape[rows + 1] * to.width as i64 / from.width as i64;
        shape
    }

    /// How a tensor of `shape` that covers `size` input pixels lies in memory.
    fn layout(self, shape: &[i64], size: Size) -> Layout {
        let axis = |index: usize| shape[index] as usize;
        let (outer, inner) = match self {
            Self::Packed => (axis(0), axis(3)),
            Self::Planes => (axis(0) * axis(1), 1),
        };
        let cells = axis(self.rows() + 1);
        let (stride, scale) = if cells < size.width { (size.width / cells, 1) } else { (1, cells / size.width) };
        Layout { outer, inner, stride, scale }
    }
}
