//! Owns what a plain network takes and gives: which graphs are one, and the way from 8-bit RGB frames to the planes of floats
//! that it takes, and back. The graph itself stays as it is.
//!
//! Frames are `[T, H, W, 3]`, bytes. The network gets them as `[1, 3 T, H, W]`, or as `[1, T, 3, H, W]`, which lies in memory the
//! same way, and gives one frame, `[1, 3, S H, S W]` or `[1, 1, 3, S H, S W]`.

use half::{f16, slice::HalfFloatSliceExt};
use multiversion::multiversion;
use ort::{
    session::Session,
    value::{DynValue, Outlet, Tensor, TensorElementType, ValueType},
};

use crate::{
    frames::{RGB, Size, filled},
    model::Manifest,
};

/// A plain network.
#[derive(Debug, Clone)]
pub(super) struct Plain {
    /// Name of its output.
    pub(super) output: String,
    /// The frames that it takes at once; 0 if the graph does not say.
    pub(super) frames: usize,
    /// The only size that it takes; `None` if it takes any.
    pub(super) size: Option<Size>,
    /// Whether frames have an axis of their own.
    has_time: bool,
    /// Whether it takes, and gives, halves.
    halves: (bool, bool),
    /// White in its frames.
    white: f32,
}

impl Plain {
    /// What a graph takes and gives, as its signature says. `white` is the level of white, 1 or 255.
    ///
    /// # Errors
    /// If it is no plain network: what was expected, and what the graph has.
    pub(super) fn of(session: &Session, white: u8) -> Result<Self, String> {
        let count = |side: &str, outlets: &[Outlet]| {
            let names: Vec<_> = outlets.iter().map(Outlet::name).collect();
            format!(
                "expected one {side}, of frames, got {}: {}; other networks need a package whose graphs keep to the contract \
                 in models/README.md",
                names.len(),
                names.join(", ")
            )
        };
        let [input] = session.inputs() else { return Err(count("input", session.inputs())) };
        let [output] = session.outputs() else { return Err(count("output", session.outputs())) };
        let (half_in, shape) = floats("input", input.name(), input.dtype())?;
        let (half_out, made) = floats("output", output.name(), output.dtype())?;
        let refuse = |expected: &str| {
            let axes: Vec<_> = shape.iter().map(|axis| if *axis < 0 { "?".into() } else { axis.to_string() }).collect();
            format!("expected input `{}` to be {expected}, got [{}]", input.name(), axes.join(", "))
        };
        let (batch, frames, width, height) = match *shape {
            // Where it says nothing of channels, running it tells; a last axis of 3 is theirs.
            [batch, channels, height, width] if channels < 0 && width != 3 => (batch, 1, width, height),
            [batch, channels, height, width] if channels > 0 && channels % RGB as i64 == 0 && width != 3 => {
                (batch, channels / RGB as i64, width, height)
            }
            [batch, frames, channels, height, width] if channels < 0 || channels == RGB as i64 => {
                (batch, frames.max(0), width, height)
            }
            _ => {
                let layout =
                    "RGB in planes, [1, 3, H, W], or [1, T, 3, H, W] for several frames at once (export it so)";
                return Err(refuse(layout));
            }
        };
        if batch > 1 {
            return Err(refuse("[1, 3, H, W], one frame at a time (export it with a batch of 1, or a free one)"));
        }
        if !matches!(made.len(), 4 | 5) {
            return Err(format!("expected output `{}` to be [1, 3, S H, S W], got {} axes", output.name(), made.len()));
        }
        let size = match (usize::try_from(width), usize::try_from(height)) {
            (Ok(width), Ok(height)) => Some(Size { width, height }),
            (Err(_), Err(_)) => None,
            _ => return Err(refuse("[1, 3, H, W] with width and height both free, or both fixed")),
        };
        Ok(Self {
            output: output.name().into(),
            frames: frames as usize,
            size,
            has_time: shape.len() == 5,
            halves: (half_in, half_out),
            white: f32::from(white),
        })
    }

    /// Compares the network with its manifest.
    ///
    /// # Errors
    /// With what the manifest says and what the graph takes.
    pub(super) fn check(&self, manifest: &Manifest) -> Result<(), String> {
        let size =
            |size: Option<Size>| size.map_or("any size".into(), |size| format!("{}x{}", size.width, size.height));
        if self.size != manifest.fixed() {
            let (expected, got) = (size(manifest.fixed()), size(self.size));
            return Err(format!("expected frames of {expected}, as geometry.size says, got a graph for {got}"));
        }
        let seen = manifest.frames_seen();
        if self.frames != seen && (self.frames > 0 || !self.has_time) {
            return Err(format!(
                "expected {seen} frames at once, time.look-back + 1 + time.look-ahead, got a graph for {}",
                self.frames
            ));
        }
        Ok(())
    }

    /// The size of what the network has made.
    ///
    /// # Errors
    /// If it is not one RGB frame.
    pub(super) fn size_of(&self, made: &[i64]) -> ort::Result<Size> {
        match *made {
            [1, 3, height, width] | [1, 1, 3, height, width] => {
                Ok(Size { width: width as usize, height: height as usize })
            }
            _ => Err(ort::Error::new(format!(
                "expected `{}` to be one RGB frame, [1, 3, S H, S W], got {made:?}",
                self.output
            ))),
        }
    }

    /// Turns `frames`, bytes `[T, H, W, 3]`, into what the network takes.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn planes(&self, frames: &DynValue) -> ort::Result<DynValue> {
        let (axes, pixels) = frames.try_extract_tensor::<u8>()?;
        let size = Size { width: axes[2] as usize, height: axes[1] as usize };
        let mut planes = filled(0.0, pixels.len()).map_err(ort::Error::wrap)?;
        for (frame, planes) in pixels.chunks_exact(size.rgb_bytes()).zip(planes.chunks_exact_mut(size.rgb_bytes())) {
            let (red, rest) = planes.split_at_mut(size.width * size.height);
            let (green, blue) = rest.split_at_mut(size.width * size.height);
            split(frame, red, green, blue, f32::from(u8::MAX) / self.white);
        }
        self.tensor(axes[0] as usize, size, planes)
    }

    /// The tensor of so many frames of `size` that lie in planes of floats.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn tensor(&self, frames: usize, size: Size, planes: Vec<f32>) -> ort::Result<DynValue> {
        let axes = [frames as i64, size.height as i64, size.width as i64];
        let shape = shape_of(if self.has_time { 5 } else { 4 }, &axes);
        if !self.halves.0 {
            return Ok(Tensor::from_array((shape, planes))?.into_dyn());
        }
        let mut halves = filled(f16::ZERO, planes.len()).map_err(ort::Error::wrap)?;
        halves.convert_from_f32_slice(&planes);
        Ok(Tensor::from_array((shape, halves))?.into_dyn())
    }

    /// The planes of what the network has made, of one frame.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub(super) fn floats(&self, made: &DynValue) -> ort::Result<Vec<f32>> {
        if !self.halves.1 {
            return Ok(made.try_extract_tensor::<f32>()?.1.to_vec());
        }
        let halves = made.try_extract_tensor::<f16>()?.1;
        let mut floats = filled(0.0, halves.len()).map_err(ort::Error::wrap)?;
        halves.convert_to_f32_slice(&mut floats);
        Ok(floats)
    }

    /// Writes what the network has made, of one frame, as RGB rows without gaps.
    ///
    /// # Errors
    /// If there is no memory for it.
    ///
    /// # Panics
    /// If `target` is of another size.
    pub(super) fn write(&self, made: &DynValue, target: &mut [u8]) -> ort::Result<()> {
        let converted;
        let planes = if self.halves.1 {
            converted = self.floats(made)?;
            &converted[..]
        } else {
            made.try_extract_tensor::<f32>()?.1
        };
        assert_eq!(planes.len(), target.len());
        let (red, rest) = planes.split_at(planes.len() / RGB);
        let (green, blue) = rest.split_at(planes.len() / RGB);
        merge(target, red, green, blue, f32::from(u8::MAX) / self.white);
        Ok(())
    }
}

/// The shape of an input of so many axes for frames `[T, H, W, ...]`.
pub(super) fn shape_of(axes: usize, frames: &[i64]) -> Vec<i64> {
    let (count, height, width) = (frames[0], frames[1], frames[2]);
    if axes == 5 { vec![1, count, RGB as i64, height, width] } else { vec![1, count * RGB as i64, height, width] }
}

/// The shape of a tensor of floats, and whether they are halves.
fn floats<'a>(side: &str, name: &str, ty: &'a ValueType) -> Result<(bool, &'a [i64]), String> {
    match ty {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } => Ok((false, shape)),
        ValueType::Tensor { ty: TensorElementType::Float16, shape, .. } => Ok((true, shape)),
        _ => Err(format!("expected {side} `{name}` to be a tensor of float32 or float16, got {ty}")),
    }
}

/// Parts RGB pixels into planes, in which so many levels are 1.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn split(pixels: &[u8], red: &mut [f32], green: &mut [f32], blue: &mut [f32], levels: f32) {
    for (((pixel, red), green), blue) in pixels.chunks_exact(RGB).zip(red).zip(green).zip(blue) {
        // Divided as those do who trained the network: a product with the reciprocal differs in the last bit.
        *red = f32::from(pixel[0]) / levels;
        *green = f32::from(pixel[1]) / levels;
        *blue = f32::from(pixel[2]) / levels;
    }
}

/// Merges planes, in which so many levels are 1, into RGB pixels of the nearest levels.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn merge(pixels: &mut [u8], red: &[f32], green: &[f32], blue: &[f32], levels: f32) {
    /// Numbers from here on have no bits behind the point: what is added to it is rounded, and lies in its lowest bits. A
    /// cast, which must heed what has no place in an integer, does not become vector instructions.
    const WHOLE: f32 = 12_582_912.0;
    // What is not a number becomes 0, as `max` takes the other; `clamp` would leave it.
    #[expect(clippy::manual_clamp, reason = "it differs in what is not a number")]
    let level = |value: f32| ((value * levels).max(0.0).min(255.0) + WHOLE).to_bits() as u8;
    for (((pixel, red), green), blue) in pixels.chunks_exact_mut(RGB).zip(red).zip(green).zip(blue) {
        pixel[0] = level(*red);
        pixel[1] = level(*green);
        pixel[2] = level(*blue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_survive_the_way_there_and_back() {
        for levels in [1.0, 255.0] {
            let pixels: Vec<u8> = (0..=255).flat_map(|level| [level, 255 - level, level ^ 0x55]).collect();
            let mut planes = vec![0.0; pixels.len()];
            let (red, rest) = planes.split_at_mut(256);
            let (green, blue) = rest.split_at_mut(256);
            split(&pixels, red, green, blue, levels);
            assert_eq!((red[51], green[0]), (51.0 / levels, 255.0 / levels));
            let mut back = vec![0; pixels.len()];
            merge(&mut back, red, green, blue, levels);
            assert_eq!(back, pixels);
        }
    }

    #[test]
    fn what_is_no_level_becomes_the_nearest() {
        let mut pixel = [[0; RGB]; 3];
        let values =
            [[-0.5, 2.0, f32::NAN], [0.5 / 255.0, 1.5 / 255.0, 1.49 / 255.0], [f32::INFINITY, f32::NEG_INFINITY, 1.0]];
        for (pixel, [red, green, blue]) in pixel.iter_mut().zip(values) {
            merge(pixel, &[red], &[green], &[blue], 255.0);
        }
        // Halves go to the even level, as in Python.
        assert_eq!(pixel, [[0, 255, 0], [0, 2, 1], [255, 0, 255]]);
    }
}
