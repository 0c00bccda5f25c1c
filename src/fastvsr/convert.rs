//! Owns the conversion between a stream's pixel format and the 8-bit RGB tensors of the engine, done by
//! `GstVideoConverter` and, between YUV and RGB, by `colour` with the stream's own colorimetry. Alpha does not pass
//! through the model, nor do bits beyond the eighth: they are scaled beside it.

use gst_video::{VideoFormat, VideoFrameRef, VideoInfo, VideoTransferFunction, prelude::*, video_converter};

use super::{
    bands::Bands,
    colour::{self, Matrix},
    failure::Failure,
    threads,
};
use crate::{
    depth,
    frames::{self, Size},
};

/// Converts one stream, from its caps to its caps scaled.
#[derive(Debug)]
pub(super) struct Convert {
    input: VideoInfo,
    output: VideoInfo,
    /// RGB of the output's size: with the rows of the padded tensor, or as `shrink` makes it.
    rgb_hr: VideoInfo,
    unpack: Unpack,
    /// From the model's size to the stream's, where that is another.
    shrink: Option<Shrink>,
    pack: Pack,
    alpha: Option<Alpha>,
    /// From the stream's small frames to its large ones without the model; made when first needed.
    resize: Option<gst_video::VideoConverter>,
    /// Memory for a frame without the model, used again and again.
    interpolated: Option<gst::Buffer>,
    size: Size,
    padded: Size,
    padded_hr: Size,
}

/// Makes decoded frames smaller, each output pixel from all that it covers.
#[derive(Debug)]
struct Shrink {
    /// The frame as it lies in the padded tensor.
    whole: VideoInfo,
    converter: gst_video::VideoConverter,
    scratch: gst::Buffer,
}

/// From a stream's format to RGB, or to the 4:4:4 form that a matrix makes into RGB.
#[derive(Debug)]
struct Unpack {
    converter: gst_video::VideoConverter,
    matrix: Option<Matrix>,
    /// The converter's side of the matrix.
    between: VideoInfo,
    scratch: gst::Buffer,
}

/// From RGB to a stream's format.
#[derive(Debug)]
enum Pack {
    Rgb(gst_video::VideoConverter),
    Yuv(Box<Bands>),
}

/// Scales the alpha of packed formats.
#[derive(Debug)]
struct Alpha {
    /// Which of a pixel's four bytes it is.
    channel: usize,
    gray: VideoInfo,
    gray_hr: VideoInfo,
    scale: gst_video::VideoConverter,
}

/// A converted input frame.
#[derive(Debug)]
pub(super) struct Converted {
    /// Padded RGB tensor for the engine.
    pub(super) tensor: Vec<u8>,
    /// What [`Convert::write`] wants with it.
    pub(super) extra: Extra,
}

/// What does not pass through the model.
#[derive(Debug)]
pub(super) enum Extra {
    None,
    /// Alpha of the input's size.
    Alpha(gst::Buffer),
    /// A copy of the frame, for the bits of its samples beyond the eighth.
    Depth(gst::Buffer),
}

impl Convert {
    /// Prepares for frames of `input` that leave as `output`; the model wants frames of the size `padded` and returns
    /// them `scale` times as large, which is at least as large as the output.
    pub(super) fn new(
        input: &VideoInfo,
        output: &VideoInfo,
        padded: Size,
        scale: usize,
    ) -> Result<Self, glib::BoolError> {
        let size = Size { width: input.width() as usize, height: input.height() as usize };
        let padded_hr = padded.scaled(scale);
        let rgb = rgb_like(input, size, size.rgb_stride())?;
        let size_hr = Size { width: output.width() as usize, height: output.height() as usize };
        let (rgb_hr, shrink) = if size_hr == size.scaled(scale) {
            (rgb_like(output, size_hr, padded_hr.rgb_stride())?, None)
        } else {
            let whole = rgb_like(output, size.scaled(scale), padded_hr.rgb_stride())?;
            let rgb_hr = rgb_like(output, size_hr, size_hr.rgb_stride().next_multiple_of(ALIGNMENT))?;
            let shrink = Shrink::new(whole, &rgb_hr)?;
            (rgb_hr, Some(shrink))
        };
        let unpack = Unpack::new(input, &rgb)?;
        let converter = |from: &VideoInfo, to: &VideoInfo| gst_video::VideoConverter::new(from, to, Some(options(to)));
        let pack = match Bands::new(output, converter)? {
            Some(bands) => Pack::Yuv(Box::new(bands)),
            None => Pack::Rgb(converter(&rgb_hr, output)?),
        };
        let alpha = match input.format() {
            VideoFormat::Rgba | VideoFormat::Bgra => Some(Alpha::new(input, output)?),
            _ => None,
        };
        let (input, output) = (input.clone(), output.clone());
        Ok(Self {
            input,
            output,
            rgb_hr,
            unpack,
            shrink,
            pack,
            alpha,
            resize: None,
            interpolated: None,
            size,
            padded,
            padded_hr,
        })
    }

    /// Size of the input.
    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// Size of the tensors that [`Self::read`] makes.
    pub(super) fn padded(&self) -> Size {
        self.padded
    }

    /// Bytes of the tensor that one output frame is decoded into.
    pub(super) fn output_bytes(&self) -> usize {
        self.padded_hr.rgb_bytes()
    }

    /// Bytes that frames take beside the tensors of the engine: an output frame that is written, unless it is the decoded
    /// tensor, one that downstream holds, one that is made smaller, alpha, and one for the bits beyond the eighth.
    pub(super) fn bytes(&self) -> usize {
        let shrunk = self.shrink.as_ref().map_or(0, |shrink| shrink.scratch.size());
        let is_tensor = self.output.format() == VideoFormat::Rgb && self.size == self.padded && shrunk == 0;
        let alpha = self.alpha.as_ref().map_or(0, |alpha| alpha.gray_hr.size());
        let frames = if is_tensor { 1 } else { 2 } + usize::from(self.input.comp_depth(0) > 8);
        self.output.size() * frames + shrunk + alpha
    }

    /// Reads an input buffer.
    pub(super) fn read(&mut self, buffer: &gst::BufferRef) -> Result<Converted, Failure> {
        check_layout(buffer, &self.input)?;
        let aligned = realigned(buffer, &self.input)?;
        let buffer = aligned.as_deref().unwrap_or(buffer);
        let frame = VideoFrameRef::from_buffer_ref_readable(buffer, &self.input)?;
        let Unpack { converter, matrix, between, scratch } = &mut self.unpack;
        {
            let mut target = VideoFrameRef::from_buffer_ref_writable(scratch.make_mut(), between)?;
            converter.frame_ref(&frame, &mut target);
        }
        let pixels = scratch.map_readable()?;
        let (size, stride) = (self.size, self.size.rgb_stride());
        let tensor = match matrix {
            Some(matrix) => {
                let mut rgb = frames::filled(0, size.rgb_bytes())?;
                matrix.write_rgb(&pixels, between.stride()[0] as usize, &mut rgb, stride, size);
                frames::pad(&rgb, stride, size, self.padded)?
            }
            None => frames::pad(&pixels, stride, size, self.padded)?,
        };
        let extra = match &self.alpha {
            Some(alpha) => Extra::Alpha(alpha.read(&frame, self.size)?),
            None if self.input.comp_depth(0) > 8 => Extra::Depth(buffer.copy_deep()?),
            None => Extra::None,
        };
        Ok(Converted { tensor, extra })
    }

    /// Whether the engine can decode straight into `buffer`: RGB in one piece, without gaps or padding.
    pub(super) fn is_tensor(&self, buffer: &gst::BufferRef) -> bool {
        let stride = self.padded_hr.rgb_stride() as i32;
        let rows = match buffer.meta::<gst_video::VideoMeta>() {
            Some(meta) => meta.stride() == [stride] && meta.offset() == [0],
            None => self.output.stride() == [stride],
        };
        self.output.format() == VideoFormat::Rgb
            && self.size == self.padded
            && self.shrink.is_none()
            && rows
            && buffer.n_memory() == 1
            && buffer.size() == self.output_bytes()
    }

    /// Writes a decoded tensor, held by a buffer, into an output buffer.
    ///
    /// # Errors
    /// If a buffer cannot be mapped, or the output buffer does not hold a frame.
    pub(super) fn write(
        &mut self,
        tensor: &gst::BufferRef,
        extra: &Extra,
        buffer: &mut gst::BufferRef,
    ) -> Result<(), glib::BoolError> {
        check_layout(buffer, &self.output)?;
        match realigned(buffer, &self.output)? {
            Some(mut aligned) => {
                self.write_aligned(tensor, extra, aligned.make_mut())?;
                copy(&aligned, buffer, &self.output)
            }
            None => self.write_aligned(tensor, extra, buffer),
        }
    }

    fn write_aligned(
        &mut self,
        tensor: &gst::BufferRef,
        extra: &Extra,
        buffer: &mut gst::BufferRef,
    ) -> Result<(), glib::BoolError> {
        let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer, &self.output)?;
        let tensor = match &mut self.shrink {
            Some(shrink) => shrink.run(tensor, &self.rgb_hr)?,
            None => tensor,
        };
        match &mut self.pack {
            Pack::Yuv(bands) => bands.write(&tensor.map_readable()?, self.rgb_hr.stride()[0] as usize, &mut frame)?,
            Pack::Rgb(converter) => {
                let rgb = VideoFrameRef::from_buffer_ref_readable(tensor, &self.rgb_hr)?;
                converter.frame_ref(&rgb, &mut frame);
            }
        }
        match (extra, &self.alpha) {
            (Extra::Alpha(alpha), Some(scaler)) => scaler.write(alpha, &mut frame),
            (Extra::Depth(input), _) => {
                drop(frame);
                self.deepen(input, buffer)
            }
            _ => Ok(()),
        }
    }

    /// Gives the frame in `output`, which was 8-bit RGB, the bits that the input frame has beyond the eighth.
    fn deepen(&mut self, input: &gst::BufferRef, output: &mut gst::BufferRef) -> Result<(), glib::BoolError> {
        let mut interpolated = match self.interpolated.take() {
            Some(interpolated) => interpolated,
            None => gst::Buffer::with_size(self.output.size())?,
        };
        self.resize_aligned(input, interpolated.make_mut())?;
        {
            let from = VideoFrameRef::from_buffer_ref_readable(&interpolated, &self.output)?;
            let mut to = VideoFrameRef::from_buffer_ref_writable(output, &self.output)?;
            let level = 1 << (self.output.comp_depth(0) - 8 + self.output.format_info().shift()[0]);
            for (plane, component) in (0..self.output.n_planes()).zip(0..) {
                // Planes begin with the component of their number; in P010 another one lies between its samples.
                let row = self.output.comp_width(component) as usize * self.output.comp_pstride(component) as usize;
                let size = Size { width: row / 2, height: self.output.comp_height(component) as usize };
                let (from_stride, to_stride) = (from.plane_stride()[plane as usize], to.plane_stride()[plane as usize]);
                colour::rows(
                    from.plane_data(plane)?,
                    from_stride as usize,
                    to.plane_data_mut(plane)?,
                    to_stride as usize,
                    size,
                    |from, to| depth::deepen(&mut to[..row], &from[..row], level),
                );
            }
        }
        self.interpolated = Some(interpolated);
        Ok(())
    }

    /// Makes an output frame of an input frame without the model.
    pub(super) fn resize(
        &mut self,
        input: &gst::BufferRef,
        output: &mut gst::BufferRef,
    ) -> Result<(), glib::BoolError> {
        check_layout(input, &self.input)?;
        check_layout(output, &self.output)?;
        let aligned_input = realigned(input, &self.input)?;
        let input = aligned_input.as_deref().unwrap_or(input);
        match realigned(output, &self.output)? {
            Some(mut aligned) => {
                self.resize_aligned(input, aligned.make_mut())?;
                copy(&aligned, output, &self.output)
            }
            None => self.resize_aligned(input, output),
        }
    }

    fn resize_aligned(&mut self, input: &gst::BufferRef, output: &mut gst::BufferRef) -> Result<(), glib::BoolError> {
        let converter = match &mut self.resize {
            Some(converter) => converter,
            none => {
                let converter = gst_video::VideoConverter::new(&self.input, &self.output, Some(options(&self.output)))?;
                none.insert(converter)
            }
        };
        let small = VideoFrameRef::from_buffer_ref_readable(input, &self.input)?;
        converter.frame_ref(&small, &mut VideoFrameRef::from_buffer_ref_writable(output, &self.output)?);
        Ok(())
    }
}

impl Shrink {
    fn new(whole: VideoInfo, small: &VideoInfo) -> Result<Self, glib::BoolError> {
        let converter = gst_video::VideoConverter::new(&whole, small, Some(options(&whole)))?;
        Ok(Self { whole, converter, scratch: gst::Buffer::with_size(small.size())? })
    }

    fn run(&mut self, tensor: &gst::BufferRef, small: &VideoInfo) -> Result<&gst::BufferRef, glib::BoolError> {
        let from = VideoFrameRef::from_buffer_ref_readable(tensor, &self.whole)?;
        let mut to = VideoFrameRef::from_buffer_ref_writable(self.scratch.make_mut(), small)?;
        self.converter.frame_ref(&from, &mut to);
        drop(to);
        Ok(&self.scratch)
    }
}

impl Unpack {
    fn new(stream: &VideoInfo, rgb: &VideoInfo) -> Result<Self, glib::BoolError> {
        let matrix = Matrix::new(stream)?;
        let between = matrix.as_ref().map_or(rgb, Matrix::info).clone();
        let scratch = gst::Buffer::with_size(between.size())?;
        let converter = gst_video::VideoConverter::new(stream, &between, Some(options(stream)))?;
        Ok(Self { converter, matrix, between, scratch })
    }
}

impl Alpha {
    fn new(input: &VideoInfo, output: &VideoInfo) -> Result<Self, glib::BoolError> {
        let gray = |info: &VideoInfo| {
            VideoInfo::builder(VideoFormat::Gray8, info.width(), info.height()).fps(info.fps()).build()
        };
        let (gray, gray_hr) = (gray(input)?, gray(output)?);
        let scale = gst_video::VideoConverter::new(&gray, &gray_hr, Some(options(output)))?;
        // Alpha is the last component of both formats, and the last byte of a pixel in both.
        let channel = input.comp_poffset(3) as usize;
        Ok(Self { channel, gray, gray_hr, scale })
    }

    fn read(&self, frame: &VideoFrameRef<&gst::BufferRef>, size: Size) -> Result<gst::Buffer, glib::BoolError> {
        let mut buffer = gst::Buffer::with_size(self.gray.size())?;
        {
            let mut gray = VideoFrameRef::from_buffer_ref_writable(buffer.make_mut(), &self.gray)?;
            let stride = gray.plane_stride()[0] as usize;
            let rows = frame.plane_data(0)?;
            frames::get_channel(
                rows,
                frame.plane_stride()[0] as usize,
                self.channel,
                gray.plane_data_mut(0)?,
                stride,
                size,
            );
        }
        Ok(buffer)
    }

    fn write(
        &self,
        alpha: &gst::BufferRef,
        frame: &mut VideoFrameRef<&mut gst::BufferRef>,
    ) -> Result<(), glib::BoolError> {
        let gray = VideoFrameRef::from_buffer_ref_readable(alpha, &self.gray)?;
        let mut scaled = gst::Buffer::with_size(self.gray_hr.size())?;
        {
            let mut target = VideoFrameRef::from_buffer_ref_writable(scaled.make_mut(), &self.gray_hr)?;
            self.scale.frame_ref(&gray, &mut target);
        }
        let scaled = VideoFrameRef::from_buffer_ref_readable(&scaled, &self.gray_hr)?;
        let size = Size { width: self.gray_hr.width() as usize, height: self.gray_hr.height() as usize };
        let stride = frame.plane_stride()[0] as usize;
        let plane_stride = scaled.plane_stride()[0] as usize;
        frames::set_channel(frame.plane_data_mut(0)?, stride, self.channel, scaled.plane_data(0)?, plane_stride, size);
        Ok(())
    }
}

/// Checks that every row lies inside the buffer: a `VideoMeta` may place planes anywhere, and GStreamer believes it.
fn check_layout(buffer: &gst::BufferRef, info: &VideoInfo) -> Result<(), glib::BoolError> {
    let meta = buffer.meta::<gst_video::VideoMeta>();
    let (strides, offsets) = match &meta {
        Some(meta) => (meta.stride(), meta.offset()),
        None => (info.stride(), info.offset()),
    };
    if let Some(meta) = &meta {
        let got = (meta.format(), meta.width(), meta.height(), meta.n_planes());
        let expected = (info.format(), info.width(), info.height(), info.n_planes());
        if got != expected {
            return Err(glib::bool_error!(
                "expected a VideoMeta of {expected:?} (format, width, height, planes), got {got:?}"
            ));
        }
    }
    for component in 0..info.n_components() {
        let plane = info.comp_plane(component as u8) as usize;
        let row = info.comp_width(component as u8) as usize * info.comp_pstride(component as u8) as usize;
        let rows = info.comp_height(component as u8) as usize;
        let (stride, offset) = (strides[plane], offsets[plane]);
        // A plane that a VideoMeta places is mapped with the memory in which it begins; without one the buffer is mapped whole.
        let space = if meta.is_some() {
            let memory = (offset < buffer.size()).then(|| buffer.find_memory(offset..=offset)).flatten();
            memory.map_or(0, |(index, skip)| buffer.peek_memory(index.start).size() - skip)
        } else {
            buffer.size().saturating_sub(offset)
        };
        let fits = usize::try_from(stride).is_ok_and(|stride| stride >= row && (rows - 1) * stride + row <= space);
        if !fits {
            return Err(glib::bool_error!(
                "expected {rows} rows of {row} bytes in plane {plane}, got {space} bytes with a stride of {stride}"
            ));
        }
    }
    Ok(())
}

/// Boundary of bytes at which `GstVideoConverter` expects rows to begin: it reads and writes words, and crashes on others.
const ALIGNMENT: usize = 4;

/// A copy of a frame with rows where `GstVideoConverter` expects them, if they are not there. Call it after [`check_layout`].
fn realigned(buffer: &gst::BufferRef, info: &VideoInfo) -> Result<Option<gst::Buffer>, glib::BoolError> {
    let is_aligned = {
        let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info)?;
        (0..frame.n_planes()).all(|plane| {
            let stride = frame.plane_stride()[plane as usize];
            let begins = frame.plane_data(plane).is_ok_and(|data| (data.as_ptr() as usize).is_multiple_of(ALIGNMENT));
            begins && (stride as usize).is_multiple_of(ALIGNMENT)
        })
    };
    if is_aligned {
        return Ok(None);
    }
    let mut aligned = gst::Buffer::with_size(info.size())?;
    copy(buffer, aligned.make_mut(), info)?;
    Ok(Some(aligned))
}

/// Copies the pixels of a frame.
fn copy(from: &gst::BufferRef, to: &mut gst::BufferRef, info: &VideoInfo) -> Result<(), glib::BoolError> {
    let from = VideoFrameRef::from_buffer_ref_readable(from, info)?;
    from.copy(&mut VideoFrameRef::from_buffer_ref_writable(to, info)?)
}

/// RGB frames of `size` with rows of `stride` bytes, in the primaries and transfer function of `info`.
fn rgb_like(info: &VideoInfo, size: Size, stride: usize) -> Result<VideoInfo, glib::BoolError> {
    let transfer = match info.colorimetry().transfer() {
        VideoTransferFunction::Unknown => VideoTransferFunction::Srgb,
        transfer => transfer,
    };
    let colorimetry = gst_video::VideoColorimetry::new(
        gst_video::VideoColorRange::Range0_255,
        gst_video::VideoColorMatrix::Rgb,
        transfer,
        info.colorimetry().primaries(),
    );
    VideoInfo::builder(VideoFormat::Rgb, size.width as u32, size.height as u32)
        .fps(info.fps())
        .par(info.par())
        .colorimetry(&colorimetry)
        .stride(&[stride as i32])
        .offset(&[0])
        .size(stride * size.height)
        .build()
}

fn options(info: &VideoInfo) -> video_converter::VideoConverterConfig {
    let size = Size { width: info.width() as usize, height: info.height() as usize };
    let mut config = video_converter::VideoConverterConfig::new();
    // Dither would be noise for the model to sharpen.
    config.set_dither_method(gst_video::VideoDitherMethod::None);
    // Catmull-Rom: GStreamer's own cubic makes 206 of 200 where it enlarges three times.
    config.set("GstVideoResampler.cubic-b", 0.0);
    config.set("GstVideoResampler.cubic-c", 0.5);
    config.set_threads(threads::parts(size) as u32);
    config
}
