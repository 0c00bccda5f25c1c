//! Owns the input: what is in the file, and the part of a pipeline that gives its frames upright and progressive, from
//! one point in time to another.
//!
//! Times are the stream's own. The film begins at [`Clip::zero`], which is not 0 in recordings.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use gst::prelude::*;
use gst_video::{VideoColorMatrix, VideoColorimetry, VideoFormat, VideoFormatInfo, VideoInfo};
use gstfastvsr::sync::lock;

use crate::{
    fields::{self, Moments},
    playback::Playback,
    streams::{self, Stream, words},
    time::{in_stream, stream_time},
};

/// [`Clip::read`], with the element that treats fields so.
fn read(deinterlace: Deinterlace) -> String {
    // Converted where an element does not know a format: most decoders give what every one of them knows. Without alpha, which no
    // encoder here takes, there are formats that keep the depth.
    let convert = "videoconvert n-threads=0";
    let opaque = VideoFormat::iter_raw().filter(|format| !VideoFormatInfo::from_format(*format).has_alpha());
    let opaque = opaque.map(|format| format.to_str().as_str()).collect::<Vec<_>>().join(",");
    let fields = match deinterlace {
        Deinterlace::Film => "ivtc",
        _ => "deinterlace fields=all method=greedyh",
    };
    format!(
        "{}  decodebin name=decode  queue name=frames max-size-time=0 max-size-bytes=0 max-size-buffers=8 ! \
         {convert} ! video/x-raw,format={{{opaque}}} ! {fields} name=fields ! {convert} ! videoflip video-direction=auto ! {convert}",
        streams::SPLIT
    )
}

/// What becomes of interlaced video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Deinterlace {
    /// What the first two seconds show: `film`, `field` where the fields of a frame are of two moments, else `frame`
    Auto,
    /// The 24 frames a second of a film that was made 30 for television, each as it was (3:2 pulldown)
    Film,
    /// One frame for two fields: as many as before
    Frame,
    /// One frame for each field: 50 or 60 a second, as it was filmed
    Field,
    /// Fields stay woven together
    Off,
}

/// A video file.
#[derive(Debug)]
pub(crate) struct Clip {
    pub(crate) path: PathBuf,
    /// When it begins, in the times of its streams: in a recording with its first picture.
    pub(crate) zero: gst::ClockTime,
    /// The time in its streams at which they are to be played from.
    pub(crate) origin: gst::ClockTime,
    /// Of the film, from [`Clip::zero`] on.
    pub(crate) duration: Option<gst::ClockTime>,
    pub(crate) interlaced: bool,
    /// What becomes of that; not `Auto`.
    pub(crate) deinterlace: Deinterlace,
    /// Its frames as they are handed out.
    pub(crate) video: VideoInfo,
    /// Of the whole file, in the words of any container.
    pub(crate) tags: gst::TagList,
    /// Of the video alone.
    pub(crate) video_tags: Option<gst::TagList>,
    pub(crate) chapters: Option<gst::Toc>,
    /// Size and time of the last change: another file under the same name has others.
    pub(crate) identity: String,
    /// Whether it can begin at a key frame in the middle and then has the same times as from its start.
    seeks: bool,
}

/// Which frames: from the first whose time is at least `from`, to the last before `to`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) from: gst::ClockTime,
    pub(crate) to: Option<gst::ClockTime>,
}

impl Clip {
    /// Finds out what is in a file, by reading it up to its first frame.
    ///
    /// # Errors
    /// If it cannot be read, or has no video that can be decoded here.
    pub(crate) fn open(path: &Path, deinterlace: Deinterlace) -> Result<Self> {
        let identity = identity(path)?;
        fs::File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let mut clip = Self {
            path: path.canonicalize()?,
            zero: gst::ClockTime::ZERO,
            origin: gst::ClockTime::ZERO,
            duration: None,
            interlaced: false,
            deinterlace,
            video: VideoInfo::builder(gst_video::VideoFormat::I420, 2, 2).build()?,
            tags: gst::TagList::new(),
            video_tags: None,
            chapters: None,
            identity,
            seeks: false,
        };
        let playback = Playback::new(&format!("{} ! fakesink name=first sync=false", read(Deinterlace::Field)))?;
        clip.look(&playback).with_context(|| format!("`{}` is not a video that GStreamer can read", path.display()))?;
        Ok(clip)
    }

    /// Elements that read the clip as raw video; [`Clip::attach`] does the rest.
    pub(crate) fn read(&self) -> String {
        read(self.deinterlace)
    }

    /// Plays up to the first frame, and notes what is there.
    fn look(&mut self, playback: &Playback) -> Result<()> {
        let streams = self.streams(playback)?;
        let sinks: Vec<_> = streams.iter().map(|stream| stream.pad()).collect();
        let sources: Vec<_> = streams.iter().map(Stream::source).collect();
        let fields = fields::look_at(&playback.element("frames").static_pad("src").expect("a queue has a source pad"));
        let video = self.connect(playback, streams)?;
        let first = playback.element("first").static_pad("sink").expect("a fakesink has a sink pad");
        let (arrived, ended) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        first.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, {
            let (arrived, ended) = (Arc::clone(&arrived), Arc::clone(&ended));
            move |pad, info| {
                let end = info.event().is_some_and(|event| event.type_() == gst::EventType::Eos);
                let time = info.buffer().and_then(|buffer| stream_time(pad, buffer.pts()));
                ended.fetch_or(end, Ordering::SeqCst);
                if end || info.buffer().is_some() {
                    lock(&arrived).get_or_insert(time);
                }
                gst::PadProbeReturn::Ok
            }
        });
        let arrived = || *lock(&arrived);
        playback.wait("it gives no frame", || arrived().is_some())?;
        let mut caps = first.current_caps().context("no frame in it can be decoded")?;
        let decoded = playback.element("frames").static_pad("src").and_then(|pad| pad.current_caps());
        let decoded = decoded.and_then(|caps| VideoInfo::from_caps(&caps).ok());
        let mode = decoded.as_ref().map(VideoInfo::interlace_mode);
        self.interlaced = mode.is_some_and(|mode| mode != gst_video::VideoInterlaceMode::Progressive);
        if self.deinterlace == Deinterlace::Auto && self.interlaced {
            playback.set_state(gst::State::Playing)?;
            let enough = || lock(&fields).len() >= fields::LOOKED_AT || ended.load(Ordering::SeqCst);
            playback.wait("its frames take too long", enough)?;
        }
        let rate = VideoInfo::from_caps(&caps)?.fps();
        // What finds a film's frames knows 8 bits.
        let decoded = decoded.context("its frames have no format")?;
        let is_usual = decoded.comp_depth(0) == 8 && decoded.width() <= 2048;
        let is_ntsc = rate == gst::Fraction::new(60000, 1001) || rate == gst::Fraction::new(60, 1);
        let finds_films = is_usual && is_ntsc && gst::ElementFactory::find("ivtc").is_some();
        ensure!(
            self.deinterlace != Deinterlace::Film || !self.interlaced || finds_films,
            "--deinterlace film expects 60 fields a second in 8 bits, at most 2048 wide, and the element `ivtc` of \
             gst-plugins-bad; got {:.4} fields a second in {} bits, {} wide: `auto` finds out what suits it",
            f64::from(rate.numer()) / f64::from(rate.denom()),
            decoded.comp_depth(0),
            decoded.width()
        );
        self.deinterlace = match self.deinterlace {
            Deinterlace::Auto => match fields::judge(&lock(&fields)) {
                Moments::One => Deinterlace::Frame,
                Moments::Film if finds_films => Deinterlace::Film,
                Moments::Film | Moments::Two => Deinterlace::Field,
            },
            Deinterlace::Film if !self.interlaced => Deinterlace::Frame,
            chosen => chosen,
        };
        if self.interlaced {
            // Both fields came from the element here.
            let rate = match self.deinterlace {
                Deinterlace::Frame => rate / 2,
                Deinterlace::Film => rate * 2 / 5,
                _ => rate,
            };
            caps.make_mut().set("framerate", rate);
        }
        self.video = VideoInfo::from_caps(&caps)?;
        let segment = sinks[video].sticky_event::<gst::event::Segment>(0).context("the video has no times")?;
        if let Some(segment) = segment.segment().downcast_ref::<gst::ClockTime>() {
            let time = segment.time().unwrap_or_default();
            self.origin = time.saturating_sub(segment.base().unwrap_or_default());
            let recorded = sources[video].as_ref().is_some_and(streams::is_recorded);
            let first = arrived().flatten().filter(|_| recorded).and_then(|time| time.try_into().ok());
            self.zero = first.map_or(self.origin, gst::ClockTime::from_nseconds);
        }
        self.duration = playback.0.query_duration::<gst::ClockTime>().filter(|time| !time.is_zero());
        self.chapters = sinks[video].sticky_event::<gst::event::Toc>(0).map(|event| event.toc().0.to_owned());
        for index in 0.. {
            let Some(event) = sinks[video].sticky_event::<gst::event::Tag>(index) else { break };
            if event.tag().scope() == gst::TagScope::Global {
                self.tags = kept_tags(event.tag());
            } else {
                self.video_tags = Some(kept_tags(event.tag()));
            }
        }
        let parsebin: gst::Bin = playback.element("streams").downcast().expect("parsebin is a bin");
        let exact = ["qtdemux", "matroskademux"];
        self.seeks = parsebin
            .iterate_elements()
            .into_iter()
            .flatten()
            .any(|element| element.factory().is_some_and(|factory| exact.contains(&factory.name().as_str())));
        Ok(())
    }

    /// Fails if the file is not what it was when it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let now = identity(&self.path)?;
        ensure!(
            now == self.identity,
            "`{}` was changed while it was read: begin anew with --force",
            self.path.display()
        );
        Ok(())
    }

    /// How many frames a range has, as far as the file says.
    pub(crate) fn frames(&self, range: Range) -> Option<u64> {
        let end = self.duration.map(|duration| self.zero + duration).into_iter().chain(range.to).min()?;
        let rate = self.video.fps();
        let span = end.checked_sub(range.from)?;
        (rate.numer() > 0)
            .then(|| (span.seconds_f64() * f64::from(rate.numer()) / f64::from(rate.denom())).round() as u64)
    }

    /// All streams of the file, in a pipeline with the elements of [`streams::SPLIT`].
    pub(crate) fn streams(&self, playback: &Playback) -> Result<Vec<Stream>> {
        streams::split(playback, &self.path, || self.check_unchanged())
    }

    /// Makes a pipeline with the elements of [`read`] give the frames of a range; leaves it paused.
    pub(crate) fn attach(&self, playback: &Playback, range: Range) -> Result<()> {
        let streams = self.streams(playback)?;
        // Before the first frame passes, for the seek and for the range.
        let frames = playback.element("frames").static_pad("src").expect("a queue has a source pad");
        let held =
            frames.add_probe(gst::PadProbeType::BLOCK | gst::PadProbeType::BUFFER, |_, _| gst::PadProbeReturn::Ok);
        let arrived = Arc::new(AtomicBool::new(false));
        let sink = playback.element("frames").static_pad("sink").expect("a queue has a sink pad");
        sink.add_probe(gst::PadProbeType::BUFFER, {
            let arrived = Arc::clone(&arrived);
            move |_, _| {
                arrived.store(true, Ordering::SeqCst);
                gst::PadProbeReturn::Remove
            }
        });
        self.connect(playback, streams)?;
        // Which frames of a film are found depends on where it is begun.
        let is_film = self.deinterlace == Deinterlace::Film;
        if is_film {
            fields::keep_times(&playback.element("fields"), range.from);
        } else if self.seeks && range.from > self.zero {
            playback.wait("the file gives no frame", || arrived.load(Ordering::SeqCst))?;
            let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT | gst::SeekFlags::SNAP_BEFORE;
            let stop = gst::ClockTime::NONE;
            let event = gst::event::Seek::new(1.0, flags, gst::SeekType::Set, range.from, gst::SeekType::None, stop);
            if let Some(peer) = sink.peer() {
                peer.send_event(event);
            }
        }
        let last = Mutex::new(None);
        // On the source pad: GStreamer 1.22 complains of buffers that are dropped on their way into a pad.
        frames.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data else { return gst::PadProbeReturn::Ok };
            let mut last = lock(&last);
            let Some(time) = rise(pad, buffer, *last) else { return gst::PadProbeReturn::Handled };
            *last = Some(time);
            if range.to.is_some_and(|to| time >= to.nseconds() as i64) {
                // The frames that follow are then refused.
                pad.push_event(gst::event::Eos::new());
                gst::PadProbeReturn::Drop
            } else if time < range.from.nseconds() as i64 && !is_film {
                gst::PadProbeReturn::Handled
            } else {
                gst::PadProbeReturn::Ok
            }
        });
        if let Some(held) = held {
            frames.remove_probe(held);
        }
        Ok(())
    }

    /// Lets the video flow into the decoder, and all else into nothing. Gives the video's place among the streams.
    fn connect(&self, playback: &Playback, streams: Vec<Stream>) -> Result<usize> {
        let Some(video) = streams::film(&streams) else {
            let kinds: BTreeSet<_> = streams.iter().map(Stream::kind).collect();
            bail!("expected a video stream, got {} alone", kinds.into_iter().collect::<Vec<_>>().join(" and "));
        };
        let fields = playback.element("fields");
        if fields.has_property("fields") {
            fields::choose(&fields, self.deinterlace == Deinterlace::Field);
        }
        let frames = playback.element("frames").static_pad("sink").expect("a queue has a sink pad");
        let woven = self.deinterlace == Deinterlace::Off;
        frames.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| mend_events(info, woven));
        playback.element("decode").connect_pad_added(move |decode, pad| {
            let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
            // What is mended on the way must not be refused before.
            let fits = frames.query_caps(None).can_intersect(&mended(&caps, woven));
            let check = if fits { gst::PadLinkCheck::HIERARCHY } else { gst::PadLinkCheck::DEFAULT };
            if let Err(err) = pad.link_full(&frames, check) {
                gst::element_error!(decode, gst::StreamError::Format, ("{} is not video: {err}", words(&caps)));
            }
        });
        let decode = playback.element("decode").static_pad("sink").expect("a decodebin has a sink pad");
        for (index, stream) in streams.into_iter().enumerate() {
            if index == video { stream.flow(&decode, BUFFERED)? } else { stream.discard(playback)? }
        }
        Ok(video)
    }
}

/// Bytes of the video that are read ahead of the decoder.
const BUFFERED: u32 = 64 << 20;

/// What tells one file from another under the same name.
fn identity(path: &Path) -> Result<String> {
    let about = fs::metadata(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    ensure!(about.is_file(), "cannot read `{}`: expected a video file, got a folder or device", path.display());
    let changed = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok(format!("{} {}", about.len(), changed.unwrap_or(Duration::ZERO).as_nanos()))
}

/// Lets the times of frames rise: one that has none, or the last one's, or an earlier one, follows the last by its
/// duration. Gives the time in the stream; `None` for a frame that has none and follows none.
fn rise(pad: &gst::Pad, buffer: &mut gst::Buffer, last: Option<i64>) -> Option<i64> {
    let event = pad.sticky_event::<gst::event::Segment>(0)?;
    let segment = event.segment().downcast_ref::<gst::ClockTime>()?;
    let own = in_stream(event.segment(), buffer.pts().unwrap_or_default()).filter(|_| buffer.pts().is_some());
    if own > last {
        return own;
    }
    let usual = || {
        let rate = pad.current_caps().and_then(|caps| VideoInfo::from_caps(&caps).ok())?.fps();
        gst::ClockTime::SECOND.mul_div_floor(rate.denom() as u64, rate.numer() as u64)
    };
    let step =
        buffer.duration().filter(|time| !time.is_zero()).or_else(usual).unwrap_or(gst::ClockTime::from_mseconds(40));
    let time = last.map_or(segment.time()?.nseconds() as i64, |last| last + step.nseconds() as i64);
    let pts = segment.position_from_stream_time(gst::ClockTime::from_nseconds(time.try_into().ok()?))?;
    buffer.make_mut().set_pts(pts);
    Some(time)
}

/// Mends a decoder's format. A film that does not tell its colour matrix gets the one that players assume by its size: they would assume another
/// for the larger one, and GStreamer would forget that its range is full. Pixels of bitmaps that lie upside down have a negative
/// shape. `woven` lets both fields pass as one frame.
fn mended(caps: &gst::CapsRef, woven: bool) -> gst::Caps {
    let format = caps.structure(0);
    let colours = format.and_then(|format| format.get::<String>("colorimetry").ok()?.parse::<VideoColorimetry>().ok());
    let shape = format.and_then(|format| format.get::<gst::Fraction>("pixel-aspect-ratio").ok());
    let video = VideoInfo::from_caps(caps).ok().filter(|video| video.is_yuv());
    let mut caps = caps.to_owned();
    if woven {
        caps.make_mut().set("interlace-mode", "progressive");
    }
    if let Some(shape) = shape.filter(|shape| shape.numer() < 0) {
        caps.make_mut().set("pixel-aspect-ratio", -shape);
    }
    if let Some((old, video)) = colours.zip(video)
        && old.matrix() == VideoColorMatrix::Unknown
    {
        let matrix = if video.height() > 576 { VideoColorMatrix::Bt709 } else { VideoColorMatrix::Bt601 };
        let told = VideoColorimetry::new(old.range(), matrix, old.transfer(), old.primaries());
        caps.make_mut().set("colorimetry", told.to_string());
    }
    caps
}

/// Mends what a decoder says before its frames: its format, and times that may go on behind a segment's end, where they were
/// mended.
fn mend_events(info: &mut gst::PadProbeInfo, woven: bool) -> gst::PadProbeReturn {
    let Some(gst::PadProbeData::Event(event)) = &mut info.data else { return gst::PadProbeReturn::Ok };
    match event.view() {
        gst::EventView::Caps(caps) => *event = gst::event::Caps::new(&mended(caps.caps(), woven)),
        gst::EventView::Segment(segment) => {
            if let Some(segment) = segment.segment().downcast_ref::<gst::ClockTime>() {
                let mut endless = segment.clone();
                endless.set_stop(gst::ClockTime::NONE);
                *event = gst::event::Segment::builder(&endless).seqnum(event.seqnum()).build();
            }
        }
        _ => {}
    }
    gst::PadProbeReturn::Ok
}

/// The tags that describe the work, without those that describe its old encoding.
fn kept_tags(tags: &gst::TagListRef) -> gst::TagList {
    let mut kept = gst::TagList::new();
    {
        let kept = kept.make_mut();
        kept.set_scope(tags.scope());
        for (name, values) in tags.iter_generic() {
            // Orientation is applied to the pixels.
            let describes_work = gst::tags::tag_get_flag(name) == gst::TagFlag::Meta;
            if describes_work && name != gst::tags::ImageOrientation::TAG_NAME {
                for value in values {
                    let _ = kept.add_value(name, value, gst::TagMergeMode::Append);
                }
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_mended() {
        gst::init().unwrap();
        let mended = |caps: &str, woven| mended(&caps.parse::<gst::Caps>().unwrap(), woven).to_string();
        let bitmap = "video/x-raw, format=(string)BGR, width=(int)8, height=(int)8, pixel-aspect-ratio=(fraction)";
        assert_eq!(mended(&format!("{bitmap}-1/1"), false), format!("{bitmap}1/1"));
        assert_eq!(mended(&format!("{bitmap}16/15"), false), format!("{bitmap}16/15"));
        let full =
            |height| format!("video/x-raw,format=I420,width=8,height={height},framerate=25/1,colorimetry=1:0:0:0");
        assert!(mended(&full(576), false).contains("colorimetry=(string)1:4:0:0"));
        assert!(mended(&full(720), false).contains("colorimetry=(string)1:3:0:0"));
        assert!(mended(&full(576), true).contains("interlace-mode=(string)progressive"));
    }
}
