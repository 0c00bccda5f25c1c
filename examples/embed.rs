//! fastvsr inside an application in Rust: every upscaled frame of a video, in memory. Beside it are the same program in
//! C (embed.c) and in Python (embed.py).
//!
//! ```sh
//! cargo run --release --example embed -- examples/demo/clip.mp4
//! ```
//!
//! Prints time, size and mean brightness of every frame.

use anyhow::{Context, Result};
use gst::prelude::*;

fn main() -> Result<()> {
    gst::init()?;
    // The plugin is part of the program; with an installed one this line is not needed.
    gstfastvsr::plugin_register_static()?;
    let file = std::env::args().nth(1).context("expected a video file")?;

    let pipeline = gst::parse::launch(
        "filesrc name=file ! decodebin ! videoconvert ! fastvsr ! video/x-raw,format=RGB ! appsink name=frames sync=false",
    )?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().expect("several elements are a pipeline");
    pipeline.by_name("file").expect("it is in the pipeline").set_property("location", file);
    let frames = pipeline.by_name("frames").and_downcast::<gst_app::AppSink>().expect("it is in the pipeline");

    // If it does not start, the bus says why.
    let _ = pipeline.set_state(gst::State::Playing);
    let bus = pipeline.bus().expect("a pipeline has a bus");
    let error = loop {
        let Some(sample) = frames.try_pull_sample(gst::ClockTime::from_mseconds(100)) else {
            let error = bus.pop_filtered(&[gst::MessageType::Error]);
            if error.is_some() || frames.is_eos() {
                break error;
            }
            continue;
        };
        let info = gst_video::VideoInfo::from_caps(sample.caps().context("no caps")?)?;
        let buffer = sample.buffer().context("no buffer")?;
        let pixels = buffer.map_readable()?;
        let mean = pixels.iter().map(|value| f64::from(*value)).sum::<f64>() / pixels.len() as f64;
        let time = buffer.pts().unwrap_or_default().mseconds();
        println!("{time} ms: {}x{}, brightness {mean:.2}", info.width(), info.height());
    };
    pipeline.set_state(gst::State::Null)?;
    match error.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Error(error)) => Err(error.error().into()),
        _ => Ok(()),
    }
}
