//! Owns the finished file: the upscaled video with the audio, subtitles, tags and chapters of the input, written beside
//! the output and renamed when it is whole.

use std::{
    collections::BTreeMap,
    fs,
    io::Seek,
    os::fd::AsRawFd,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use gst::prelude::*;
use gstfastvsr::sync::lock;

use crate::{
    clip::{Clip, Range},
    encoder::Container,
    hidden,
    journal::{Frames, Journal},
    mp4,
    playback::{Failure, Playback},
    streams::{self, Stream, words},
    time::stream_time,
};

/// Ticks a second in MP4: whole numbers for every usual frame rate, 1001st parts and milliseconds.
const TIMESCALE: u32 = 120_000;

/// Takes what comes: the streams of a file lie at any distance from each other.
const QUEUE: &str = "queue max-size-time=0 max-size-bytes=0 max-size-buffers=0";

/// What the elements of a stream are in; its number follows.
const STREAM: &str = "stream-";

/// Writes `output` from the frames of its journal and the other streams of the clip. Gives notes for the user.
pub(crate) fn write(
    clip: &Clip,
    range: Range,
    container: Container,
    journal: &Journal,
    output: &Path,
) -> Result<Vec<String>> {
    let (part, file) = hidden::create(output, "part")?;
    let write = || {
        let mut failed = BTreeMap::new();
        let (mut notes, kept, promised) = loop {
            file.set_len(0)?;
            (&file).rewind()?;
            let result = write_to(clip, range, container, journal.read(range.from)?, &file, &failed);
            clip.check_unchanged()?;
            match result {
                Ok(written) => break written,
                // A stream that cannot be brought over does not cost the others.
                Err(err) => match failed_stream(&err).filter(|index| !failed.contains_key(index)) {
                    Some(index) => drop(failed.insert(index, err)),
                    None => return Err(err),
                },
            }
        };
        notes.extend(complete(clip, container, &file)?);
        let found = streams::split(&Playback::new(streams::SPLIT)?, &part, || Ok(()))?.len();
        ensure!(found >= promised, "the file has {found} streams: expected {promised}; please report this");
        if found < kept {
            notes.push(format!("{} of {kept} streams have nothing in this part and are left out", kept - found));
        }
        notes.extend(failed.values().map(|err| format!("a stream that cannot be read or encoded is left out: {err}")));
        file.sync_all()?;
        fs::rename(&part, output).with_context(|| format!("cannot write `{}`", output.display()))?;
        Ok(notes)
    };
    write().inspect_err(|_| drop(fs::remove_file(&part)))
}

/// Which stream's own elements an error comes from.
fn failed_stream(err: &anyhow::Error) -> Option<usize> {
    let (_, place) = err.downcast_ref::<Failure>()?.place.split_once(&format!(":{STREAM}"))?;
    place.split('/').next()?.parse().ok()
}

/// Gives the notes, how many streams are brought over, and how many of them had data, which the file must have.
fn write_to(
    clip: &Clip,
    range: Range,
    container: Container,
    mut frames: Frames,
    part: &fs::File,
    failed: &BTreeMap<usize, anyhow::Error>,
) -> Result<(Vec<String>, usize, usize)> {
    let playback = Playback::new(&format!(
        "{}  {} name=mux ! fdsink name=part  appsrc name=video format=time handle-segment-change=true",
        streams::SPLIT,
        container.muxer()
    ))?;
    playback.element("part").set_property("fd", part.as_raw_fd());
    let mux = playback.element("mux");
    if let Some(tags) = mux.dynamic_cast_ref::<gst::TagSetter>() {
        tags.merge_tags(&clip.tags, gst::TagMergeMode::Append);
    }
    if let Some(created) = created(clip).filter(|_| mux.has_property("creation-time")) {
        mux.set_property("creation-time", created);
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
    let source = video.static_pad("src").expect("an appsrc has a source pad");
    source.link(&pad)?;
    // A muxer takes no further stream once it has begun, which the video would make it do.
    video.set_locked_state(true);

    let streams = clip.streams(&playback)?;
    let film = streams::film(&streams);
    let mut notes = lost_tags(clip);
    notes.extend(streams::unknown(&playback, &clip.path));
    let mut kept = Vec::new();
    for (index, stream) in streams.into_iter().enumerate() {
        if Some(index) == film || failed.contains_key(&index) {
            stream.discard(&playback)?;
        } else {
            match route(&mux, &stream, container) {
                Ok((route, note)) => {
                    notes.extend(note);
                    kept.push((index, stream, route));
                }
                Err(reason) => {
                    notes.push(reason);
                    stream.discard(&playback)?;
                }
            }
        }
    }
    let defaults: Vec<_> = kept.iter().map(|(_, stream, _)| stream.is_default()).collect();
    if defaults.contains(&Some(false)) || (defaults.contains(&Some(true)) && defaults.contains(&None)) {
        notes.push(
            "which sound and subtitles are on by default, or forced: GStreamer 1.22 cannot write it; all are on, and \
             `mkvpropedit` can change that"
                .into(),
        );
    }
    // All are linked before the first flows.
    let linked: Vec<_> = kept
        .iter()
        .map(|(index, stream, route)| link(&playback, &mux, *index, stream, route))
        .collect::<Result<_>>()?;
    let (count, promised) = (1 + kept.len(), Arc::new(AtomicUsize::new(1)));
    for ((_, stream, _), sink) in kept.into_iter().zip(linked) {
        if container.is_mp4() {
            time(&stream.pad());
        }
        trim(&stream.pad(), clip.origin, range);
        stream.pad().add_probe(gst::PadProbeType::BUFFER, {
            let promised = Arc::clone(&promised);
            move |_, _| {
                promised.fetch_add(1, Ordering::Relaxed);
                gst::PadProbeReturn::Remove
            }
        });
        stream.flow(&sink, 0)?;
    }
    video.set_locked_state(false);
    if let Some(tags) = &clip.video_tags {
        source.add_probe(gst::PadProbeType::BUFFER, {
            let tags = tags.clone();
            move |pad, _| {
                pad.push_event(gst::event::Tag::new(tags.clone()));
                gst::PadProbeReturn::Remove
            }
        });
    }
    video.sync_state_with_parent()?;
    playback.run(|| {})?;
    Ok((notes, count, promised.load(Ordering::Relaxed)))
}

/// Brings over what muxers do not: when, where and with what the film was recorded. Gives notes of what is lost.
fn complete(clip: &Clip, container: Container, file: &fs::File) -> Result<Vec<String>> {
    let about = mp4::about(&clip.path);
    let is_told = if container.is_mp4() {
        mp4::complete(file, created(clip).map(|date| date.to_unix()), &about)?
    } else {
        about.is_mute()
    };
    let place =
        (!is_told).then(|| "where and with what it was recorded is left out; .mp4 and .mov keep it".to_string());
    let lost = |track| format!("{track}: GStreamer does not know it, and it is left out");
    Ok(place.into_iter().chain(about.tracks.into_iter().map(lost)).collect())
}

/// When the film was recorded.
fn created(clip: &Clip) -> Option<glib::DateTime> {
    clip.tags.get::<gst::tags::DateTime>()?.get().to_g_date_time().ok()
}

/// What no muxer of GStreamer writes.
fn lost_tags(clip: &Clip) -> Vec<String> {
    let attached = clip.tags.size_by_name("attachment") + clip.tags.size_by_name("image");
    if attached == 0 {
        return Vec::new();
    }
    vec![format!("attachments (fonts, pictures): GStreamer cannot write them, {attached} are left out")]
}

/// How a stream gets into the muxer.
#[derive(Debug)]
struct Route {
    /// What the muxer's pad is made from.
    pad: gst::PadTemplate,
    /// Elements between `first` and `last`.
    elements: String,
    /// Markup in its text is taken out.
    plain: bool,
}

/// How a stream gets into the muxer, and what the user should know of it; or why it is left out.
fn route(mux: &gst::Element, stream: &Stream, container: Container) -> Result<(Route, Option<String>), String> {
    let words = words(&stream.caps);
    let pad = match stream.kind() {
        "audio" => "audio_%u",
        "subtitle" => "subtitle_%u",
        _ => return Err(format!("a further stream ({words}) is left out")),
    };
    let out = || format!("{}: {words} does not fit this kind of file and is left out", stream.kind());
    let template = mux.pad_template(pad).ok_or_else(out)?;
    let takes = template.caps().to_owned();
    let route = |elements: String, plain| Route { pad: template.clone(), elements, plain };
    // Muxers say that they take what is unknown, and do not.
    if stream.caps.is_subset(&takes) && !stream.name().ends_with("-unknown") {
        return Ok((route("identity".into(), false), None));
    }
    if pad == "audio_%u" {
        if let Some(parser) = parser(&stream.caps, &takes) {
            return Ok((route(parser, false), None));
        }
        let encoder = container.audio_encoder();
        // Else a converter may choose fewer.
        let channels = stream.caps.structure(0).and_then(|format| format.get::<i32>("channels").ok());
        let channels = channels.map_or_else(String::new, |n| format!("audio/x-raw,channels={n} ! "));
        let elements = format!("decodebin ! audioconvert ! audioresample ! {channels}{encoder} ! {QUEUE}");
        let note = format!("audio: {words} does not fit this kind of file and is encoded anew with {encoder}");
        return Ok((route(elements, false), Some(note)));
    }
    let plain = "capssetter replace=true caps=text/x-raw,format=utf8";
    match stream.name() {
        "text/x-raw" => Ok((route(plain.into(), true), None)),
        "application/x-ass" | "application/x-ssa" => {
            let note = format!("subtitles: {words} becomes plain text in this kind of file; .mkv keeps its styles");
            Ok((route(format!("ssaparse ! {plain}"), true), Some(note)))
        }
        _ => Err(out()),
    }
}

/// An element that makes what a muxer takes of a stream without decoding it.
fn parser(caps: &gst::Caps, takes: &gst::Caps) -> Option<String> {
    let parsers = gst::ElementFactory::factories_with_type(gst::ElementFactoryType::PARSER, gst::Rank::MARGINAL);
    let same = |factory: &gst::ElementFactory| {
        let mut templates = factory.static_pad_templates().into_iter();
        templates.any(|template| {
            let common = template.caps().intersect(takes);
            template.direction() == gst::PadDirection::Src
                && common.iter().any(|format| Some(format.name()) == caps.structure(0).map(|own| own.name()))
        })
    };
    let parser = parsers.into_iter().find(|factory| factory.can_sink_all_caps(caps) && same(factory))?;
    Some(parser.name().into())
}

/// Links a route to the muxer; gives the pad where it begins.
fn link(playback: &Playback, mux: &gst::Element, index: usize, stream: &Stream, route: &Route) -> Result<gst::Pad> {
    let description = format!("{QUEUE} name=first ! {} ! identity name=last", route.elements);
    let chain = gst::parse::bin_from_description(&description, false)?;
    chain.set_property("name", format!("{STREAM}{index}"));
    // Named, as GStreamer may take the sink pad that waits for decodebin for the bin's.
    let outer = |name: &str, pad: &str| -> Result<gst::GhostPad> {
        let inner = chain.by_name(name).and_then(|element| element.static_pad(pad)).context("no such pad")?;
        let outer = gst::GhostPad::with_target(&inner)?;
        chain.add_pad(&outer)?;
        Ok(outer)
    };
    let (sink, source) = (outer("first", "sink")?, outer("last", "src")?);
    if route.plain {
        plain_text(source.upcast_ref());
    }
    playback.0.add(&chain)?;
    let target = mux.request_pad(&route.pad, None, None);
    let target = target.with_context(|| format!("the muxer takes no further stream ({})", words(&stream.caps)))?;
    source.link(&target)?;
    chain.sync_state_with_parent()?;
    Ok(sink.upcast())
}

/// Gives packets a time that have none, which MP4 does not take: they follow the last. Those before the first that has one
/// are headers, which MP4 has elsewhere.
fn time(pad: &gst::Pad) {
    let end = Mutex::new(None);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(buffer) = info.buffer_mut() else { return gst::PadProbeReturn::Ok };
        let mut end = lock(&end);
        let Some(time) = buffer.pts().or(*end) else { return gst::PadProbeReturn::Handled };
        *end = Some(time + buffer.duration().unwrap_or_default());
        if buffer.pts().is_none() {
            buffer.make_mut().set_pts(time);
        }
        gst::PadProbeReturn::Ok
    });
}

/// Keeps what lies in the range, and lets it begin at zero.
fn trim(pad: &gst::Pad, origin: gst::ClockTime, range: Range) {
    let (from, to) = (range.from.nseconds() as i64, range.to.map(|to| to.nseconds() as i64));
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let time = info.buffer().and_then(|buffer| stream_time(pad, buffer.pts()));
        match time {
            Some(time) if time < from || to.is_some_and(|to| time >= to) => gst::PadProbeReturn::Handled,
            _ => gst::PadProbeReturn::Ok,
        }
    });
    pad.set_offset(origin.nseconds() as i64 - from);
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
