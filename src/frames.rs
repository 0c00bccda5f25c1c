//! Owns the layout of pixels in memory: between rows with a stride and the tensors `[H, W, 3]` that the graphs take,
//! padded to the model's multiple. Plain slices in, plain slices out; no GStreamer, no ONNX Runtime.

use std::collections::TryReserveError;

/// Bytes per pixel of an RGB tensor.
pub const RGB: usize = 3;

/// Size of a frame in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Size {
    /// The size, each side rounded up to a multiple of `multiple` pixels.
    pub fn padded(self, multiple: usize) -> Self {
        Self { width: self.width.next_multiple_of(multiple), height: self.height.next_multiple_of(multiple) }
    }

    /// The size, each side `factor` times as long.
    pub fn scaled(self, factor: usize) -> Self {
        Self { width: self.width * factor, height: self.height * factor }
    }

    /// Bytes in a tensor `[H, W, 3]` of this size.
    pub fn rgb_bytes(self) -> usize {
        self.width * self.height * RGB
    }

    /// Bytes in one row of such a tensor.
    pub fn rgb_stride(self) -> usize {
        self.width * RGB
    }
}

/// An empty vector for `length` values. What a frame needs is as large as its sender wants: where that is not to be had it
/// is an error, not the end of the process.
///
/// # Errors
/// If there is no memory for it.
pub fn with_room<T>(length: usize) -> Result<Vec<T>, TryReserveError> {
    let mut values = Vec::new();
    values.try_reserve_exact(length)?;
    Ok(values)
}

/// As many times `value`.
///
/// # Errors
/// If there is no memory for them.
pub fn filled<T: Clone>(value: T, length: usize) -> Result<Vec<T>, TryReserveError> {
    let mut values = with_room(length)?;
    values.resize(length, value);
    Ok(values)
}

/// Copies RGB rows of `size`, `stride` bytes apart, into a tensor of the size `padded`; what lies to the right and
/// below repeats the frame's edge, so that the model sees no artificial border.
///
/// # Errors
/// If there is no memory for it.
///
/// # Panics
/// If `rows` is shorter than the frame that it should hold, or `padded` is smaller than `size`.
pub fn pad(rows: &[u8], stride: usize, size: Size, padded: Size) -> Result<Vec<u8>, TryReserveError> {
    assert!(padded.width >= size.width && padded.height >= size.height);
    let mut tensor = with_room(padded.rgb_bytes())?;
    for row in rows.chunks(stride).take(size.height) {
        let row = &row[..size.rgb_stride()];
        tensor.extend_from_slice(row);
        let edge = &row[row.len() - RGB..];
        (size.width..padded.width).for_each(|_| tensor.extend_from_slice(edge));
    }
    assert_eq!(tensor.len(), padded.rgb_stride() * size.height, "fewer rows than the frame has");
    for _ in size.height..padded.height {
        tensor.extend_from_within(tensor.len() - padded.rgb_stride()..);
    }
    Ok(tensor)
}

/// Overwrites one byte of every four-byte pixel of `rows` with the matching byte of `plane`: puts a plane of alpha
/// into a packed frame. Strides are in bytes.
pub fn set_channel(rows: &mut [u8], stride: usize, channel: usize, plane: &[u8], plane_stride: usize, size: Size) {
    for (row, values) in rows.chunks_mut(stride).zip(plane.chunks(plane_stride)).take(size.height) {
        for (pixel, value) in row.chunks_exact_mut(4).zip(&values[..size.width]) {
            pixel[channel] = *value;
        }
    }
}

/// Copies one byte of every four-byte pixel of `rows` into `plane`, the reverse of [`set_channel`].
pub fn get_channel(rows: &[u8], stride: usize, channel: usize, plane: &mut [u8], plane_stride: usize, size: Size) {
    for (row, values) in rows.chunks(stride).zip(plane.chunks_mut(plane_stride)).take(size.height) {
        for (pixel, value) in row.chunks_exact(4).zip(&mut values[..size.width]) {
            *value = pixel[channel];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn padding_repeats_the_edge() {
        let rows = [1, 1, 1, 2, 2, 2, 99, 3, 3, 3, 4, 4, 4, 99];
        let tensor = pad(&rows, 7, Size { width: 2, height: 2 }, Size { width: 3, height: 3 }).unwrap();
        let pixels: Vec<u8> = tensor.chunks(3).map(|pixel| pixel[0]).collect();
        assert_eq!(pixels, [1, 2, 2, 3, 4, 4, 3, 4, 4]);
    }

    #[test]
    fn what_no_machine_has_is_an_error() {
        assert!(filled(0u64, usize::MAX / 16).is_err());
        let huge = Size { width: 1 << 30, height: 1 << 30 };
        assert!(pad(&[], 3, Size { width: 1, height: 1 }, huge).is_err());
    }

    #[test]
    #[should_panic(expected = "fewer rows")]
    fn a_frame_that_is_too_short_is_a_bug() {
        let _ = pad(&[0; 6], 6, Size { width: 2, height: 2 }, Size { width: 2, height: 2 });
    }

    proptest! {
        #[test]
        fn every_pixel_of_a_padded_frame_is_the_nearest_of_the_frame(
            width in 1usize..20, height in 1usize..20, gap in 0usize..9, multiple in 1usize..9, seed in any::<u8>(),
        ) {
            let size = Size { width, height };
            let padded = size.padded(multiple);
            let stride = size.rgb_stride() + gap;
            // The last row may end without its gap, as the last row of a mapped plane does.
            let rows: Vec<u8> =
                (0..stride * (height - 1) + size.rgb_stride()).map(|n| (n as u8).wrapping_mul(31) ^ seed).collect();
            let tensor = pad(&rows, stride, size, padded).unwrap();
            prop_assert_eq!(tensor.len(), padded.rgb_bytes());
            for y in 0..padded.height {
                for x in 0..padded.width {
                    let source = y.min(height - 1) * stride + x.min(width - 1) * RGB;
                    let target = y * padded.rgb_stride() + x * RGB;
                    prop_assert_eq!(&tensor[target..target + RGB], &rows[source..source + RGB]);
                }
            }
        }

        #[test]
        fn a_channel_survives_the_round_trip(
            width in 1usize..20, height in 1usize..20, gap in 0usize..9, channel in 0usize..4,
        ) {
            let size = Size { width, height };
            let stride = width * 4 + gap;
            let plane: Vec<u8> = (0..width * height).map(|n| n as u8).collect();
            let mut rows = vec![200; stride * height];
            set_channel(&mut rows, stride, channel, &plane, width, size);
            let mut back = vec![0; plane.len()];
            get_channel(&rows, stride, channel, &mut back, width, size);
            prop_assert_eq!(&back, &plane);
            let touched = rows.iter().enumerate().filter(|(n, _)| {
                let column = n % stride;
                column < width * 4 && column % 4 == channel
            }).count();
            prop_assert_eq!(touched, plane.len());
            let others = rows.iter().enumerate().filter(|(n, _)| {
                let column = n % stride;
                column >= width * 4 || column % 4 != channel
            });
            for (_, value) in others {
                prop_assert_eq!(*value, 200);
            }
        }
    }
}
