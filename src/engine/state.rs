//! Owns recurrent state between two frames: whole tensors where the stages work on whole frames, half-precision numbers
//! in host memory, advanced in place, where they work on tiles.

use half::{f16, slice::HalfFloatSliceExt};
use ort::value::{DynValue, Tensor};

/// One state tensor `[1, height, width, channels]`.
#[derive(Debug)]
pub(super) enum State {
    /// In the stages' memory.
    Whole(DynValue),
    /// In host memory, for tiles: half the size, and the new state takes the place of the old one.
    Halves(Halves),
}

/// Half-precision numbers and their shape.
#[derive(Debug)]
pub(super) struct Halves {
    pub(super) shape: Vec<i64>,
    pub(super) data: Vec<f16>,
}

impl State {
    /// Zeros.
    pub(super) fn blank(shape: [usize; 4]) -> Self {
        Self::Halves(Halves {
            shape: shape.iter().map(|axis| *axis as i64).collect(),
            data: vec![f16::ZERO; shape.iter().product()],
        })
    }

    /// For stages that work on whole frames.
    pub(super) fn whole(&mut self) -> ort::Result<&mut DynValue> {
        if let Self::Halves(Halves { shape, data }) = self {
            *self = Self::Whole(Tensor::from_array((shape.clone(), data.to_f32_vec()))?.into_dyn());
        }
        match self {
            Self::Whole(value) => Ok(value),
            Self::Halves(_) => unreachable!("it was just made whole"),
        }
    }

    /// For stages that work on tiles.
    pub(super) fn halves(&mut self) -> ort::Result<&mut Halves> {
        if let Self::Whole(value) = self {
            let (shape, values) = value.try_extract_tensor::<f32>()?;
            *self = Self::Halves(Halves { shape: shape.to_vec(), data: to_halves(values) });
        }
        match self {
            Self::Halves(halves) => Ok(halves),
            Self::Whole(_) => unreachable!("it was just halved"),
        }
    }
}

/// The numbers in half precision.
pub(super) fn to_halves(values: &[f32]) -> Vec<f16> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    halves
}
