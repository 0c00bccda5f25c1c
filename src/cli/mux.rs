//! Owns the finished file: the upscaled video with the audio, subtitles, tags and chapters of the input, written beside
//! the output and renamed when it is whole.

use std::{
    fs::{self, File},
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use gst::prelude::*;

use crate::{
    clip::{Clip, Range, stream_time},
    encoder::Container,
    journal::{self, Frames},
    playback::Playback,
};

/// Ticks a second in MP4: whole numbers for every usual frame rate, 1001st parts and milliseconds.
const TIMESCALE: u32 = 120_000;

/// Writes `output` from the frames of its journal and the other streams of the clip. Gives notes for the user.
pub(crate) fn write(clip: &Clip, range: Range, container: Container, output: &Path) -> Result<Vec<String>> {
    let part = journal::beside(output, "part");
    let result = write_to(clip, range, container, &journal::path(output), &part);
    let notes = result.inspect_err(|_| drop(fs::remove_file(&part)))?;
    File::open(&part)?.sync_all()?;
    fs::rename(&part, output).with_context(|| format!("cannot write `{}`", output.display()))?;
    Ok(notes)
}

fn write_to(clip: &Clip, range: Range, container: Container, journal: &Path, part: &Path) -> Result<Vec<String>> {
    let mut frames = Frames::open(journal, range.from)?;
    let playback = Playback::new(&format!(
        "filesrc name=file ! parsebin name=streams  {} name=mux ! filesink name=part  appsrc name=video format=time handle-segment-change=true",
        container.muxer()
    ))?;
    playback.element("file").set_property("location", &clip.path);
    playback.element("part").set_property("location", part);
    let mux = playback.element("mux");
    if let Some(tags) = mux.dynamic_cast_ref::<gst::TagSetter>() {
        tags.merge_tags(&clip.tags, gst::TagMergeMode::Append);
    }
    if let Some((toc, chapters)) = mux.dynamic_cast_ref::<gst::TocSetter>().zip(clip.chapters.as_ref()) {
        toc.set_toc(Some(chapters));
    }

    let video = playback.source("video");
    video.set_caps(Some(frames.caps()));
    video.set_callbacks(
        gst_app::AppSrcCallbacks::builder()
            .need_data(move |source, _| match frames.next() {
                Ok(Some(sample)) => drop(source.push_sample(&sample)),
                Ok(None) => drop(source.end_of_stream()),
                Err(err) => gst::element_error!(source, gst::ResourceError::Read, ("the upscaled frames: {err}")),
            })
            .build(),
    );
    let pad = mux.request_pad_simple("video_%u").context("the muxer takes no video")?;
    if pad.has_property("trak-timescale") {
        pad.set_property("trak-timescale", TIMESCALE);
    }
    video.static_pad("src").expect("an appsrc has a source pad").link(&pad)?;

    // A muxer takes no further stream once it has begun, which the video would make it do. All streams are there
    // before the first has data.
    video.set_locked_state(true);
    let notes = Arc::new(Mutex::new(Vec::new()));
    let streams = playback.element("streams");
    streams.connect_pad_added({
        let (pipeline, notes) = (playback.0.downgrade(), Arc::clone(&notes));
        move |_, pad| {
            let Some(pipeline) = pipeline.upgrade() else { return };
            let video = video.clone();
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                video.set_locked_state(false);
                let _ = video.sync_state_with_parent();
                gst::PadProbeReturn::Remove
            });
            let note = match keep(&pipeline, pad, container, range) {
                Ok(note) => note,
                Err(err) => {
                    drop(discard(&pipeline, pad));
                    Some(format!("a stream is left out: {err:#}"))
                }
            };
            notes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(note);
        }
    });
    playback.run(|| {})?;
    drop(playback);
    let notes = std::mem::take(&mut *notes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    Ok(notes)
}

/// Links a stream of the input to the muxer, if it is not the video; what the user should know of it.
fn keep(pipeline: &gst::Pipeline, pad: &gst::Pad, container: Container, range: Range) -> Result<Option<String>> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let format = caps.structure(0).context("a stream without a format")?;
    let name = format.name().as_str();
    let kind = match name.split('/').next().unwrap_or_default() {
        "audio" => "audio_%u",
        "video" | "image" => {
            discard(pipeline, pad)?;
            return Ok(None);
        }
        _ => "subtitle_%u",
    };
    let mux = pipeline.by_name("mux").context("the pipeline has no muxer")?;
    let template = mux.pad_template(kind);
    let holds = template.as_ref().is_some_and(|template| template.caps().can_intersect(&caps));
    let plain = "queue max-size-time=0 max-size-bytes=0 max-size-buffers=0";
    let (chain, note) = if holds {
        (format!("{plain} name=first ! identity name=last"), None)
    } else if kind == "audio_%u" {
        let encoder = container.audio_encoder();
        let chain =
            format!("{plain} name=first ! decodebin ! audioconvert ! audioresample ! {encoder} ! {plain} name=last");
        (chain, Some(format!("audio: {name} does not fit this kind of file and was encoded anew with {encoder}")))
    } else if name == "text/x-raw" && template.is_some() {
        (format!("{plain} name=first ! capssetter name=last replace=true caps=text/x-raw,format=utf8"), None)
    } else {
        discard(pipeline, pad)?;
        return Ok(Some(format!("subtitles: {name} does not fit this kind of file and was left out")));
    };
    trim(pad, range);
    let chain = gst::parse::bin_from_description(&chain, false)?;
    // Named, as GStreamer may take the sink pad that waits for decodebin for the bin's.
    let outer = |name: &str, pad: &str| -> Result<gst::GhostPad> {
        let inner = chain.by_name(name).and_then(|element| element.static_pad(pad)).context("no such pad")?;
        let outer = gst::GhostPad::with_target(&inner)?;
        chain.add_pad(&outer)?;
        Ok(outer)
    };
    let (sink, source) = (outer("first", "sink")?, outer("last", "src")?);
    if !holds && kind == "subtitle_%u" {
        plain_text(source.upcast_ref());
    }
    let target = mux.request_pad_simple(kind).context("the muxer takes no more streams of this kind")?;
    pipeline.add(&chain)?;
    if let Err(err) = source.link(&target).and_then(|_| pad.link(&sink)) {
        // Muxer and pipeline would wait for it without end.
        mux.release_request_pad(&target);
        pipeline.remove(&chain)?;
        return Err(err.into());
    }
    chain.sync_state_with_parent()?;
    Ok(note)
}

fn discard(pipeline: &gst::Pipeline, pad: &gst::Pad) -> Result<()> {
    let sink = gst::ElementFactory::make("fakesink").property("sync", false).property("async", false).build()?;
    pipeline.add(&sink)?;
    sink.sync_state_with_parent()?;
    pad.link(&sink.static_pad("sink").context("no sink pad")?)?;
    Ok(())
}

/// Keeps what lies in the range, and lets it begin at zero.
fn trim(pad: &gst::Pad, range: Range) {
    let (from, to) = (range.from.nseconds() as i64, range.to.map(|to| to.nseconds() as i64));
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let time = info.buffer().and_then(|buffer| stream_time(pad, buffer.pts()));
        match time {
            Some(time) if time < from || to.is_some_and(|to| time >= to) => gst::PadProbeReturn::Handled,
            _ => gst::PadProbeReturn::Ok,
        }
    });
    pad.set_offset(-from);
}

/// Makes plain text of text with markup, which muxers do not take.
fn plain_text(pad: &gst::Pad) {
    pad.add_probe(gst::PadProbeType::BUFFER, |_, info| {
        if let Some(buffer) = info.buffer_mut() {
            let text = buffer.map_readable().map(|data| unmark(&String::from_utf8_lossy(&data))).unwrap_or_default();
            let mut plain = gst::Buffer::from_mut_slice(text.into_bytes());
            let what = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS;
            if let Some(plain) = plain.get_mut() {
                let _ = buffer.copy_into(plain, what, ..);
            }
            *buffer = plain;
        }
        gst::PadProbeReturn::Ok
    });
}

/// Text without Pango's tags and entities.
fn unmark(marked: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for character in marked.chars() {
        match character {
            '<' => inside = true,
            '>' if inside => inside = false,
            _ if !inside => text.push(character),
            _ => {}
        }
    }
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#39;", "'"), ("&amp;", "&")];
    entities.into_iter().fold(text, |text, (entity, character)| text.replace(entity, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_plain_text() {
        assert_eq!(unmark("<i>Tom &amp; <b>Ann</b></i>: 1 &lt; 2"), "Tom & Ann: 1 < 2");
        assert_eq!(unmark("plain > text"), "plain > text");
    }
}
