//! Owns the taking apart of a file: every stream in it is known before the first of them flows.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::{Result, anyhow, ensure};
use gst::prelude::*;
use gstfastvsr::sync::lock;

use crate::{gif, playback::Playback, ts};

/// Elements that read the file called `file`; [`split`] does the rest.
pub(crate) const SPLIT: &str = "filesrc name=file ! parsebin name=streams";

/// Bytes of one stream that are read while the others are looked for. Some demuxers never say that they found all.
const ENOUGH: u32 = 64 << 20;

/// A stream that waits for its destination.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) caps: gst::Caps,
    queue: gst::Element,
    hold: gst::PadProbeId,
}

/// What is known while the file is taken apart.
#[derive(Debug, Default)]
struct Found {
    streams: Vec<Stream>,
    /// And whether they have said that no more pads come.
    demuxers: Vec<(gst::Element, bool)>,
    /// The file, or what is read of it at first, is at its end.
    ended: bool,
    closed: bool,
}

impl Found {
    /// Whether each pad of each demuxer is a stream here, or leads into another demuxer.
    fn complete(&self) -> bool {
        let pads: usize = self.demuxers.iter().map(|(demuxer, _)| usize::from(demuxer.num_src_pads())).sum();
        let nested = self.demuxers.len().saturating_sub(1);
        let told = self.demuxers.iter().all(|(_, told)| *told);
        // A parser knows its format when it has seen data.
        let formats = self.streams.iter().all(|stream| stream.format().is_some());
        self.ended || (told && formats && !self.streams.is_empty() && self.streams.len() + nested >= pads)
    }
}

/// Opens a file in a pipeline with the elements of [`SPLIT`], which is paused by that. Streams that come when it is read
/// further are an error on the bus. From a file that is cut while its demuxer reads it nothing more may come, and no error:
/// `check` fails when the file is not what it was.
pub(crate) fn split(playback: &Playback, path: &Path, check: impl Fn() -> Result<()>) -> Result<Vec<Stream>> {
    let found = Arc::new(Mutex::new(Found::default()));
    playback.element("file").set_property("location", path);
    if let Some(mute) = ts::Mute::of(&beginning(path)) {
        let (file, source) = (File::open(path)?, playback.element("file").static_pad("src"));
        source.expect("it is a source").add_probe(
            gst::PadProbeType::PULL | gst::PadProbeType::BUFFER,
            move |_, info| {
                if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data
                    && let Ok(mut data) = buffer.make_mut().map_writable()
                {
                    // A packet that cannot be read is none of a table: the file's own reader meets the error.
                    let read = |packet: &mut [u8], offset| drop(file.read_exact_at(packet, offset as u64));
                    mute.tell(&mut data, usize::try_from(info.offset).unwrap_or(usize::MAX), read);
                }
                gst::PadProbeReturn::Ok
            },
        );
    }
    let parsebin: gst::Bin = playback.element("streams").downcast().expect("parsebin is a bin");
    // Subtitles keep their styles: what would become plain text stays as the file has it.
    parsebin.connect("autoplug-continue", false, |values| {
        let caps: gst::Caps = values[2].get().expect("the signal's second argument");
        let name = caps.structure(0).map(|format| format.name().as_str());
        Some((!name.is_some_and(is_subtitle)).to_value())
    });
    parsebin.connect_element_added({
        let found = Arc::clone(&found);
        move |_, element| {
            if element.factory().is_some_and(|factory| factory.has_type(gst::ElementFactoryType::DEMUXER)) {
                lock(&found).demuxers.push((element.clone(), false));
                let found = Arc::clone(&found);
                element.connect_no_more_pads(move |element| {
                    lock(&found)
                        .demuxers
                        .iter_mut()
                        .filter(|(known, _)| known == element)
                        .for_each(|(_, told)| *told = true);
                });
            }
        }
    });
    parsebin.connect_pad_added({
        let (found, pipeline) = (Arc::clone(&found), playback.0.downgrade());
        move |parsebin, pad| {
            let Some(pipeline) = pipeline.upgrade() else { return };
            if let Err(err) = hold(&found, &pipeline, pad) {
                gst::element_error!(parsebin, gst::StreamError::Failed, ("{err:#}"));
            }
        }
    });
    if gif::is_one(path) {
        // It takes the place of the elements that would read it.
        playback.0.remove(&playback.element("file"))?;
        parsebin.set_locked_state(true);
        let source = gif::source(path)?;
        playback.0.add(&source)?;
        hold(&found, &playback.0, &source.static_pad("src").expect("it is a source"))?;
    }
    playback.set_state(gst::State::Paused)?;
    playback.wait("the file does not say what is in it", || lock(&found).complete() || check().is_err())?;
    check()?;
    let mut found = lock(&found);
    found.closed = true;
    let mut streams = std::mem::take(&mut found.streams);
    for stream in &mut streams {
        stream.caps = stream.format().unwrap_or_else(|| stream.caps.clone());
    }
    Ok(streams)
}

/// Lets what comes from a pad wait.
fn hold(found: &Arc<Mutex<Found>>, pipeline: &gst::Pipeline, pad: &gst::Pad) -> Result<()> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    ensure!(!lock(found).closed, "a stream ({}) begins in the middle of the film and would be lost", words(&caps));
    let queue = gst::ElementFactory::make("queue").property("max-size-bytes", ENOUGH).build()?;
    queue.set_property("max-size-buffers", 0u32);
    queue.set_property("max-size-time", 0u64);
    let end = {
        let found = Arc::clone(found);
        move || lock(&found).ended = true
    };
    queue.connect("overrun", false, {
        let end = end.clone();
        move |_| {
            end();
            None
        }
    });
    let sink = queue.static_pad("sink").expect("a queue has a sink pad");
    sink.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let Some(gst::PadProbeData::Event(event)) = &mut info.data else { return gst::PadProbeReturn::Ok };
        match event.view() {
            gst::EventView::Eos(_) => end(),
            gst::EventView::Segment(segment) if is_recording(segment.segment()) => {
                // All that is there, also what comes before the time with which the demuxer began to count.
                let mut whole = gst::FormattedSegment::<gst::ClockTime>::new();
                whole.set_flags(segment.segment().flags());
                *event = gst::event::Segment::builder(&whole).seqnum(event.seqnum()).build();
            }
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
    pipeline.add(&queue)?;
    let source = queue.static_pad("src").expect("a queue has a source pad");
    let hold = source.add_probe(gst::PadProbeType::BLOCK_DOWNSTREAM, |_, _| gst::PadProbeReturn::Ok);
    let hold = hold.ok_or_else(|| anyhow!("a queue cannot be held"))?;
    queue.sync_state_with_parent()?;
    pad.link(&sink)?;
    lock(found).streams.push(Stream { caps, queue, hold });
    Ok(())
}

impl Stream {
    /// `video`, `audio` and so on: the first half of its format's name; `subtitle` for all kinds of those.
    pub(crate) fn kind(&self) -> &str {
        let name = self.name();
        if is_subtitle(name) { "subtitle" } else { name.split('/').next().unwrap_or_default() }
    }

    /// Its format's name.
    pub(crate) fn name(&self) -> &str {
        self.caps.structure(0).map_or("", |format| format.name().as_str())
    }

    /// Its format as its data has it.
    fn format(&self) -> Option<gst::Caps> {
        self.queue.static_pad("sink")?.current_caps()
    }

    /// Whether the file says that it is played unless another is chosen, or that it is not; `None` if it says neither.
    pub(crate) fn is_default(&self) -> Option<bool> {
        let start = self.queue.static_pad("sink")?.sticky_event::<gst::event::StreamStart>(0)?;
        let flags = start.stream_flags();
        let off = flags.contains(gst::StreamFlags::UNSELECT).then_some(false);
        flags.contains(gst::StreamFlags::SELECT).then_some(true).or(off)
    }

    /// Where it waits, and where it will come from.
    pub(crate) fn pad(&self) -> gst::Pad {
        self.queue.static_pad("src").expect("a queue has a source pad")
    }

    /// Where it comes from.
    pub(crate) fn source(&self) -> Option<gst::Pad> {
        self.queue.static_pad("sink")?.peer()
    }

    /// Lets it flow into a pad, through a queue that holds at most so many bytes (0: any number).
    pub(crate) fn flow(self, into: &gst::Pad, most: u32) -> Result<()> {
        self.pad().link(into).map_err(|err| anyhow!("{} cannot be read: {err}", words(&self.caps)))?;
        self.queue.set_property("max-size-bytes", most);
        self.pad().remove_probe(self.hold);
        Ok(())
    }

    /// Lets it flow into nothing.
    pub(crate) fn discard(self, playback: &Playback) -> Result<()> {
        let sink = gst::ElementFactory::make("fakesink").property("sync", false).property("async", false).build()?;
        playback.0.add(&sink)?;
        sink.sync_state_with_parent()?;
        self.flow(&sink.static_pad("sink").expect("a fakesink has a sink pad"), ENOUGH)
    }
}

/// What a transport stream has beside the streams that its demuxer knows, in words.
pub(crate) fn unknown(playback: &Playback, path: &Path) -> Vec<String> {
    let parsebin: gst::Bin = playback.element("streams").downcast().expect("parsebin is a bin");
    let mut elements = parsebin.iterate_elements().into_iter().flatten();
    let is_ts = |element: &gst::Element| element.factory().is_some_and(|factory| factory.name() == "tsdemux");
    let Some(demuxer) = elements.find(is_ts) else { return Vec::new() };
    // Its pads end in the number of their stream, in hexadecimal digits.
    let pid = |pad: gst::Pad| u16::from_str_radix(pad.name().rsplit('_').next()?, 16).ok();
    let known: Vec<u16> = demuxer.src_pads().into_iter().filter_map(pid).collect();
    let program =
        ts::programs(&beginning(path)).into_iter().find(|program| program.iter().any(|(pid, _)| known.contains(pid)));
    let missing = program.unwrap_or_default().into_iter().filter(|(pid, _)| !known.contains(pid));
    missing
        .map(|(pid, kind)| {
            format!(
                "a stream (PID {pid}, type 0x{kind:02x}) that GStreamer does not know, or without data, is left out"
            )
        })
        .collect()
}

/// What a file begins with, in which a transport stream says what is in it; nothing of one that cannot be read.
fn beginning(path: &Path) -> Vec<u8> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(2 << 20).read_to_end(&mut start));
    read.map(|_| start).unwrap_or_default()
}

/// Which stream is the film. Motion JPEG is pictures by its format's name; a cover is one too, beside video.
pub(crate) fn film(streams: &[Stream]) -> Option<usize> {
    let place = |kind| streams.iter().position(|stream| stream.kind() == kind);
    place("video").or_else(|| place("image"))
}

/// Whether a stream's clock ran before it began; its times are then the clock's. Known when its first data has come.
pub(crate) fn is_recorded(source: &gst::Pad) -> bool {
    source.sticky_event::<gst::event::Segment>(0).is_some_and(|event| is_recording(event.segment()))
}

/// Whether a demuxer's segment is that of a recording, whose clock ran before it began.
fn is_recording(segment: &gst::Segment) -> bool {
    let segment = segment.downcast_ref::<gst::ClockTime>();
    segment.is_some_and(|segment| segment.start() == segment.time() && segment.start() > Some(gst::ClockTime::ZERO))
}

fn is_subtitle(name: &str) -> bool {
    let others =
        ["application/x-ass", "application/x-ssa", "application/x-usf", "application/ttml+xml", "closedcaption"];
    ["text/", "subtitle/", "subpicture/", "application/x-subtitle"].iter().any(|start| name.starts_with(start))
        || others.iter().any(|other| name.starts_with(other))
}

/// A format in words.
pub(crate) fn words(caps: &gst::CapsRef) -> String {
    let format = caps.structure(0).map_or("", |format| format.name().as_str());
    if caps.is_fixed() { gst_pbutils::functions::pb_utils_get_codec_description(caps).into() } else { format.into() }
}
