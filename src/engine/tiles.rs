//! Owns the running of a stage tile by tile, on frames that would need too much memory in one piece.

use ort::{
    memory::MemoryInfo,
    value::{DynValue, Tensor, TensorElementType},
};

use super::{
    sessions::{Inputs, Loaded},
    worker::Ticket,
};
use crate::{
    frames::Size,
    tiling::{Layout, Rect, split},
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
    Floats(Vec<f32>),
    Bytes(Vec<u8>),
    /// Memory that the caller gave.
    Given(&'a mut [u8]),
}

/// Runs a stage on frames of `size`, as [`Loaded::run`] does, but on one tile after the other. All tensors, in and out,
/// are in host memory.
pub(super) fn run(
    stage: &mut Loaded,
    inputs: &Inputs,
    size: Size,
    tiling: Tiling,
    host: &MemoryInfo<'static>,
    target: Option<&mut [u8]>,
    ticket: &Ticket,
) -> ort::Result<Vec<DynValue>> {
    let has_target = target.is_some();
    let mut shapes: Vec<Vec<i64>> = Vec::new();
    let mut merged: Vec<Merged> = target.into_iter().map(Merged::Given).collect();
    for tile in split(size, tiling.side, stage.halo, tiling.multiple) {
        let crop = |value: &DynValue| crop(value, size, tile.input);
        let frames = inputs.frames.map(crop).transpose()?;
        let handed = inputs.handed.map(crop).transpose()?;
        let states = inputs.states.iter().map(crop).collect::<ort::Result<Vec<_>>>()?;
        let part = Inputs { frames: frames.as_ref(), handed: handed.as_ref(), states: &states };
        for (index, output) in stage.run(&part, host, None, ticket)?.iter().enumerate() {
            let layout = layout(output, tile.input.size);
            if shapes.len() == index {
                shapes.push(resized(output, tile.input.size, size));
            }
            if merged.len() == index {
                merged.push(match is_packed(output) {
                    true => Merged::Bytes(vec![0; layout.values(size)]),
                    false => Merged::Floats(vec![0.0; layout.values(size)]),
                });
            }
            match &mut merged[index] {
                Merged::Floats(tensor) => layout.paste(output.try_extract_tensor::<f32>()?.1, tile, tensor, size),
                Merged::Bytes(tensor) => layout.paste(output.try_extract_tensor::<u8>()?.1, tile, tensor, size),
                Merged::Given(tensor) => layout.paste(output.try_extract_tensor::<u8>()?.1, tile, tensor, size),
            }
        }
    }
    let tensors = merged.into_iter().zip(shapes).skip(usize::from(has_target));
    tensors
        .map(|(merged, shape)| match merged {
            Merged::Floats(tensor) => Ok(Tensor::from_array((shape, tensor))?.into_dyn()),
            Merged::Bytes(tensor) => Ok(Tensor::from_array((shape, tensor))?.into_dyn()),
            Merged::Given(_) => unreachable!("only the first is given"),
        })
        .collect()
}

/// The part of a tensor, which covers `size`, that covers `rect`.
fn crop(value: &DynValue, size: Size, rect: Rect) -> ort::Result<DynValue> {
    let (layout, shape) = (layout(value, size), resized(value, size, rect.size));
    Ok(if is_packed(value) {
        Tensor::from_array((shape, layout.crop(value.try_extract_tensor::<u8>()?.1, size, rect)))?.into_dyn()
    } else {
        Tensor::from_array((shape, layout.crop(value.try_extract_tensor::<f32>()?.1, size, rect)))?.into_dyn()
    })
}

/// Frames are packed bytes `[T, H, W, 3]`, all else is planes of floats `[T, C, h, w]`.
fn is_packed(value: &DynValue) -> bool {
    *value.data_type() == TensorElementType::Uint8
}

/// Index of the axis of rows; that of columns is the next.
fn rows_axis(value: &DynValue) -> usize {
    if is_packed(value) { 1 } else { 2 }
}

/// The shape of a tensor that covers `from`, if it covered `to`.
fn resized(value: &DynValue, from: Size, to: Size) -> Vec<i64> {
    let rows = rows_axis(value);
    let mut shape = value.shape().to_vec();
    shape[rows] = shape[rows] * to.height as i64 / from.height as i64;
    shape[rows + 1] = shape[rows + 1] * to.width as i64 / from.width as i64;
    shape
}

/// How a tensor that covers `size` input pixels lies in memory.
fn layout(value: &DynValue, size: Size) -> Layout {
    let shape: Vec<usize> = value.shape().iter().map(|axis| *axis as usize).collect();
    let (outer, inner) = if is_packed(value) { (shape[0], shape[3]) } else { (shape[0] * shape[1], 1) };
    let cells = shape[rows_axis(value) + 1];
    let (stride, scale) = if cells < size.width { (size.width / cells, 1) } else { (1, cells / size.width) };
    Layout { outer, inner, stride, scale }
}
