//! A preview in a window: bicubic upscaling on the left, fastvsr on the right, the line between them where the mouse is.
//!
//! ```sh
//! cargo run --release --example preview -- examples/demo/clip.mp4
//! cargo run --release --example preview -- examples/demo/clip.mp4 --side-by-side
//! ```
//!
//! Both pictures are put beside each other, so that they are of one frame. The wipe then moves what is right of the line
//! from the right picture over the left one, and the right picture is cropped away.

mod common;

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use common::is_closed_window;
use gst::prelude::*;
use gst_video::{VideoFrameExt, VideoFrameRef, VideoInfo};

/// Where the line is before the size of the picture is known.
const UNSET: usize = usize::MAX;

/// Bytes of an RGBx pixel.
const PIXEL: usize = 4;

/// Moves the part of the right picture that is right of `line` over the left picture, and draws the line.
fn wipe(buffer: &mut gst::BufferRef, info: &VideoInfo, line: usize) -> Option<()> {
    let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer, info).ok()?;
    let (stride, width) = (frame.plane_stride()[0] as usize, info.width() as usize / 2);
    let line = line.min(width - 1);
    for row in frame.plane_data_mut(0).ok()?.chunks_exact_mut(stride) {
        row.copy_within((width + line) * PIXEL..2 * width * PIXEL, line * PIXEL);
        row[line * PIXEL..][..PIXEL].fill(0xff);
    }
    Some(())
}

/// Plays again and again, until an error, or until the window is closed.
fn play(pipeline: &gst::Pipeline) -> Result<()> {
    // If it does not start, the bus says why.
    let _ = pipeline.set_state(gst::State::Playing);
    for message in pipeline.bus().expect("a pipeline has a bus").iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Eos(_) => pipeline.seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::ZERO)?,
            gst::MessageView::Error(err) if is_closed_window(err) => break,
            gst::MessageView::Error(err) => bail!("{}", err.error()),
            _ => {}
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    gst::init()?;
    gstfastvsr::plugin_register_static()?;
    let mut arguments = env::args().skip(1);
    let file = arguments.next().context("expected a video file")?;
    let wipes = match arguments.next().as_deref() {
        None => true,
        Some("--side-by-side") => false,
        Some(other) => bail!("expected --side-by-side or nothing, got `{other}`"),
    };

    let pipeline = gst::parse::launch(
        "filesrc name=file ! decodebin ! videoconvert ! tee name=frames \
         frames. ! queue ! both.sink_0 \
         frames. ! queue ! fastvsr name=upscaler ! both.sink_1 \
         compositor name=both ! video/x-raw,format=RGBx ! videocrop name=crop ! queue ! videoconvert ! \
         autovideosink name=window",
    )?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().expect("several elements are a pipeline");
    let element = |name| pipeline.by_name(name).expect("it is in the pipeline");
    element("file").set_property("location", file);

    // The compositor begins when both pictures are there: it has been told by then what size fastvsr makes.
    let (both, crop) = (element("both"), element("crop"));
    let line = Arc::new(AtomicUsize::new(UNSET));
    let middle = Arc::clone(&line);
    let upscaled = element("upscaler").static_pad("src").expect("it has a source pad");
    upscaled.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view())
            && let Ok(info) = VideoInfo::from_caps(caps.caps())
        {
            let (width, height) = (info.width() as i32, info.height() as i32);
            let [left, right] = ["sink_0", "sink_1"].map(|name| both.static_pad(name).expect("it is linked"));
            left.set_properties(&[("width", &width), ("height", &height)]);
            right.set_property("xpos", width);
            crop.set_property("right", if wipes { width } else { 0 });
            // Not again when the clip begins again.
            let _ = middle.compare_exchange(UNSET, width as usize / 2, Ordering::Relaxed, Ordering::Relaxed);
        }
        gst::PadProbeReturn::Ok
    });

    let cropped = element("crop").static_pad("sink").expect("it has a sink pad");
    let position = Arc::clone(&line);
    cropped.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        if let (true, Some(caps), Some(buffer)) = (wipes, pad.current_caps(), info.buffer_mut())
            && let Ok(info) = VideoInfo::from_caps(&caps)
        {
            wipe(buffer.make_mut(), &info, position.load(Ordering::Relaxed));
        }
        gst::PadProbeReturn::Ok
    });

    // The window sends what the mouse does upstream, in pixels of the video.
    let window = element("crop").static_pad("src").expect("it has a source pad");
    window.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
        if let Some(gst::EventView::Navigation(event)) = info.event().map(|event| event.view())
            && let Some(x) = event.structure().and_then(|structure| structure.get::<f64>("pointer_x").ok())
        {
            line.store(x.max(0.0) as usize, Ordering::Relaxed);
        }
        gst::PadProbeReturn::Ok
    });

    let played = play(&pipeline);
    pipeline.set_state(gst::State::Null)?;
    played
}
