//! Owns recurrent state between two frames: whole tensors where the stages work on whole frames, half-precision numbers
//! in host memory, advanced in place, where they work on tiles.

use half::{f16, slice::HalfFloatSliceExt};
use ort::value::{DynValue, Tensor};

use super::stage::{Channels, Stage};
use crate::{
    frames::{Size, filled},
    tiling::{Rect, Tile},
};

/// The recurrent state of one stream: for every stage its tensors.
#[derive(Debug)]
pub(super) struct RecurrentState(pub(super) Vec<Vec<State>>);

/// One state tensor `[1, height, width, channels]`.
#[derive(Debug)]
pub(super) enum State {
    /// In the stages' memory, for whole frames.
    Whole(DynValue),
    /// In host memory, for tiles: half the size, and the new state takes the place of the old one.
    Tiled(Tiled),
}

/// Half-precision numbers and their shape.
#[derive(Debug)]
pub(super) struct Tiled {
    shape: Vec<i64>,
    values: Vec<f16>,
}

impl RecurrentState {
    /// Zeros, for a stream of frames of the padded size `size` that begins.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn blank(stages: &[Stage], size: Size) -> ort::Result<Self> {
        let blank = |stage: &Stage| stage.states.iter().map(|state| State::blank(state, size)).collect();
        Ok(Self(stages.iter().map(blank).collect::<ort::Result<_>>()?))
    }
}

impl State {
    /// Zeros for frames of `size`.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn blank(state: &crate::model::StateManifest, size: Size) -> ort::Result<Self> {
        let shape = [1, size.height / state.stride, size.width / state.stride, state.channels];
        let values = filled(f16::ZERO, shape.iter().product()).map_err(ort::Error::wrap)?;
        Ok(Self::Tiled(Tiled { shape: shape.iter().map(|axis| *axis as i64).collect(), values }))
    }

    /// For stages that work on whole frames.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn whole(&mut self) -> ort::Result<&mut DynValue> {
        if let Self::Tiled(Tiled { shape, values }) = self {
            *self = Self::Whole(tensor(shape.clone(), values)?);
        }
        match self {
            Self::Whole(value) => Ok(value),
            Self::Tiled(_) => unreachable!("it was just made whole"),
        }
    }

    /// For stages that work on tiles.
    ///
    /// # Errors
    /// If there is no memory for it, or the state is not in host memory.
    pub(super) fn tiled(&mut self) -> ort::Result<&mut Tiled> {
        if let Self::Whole(value) = self {
            let (shape, values) = value.try_extract_tensor::<f32>()?;
            *self = Self::Tiled(Tiled { shape: shape.to_vec(), values: to_halves(values)? });
        }
        match self {
            Self::Tiled(tiled) => Ok(tiled),
            Self::Whole(_) => unreachable!("it was just made tiled"),
        }
    }
}

impl Tiled {
    /// The part that covers `rect` of a frame of `size`, for a run.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn crop(&self, size: Size, rect: Rect) -> ort::Result<DynValue> {
        let layout = Channels::Last.layout(&self.shape, size);
        let part = layout.crop(&self.values, size, rect).map_err(ort::Error::wrap)?;
        tensor(Channels::Last.resized(&self.shape, size, rect.size), &part)
    }

    /// Writes the part that covers `rect`.
    pub(super) fn paste(&mut self, part: &[f16], rect: Rect, size: Size) {
        let layout = Channels::Last.layout(&self.shape, size);
        layout.paste(part, Tile { input: rect, core: rect }, &mut self.values, size);
    }
}

/// A tensor in single precision.
///
/// # Errors
/// If there is no memory for it.
pub(super) fn tensor(shape: Vec<i64>, values: &[f16]) -> ort::Result<DynValue> {
    let mut single = filled(0.0, values.len()).map_err(ort::Error::wrap)?;
    values.convert_to_f32_slice(&mut single);
    Ok(Tensor::from_array((shape, single))?.into_dyn())
}

/// The numbers in half precision.
///
/// # Errors
/// If there is no memory for them.
pub(super) fn to_halves(values: &[f32]) -> ort::Result<Vec<f16>> {
    let mut halves = filled(f16::ZERO, values.len()).map_err(ort::Error::wrap)?;
    halves.convert_from_f32_slice(values);
    Ok(halves)
}
