//! Owns the input: what is in the file, and the part of a pipeline that gives its frames upright and progressive, from
//! one point in time to another.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use gst::prelude::*;
use gst_pbutils::{Discoverer, DiscovererContainerInfo, DiscovererResult, DiscovererVideoInfo};

use crate::playback::Playback;

/// Longest wait for a file to say what it is, or for its first frame.
const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(60);

/// Elements that read the clip called `file` into `frames`; [`Clip::attach`] does the rest. Rotated video is turned
/// upright, interlaced video becomes one frame per frame.
pub(crate) const READ: &str = "filesrc name=file ! parsebin name=streams  decodebin name=decode \
     queue name=frames max-size-time=0 max-size-bytes=0 max-size-buffers=8 ! deinterlace fields=top method=greedyh ! \
     videoflip video-direction=auto ! videoconvert";

/// A video file.
#[derive(Debug)]
pub(crate) struct Clip {
    pub(crate) path: PathBuf,
    pub(crate) duration: Option<gst::ClockTime>,
    /// Frames a second, if they are constant.
    pub(crate) fps: Option<f64>,
    pub(crate) interlaced: bool,
    /// More than 8 bits a component.
    pub(crate) deep: bool,
    /// Of the whole file, in the words of any container.
    pub(crate) tags: gst::TagList,
    pub(crate) chapters: Option<gst::Toc>,
    /// Size and time of the last change: another file under the same name has others.
    pub(crate) identity: String,
}

/// Which frames: from the first whose time is at least `from`, to the last before `to`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) from: gst::ClockTime,
    pub(crate) to: Option<gst::ClockTime>,
}

impl Clip {
    /// Finds out what is in a file.
    ///
    /// # Errors
    /// If it cannot be read, or has no video that can be decoded here.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let about = fs::metadata(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        ensure!(about.is_file(), "cannot read `{}`: expected a video file, got a folder or device", path.display());
        fs::File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let path = path.canonicalize()?;
        let uri = glib::filename_to_uri(&path, None)?;
        let info = match Discoverer::new(PATIENCE)?.discover_uri(&uri) {
            Ok(info) => info,
            Err(err) => bail!("`{}` is not a video that GStreamer can read: {err}", path.display()),
        };
        if info.result() == DiscovererResult::MissingPlugins {
            let missing = info.missing_elements_installer_details();
            let missing: Vec<_> = missing.iter().filter_map(|detail| detail.split('|').nth(3)).collect();
            bail!(
                "`{}` needs what GStreamer lacks here: {}; on Debian `apt install gstreamer1.0-libav \
                 gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly`",
                path.display(),
                missing.join(", ")
            );
        }
        let streams = info.video_streams();
        let video = streams.into_iter().filter_map(|stream| stream.downcast::<DiscovererVideoInfo>().ok());
        let Some(video) = video.into_iter().find(|video| !video.is_image()) else {
            let audio = if info.audio_streams().is_empty() { "nothing of the kind" } else { "audio alone" };
            bail!("`{}` has no video: expected a video stream, got {audio}", path.display());
        };
        let container = info.stream_info().and_then(|stream| stream.downcast::<DiscovererContainerInfo>().ok());
        let rate = video.framerate();
        let constant = rate.numer() > 0 && rate.denom() > 0;
        let changed = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            duration: info.duration().filter(|time| !time.is_zero()),
            fps: constant.then(|| f64::from(rate.numer()) / f64::from(rate.denom())),
            interlaced: video.is_interlaced(),
            deep: video.depth() > 24,
            tags: global_tags(container.and_then(|container| container.tags()).as_ref()),
            chapters: info.toc(),
            identity: format!("{} {}", about.len(), changed.unwrap_or(Duration::ZERO).as_nanos()),
            path,
        })
    }

    /// How many frames a range has, as far as the file says.
    pub(crate) fn frames(&self, range: Range) -> Option<u64> {
        let end = self.duration.into_iter().chain(range.to).min()?;
        let span = end.checked_sub(range.from)?;
        Some((span.seconds_f64() * self.fps?).round() as u64)
    }

    /// Makes a pipeline with the elements of [`READ`] give the frames of a range; leaves it paused at the first.
    pub(crate) fn attach(&self, playback: &Playback, range: Range) -> Result<()> {
        playback.element("file").set_property("location", &self.path);
        let frames = playback.element("frames").static_pad("sink").expect("a queue has a sink pad");
        let decode = playback.element("decode").static_pad("sink").expect("a decodebin has a sink pad");
        playback.element("streams").connect_pad_added(move |_, pad| {
            let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
            let is_video = caps.structure(0).is_some_and(|format| format.name().starts_with("video/"));
            if is_video && !decode.is_linked() {
                let _ = pad.link(&decode);
            }
        });
        playback.element("decode").connect_pad_added({
            let frames = frames.downgrade();
            move |_, pad| {
                if let Some(frames) = frames.upgrade().filter(|frames| !frames.is_linked()) {
                    let _ = pad.link(&frames);
                }
            }
        });
        if !range.from.is_zero() {
            seek(playback, &frames, range.from)?;
        }
        // On the source pad: GStreamer 1.22 complains of buffers that are dropped on their way into a pad.
        let out = playback.element("frames").static_pad("src").expect("a queue has a source pad");
        out.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            let Some(gst::PadProbeData::Buffer(buffer)) = &info.data else { return gst::PadProbeReturn::Ok };
            match stream_time(pad, buffer.pts()) {
                Some(time) if range.to.is_some_and(|to| time >= to.nseconds() as i64) => {
                    // The frames that follow are then refused.
                    pad.push_event(gst::event::Eos::new());
                    gst::PadProbeReturn::Drop
                }
                Some(time) if time < range.from.nseconds() as i64 => gst::PadProbeReturn::Handled,
                _ => gst::PadProbeReturn::Ok,
            }
        });
        Ok(())
    }
}

/// Jumps to the key frame before `position`, with nothing decoded that is not needed. A file that cannot jump is read
/// from its start.
fn seek(playback: &Playback, frames: &gst::Pad, position: gst::ClockTime) -> Result<()> {
    let arrived = Arc::new((Mutex::new(false), Condvar::new()));
    let block = gst::PadProbeType::BLOCK | gst::PadProbeType::BUFFER;
    let probe = frames.add_probe(block, {
        let arrived = Arc::clone(&arrived);
        move |_, _| {
            *arrived.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
            arrived.1.notify_all();
            gst::PadProbeReturn::Ok
        }
    });
    playback.set_state(gst::State::Paused)?;
    let deadline = std::time::Instant::now() + Duration::from(PATIENCE);
    let mut seen = arrived.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    while !*seen {
        crate::playback::check_interrupted()?;
        if let Some(err) = playback.error() {
            return Err(err);
        }
        ensure!(std::time::Instant::now() < deadline, "the file gives no frame");
        let wait = arrived.1.wait_timeout(seen, Duration::from_millis(100));
        seen = wait.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
    }
    drop(seen);
    let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT | gst::SeekFlags::SNAP_BEFORE;
    let stop = gst::ClockTime::NONE;
    let event = gst::event::Seek::new(1.0, flags, gst::SeekType::Set, position, gst::SeekType::None, stop);
    if let Some(peer) = frames.peer() {
        peer.send_event(event);
    }
    if let Some(probe) = probe {
        frames.remove_probe(probe);
    }
    Ok(())
}

/// Where in the stream a time of a pad's buffers is, in nanoseconds; before the start it is negative.
pub(crate) fn stream_time(pad: &gst::Pad, time: Option<gst::ClockTime>) -> Option<i64> {
    let event = pad.sticky_event::<gst::event::Segment>(0)?;
    in_stream(event.segment(), time?)
}

/// Where in the stream a time is, in nanoseconds.
pub(crate) fn in_stream(segment: &gst::Segment, time: gst::ClockTime) -> Option<i64> {
    use gst::Signed::{Negative, Positive};
    Some(match segment.downcast_ref::<gst::ClockTime>()?.to_stream_time_full(time)? {
        Positive(time) => time.nseconds() as i64,
        Negative(time) => -(time.nseconds() as i64),
    })
}

/// The tags that describe the work, without those that describe its old encoding.
fn global_tags(tags: Option<&gst::TagList>) -> gst::TagList {
    let mut kept = gst::TagList::new();
    {
        let kept = kept.make_mut();
        kept.set_scope(gst::TagScope::Global);
        for (name, values) in tags.iter().flat_map(|tags| tags.iter_generic()) {
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
