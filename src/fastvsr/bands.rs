//! Owns the way from decoded RGB to YUV, by bands of rows that stay in a core's cache between the steps; large frames by
//! several threads. In its 4:4:4 form, which lies between, a large frame would take more memory than as RGB.

use std::{mem, ops::Range};

use gst_video::{VideoFrameExt, VideoFrameRef, VideoInfo};

use super::{colour::Matrix, threads};
use crate::frames::Size;

/// Pixels in a band, about.
const PIXELS: usize = 1 << 17;

/// Rows above and below a band that chroma filters may look at; bands begin at multiples of it.
const MARGIN: usize = 4;

/// Converts frames of one format and size.
#[derive(Debug)]
pub(super) struct Bands {
    /// Rows of a band that are kept.
    rows: usize,
    /// One for each thread.
    bands: Vec<Band>,
}

impl Bands {
    /// Converts to `stream`; none if that is RGB. `converter` makes a converter between two formats.
    pub(super) fn new(
        stream: &VideoInfo,
        converter: impl Fn(&VideoInfo, &VideoInfo) -> Result<gst_video::VideoConverter, glib::BoolError>,
    ) -> Result<Option<Self>, glib::BoolError> {
        let size = Size { width: stream.width() as usize, height: stream.height() as usize };
        Self::of(stream, PIXELS, threads::parts(size), converter)
    }

    fn of(
        stream: &VideoInfo,
        pixels: usize,
        threads: usize,
        converter: impl Fn(&VideoInfo, &VideoInfo) -> Result<gst_video::VideoConverter, glib::BoolError>,
    ) -> Result<Option<Self>, glib::BoolError> {
        let (width, height) = (stream.width() as usize, stream.height() as usize);
        // As many to each thread.
        let part = height.div_ceil(threads);
        let rows = part.div_ceil((width * part).div_ceil(pixels)).next_multiple_of(MARGIN);
        // As odd as the frame, so that all bands begin at an even row.
        let all = (rows + 2 * MARGIN + height % 2).min(height);
        let info = VideoInfo::builder(stream.format(), stream.width(), all as u32)
            .fps(stream.fps())
            .par(stream.par())
            .colorimetry(&stream.colorimetry())
            .chroma_site(stream.chroma_site())
            .build()?;
        let mut bands = Vec::with_capacity(threads);
        for _ in 0..threads.min(height.div_ceil(rows)) {
            let Some(matrix) = Matrix::new(&info)? else { return Ok(None) };
            let pixels = gst::Buffer::with_size(matrix.info().size())?;
            let steps = Steps { converter: converter(matrix.info(), &info)?, matrix, pixels };
            bands.push(Band { steps, info: info.clone(), converted: gst::Buffer::with_size(info.size())? });
        }
        Ok(Some(Self { rows, bands }))
    }

    /// Converts RGB rows, `stride` bytes apart, into `frame`.
    pub(super) fn write(
        &mut self,
        rgb: &[u8],
        stride: usize,
        frame: &mut VideoFrameRef<&mut gst::BufferRef>,
    ) -> Result<(), glib::BoolError> {
        let height = frame.height() as usize;
        if let [band] = self.bands.as_mut_slice()
            && band.height() == height
        {
            return band.steps.convert(rgb, stride, frame);
        }
        let rows = height.div_ceil(self.rows).div_ceil(self.bands.len()) * self.rows;
        let parts = parts(frame, rows)?;
        let work = parts.into_iter().zip(&mut self.bands).collect();
        let rows = self.rows;
        threads::each(work, |(part, band)| band.write(rgb, stride, height, rows, part))
    }
}

/// One thread's share of the work, with its memory.
#[derive(Debug)]
struct Band {
    steps: Steps,
    /// A band with its margins, in the stream's format.
    info: VideoInfo,
    converted: gst::Buffer,
}

impl Band {
    fn height(&self) -> usize {
        self.info.height() as usize
    }

    /// Converts the rows of a part of a frame of `height` rows, so many rows at a time.
    fn write(
        &mut self,
        rgb: &[u8],
        stride: usize,
        height: usize,
        rows: usize,
        mut part: Part,
    ) -> Result<(), glib::BoolError> {
        for start in part.rows.clone().step_by(rows) {
            let from = start.saturating_sub(MARGIN).min(height - self.height());
            {
                let mut band = VideoFrameRef::from_buffer_ref_writable(self.converted.make_mut(), &self.info)?;
                self.steps.convert(&rgb[from * stride..], stride, &mut band)?;
            }
            let band = VideoFrameRef::from_buffer_ref_readable(&self.converted, &self.info)?;
            part.copy(&band, from, start..(start + rows).min(part.rows.end))?;
        }
        Ok(())
    }
}

/// From RGB by way of the 4:4:4 form to the stream's format.
#[derive(Debug)]
struct Steps {
    matrix: Matrix,
    /// The 4:4:4 form.
    pixels: gst::Buffer,
    converter: gst_video::VideoConverter,
}

impl Steps {
    /// Converts as many rows as a band has.
    fn convert(
        &mut self,
        rgb: &[u8],
        stride: usize,
        frame: &mut VideoFrameRef<&mut gst::BufferRef>,
    ) -> Result<(), glib::BoolError> {
        let between = self.matrix.info();
        let size = Size { width: between.width() as usize, height: between.height() as usize };
        {
            let mut pixels = self.pixels.make_mut().map_writable()?;
            self.matrix.write_yuv(rgb, stride, &mut pixels, between.stride()[0] as usize, size);
        }
        let pixels = VideoFrameRef::from_buffer_ref_readable(&self.pixels, between)?;
        self.converter.frame_ref(&pixels, frame);
        Ok(())
    }
}

/// Neighbouring rows of a frame.
struct Part<'a> {
    rows: Range<usize>,
    planes: Vec<Plane<'a>>,
}

/// Those rows of one plane.
struct Plane<'a> {
    data: &'a mut [u8],
    layout: PlaneLayout,
}

#[derive(Clone, Copy)]
struct PlaneLayout {
    stride: usize,
    /// Bytes of a row that are pixels.
    row: usize,
    /// By how many bits the number of rows is smaller than the frame's.
    halved: u32,
}

impl PlaneLayout {
    /// The plane's row for a row of the frame.
    fn row(self, row: usize) -> usize {
        row.div_ceil(1 << self.halved)
    }
}

/// Cuts a frame into parts of `rows` rows; the last may have fewer.
fn parts<'a>(frame: &'a mut VideoFrameRef<&mut gst::BufferRef>, rows: usize) -> Result<Vec<Part<'a>>, glib::BoolError> {
    let height = frame.height() as usize;
    let layouts: Vec<_> = (0..frame.n_planes())
        .map(|plane| {
            let component = (0..frame.n_components()).find(|c| frame.comp_plane(*c) == plane);
            let component = component.ok_or_else(|| glib::bool_error!("plane {plane} holds no component"))?;
            let row = frame.comp_width(component) as usize * frame.comp_pstride(component) as usize;
            let halved = frame.format_info().h_sub()[component as usize];
            Ok(PlaneLayout { stride: frame.plane_stride()[plane as usize] as usize, row, halved })
        })
        .collect::<Result<_, glib::BoolError>>()?;
    let mut rest = frame.planes_data_mut();
    let part = |start: usize| {
        let rows = start..(start + rows).min(height);
        let planes = layouts.iter().zip(&mut rest).map(|(layout, rest)| {
            // The last row may end before its stride does.
            let length = ((layout.row(rows.end) - layout.row(rows.start)) * layout.stride).min(rest.len());
            let (data, behind) = mem::take(rest).split_at_mut(length);
            *rest = behind;
            Plane { data, layout: *layout }
        });
        let planes = planes.collect();
        Part { rows, planes }
    };
    Ok((0..height).step_by(rows).map(part).collect())
}

impl Part<'_> {
    /// Copies the rows `rows` of the frame from a band that begins at row `from`.
    fn copy(
        &mut self,
        band: &VideoFrameRef<&gst::BufferRef>,
        from: usize,
        rows: Range<usize>,
    ) -> Result<(), glib::BoolError> {
        for (n, Plane { data, layout }) in self.planes.iter_mut().enumerate() {
            let (source, stride) = (band.plane_data(n as u32)?, band.plane_stride()[n] as usize);
            for row in layout.row(rows.start)..layout.row(rows.end) {
                let at = (row - layout.row(from)) * stride;
                let to = (row - layout.row(self.rows.start)) * layout.stride;
                data[to..][..layout.row].copy_from_slice(&source[at..][..layout.row]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gst_video::{VideoChromaSite, VideoFormatInfo, video_converter::VideoConverterConfig};

    use super::{super::caps::FORMATS, *};

    fn converted(stream: &VideoInfo, pixels: usize, threads: usize, rgb: &[u8], stride: usize) -> Vec<u8> {
        let converter = |from: &VideoInfo, to: &VideoInfo| {
            let mut config = VideoConverterConfig::new();
            config.set_dither_method(gst_video::VideoDitherMethod::None);
            gst_video::VideoConverter::new(from, to, Some(config))
        };
        let mut bands = Bands::of(stream, pixels, threads, converter).unwrap().unwrap();
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
                let whole = converted(&stream, usize::MAX / 2, 1, &rgb, stride);
                for (pixels, threads) in [(1, 1), (1, 3), (20 * 24, 1), (20 * 24, 2), (20 * 64, 5), (usize::MAX / 2, 2)]
                {
                    let banded = converted(&stream, pixels, threads, &rgb, stride);
                    let about = format!("{format} {width}x{height} {site:?}");
                    assert!(banded == whole, "{about}, bands of {pixels} pixels, {threads} threads");
                }
            }
        }
    }
}
