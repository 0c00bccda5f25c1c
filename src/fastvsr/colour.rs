//! Owns the matrix between luma and chroma and RGB.
//!
//! `GstVideoConverter` has one too, but at 8 bits it cuts off where it should round: white comes back as 233 of 235, and
//! everything else is as much too dark. It still does what it does exactly: planes, chroma subsampling, bit depths.

use std::convert::Infallible;

use gst_video::{VideoFormat, VideoInfo};
use multiversion::multiversion;

use super::threads;
use crate::frames::{RGB, Size};

/// Converts between RGB and the 4:4:4 form of one stream: `AYUV`, or `AYUV64` where samples have more than 8 bits.
#[derive(Debug)]
pub(super) struct Matrix {
    info: VideoInfo,
    deep: bool,
    /// Columns for a sample's Y, U and V, and the constant.
    into_rgb: [[f32; 4]; 4],
    /// Columns for R, G and B, and the constant.
    from_rgb: [[f32; 4]; 4],
}

impl Matrix {
    /// The matrix of a stream; none for RGB.
    pub(super) fn new(stream: &VideoInfo) -> Result<Option<Self>, glib::BoolError> {
        if stream.is_rgb() {
            return Ok(None);
        }
        let colorimetry = stream.colorimetry();
        let depth = stream.comp_depth(0);
        let deep = depth > 8;
        let format = if deep { VideoFormat::Ayuv64 } else { VideoFormat::Ayuv };
        let info = VideoInfo::builder(format, stream.width(), stream.height())
            .fps(stream.fps())
            .par(stream.par())
            .colorimetry(&colorimetry)
            .build()?;

        // Grey may come without a matrix; any leaves it grey.
        let (kr, kb) = colorimetry.matrix().kr_kb().unwrap_or((0.299, 0.114));
        let (offset, scale) = stream.format_info().range_offsets(colorimetry.range());
        // Samples of more than 8 bits are spread over 16.
        let spread = if deep { f64::from(u16::MAX) / f64::from((1 << depth) - 1) } else { 1.0 };
        let (luma_zero, luma) = (f64::from(offset[0]) * spread, f64::from(scale[0]) * spread);
        let (chroma_zero, chroma) = match stream.n_components() {
            1 => (128.0, 255.0),
            _ => (f64::from(offset[1]) * spread, f64::from(scale[1]) * spread),
        };
        let kg = 1.0 - kr - kb;
        let (v_in_r, u_in_b) = (2.0 * (1.0 - kr) * 255.0 / chroma, 2.0 * (1.0 - kb) * 255.0 / chroma);
        let y = [255.0 / luma; 3];
        let u = [0.0, -u_in_b * kb / kg, u_in_b];
        let v = [v_in_r, -v_in_r * kr / kg, 0.0];
        let zero: [f64; 3] = std::array::from_fn(|n| -luma_zero * y[n] - chroma_zero * (u[n] + v[n]));

        let weights = [kr, kg, kb];
        let column = |n: usize| {
            let (b, r) = (f64::from(u8::from(n == 2)), f64::from(u8::from(n == 0)));
            let in_u = (b - weights[n]) / (2.0 * (1.0 - kb)) * chroma / 255.0;
            let in_v = (r - weights[n]) / (2.0 * (1.0 - kr)) * chroma / 255.0;
            [weights[n] * luma / 255.0, in_u, in_v]
        };
        let from_rgb = [column(0), column(1), column(2), [luma_zero, chroma_zero, chroma_zero]];
        let four = |[a, b, c]: [f64; 3]| [a as f32, b as f32, c as f32, 0.0];
        Ok(Some(Self { info, deep, into_rgb: [y, u, v, zero].map(four), from_rgb: from_rgb.map(four) }))
    }

    /// The 4:4:4 form.
    pub(super) fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// Converts rows of the 4:4:4 form into rows of RGB. Strides are in bytes.
    pub(super) fn write_rgb(&self, yuv: &[u8], yuv_stride: usize, rgb: &mut [u8], rgb_stride: usize, size: Size) {
        let row = size.rgb_stride();
        rows(yuv, yuv_stride, rgb, rgb_stride, size, |yuv, rgb| {
            let rgb = &mut rgb[..row];
            if self.deep {
                for (rgb, yuv) in rgb.chunks_exact_mut(RGB).zip(yuv.chunks_exact(8)) {
                    let sample = |n: usize| f32::from(u16::from_ne_bytes([yuv[2 * n], yuv[2 * n + 1]]));
                    let [r, g, b] = apply(&self.into_rgb, [sample(1), sample(2), sample(3)]);
                    rgb.copy_from_slice(&[r as u8, g as u8, b as u8]);
                }
            } else {
                row_of_rgb(&self.into_rgb, yuv, rgb);
            }
        });
    }

    /// Converts rows of RGB into rows of the 4:4:4 form. Strides are in bytes.
    pub(super) fn write_yuv(&self, rgb: &[u8], rgb_stride: usize, yuv: &mut [u8], yuv_stride: usize, size: Size) {
        let row = size.rgb_stride();
        rows(rgb, rgb_stride, yuv, yuv_stride, size, |rgb, yuv| {
            let rgb = &rgb[..row];
            if self.deep {
                for (rgb, yuv) in rgb.chunks_exact(RGB).zip(yuv.chunks_exact_mut(8)) {
                    let values = apply(&self.from_rgb, [rgb[0].into(), rgb[1].into(), rgb[2].into()]);
                    yuv[..2].copy_from_slice(&u16::MAX.to_ne_bytes());
                    for (sample, value) in yuv[2..].chunks_exact_mut(2).zip(values) {
                        sample.copy_from_slice(&(value as u16).to_ne_bytes());
                    }
                }
            } else {
                row_of_yuv(&self.from_rgb, rgb, yuv);
            }
        });
    }
}

/// Calls `convert` with each row of `from` and the row of `to` that it becomes, large frames by several threads.
pub(super) fn rows(
    from: &[u8],
    from_stride: usize,
    to: &mut [u8],
    to_stride: usize,
    size: Size,
    convert: impl Fn(&[u8], &mut [u8]) + Sync,
) {
    let rows = size.height.div_ceil(threads::parts(size));
    let parts = from.chunks(from_stride * rows).zip(to.chunks_mut(to_stride * rows)).enumerate().collect();
    let Ok(()) = threads::each(parts, |(n, (from, to))| {
        let rows = rows.min(size.height.saturating_sub(n * rows));
        from.chunks(from_stride).zip(to.chunks_mut(to_stride)).take(rows).for_each(|(from, to)| convert(from, to));
        Ok::<_, Infallible>(())
    });
}

/// The product, ready to be cut to an integer: a cast cuts off, and keeps what is out of range at its limit. Four wide, so
/// that it becomes vector instructions.
#[inline]
fn apply(columns: &[[f32; 4]; 4], [a, b, c]: [f32; 3]) -> [f32; 3] {
    let [x, y, z, zero] = columns;
    let value = |n: usize| a * x[n] + b * y[n] + c * z[n] + zero[n] + 0.5;
    let values: [f32; 4] = std::array::from_fn(value);
    [values[0], values[1], values[2]]
}

/// Pixels that become vectors together.
const LANES: usize = 16;

/// Has the CPU fetch what is read next: a decoded frame has left its caches, and its own foresight ends with every page.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fetch(rgb: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

    const AHEAD: usize = 2048;
    // SAFETY: a hint, for any address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(rgb.as_ptr().wrapping_add(AHEAD).cast()) };
}

/// Makes a row of RGB 8-bit 4:4:4, with the widest vectors that the CPU has.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn row_of_yuv(columns: &[[f32; 4]; 4], rgb: &[u8], yuv: &mut [u8]) {
    let (mut rgb, mut yuv) = (rgb.chunks_exact(RGB * LANES), yuv.chunks_exact_mut(4 * LANES));
    for (rgb, yuv) in (&mut rgb).zip(&mut yuv) {
        #[cfg(target_arch = "x86_64")]
        fetch(rgb);
        let [y, u, v] = apply_wide::<RGB>(columns, rgb);
        for (n, pixel) in yuv.chunks_exact_mut(4).enumerate() {
            pixel.copy_from_slice(&(0xff | y[n] << 8 | u[n] << 16 | v[n] << 24).to_le_bytes());
        }
    }
    for (rgb, yuv) in rgb.remainder().chunks_exact(RGB).zip(yuv.into_remainder().chunks_exact_mut(4)) {
        let [y, u, v] = apply(columns, [rgb[0].into(), rgb[1].into(), rgb[2].into()]);
        yuv.copy_from_slice(&[u8::MAX, y as u8, u as u8, v as u8]);
    }
}

/// Makes a row of 8-bit 4:4:4 RGB, with the widest vectors that the CPU has.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn row_of_rgb(columns: &[[f32; 4]; 4], yuv: &[u8], rgb: &mut [u8]) {
    let (mut yuv, mut rgb) = (yuv.chunks_exact(4 * LANES), rgb.chunks_exact_mut(RGB * LANES));
    for (yuv, rgb) in (&mut yuv).zip(&mut rgb) {
        let [r, g, b] = apply_wide::<4>(columns, &yuv[1..]);
        for (n, pixel) in rgb.chunks_exact_mut(RGB).enumerate() {
            (pixel[0], pixel[1], pixel[2]) = (r[n] as u8, g[n] as u8, b[n] as u8);
        }
    }
    for (yuv, rgb) in yuv.remainder().chunks_exact(4).zip(rgb.into_remainder().chunks_exact_mut(RGB)) {
        let [r, g, b] = apply(columns, [yuv[1].into(), yuv[2].into(), yuv[3].into()]);
        rgb.copy_from_slice(&[r as u8, g as u8, b as u8]);
    }
}

/// [`apply`] to `LANES` pixels whose first samples lie `STEP` bytes apart; a list for each component, of whole numbers.
/// Plain loops, as closures over arrays do not all become vectors, and always inline, for the caller's instructions.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "several arrays in step")]
fn apply_wide<const STEP: usize>(columns: &[[f32; 4]; 4], pixels: &[u8]) -> [[u32; LANES]; 3] {
    /// Added to a number from 0 to 2^22, leaves it rounded in the lowest bits: vectors have no cast that cuts off.
    const ROUND: f32 = (1 << 23) as f32;
    let mut samples = [[0.0; LANES]; 3];
    for n in 0..LANES {
        for c in 0..3 {
            samples[c][n] = f32::from(pixels[STEP * n + c]);
        }
    }
    let ([a, b, c], [x, y, z, zero]) = (samples, columns);
    let mut values = [[0; LANES]; 3];
    for n in 0..LANES {
        for k in 0..3 {
            let value = a[n] * x[k] + b[n] * y[k] + c[n] * z[k] + zero[k];
            values[k][n] = (value.clamp(0.0, 255.0) + ROUND).to_bits() & 0xff;
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Size = Size { width: 1, height: 1 };

    fn matrix(format: VideoFormat, colorimetry: &str) -> Matrix {
        gst::init().unwrap();
        let colorimetry = colorimetry.parse().unwrap();
        let info = VideoInfo::builder(format, 2, 2).colorimetry(&colorimetry).build().unwrap();
        Matrix::new(&info).unwrap().unwrap()
    }

    #[track_caller]
    fn both_ways(colorimetry: &str, yuv: [u8; 3], rgb: [u8; 3]) {
        let matrix = matrix(VideoFormat::I420, colorimetry);
        let mut got = [0; 3];
        matrix.write_rgb(&[255, yuv[0], yuv[1], yuv[2]], 4, &mut got, 3, ONE);
        let close = got.iter().zip(rgb).all(|(got, wanted)| got.abs_diff(wanted) <= 1);
        assert!(close, "{colorimetry}: RGB of {yuv:?}: expected {rgb:?}, got {got:?}");
        let mut got = [0; 4];
        matrix.write_yuv(&rgb, 3, &mut got, 4, ONE);
        assert_eq!(got, [255, yuv[0], yuv[1], yuv[2]], "{colorimetry}: YUV of {rgb:?}");
    }

    #[test]
    fn the_corners_of_the_cube_are_where_the_standards_say() {
        both_ways("bt709", [16, 128, 128], [0, 0, 0]);
        both_ways("bt709", [235, 128, 128], [255, 255, 255]);
        both_ways("bt601", [81, 90, 240], [255, 0, 0]);
        both_ways("bt709", [63, 102, 240], [255, 0, 0]);
        both_ways("bt709", [32, 240, 118], [0, 0, 255]);
        both_ways("bt709", [173, 42, 26], [0, 255, 0]);
        both_ways("1:3:5:1", [0, 128, 128], [0, 0, 0]);
        both_ways("1:3:5:1", [255, 128, 128], [255, 255, 255]);
    }

    #[test]
    fn grey_stays_grey_and_comes_back() {
        for colorimetry in ["bt601", "bt709", "bt2020"] {
            for y in 16..=235 {
                let matrix = matrix(VideoFormat::I420, colorimetry);
                let (mut rgb, mut back) = ([0; 3], [0; 4]);
                matrix.write_rgb(&[255, y, 128, 128], 4, &mut rgb, 3, ONE);
                assert!(rgb[0] == rgb[1] && rgb[1] == rgb[2], "{rgb:?}");
                matrix.write_yuv(&rgb, 3, &mut back, 4, ONE);
                assert_eq!(back, [255, y, 128, 128]);
            }
        }
    }

    #[test]
    fn ten_bits_are_spread_over_sixteen() {
        let matrix = matrix(VideoFormat::I42010le, "bt709");
        let spread = |value: u32| ((value << 6 | value >> 4) as u16).to_ne_bytes();
        let (white, zero) = (spread(940), spread(512));
        let mut rgb = [0; 3];
        matrix.write_rgb(&[[255, 255], white, zero, zero].concat(), 8, &mut rgb, 3, ONE);
        assert_eq!(rgb, [255; 3]);
        let mut back = [0; 8];
        matrix.write_yuv(&rgb, 3, &mut back, 8, ONE);
        let ten = |n: usize| u16::from_ne_bytes([back[2 * n], back[2 * n + 1]]) >> 6;
        assert_eq!([ten(1), ten(2), ten(3)], [940, 512, 512]);
    }

    #[test]
    fn pixels_together_are_what_they_are_alone() {
        for colorimetry in ["bt709", "1:6:0:0"] {
            let matrix = matrix(VideoFormat::I420, colorimetry);
            let size = Size { width: 3 * LANES + 5, height: 1 };
            let rgb: Vec<u8> = (0..size.rgb_bytes()).map(|n| (n * 89 + n / 7) as u8).collect();
            let (mut together, mut alone) = (vec![0; size.width * 4], vec![0; size.width * 4]);
            matrix.write_yuv(&rgb, size.rgb_stride(), &mut together, size.width * 4, size);
            for (rgb, yuv) in rgb.chunks(RGB).zip(alone.chunks_mut(4)) {
                matrix.write_yuv(rgb, RGB, yuv, 4, ONE);
            }
            assert_eq!(together, alone);

            // Any bytes: those of no RGB as well, which are cut to what there is.
            let yuv: Vec<u8> = (0..size.width * 4).map(|n| (n * 61 + n / 5) as u8).collect();
            let (mut together, mut alone) = (vec![0; size.rgb_bytes()], vec![0; size.rgb_bytes()]);
            matrix.write_rgb(&yuv, size.width * 4, &mut together, size.rgb_stride(), size);
            for (yuv, rgb) in yuv.chunks(4).zip(alone.chunks_mut(RGB)) {
                matrix.write_rgb(yuv, 4, rgb, RGB, ONE);
            }
            assert_eq!(together, alone);
        }
    }

    #[test]
    fn large_frames_are_converted_whole_by_several_threads() {
        let matrix = matrix(VideoFormat::I420, "bt709");
        let size = Size { width: 640, height: 643 };
        let row = Size { height: 1, ..size };
        let (stride, yuv_stride) = (size.rgb_stride() + 6, size.width * 4);
        let rgb: Vec<u8> = (0..stride * size.height).map(|n| (n * 7 + n / stride) as u8).collect();
        let (mut whole, mut by_rows) = (vec![0; yuv_stride * size.height], vec![0; yuv_stride * size.height]);
        matrix.write_yuv(&rgb, stride, &mut whole, yuv_stride, size);
        for (rgb, yuv) in rgb.chunks(stride).zip(by_rows.chunks_mut(yuv_stride)) {
            matrix.write_yuv(rgb, stride, yuv, yuv_stride, row);
        }
        assert!(whole == by_rows);
    }
}
