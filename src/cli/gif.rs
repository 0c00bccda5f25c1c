//! Owns the reading of GIF, whose first picture GStreamer's demuxer gives without end.

use std::{fs::File, io::Read, num::NonZeroU64, path::Path};

use anyhow::{Context, Result, ensure};
use gif::{ColorOutput, DecodeOptions, Decoder, MemoryLimit};
use gif_dispose::Screen;
use gst::prelude::*;
use gst_video::{VideoFormat, VideoInfo};

/// What a picture is shown for that asks for a hundredth of a second or less, in hundredths, as browsers show it.
const USUAL: u16 = 10;

/// Largest picture, in pixels: more than any GIF has that is one, and the memory that its header alone could ask for.
const LARGEST: usize = 1 << 26;

/// Whether a file is one, by its first bytes.
pub(crate) fn is_one(path: &Path) -> bool {
    let mut start = [0; 6];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && matches!(&start, b"GIF87a" | b"GIF89a")
}

/// An element that gives a file's pictures as RGBA, each as it is seen: those before show where it is transparent. It is played
/// once, however often it asks to be; what cannot be decoded is its end.
///
/// # Errors
/// If there is no picture in it.
pub(crate) fn source(path: &Path) -> Result<gst::Element> {
    let delays = delays(path)?;
    let mut decoder = open(path, false)?;
    let (width, height) = (decoder.width(), decoder.height());
    let total = delays.iter().map(|delay| u64::from(*delay)).sum();
    let rate = gst::Fraction::approximate_f64(100.0 * delays.len() as f64 / total as f64);
    let info = VideoInfo::builder(VideoFormat::Rgba, width.into(), height.into())
        .fps(rate.context("it has more pictures than can be counted")?)
        .build()?;
    let source = gst_app::AppSrc::builder().caps(&info.to_caps()?).format(gst::Format::Time).max_bytes(1).build();
    source.set_duration(hundredths(total));
    let mut screen = Screen::new_decoder(&decoder);
    let (mut delays, mut time) = (delays.into_iter(), 0);
    let mut next = move || -> Result<Option<gst::Buffer>> {
        let Some((delay, frame)) = delays.next().zip(decoder.read_next_frame()?) else { return Ok(None) };
        screen.blit_frame(frame)?;
        let pixels: Vec<u8> =
            screen.pixels_rgba().pixels().flat_map(|pixel| [pixel.r, pixel.g, pixel.b, pixel.a]).collect();
        let mut buffer = gst::Buffer::from_mut_slice(pixels);
        let about = buffer.get_mut().expect("nobody else has it yet");
        about.set_pts(hundredths(time));
        about.set_duration(hundredths(delay.into()));
        time += u64::from(delay);
        Ok(Some(buffer))
    };
    let need_data = move |source: &gst_app::AppSrc, _| {
        let _ = match next() {
            Ok(Some(buffer)) => source.push_buffer(buffer),
            Ok(None) => source.end_of_stream(),
            Err(err) => {
                gst::element_warning!(source, gst::StreamError::Decode, ("{err}"));
                source.end_of_stream()
            }
        };
    };
    source.set_callbacks(gst_app::AppSrcCallbacks::builder().need_data(need_data).build());
    // It would wait for an answer before the first picture, and nobody answers before there is one.
    let pad = source.static_pad("src").expect("it is a source");
    pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, info| match info.query().map(gst::QueryRef::type_) {
        Some(gst::QueryType::Allocation) => gst::PadProbeReturn::Drop,
        _ => gst::PadProbeReturn::Ok,
    });
    Ok(source.upcast())
}

/// What each picture is shown for, in hundredths of a second.
fn delays(path: &Path) -> Result<Vec<u16>> {
    let mut decoder = open(path, true)?;
    let mut delays = Vec::new();
    while let Ok(Some(frame)) = decoder.next_frame_info() {
        delays.push(if frame.delay <= 1 { USUAL } else { frame.delay });
    }
    ensure!(!delays.is_empty(), "no picture in it can be decoded");
    Ok(delays)
}

fn open(path: &Path, times_alone: bool) -> Result<Decoder<File>> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.skip_frame_decoding(times_alone);
    options.set_memory_limit(MemoryLimit::Bytes(NonZeroU64::new(LARGEST as u64).expect("it is more than 0")));
    let decoder = options.read_info(File::open(path)?).context("no picture in it can be decoded")?;
    let pixels = usize::from(decoder.width()) * usize::from(decoder.height());
    ensure!(
        (1..=LARGEST).contains(&pixels),
        "expected 1 to {LARGEST} pixels, got {}x{}",
        decoder.width(),
        decoder.height()
    );
    Ok(decoder)
}

fn hundredths(count: u64) -> gst::ClockTime {
    gst::ClockTime::from_mseconds(10 * count)
}
