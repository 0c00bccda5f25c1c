//! Owns what the element accepts and makes: pad templates, and the scaling of caps between its pads. Every field but
//! width and height passes through untouched: format, framerate, pixel-aspect-ratio, colorimetry, HDR metadata.

use gst::prelude::*;
use gst_video::VideoFormat;
use once_cell::sync::Lazy;

/// Pixel formats, the same on both pads: the format that comes in goes out.
pub const FORMATS: [VideoFormat; 13] = [
    VideoFormat::Rgb,
    VideoFormat::Bgr,
    VideoFormat::Rgbx,
    VideoFormat::Bgrx,
    VideoFormat::Rgba,
    VideoFormat::Bgra,
    VideoFormat::I420,
    VideoFormat::Nv12,
    VideoFormat::Y42b,
    VideoFormat::Y444,
    VideoFormat::Gray8,
    VideoFormat::I42010le,
    VideoFormat::P01010le,
];

/// Caps of both pad templates.
pub(super) fn template() -> gst::Caps {
    gst_video::VideoCapsBuilder::new().format_list(FORMATS).build()
}

/// What the other pad may have when the pad in `direction` has `caps`, for every scale in `scales`, best first.
///
/// From the sink pad's caps sizes are multiplied by the scale; from the source pad's caps they are divided, and what is
/// not a multiple of it has no counterpart.
pub(super) fn transform(direction: gst::PadDirection, caps: &gst::Caps, scales: &[i32]) -> gst::Caps {
    let mut other = gst::Caps::new_empty();
    // Interlaced video comes last of what is asked of upstream: an element that can send either sends progressive
    // video, and from one that cannot it is refused when its caps are set, where there is a way to say why.
    let mut interlaced = gst::Caps::new_empty();
    let (caps_mut, interlaced_mut) = (other.make_mut(), interlaced.make_mut());
    let scales = caps.iter_with_features().flat_map(|caps| scales.iter().map(move |scale| (caps, *scale)));
    for ((structure, features), scale) in scales {
        let mut structure = structure.to_owned();
        let scaled = ["width", "height"].into_iter().all(|side| match structure.value(side) {
            Ok(value) => match scale_value(direction, value, scale) {
                Some(value) => {
                    structure.set_value(side, value);
                    true
                }
                None => false,
            },
            Err(_) => true,
        });
        if !scaled {
            continue;
        }
        if direction == gst::PadDirection::Src && !structure.has_field("interlace-mode") {
            interlaced_mut.append_structure_full(structure.clone(), Some(features.to_owned()));
            structure.set("interlace-mode", "progressive");
        }
        caps_mut.append_structure_full(structure, Some(features.to_owned()));
    }
    other.make_mut().append(interlaced);
    other
}

fn scale_value(direction: gst::PadDirection, value: &glib::SendValue, scale: i32) -> Option<glib::SendValue> {
    let up = |side: i32| side.saturating_mul(scale);
    if let Ok(side) = value.get::<i32>() {
        return match direction {
            gst::PadDirection::Src if side % scale == 0 => Some((side / scale).to_send_value()),
            gst::PadDirection::Src => None,
            _ => Some(up(side).to_send_value()),
        };
    }
    if let Ok(range) = value.get::<gst::IntRange<i32>>() {
        let (low, high) = match direction {
            gst::PadDirection::Src => ((range.min().max(1) - 1) / scale + 1, range.max() / scale),
            _ => (up(range.min()), up(range.max())),
        };
        return match low.cmp(&high) {
            std::cmp::Ordering::Less => Some(gst::IntRange::new(low, high).to_send_value()),
            std::cmp::Ordering::Equal => Some(low.to_send_value()),
            std::cmp::Ordering::Greater => None,
        };
    }
    if let Ok(list) = value.get::<gst::List>() {
        let scaled: Vec<_> = list.iter().filter_map(|value| scale_value(direction, value, scale)).collect();
        return (!scaled.is_empty()).then(|| gst::List::new(scaled).to_send_value());
    }
    None
}

/// Why a stream cannot be upscaled, for a person to read; `None` if it can.
pub(super) fn refusal(info: &gst_video::VideoInfo) -> Option<String> {
    (info.interlace_mode() != gst_video::VideoInterlaceMode::Progressive).then(|| {
        format!(
            "expected progressive video, got interlace-mode={}: put the element `deinterlace` before fastvsr",
            info.interlace_mode().to_str()
        )
    })
}

/// Template of one pad, made once.
pub(super) static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
    [("src", gst::PadDirection::Src), ("sink", gst::PadDirection::Sink)]
        .into_iter()
        .map(|(name, direction)| {
            gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &template())
                .expect("the template is well-formed")
        })
        .collect()
});

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use gst::PadDirection::{Sink, Src};

    use super::*;

    #[track_caller]
    fn check(direction: gst::PadDirection, from: &str, to: &str) {
        check_scales(direction, from, to, &[4]);
    }

    #[track_caller]
    fn check_scales(direction: gst::PadDirection, from: &str, to: &str, scales: &[i32]) {
        gst::init().unwrap();
        let got = transform(direction, &gst::Caps::from_str(from).unwrap(), scales);
        let expected = gst::Caps::from_str(to).unwrap();
        assert!(got.is_strictly_equal(&expected), "{from}: expected {expected}, got {got}");
    }

    #[test]
    fn fixed_sizes_scale_and_other_fields_pass() {
        check(
            Sink,
            "video/x-raw, format=I420, width=320, height=180, framerate=25/1, pixel-aspect-ratio=12/11, colorimetry=bt709",
            "video/x-raw, format=I420, width=1280, height=720, framerate=25/1, pixel-aspect-ratio=12/11, colorimetry=bt709",
        );
    }

    #[test]
    fn output_sizes_divide_or_are_dropped() {
        check(
            Src,
            "video/x-raw, width=1280, height=720",
            "video/x-raw, width=320, height=180, interlace-mode=progressive; video/x-raw, width=320, height=180",
        );
        check(Src, "video/x-raw, width=1282, height=720", "EMPTY");
    }

    #[test]
    fn ranges_scale_without_overflow() {
        check(
            Sink,
            "video/x-raw, width=[1, 2147483647], height=[16, 100]",
            "video/x-raw, width=[4, 2147483647], height=[64, 400]",
        );
        check(
            Src,
            "video/x-raw, width=[1, 2147483647], height=[17, 20]",
            "video/x-raw, width=[1, 536870911], height=5, interlace-mode=progressive; \
             video/x-raw, width=[1, 536870911], height=5",
        );
        check(Src, "video/x-raw, width=[5, 7]", "EMPTY");
    }

    #[test]
    fn lists_scale_item_by_item() {
        check(Sink, "video/x-raw, width={320, 640}", "video/x-raw, width={1280, 2560}");
        check(
            Src,
            "video/x-raw, width={1280, 1281}, interlace-mode=mixed",
            "video/x-raw, width={320}, interlace-mode=mixed",
        );
    }

    #[test]
    fn the_largest_scale_comes_first() {
        check_scales(
            Sink,
            "video/x-raw, format=NV12, width=2; video/x-raw, format=RGB, width=3",
            "video/x-raw, format=NV12, width=8; video/x-raw, format=NV12, width=4; \
             video/x-raw, format=RGB, width=12; video/x-raw, format=RGB, width=6",
            &[4, 2],
        );
        check_scales(
            Src,
            "video/x-raw, width=12, interlace-mode=progressive",
            "video/x-raw, width=3, interlace-mode=progressive; video/x-raw, width=4, interlace-mode=progressive; \
             video/x-raw, width=6, interlace-mode=progressive",
            &[4, 3, 2],
        );
    }

    #[test]
    fn order_and_memory_features_are_kept() {
        check(
            Sink,
            "video/x-raw, format=NV12, width=2; video/x-raw(memory:DMABuf), format=RGB, width=3",
            "video/x-raw, format=NV12, width=8; video/x-raw(memory:DMABuf), format=RGB, width=12",
        );
    }
}
