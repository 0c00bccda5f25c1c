//! Samples of frames in every pixel format, one by one.

use gst_video::{VideoFormat, VideoInfo};

/// The formats that the element takes.
pub const FORMATS: [VideoFormat; 15] = [
    VideoFormat::Rgb,
    VideoFormat::Bgr,
    VideoFormat::Rgbx,
    VideoFormat::Bgrx,
    VideoFormat::Rgba,
    VideoFormat::Bgra,
    VideoFormat::I420,
    VideoFormat::Nv12,
    VideoFormat::Y42b,
    VideoFormat::Y444,
    VideoFormat::Gray8,
    VideoFormat::I42010le,
    VideoFormat::P01010le,
    VideoFormat::I42210le,
    VideoFormat::Y44410le,
];

/// One sample of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub component: usize,
    /// The first pixel that it belongs to.
    pub x: usize,
    pub y: usize,
    /// Its place in memory.
    pub at: usize,
}

/// Calls with every sample of a frame.
pub fn each_sample(info: &VideoInfo, strides: &[i32], offsets: &[usize], mut visit: impl FnMut(Sample)) {
    let format = info.format_info();
    for component in 0..info.n_components() as usize {
        let (width, height) = (info.comp_width(component as u8), info.comp_height(component as u8));
        let plane = info.comp_plane(component as u8) as usize;
        // GStreamer gives the offset of P010's V in samples, not in bytes.
        let offset = info.comp_poffset(component as u8) as usize * (info.comp_depth(0) as usize).div_ceil(8);
        for row in 0..height as usize {
            for column in 0..width as usize {
                let at = offsets[plane]
                    + row * strides[plane] as usize
                    + column * info.comp_pstride(component as u8) as usize
                    + offset;
                let (x, y) = (column << format.w_sub()[component], row << format.h_sub()[component]);
                visit(Sample { component, x, y, at });
            }
        }
    }
}

/// Writes a sample.
pub fn put(data: &mut [u8], info: &VideoInfo, at: usize, value: u16) {
    match info.comp_depth(0) {
        8 => data[at] = value as u8,
        _ => {
            let value = value << info.format_info().shift()[0];
            data[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// Reads a sample.
pub fn get(data: &[u8], info: &VideoInfo, at: usize) -> u16 {
    match info.comp_depth(0) {
        8 => u16::from(data[at]),
        _ => u16::from_le_bytes([data[at], data[at + 1]]) >> info.format_info().shift()[0],
    }
}
