//! Owns the way from decoded RGB to YUV, one band of rows after the other: in its 4:4:4 form, which lies between, a large
//! frame takes more memory than as RGB.

use std::ops::Range;

use gst_video::{VideoFrameExt, VideoFrameRef, VideoInfo};

use super::colour::Matrix;
use crate::frames::Size;

/// Pixels in a band, about: enough that converting it is worth several threads.
const PIXELS: usize = 1 << 20;

/// Rows above and below a band that chroma filters may look at.
const MARGIN: usize = 8;

/// Converts frames of one format and size.
#[derive(Debug)]
pub(super) struct Bands {
    matrix: Matrix,
    converter: gst_video::VideoConverter,
    /// Rows of a band that are kept.
    rows: usize,
    /// A band with its margins in the 4:4:4 form, and in the stream's format.
    pixels: gst::Buffer,
    band: VideoInfo,
    converted: gst::Buffer,
}

impl Bands {
    /// Converts to `stream`; none if that is RGB. `converter` makes a converter between two formats.
    pub(super) fn new(
        stream: &VideoInfo,
        converter: impl FnOnce(&VideoInfo, &VideoInfo) -> Result<gst_video::VideoConverter, glib::BoolError>,
    ) -> Result<Option<Self>, glib::BoolError> {
        Self::of(stream, PIXELS, converter)
    }

    fn of(
        stream: &VideoInfo,
        pixels: usize,
        converter: impl FnOnce(&VideoInfo, &VideoInfo) -> Result<gst_video::VideoConverter, glib::BoolError>,
    ) -> Result<Option<Self>, glib::BoolError> {
        let height = stream.height() as usize;
        let rows = (pixels / stream.width() as usize).next_multiple_of(MARGIN).max(MARGIN);
        // As odd as the frame, so that all bands begin at an even row.
        let all = (rows + 2 * MARGIN + height % 2).min(height);
        let band = VideoInfo::builder(stream.format(), stream.width(), all as u32)
            .fps(stream.fps())
            .par(stream.par())
            .colorimetry(&stream.colorimetry())
            .chroma_site(stream.chroma_site())
            .build()?;
        let Some(matrix) = Matrix::new(&band)? else { return Ok(None) };
        let converter = converter(matrix.info(), &band)?;
        let (pixels, converted) = (gst::Buffer::with_size(matrix.info().size())?, gst::Buffer::with_size(band.size())?);
        Ok(Some(Self { matrix, converter, rows, pixels, band, converted }))
    }

    /// Converts RGB rows, `stride` bytes apart, into `frame`.
    pub(super) fn write(
        &mut self,
        rgb: &[u8],
        stride: usize,
        frame: &mut VideoFrameRef<&mut gst::BufferRef>,
    ) -> Result<(), glib::BoolError> {
        let (height, all) = (frame.height() as usize, self.band.height() as usize);
        if all == height {
            self.convert(rgb, stride)?;
            let pixels = VideoFrameRef::from_buffer_ref_readable(&self.pixels, self.matrix.info())?;
            self.converter.frame_ref(&pixels, frame);
            return Ok(());
        }
        for start in (0..height).step_by(self.rows) {
            let end = (start + self.rows).min(height);
            let from = start.saturating_sub(MARGIN).min(height - all);
            self.convert(&rgb[from * stride..], stride)?;
            {
                let pixels = VideoFrameRef::from_buffer_ref_readable(&self.pixels, self.matrix.info())?;
                let converted = self.converted.make_mut();
                let mut converted = VideoFrameRef::from_buffer_ref_writable(converted, &self.band)?;
                self.converter.frame_ref(&pixels, &mut converted);
            }
            let converted = VideoFrameRef::from_buffer_ref_readable(&self.converted, &self.band)?;
            copy_rows(&converted, from, frame, start..end)?;
        }
        Ok(())
    }

    fn convert(&mut self, rgb: &[u8], stride: usize) -> Result<(), glib::BoolError> {
        let between = self.matrix.info();
        let size = Size { width: between.width() as usize, height: between.height() as usize };
        let mut pixels = self.pixels.make_mut().map_writable()?;
        self.matrix.write_yuv(rgb, stride, &mut pixels, between.stride()[0] as usize, size);
        Ok(())
    }
}

/// Copies the rows `rows` of a frame from a band that begins at row `from`.
fn copy_rows(
    band: &VideoFrameRef<&gst::BufferRef>,
    from: usize,
    frame: &mut VideoFrameRef<&mut gst::BufferRef>,
    rows: Range<usize>,
) -> Result<(), glib::BoolError> {
    for plane in 0..frame.n_planes() {
        let component = (0..frame.n_components()).find(|c| frame.comp_plane(*c) == plane);
        let component = component.ok_or_else(|| glib::bool_error!("plane {plane} holds no component"))?;
        let bytes = frame.comp_width(component) as usize * frame.comp_pstride(component) as usize;
        let halved = frame.format_info().h_sub()[component as usize];
        let down = |row: usize| row.div_ceil(1 << halved);
        let (to_stride, stride) = (frame.plane_stride()[plane as usize], band.plane_stride()[plane as usize]);
        let (to_stride, stride) = (to_stride as usize, stride as usize);
        let (source, target) = (band.plane_data(plane)?, frame.plane_data_mut(plane)?);
        for row in down(rows.start)..down(rows.end) {
            let at = (row - down(from)) * stride;
            target[row * to_stride..][..bytes].copy_from_slice(&source[at..][..bytes]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gst_video::{VideoChromaSite, VideoFormatInfo, video_converter::VideoConverterConfig};

    use super::{super::caps::FORMATS, *};

    fn converted(stream: &VideoInfo, pixels: usize, rgb: &[u8], stride: usize) -> Vec<u8> {
        let mut config = VideoConverterConfig::new();
        config.set_dither_method(gst_video::VideoDitherMethod::None);
        let converter = |from: &VideoInfo, to: &VideoInfo| gst_video::VideoConverter::new(from, to, Some(config));
        let mut bands = Bands::of(stream, pixels, converter).unwrap().unwrap();
        let mut buffer = gst::Buffer::from_mut_slice(vec![0u8; stream.size()]);
        {
            let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), stream).unwrap();
            bands.write(rgb, stride, &mut frame).unwrap();
        }
        buffer.map_readable().unwrap().to_vec()
    }

    #[test]
    fn bands_leave_no_seams() {
        gst::init().unwrap();
        let formats = FORMATS.into_iter().filter(|format| !VideoFormatInfo::from_format(*format).is_rgb());
        let sites = [VideoChromaSite::JPEG, VideoChromaSite::MPEG2, VideoChromaSite::COSITED, VideoChromaSite::DV];
        for (format, site) in formats.flat_map(|format| sites.map(|site| (format, site))) {
            for (width, height) in [(20, 8), (20, 37), (33, 64), (20, 100), (20, 129)] {
                let stream = VideoInfo::builder(format, width, height).chroma_site(site).build().unwrap();
                let stride = width as usize * 3 + 6;
                let rgb: Vec<u8> = (0..stride * height as usize).map(|n| (n * n / 7 + n / stride * 31) as u8).collect();
                let whole = converted(&stream, usize::MAX / 2, &rgb, stride);
                for pixels in [1, 20 * 24, 20 * 64] {
                    let banded = converted(&stream, pixels, &rgb, stride);
                    assert!(banded == whole, "{format} {width}x{height} {site:?}, bands of {pixels} pixels");
                }
            }
        }
    }
}
