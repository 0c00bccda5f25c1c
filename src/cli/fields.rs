//! Owns the judgement whether the two fields of frames show two moments, as discs, tapes and recordings do that were filmed
//! so, or one, as films do that are only stored so, or now one and now two, as films do that were made 30 frames a second of 24;
//! and which frames become of them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use gst::prelude::*;
use gst_video::{VideoBufferFlags, VideoFrameExt, VideoInfo, VideoInterlaceMode, video_frame::VideoBufferExt};
use gstfastvsr::sync::lock;

use crate::time::stream_time;

/// Frames that are looked at: two seconds, about.
pub(crate) const LOOKED_AT: usize = 50;

/// How many of them must show it: one may be a cut.
const ENOUGH: usize = 3;

/// How many of them show that it is every fifth frame and the one after it, and no accident.
const SURE: usize = 10;

/// What the fields of frames show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moments {
    One,
    Two,
    /// Of five frames three show one, and two show two (3:2 pulldown).
    Film,
}

/// Judges by frames in a row, whether each [`is_combed`].
pub(crate) fn judge(combed: &[bool]) -> Moments {
    let by_phase: [usize; 5] =
        std::array::from_fn(|phase| combed.iter().skip(phase).step_by(5).filter(|combed| **combed).count());
    let all = by_phase.iter().sum::<usize>();
    let is_film = (0..5).any(|phase| {
        let (one, next) = (by_phase[phase], by_phase[(phase + 1) % 5]);
        one.min(next) > 0 && one + next == all
    });
    match all {
        ..ENOUGH => Moments::One,
        SURE.. if is_film => Moments::Film,
        _ => Moments::Two,
    }
}

/// Levels of 255 by which rows must differ. Noise does not, and a line in a drawing has no second one two rows away.
const STEP: i32 = 24;

/// One pixel of so many is enough: most of a picture stands still.
const PART: usize = 500;

/// Whether rows of a frame alternate where something moves: each is like those two rows away, and unlike its neighbours.
/// `luma` gives the pixel in a column and row.
fn is_combed(width: usize, height: usize, luma: impl Fn(usize, usize) -> i32) -> bool {
    let combed = |x: usize, y: usize| {
        let own = luma(x, y);
        let (above, below) = (luma(x, y - 1) - own, luma(x, y + 1) - own);
        let alike = |y: usize| (luma(x, y) - own).abs() < STEP / 2;
        above.abs() > STEP && below.abs() > STEP && (above > 0) == (below > 0) && alike(y - 2) && alike(y + 2)
    };
    let rows = 2..height.saturating_sub(2);
    let all = rows.len() * width;
    let combed: usize = rows.map(|y| (0..width).filter(|x| combed(*x, y)).count()).sum();
    combed * PART > all
}

/// Of the first frames that pass a pad, whether their fields are seen to be of two moments.
pub(crate) fn look_at(pad: &gst::Pad) -> Arc<Mutex<Vec<bool>>> {
    let seen = Arc::<Mutex<Vec<bool>>>::default();
    pad.add_probe(gst::PadProbeType::BUFFER, {
        let seen = Arc::clone(&seen);
        move |pad, info| {
            let video = pad.current_caps().and_then(|caps| VideoInfo::from_caps(&caps).ok());
            if let Some((buffer, video)) = info.buffer().zip(video) {
                let mut seen = lock(&seen);
                if seen.len() < LOOKED_AT {
                    seen.push(shows_two_moments(buffer, &video));
                }
            }
            gst::PadProbeReturn::Ok
        }
    });
    seen
}

/// Whether the fields of a frame are seen to be of two moments.
fn shows_two_moments(buffer: &gst::BufferRef, video: &VideoInfo) -> bool {
    let mode = video.interlace_mode();
    let interlaced = mode == VideoInterlaceMode::Interleaved
        || (mode == VideoInterlaceMode::Mixed && buffer.video_flags().contains(VideoBufferFlags::INTERLACED));
    // In packed forms of more bits samples are no bytes.
    let (depth, step) = (video.comp_depth(0), video.comp_pstride(0));
    if !interlaced || step <= 0 || depth > 16 {
        return false;
    }
    let Ok(frame) = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, video) else { return false };
    let Ok(data) = frame.plane_data(video.comp_plane(0)) else { return false };
    let stride = frame.plane_stride()[video.comp_plane(0) as usize] as usize;
    // The byte that weighs most: GStreamer's usual formats begin with the other.
    let (first, shift) = (video.comp_poffset(0) as usize + usize::from(depth > 8), video.format_info().shift()[0]);
    let scale = if depth > 8 { 1 << (16 - depth - shift) } else { 1 };
    is_combed(video.width() as usize, video.height() as usize, |x, y| {
        data.get(y * stride + x * step as usize + first).map_or(0, |byte| i32::from(*byte) * scale)
    })
}

/// Drops what `deinterlace` gives beyond a frame for each field, or for each frame: at its end it shows a field again.
/// It always gives both fields, because its times are wrong otherwise.
pub(crate) fn choose(deinterlace: &gst::Element, both: bool) {
    let sink = deinterlace.static_pad("sink").expect("deinterlace has a sink pad");
    let source = deinterlace.static_pad("src").expect("deinterlace has a source pad");
    let state = Arc::new(Mutex::new((BTreeSet::new(), None)));
    sink.add_probe(gst::PadProbeType::BUFFER, {
        let state = Arc::clone(&state);
        move |_, info| {
            let time = info.buffer().and_then(|buffer| buffer.pts());
            lock(&state).0.insert(time);
            gst::PadProbeReturn::Ok
        }
    });
    source.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let time = info.buffer().and_then(|buffer| buffer.pts());
        let (came, last) = &mut *lock(&state);
        let wanted = came.remove(&time) || (both && *last < time);
        *last = time.max(*last);
        if wanted { gst::PadProbeReturn::Ok } else { gst::PadProbeReturn::Handled }
    });
}

/// Keeps the times of a film's frames: `ivtc` counts on from where a segment starts, whatever the times of what it takes. Frames
/// before `from` are dropped.
pub(crate) fn keep_times(ivtc: &gst::Element, from: gst::ClockTime) {
    let sink = ivtc.static_pad("sink").expect("ivtc has a sink pad");
    let source = ivtc.static_pad("src").expect("ivtc has a source pad");
    // When it began to count, and the fields since.
    let counted = Mutex::new(None);
    // The segment of the film, and that which makes it count anew, of the same times. The latter stays here: an encoder may give
    // a frame from before such a start after it, which would be cut off.
    let segments = Arc::new(Mutex::new(None));
    source.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, {
        let segments = Arc::clone(&segments);
        move |_, info| {
            if let Some(gst::PadProbeData::Event(event)) = &mut info.data
                && let Some((whole, own)) = &*lock(&segments)
                && event.seqnum() == *own
            {
                *event = gst::Event::clone(whole);
            }
            gst::PadProbeReturn::Ok
        }
    });
    sink.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let (Some(buffer), Some(video)) =
            (info.buffer(), pad.current_caps().and_then(|caps| VideoInfo::from_caps(&caps).ok()))
        else {
            return gst::PadProbeReturn::Ok;
        };
        let (Some(time), rate) = (buffer.pts(), video.fps()) else { return gst::PadProbeReturn::Ok };
        let is_longer = buffer.video_flags().contains(VideoBufferFlags::RFF);
        let fields = 2 + u64::from(is_longer);
        let after =
            |fields: u64| gst::ClockTime::SECOND.mul_div_floor(fields * rate.denom() as u64, 2 * rate.numer() as u64);
        let frame = after(2).unwrap_or_default();
        let mut counted = lock(&counted);
        let expected = counted.and_then(|(start, fields): (gst::ClockTime, u64)| Some(start + after(fields)?));
        if expected.is_some_and(|expected| expected.absdiff(time) <= frame) {
            *counted = counted.map(|(start, before)| (start, before + fields));
        } else {
            *counted = Some((time, fields));
            let Some(event) = pad.sticky_event::<gst::event::Segment>(0) else { return gst::PadProbeReturn::Ok };
            if let Some(old) = event.segment().downcast_ref::<gst::ClockTime>() {
                let mut segment = old.clone();
                segment.set_time(old.to_stream_time(time));
                segment.set_base(old.to_running_time(time).unwrap_or_default());
                segment.set_start(time);
                segment.set_position(time);
                let start = gst::event::Segment::new(&segment);
                let before = lock(&segments).take().filter(|(_, own)| *own == event.seqnum());
                let whole = before.map_or_else(|| event.into(), |(whole, _)| whole);
                *lock(&segments) = Some((whole, start.seqnum()));
                pad.send_event(start);
            }
        }
        gst::PadProbeReturn::Ok
    });
    source.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data else { return gst::PadProbeReturn::Ok };
        // It marks every fourth one, of a film that goes on.
        buffer.make_mut().unset_flags(gst::BufferFlags::DISCONT);
        let is_early = stream_time(pad, buffer.pts()).is_some_and(|time| time < from.nseconds() as i64);
        if is_early { gst::PadProbeReturn::Handled } else { gst::PadProbeReturn::Ok }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bright square in a frame whose odd rows are seen so many pixels later.
    fn moved(by: usize) -> bool {
        let bright = |x: usize, y: usize| (20..40).contains(&(x + by * (y % 2))) && (20..40).contains(&y);
        is_combed(64, 64, |x, y| if bright(x, y) { 200 } else { 30 })
    }

    #[test]
    fn movement_between_fields_is_seen() {
        assert!(moved(3) && moved(8));
        assert!(!moved(0));
    }

    #[test]
    fn a_film_shows_two_moments_in_two_of_five_frames() {
        let frames = |combed: fn(usize) -> bool| judge(&(0..LOOKED_AT).map(combed).collect::<Vec<_>>());
        assert_eq!(frames(|_| false), Moments::One);
        assert_eq!(frames(|n| n == 7 || n == 8), Moments::One, "a cut");
        assert_eq!(frames(|_| true), Moments::Two);
        assert_eq!(frames(|n| n > 30), Moments::Two);
        assert_eq!(frames(|n| n % 5 > 2), Moments::Film);
        assert_eq!(frames(|n| matches!(n % 5, 0 | 4)), Moments::Film);
        assert_eq!(frames(|n| n > 20 && n % 5 > 2), Moments::Film, "it begins with a title");
        assert_eq!(frames(|n| n > 40 && n % 5 > 2), Moments::Two, "too few to be sure");
        assert_eq!(frames(|n| n % 5 == 2), Moments::Two);
        assert_eq!(frames(|n| n % 5 > 2 || n == 12), Moments::Two);
    }

    #[test]
    fn what_one_moment_can_show_is_none() {
        assert!(!is_combed(64, 64, |_, y| if y == 30 { 255 } else { 0 }), "a line");
        assert!(!is_combed(64, 64, |x, y| (4 * (x + y) % 256) as i32), "a ramp");
        assert!(!is_combed(64, 64, |x, y| ((x * 31 + y * 17) % 20) as i32), "noise");
        assert!(!is_combed(1, 1, |_, _| 0) && !is_combed(64, 3, |_, _| 0));
    }

    #[test]
    fn of_mixed_frames_those_count_that_are_marked() {
        gst::init().unwrap();
        let info = VideoInfo::builder(gst_video::VideoFormat::Gray8, 64, 64);
        let info = info.interlace_mode(VideoInterlaceMode::Mixed).build().unwrap();
        let bright = |at: usize| (20..40).contains(&(at % 64 + at / 64 % 2 * 8)) && (20..40).contains(&(at / 64));
        let pixels: Vec<u8> = (0..64 * 64).map(|at| if bright(at) { 200 } else { 30 }).collect();
        let mut buffer = gst::Buffer::from_slice(pixels);
        assert!(!shows_two_moments(&buffer, &info));
        buffer.make_mut().set_video_flags(VideoBufferFlags::INTERLACED);
        assert!(shows_two_moments(&buffer, &info));
    }
}
