//! Live capture: a camera, upscaled, on the screen, with the latency from glass to glass measured.
//!
//! ```sh
//! cargo run --release --example live -- v4l2src                 # a camera, in a window, until it is closed
//! cargo run --release --example live -- "videotestsrc is-live=true num-buffers=250" "x264enc tune=zerolatency ! fakesink"
//! ```
//!
//! A live source stamps every frame with the time at which it was taken. The same clock tells, at three places behind
//! it, how old a frame is: when it reaches fastvsr, when it leaves it, and when it is due on the screen. One frame may
//! wait while another is being upscaled; when the next comes it is dropped, so that a machine that is too slow shows
//! fewer frames and not ever older ones.

mod common;

use std::{
    env,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result, bail};
use common::is_closed_window;
use gst::prelude::*;

const SIZE: &str = "video/x-raw,width=320,height=180";

/// Ages of the frames that pass a pad, in milliseconds.
type Ages = Arc<Mutex<Vec<f64>>>;

fn measure(pipeline: &gst::Pipeline, element: &str, pad: &str) -> Result<Ages> {
    let ages = Ages::default();
    let pad = pipeline.by_name(element).and_then(|element| element.static_pad(pad)).context("no such pad")?;
    let (seen, pipeline) = (Arc::clone(&ages), pipeline.downgrade());
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let taken = info.buffer().and_then(|buffer| buffer.pts());
        let segment = pad.sticky_event::<gst::event::Segment>(0);
        let taken = segment.and_then(|event| event.segment().downcast_ref::<gst::ClockTime>()?.to_running_time(taken));
        let now = pipeline.upgrade().and_then(|pipeline| pipeline.current_running_time());
        if let (Some(now), Some(taken)) = (now, taken) {
            seen.lock().unwrap().push(now.nseconds().saturating_sub(taken.nseconds()) as f64 / 1e6);
        }
        gst::PadProbeReturn::Ok
    });
    Ok(ages)
}

fn report(what: &str, ages: &Ages) {
    let mut ages = ages.lock().unwrap().clone();
    ages.sort_by(f64::total_cmp);
    let at = |share: f64| ages.get((ages.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    println!("{what:18} {:6} frames   median {:6.1} ms   p95 {:6.1} ms", ages.len(), at(0.5), at(0.95));
}

/// Plays until the end, an error, or until the window is closed.
fn play(pipeline: &gst::Pipeline) -> Result<()> {
    // If it does not start, the bus says why.
    let _ = pipeline.set_state(gst::State::Playing);
    for message in pipeline.bus().expect("a pipeline has a bus").iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            // The element has measured how long it takes: the sink must wait that much longer for every frame.
            gst::MessageView::Latency(_) => pipeline.recalculate_latency()?,
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
    let source = arguments.next().unwrap_or_else(|| "v4l2src".into());
    let sink = arguments.next().unwrap_or_else(|| "autovideosink sync=false".into());

    let pipeline = gst::parse::launch(&format!(
        "{source} ! {SIZE} ! videoconvert ! queue leaky=downstream max-size-buffers=1 ! fastvsr name=vsr window=1 ! \
         queue ! clocksync name=screen ! videoconvert ! {sink}"
    ))?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().expect("several elements are a pipeline");
    let captured = measure(&pipeline, "vsr", "sink")?;
    let upscaled = measure(&pipeline, "vsr", "src")?;
    let shown = measure(&pipeline, "screen", "src")?;

    let played = play(&pipeline);
    pipeline.set_state(gst::State::Null)?;
    played?;
    report("at fastvsr", &captured);
    report("upscaled", &upscaled);
    report("on the screen", &shown);
    Ok(())
}
