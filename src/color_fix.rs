//! Owns the return of upscaled frames to the colours of their inputs, for models that drift. Sees RGB rows; no
//! GStreamer, no ONNX Runtime.
//!
//! Both ways are StableSR's ([arXiv 2305.07015](https://arxiv.org/abs/2305.07015)). Where it compares the output with
//! the enlarged input, here the output's mean over each pixel of the input is compared with that pixel: what the model
//! has added below the size of a pixel is in neither, and must not be counted as drift.

use crate::frames::{RGB, Size};

/// How an upscaled frame gets the colours of its input.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstFastVsrColorFix")]
pub enum ColorFix {
    /// Not at all.
    #[default]
    #[enum_value(name = "None: colours as the model makes them", nick = "none")]
    None,
    /// One gain and one offset for each channel of a frame.
    #[enum_value(name = "Mean: mean and contrast of each channel as in the input", nick = "mean")]
    Mean,
    /// A smooth offset for each channel of each pixel.
    #[enum_value(name = "Wavelet: low frequencies as in the input", nick = "wavelet")]
    Wavelet,
}

/// Variance in squared levels that is as good as none, so that noise of flat frames sets no gain.
const FLAT: f64 = 1.0;

/// Widest step of the smoothing, in pixels of the output: five levels of an à-trous wavelet.
const WIDEST: usize = 16;

impl ColorFix {
    /// Bytes that [`Self::apply`] takes for a frame of `size`, beside the frame.
    pub fn bytes(self, size: Size) -> usize {
        let planes = if self == Self::None { 0 } else { 4 };
        planes * size.rgb_bytes() * size_of::<f32>()
    }

    /// Corrects `output`, a frame of `size` times `scale`, by its input. Both are rows of RGB; strides are in bytes.
    ///
    /// # Panics
    /// If one has fewer rows, or shorter ones, than its frame.
    pub fn apply(
        self,
        input: &[u8],
        input_stride: usize,
        output: &mut [u8],
        output_stride: usize,
        size: Size,
        scale: usize,
    ) {
        if self == Self::None {
            return;
        }
        let input: Vec<f32> = input
            .chunks(input_stride)
            .take(size.height)
            .flat_map(|row| &row[..size.rgb_stride()])
            .map(|v| f32::from(*v))
            .collect();
        let output = output.chunks_mut(output_stride).take(size.height * scale);
        let mut rows: Vec<&mut [u8]> = output.map(|row| &mut row[..size.rgb_stride() * scale]).collect();
        let reduced = reduce(&rows, size, scale);
        match self {
            Self::None => {}
            Self::Mean => match_means(&input, &reduced, &mut rows),
            Self::Wavelet => {
                let mut error: Vec<f32> = input.iter().zip(&reduced).map(|(input, output)| input - output).collect();
                let steps = (0..).map(|level| 1 << level).take_while(|step| step * scale <= WIDEST);
                steps.for_each(|step| smooth(&mut error, size, step));
                add_enlarged(&error, &mut rows, size, scale);
            }
        }
    }
}

/// Means over squares of `scale` pixels.
fn reduce(rows: &[&mut [u8]], size: Size, scale: usize) -> Vec<f32> {
    let mut reduced = Vec::with_capacity(size.rgb_bytes());
    let mut sums = vec![0u32; size.rgb_stride()];
    for rows in rows.chunks(scale) {
        sums.fill(0);
        for row in rows {
            for (sums, square) in sums.chunks_exact_mut(RGB).zip(row.chunks_exact(RGB * scale)) {
                for pixel in square.chunks_exact(RGB) {
                    sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += u32::from(*value));
                }
            }
        }
        reduced.extend(sums.iter().map(|sum| *sum as f32 / (scale * scale) as f32));
    }
    reduced
}

/// Gives each channel of `rows`, whose reduced form is `reduced`, mean and standard deviation of `input`.
fn match_means(input: &[f32], reduced: &[f32], rows: &mut [&mut [u8]]) {
    let curves: [[u8; 256]; RGB] = std::array::from_fn(|channel| {
        let (wanted, wanted_variance) = moments(input, channel);
        let (mean, variance) = moments(reduced, channel);
        let gain = ((wanted_variance + FLAT) / (variance + FLAT)).sqrt();
        // A cast keeps what is out of range at its limit.
        std::array::from_fn(|level| (wanted + (level as f64 - mean) * gain).round() as u8)
    });
    for pixel in rows.iter_mut().flat_map(|row| row.chunks_exact_mut(RGB)) {
        pixel.iter_mut().zip(&curves).for_each(|(value, curve)| *value = curve[usize::from(*value)]);
    }
}

/// Mean and variance of a channel.
fn moments(pixels: &[f32], channel: usize) -> (f64, f64) {
    let values = || pixels.iter().skip(channel).step_by(RGB).map(|value| f64::from(*value));
    let count = (pixels.len() / RGB) as f64;
    let mean = values().sum::<f64>() / count;
    (mean, values().map(|value| (value - mean).powi(2)).sum::<f64>() / count)
}

/// Smooths along both axes by 1/4, 1/2, 1/4 of the pixels `step` apart; beyond the edge lies the edge.
fn smooth(pixels: &mut [f32], size: Size, step: usize) {
    let Size { width, height } = size;
    let stride = size.rgb_stride();
    let mean = |before: f32, here: f32, after: f32| 0.25 * (before + after) + 0.5 * here;
    let mut line = vec![0.0; stride];
    for row in pixels.chunks_exact_mut(stride) {
        line.copy_from_slice(row);
        for x in 0..width {
            let (before, after) = (x.saturating_sub(step), (x + step).min(width - 1));
            for c in 0..RGB {
                row[x * RGB + c] = mean(line[before * RGB + c], line[x * RGB + c], line[after * RGB + c]);
            }
        }
    }
    let whole = pixels.to_vec();
    let row = |y: usize| &whole[y * stride..(y + 1) * stride];
    for (y, target) in pixels.chunks_exact_mut(stride).enumerate() {
        let (before, here, after) = (row(y.saturating_sub(step)), row(y), row((y + step).min(height - 1)));
        for (n, value) in target.iter_mut().enumerate() {
            *value = mean(before[n], here[n], after[n]);
        }
    }
}

/// Adds `error`, interpolated between its pixels.
fn add_enlarged(error: &[f32], rows: &mut [&mut [u8]], size: Size, scale: usize) {
    let stride = size.rgb_stride();
    // By the pixel's place in its square: the pixel of `error` to the left, or above, and the weight of the next one.
    let place = |phase: usize| {
        let place = (phase as f32 + 0.5) / scale as f32 - 0.5;
        (place.floor() as isize, place - place.floor())
    };
    let places: Vec<_> = (0..scale).map(place).collect();
    // With a pixel beyond each edge.
    let mut line = vec![0.0; stride + 2 * RGB];
    for (y, target) in rows.iter_mut().enumerate() {
        let (above, weight) = places[y % scale];
        let row = |n: isize| {
            let n = ((y / scale) as isize + n).clamp(0, size.height as isize - 1) as usize;
            &error[n * stride..(n + 1) * stride]
        };
        for (value, (above, below)) in line[RGB..].iter_mut().zip(row(above).iter().zip(row(above + 1))) {
            *value = above + (below - above) * weight;
        }
        line.copy_within(RGB..2 * RGB, 0);
        line.copy_within(stride..stride + RGB, stride + RGB);
        for (x, square) in target.chunks_exact_mut(RGB * scale).enumerate() {
            for (pixel, (left, weight)) in square.chunks_exact_mut(RGB).zip(&places) {
                let from = ((x + 1) as isize + left) as usize * RGB;
                for (c, value) in pixel.iter_mut().enumerate() {
                    let (left, right) = (line[from + c], line[from + RGB + c]);
                    *value = (f32::from(*value) + left + (right - left) * weight + 0.5) as u8;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCALE: usize = 4;

    /// A frame four times as large with `detail` added to and taken from its pixels in turn, after `drift`.
    fn upscaled(input: &[u8], size: Size, detail: f32, drift: impl Fn(usize, f32) -> f32) -> Vec<u8> {
        let mut output = Vec::new();
        for y in 0..size.height * SCALE {
            for x in 0..size.width * SCALE {
                for c in 0..RGB {
                    let value = f32::from(input[(y / SCALE * size.width + x / SCALE) * RGB + c]);
                    let detail = if (x + y) % 2 == 0 { detail } else { -detail };
                    output.push((drift(c, value) + detail).round() as u8);
                }
            }
        }
        output
    }

    fn fix(how: ColorFix, input: &[u8], output: &mut [u8], size: Size) {
        how.apply(input, size.rgb_stride(), output, size.rgb_stride() * SCALE, size, SCALE);
    }

    fn hills(size: Size) -> Vec<u8> {
        let value = |n: usize| {
            let (x, y) = (n % size.rgb_stride() / RGB, n / size.rgb_stride());
            120.0 + 60.0 * ((x + y) as f32 / 20.0).sin() + 20.0 * (n % RGB) as f32
        };
        (0..size.rgb_bytes()).map(|n| value(n) as u8).collect()
    }

    #[test]
    fn a_gain_and_an_offset_are_undone_and_detail_stays() {
        let size = Size { width: 40, height: 24 };
        let input = hills(size);
        let wanted = upscaled(&input, size, 10.0, |_, value| value);
        for how in [ColorFix::Mean, ColorFix::Wavelet] {
            let mut output = upscaled(&input, size, 10.0, |c, value| value * 0.9 + 5.0 * c as f32);
            fix(how, &input, &mut output, size);
            let worst = output.iter().zip(&wanted).map(|(got, wanted)| got.abs_diff(*wanted)).max();
            // The mean stretches the detail with the rest; the low frequencies of hills are not all of the hills.
            assert!(worst <= Some(3), "{how:?}: {worst:?}");
        }
    }

    #[test]
    fn a_drift_that_is_not_the_same_everywhere_is_for_the_wavelet() {
        let size = Size { width: 64, height: 8 };
        let input = vec![128; size.rgb_bytes()];
        let mut output = vec![128u8; size.rgb_bytes() * SCALE * SCALE];
        for (n, value) in output.iter_mut().enumerate() {
            *value -= (n % (size.rgb_stride() * SCALE) / 40) as u8;
        }
        fix(ColorFix::Wavelet, &input, &mut output, size);
        assert!(output.iter().all(|value| value.abs_diff(128) <= 1), "{:?}", &output[..size.rgb_stride() * SCALE]);
    }

    proptest! {
        #[test]
        fn what_does_not_drift_stays(
            width in 1usize..12, height in 1usize..12, gap in 0usize..7, scale in 1usize..5, seed in any::<u8>(),
        ) {
            let size = Size { width, height };
            let input: Vec<u8> = (0..size.rgb_bytes()).map(|n| (n as u8).wrapping_mul(83) ^ seed).collect();
            let stride = size.rgb_stride() * scale + gap;
            // The last row may end without its gap.
            let mut output = vec![seed; stride * (height * scale - 1) + size.rgb_stride() * scale];
            for (y, row) in output.chunks_mut(stride).enumerate() {
                for (x, pixel) in row[..size.rgb_stride() * scale].chunks_exact_mut(RGB).enumerate() {
                    pixel.copy_from_slice(&input[(y / scale * width + x / scale) * RGB..][..RGB]);
                }
            }
            for how in [ColorFix::None, ColorFix::Mean, ColorFix::Wavelet] {
                let mut fixed = output.clone();
                how.apply(&input, size.rgb_stride(), &mut fixed, stride, size, scale);
                prop_assert_eq!(&fixed, &output);
            }
        }
    }
}
