//! Owns times: as people write them, seconds (`90`, `1.5`), `1:30`, `1:02:03.5`; and in a stream.

use anyhow::{Context, Result, ensure};
use gst::prelude::*;

/// Reads a time.
///
/// # Errors
/// Says what was expected.
pub(crate) fn parse(text: &str) -> Result<gst::ClockTime> {
    let expected = || format!("expected seconds or [hours:]minutes:seconds, as in 90, 1:30 or 1:02:03.5, got `{text}`");
    let mut seconds = 0.0;
    ensure!(text.split(':').count() <= 3, expected());
    for part in text.split(':') {
        ensure!(part.chars().all(|c| c.is_ascii_digit() || c == '.'), expected());
        seconds = seconds * 60.0 + part.parse::<f64>().ok().with_context(expected)?;
    }
    ensure!(seconds < 1e9, expected());
    Ok(gst::ClockTime::from_seconds_f64(seconds))
}

/// A time for people: `1:02:03`.
pub(crate) fn show(time: gst::ClockTime) -> String {
    let (hours, minutes, seconds) = (time.hours(), time.minutes() % 60, time.seconds() % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, milliseconds) in [("90", 90_000), ("1.5", 1_500), ("1:30", 90_000), ("1:02:03.5", 3_723_500)] {
            assert_eq!(parse(text).unwrap(), gst::ClockTime::from_mseconds(milliseconds), "{text}");
        }
        for text in ["", "-1", "1:2:3:4", "1e3", "inf", "a", "1:", "99999999999"] {
            assert!(parse(text).unwrap_err().to_string().contains("expected seconds"), "{text}");
        }
    }

    #[test]
    fn times_are_shown_as_people_read_them() {
        assert_eq!(show(gst::ClockTime::from_seconds(62)), "1:02");
        assert_eq!(show(gst::ClockTime::from_seconds(3723)), "1:02:03");
    }
}
