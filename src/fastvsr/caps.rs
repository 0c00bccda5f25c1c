//! Owns what the element accepts and makes: pad templates, and the scaling of caps between its pads. Format, framerate,
//! colorimetry, HDR metadata and all that is not size or shape pass through untouched.

use gst::prelude::*;
use gst_video::{VideoFormat, VideoInfo};
use once_cell::sync::Lazy;

/// Pixel formats, the same on both pads: the format that comes in goes out.
pub const FORMATS: [VideoFormat; 15] = [
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
    VideoFormat::I42210le,
    VideoFormat::Y44410le,
];

/// Caps of both pad templates.
pub(super) fn template() -> gst::Caps {
    gst_video::VideoCapsBuilder::new().format_list(FORMATS).build()
}

/// What the other pad may have when the pad in `direction` has `caps`: frames leave `most` times as large, or, unless that
/// is `exact`, in any size from their own to that. What is `most` times as large comes first.
///
/// A size between these may change the shape of pixels, which [`fixate`] sees to.
pub(super) fn transform(direction: gst::PadDirection, caps: &gst::Caps, most: i32, exact: bool) -> gst::Caps {
    let down = |side: i32| (side - 1) / most + 1;
    let up = |side: i32| side.saturating_mul(most);
    let largest = |low: i32, high: i32| match direction {
        gst::PadDirection::Src => (down(low), high / most),
        _ => (up(low), up(high)),
    };
    let any = |low: i32, high: i32| match direction {
        gst::PadDirection::Src => (down(low), high),
        _ => (low, up(high)),
    };
    let mut other = gst::Caps::new_empty();
    // Interlaced video comes last of what is asked of upstream: an element that can send either sends progressive
    // video, and from one that cannot it is refused when its caps are set, where there is a way to say why.
    let mut interlaced = gst::Caps::new_empty();
    let (caps_mut, interlaced_mut) = (other.make_mut(), interlaced.make_mut());
    for (structure, features) in caps.iter_with_features() {
        let between = (!exact).then(|| with_sides(structure, &any)).flatten().map(|mut between| {
            if between.has_field(PAR) {
                let all = gst::FractionRange::new(gst::Fraction::new(1, i32::MAX), gst::Fraction::new(i32::MAX, 1));
                between.set(PAR, all);
            }
            between
        });
        for mut structure in with_sides(structure, &largest).into_iter().chain(between) {
            if direction == gst::PadDirection::Src && !structure.has_field("interlace-mode") {
                interlaced_mut.append_structure_full(structure.clone(), Some(features.to_owned()));
                structure.set("interlace-mode", "progressive");
            }
            caps_mut.append_structure_full(structure, Some(features.to_owned()));
        }
    }
    other.make_mut().append(interlaced);
    other
}

const PAR: &str = "pixel-aspect-ratio";

/// The structure with other sides, where it has any; `None` if one of them has no counterpart.
fn with_sides(structure: &gst::StructureRef, map: &dyn Fn(i32, i32) -> (i32, i32)) -> Option<gst::Structure> {
    let mut structure = structure.to_owned();
    for side in ["width", "height"] {
        if let Ok(value) = structure.value(side) {
            let value = map_side(value, map)?;
            structure.set_value(side, value);
        }
    }
    Some(structure)
}

fn map_side(value: &glib::SendValue, map: &dyn Fn(i32, i32) -> (i32, i32)) -> Option<glib::SendValue> {
    if let Ok(list) = value.get::<gst::List>() {
        let mapped: Vec<_> = list.iter().filter_map(|value| map_side(value, map)).collect();
        return (!mapped.is_empty()).then(|| gst::List::new(mapped).to_send_value());
    }
    let range = value.get::<gst::IntRange<i32>>().map(|range| (range.min(), range.max()));
    let (low, high) = range.or_else(|_| value.get::<i32>().map(|side| (side, side))).ok()?;
    let (low, high) = map(low.max(1), high);
    match low.cmp(&high) {
        std::cmp::Ordering::Less => Some(gst::IntRange::new(low, high).to_send_value()),
        std::cmp::Ordering::Equal => Some(low.to_send_value()),
        std::cmp::Ordering::Greater => None,
    }
}

/// The output for frames of `input`, of what downstream takes: as near to `most` times as large as may be, in the shape
/// of the picture. Pixels keep their shape where the sides can have the picture's, to less than a pixel, or a sample of
/// chroma; else they get one with which it is right.
pub(super) fn fixate(input: &VideoInfo, mut output: gst::Caps, most: i32) -> gst::Caps {
    output.truncate();
    if let Some(structure) = output.make_mut().structure_mut(0) {
        let nearest = |side: &str, wanted: f64, subsampled: u32| {
            let step = f64::from(1 << subsampled);
            let mut structure = structure.to_owned();
            structure.fixate_field_nearest_int(side, ((wanted / step).round() * step) as i32);
            structure.get::<i32>(side).ok().map(f64::from)
        };
        let format = input.format_info();
        let (w_sub, h_sub) =
            (format.w_sub().iter().max().copied().unwrap_or(0), format.h_sub().iter().max().copied().unwrap_or(0));
        let (width, height) = (f64::from(input.width()), f64::from(input.height()));
        let ratio = |par: gst::Fraction| f64::from(par.numer()) / f64::from(par.denom());
        let shape = width / height * ratio(input.par());
        let nearest_shape = |structure: &gst::StructureRef, wanted: gst::Fraction| {
            let mut structure = structure.to_owned();
            if structure.has_field(PAR) {
                structure.fixate_field_nearest_fraction(PAR, wanted);
            }
            structure.get::<gst::Fraction>(PAR).ok()
        };
        let pixel = nearest_shape(structure, input.par()).unwrap_or(input.par());
        // What the width is for each row, and how much it is off.
        let wanted = shape / ratio(pixel);
        let off = |(width, height): &(f64, f64)| (width - height * wanted).abs().min((width / wanted - height).abs());
        let by_height = nearest("height", height * f64::from(most), h_sub)
            .and_then(|height| Some((nearest("width", height * wanted, w_sub)?, height)));
        let by_width = nearest("width", width * f64::from(most), w_sub)
            .and_then(|width| Some((width, nearest("height", width / wanted, h_sub)?)));
        let better = by_height.into_iter().chain(by_width).min_by(|a, b| off(a).total_cmp(&off(b)));
        if let Some((width, height)) = better {
            structure.set("width", width as i32);
            structure.set("height", height as i32);
            let right = off(&(width, height)) < f64::from(1 << w_sub.max(h_sub));
            if let Some(pixel) = gst::Fraction::approximate_f64(shape * height / width).filter(|_| !right) {
                structure.set(PAR, nearest_shape(structure, pixel).unwrap_or(pixel));
            } else if structure.has_field(PAR) {
                structure.set(PAR, pixel);
            }
        }
    }
    output.fixate();
    output
}

/// Why a stream cannot be upscaled, for a person to read; `None` if it can.
pub(super) fn refusal(info: &VideoInfo) -> Option<String> {
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
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(direction: gst::PadDirection, from: &str, to: &str) {
        check_between(direction, from, to, true);
    }

    #[track_caller]
    fn check_between(direction: gst::PadDirection, from: &str, to: &str, exact: bool) {
        gst::init().unwrap();
        let got = transform(direction, &gst::Caps::from_str(from).unwrap(), 4, exact);
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
    fn the_largest_size_comes_first_and_then_all_between() {
        check_between(
            Sink,
            "video/x-raw, format=NV12, width=2, pixel-aspect-ratio=4/3; video/x-raw, format=RGB, height=[3, 5]",
            "video/x-raw, format=NV12, width=8, pixel-aspect-ratio=4/3; \
             video/x-raw, format=NV12, width=[2, 8], pixel-aspect-ratio=[1/2147483647, 2147483647/1]; \
             video/x-raw, format=RGB, height=[12, 20]; video/x-raw, format=RGB, height=[3, 20]",
            false,
        );
        check_between(
            Src,
            "video/x-raw, width=12, interlace-mode=progressive; video/x-raw, width={5, 16}, interlace-mode=mixed",
            "video/x-raw, width=3, interlace-mode=progressive; video/x-raw, width=[3, 12], interlace-mode=progressive; \
             video/x-raw, width={4}, interlace-mode=mixed; video/x-raw, width={[2, 5], [4, 16]}, interlace-mode=mixed",
            false,
        );
    }

    /// Any set of sides that caps can have.
    fn sides() -> impl Strategy<Value = String> {
        prop_oneof![
            (1..3000).prop_map(|side: i32| side.to_string()),
            (1..3000, 1..3000).prop_map(|(low, more)| format!("[{low}, {}]", low + more)),
            prop::collection::vec(1..3000, 2..4)
                .prop_map(|sides| format!("{{{}}}", sides.iter().map(i32::to_string).collect::<Vec<_>>().join(", "))),
        ]
    }

    proptest! {
        #[test]
        fn what_may_come_in_is_what_can_leave(width in sides(), height in sides(), input in (1..3000, 1..3000), most in 1..6, exact: bool) {
            gst::init().unwrap();
            let downstream = gst::Caps::from_str(&format!("video/x-raw, width={width}, height={height}")).unwrap();
            let (width, height) = input;
            let input = gst::Caps::builder("video/x-raw").field("width", width).field("height", height).build();
            let output = transform(Sink, &input, most, exact);
            let upstream = transform(Src, &downstream, most, exact);
            prop_assert_eq!(upstream.can_intersect(&input), downstream.can_intersect(&output), "{} and {}", upstream, output);
        }

        #[test]
        fn what_leaves_is_what_downstream_takes_in_the_shape_of_the_picture(
            width in sides(), height in sides(), par in prop_oneof![Just(""), Just(", pixel-aspect-ratio=1/1"), Just(", pixel-aspect-ratio={1/1, 16/11}")],
            input in (16..2000u32, 16..2000u32, prop_oneof![Just((1, 1)), Just((16, 15)), Just((8, 9)), Just((64, 45))]), yuv: bool, most in 1..6,
        ) {
            gst::init().unwrap();
            let (in_width, in_height, (n, d)) = input;
            let format = if yuv { VideoFormat::I420 } else { VideoFormat::Rgb };
            let info = VideoInfo::builder(format, in_width, in_height).par(gst::Fraction::new(n, d)).build().unwrap();
            let downstream = gst::Caps::from_str(&format!("video/x-raw, width={width}, height={height}{par}")).unwrap();
            let possible = downstream.intersect(&transform(Sink, &info.to_caps().unwrap(), most, false));
            if !possible.is_empty() {
                let got = fixate(&info, possible.clone(), most);
                prop_assert!(got.is_fixed() && got.is_subset(&possible), "{got} of {possible}");
                let got = VideoInfo::from_caps(&got).unwrap();
                let between = |side: u32, from: u32| (from..=from * most as u32).contains(&side);
                prop_assert!(between(got.width(), in_width) && between(got.height(), in_height));
                if par.is_empty() {
                    let shape = |info: &VideoInfo| f64::from(info.width()) * f64::from(info.par().numer()) / f64::from(info.par().denom());
                    let width = shape(&info) / f64::from(in_height) * f64::from(got.height());
                    let off = (shape(&got) / width - 1.0).abs() * f64::from(got.width().min(got.height()));
                    prop_assert!(off <= 2.0, "{got:?} is off by {off} pixels");
                }
            }
        }
    }

    #[track_caller]
    fn check_fixed(input: (u32, u32), par: (i32, i32), downstream: &str, expected: (u32, u32), pixel: (i32, i32)) {
        gst::init().unwrap();
        let info = VideoInfo::builder(VideoFormat::I420, input.0, input.1).par(gst::Fraction::new(par.0, par.1));
        let info = info.build().unwrap();
        let downstream = gst::Caps::from_str(&format!("video/x-raw, {downstream}")).unwrap();
        let possible = downstream.intersect(&transform(Sink, &info.to_caps().unwrap(), 4, false));
        let got = VideoInfo::from_caps(&fixate(&info, possible, 4)).unwrap();
        let got = ((got.width(), got.height()), (got.par().numer(), got.par().denom()));
        assert_eq!(got, (expected, pixel), "{downstream}");
    }

    #[test]
    fn sizes_that_are_left_open_follow_the_picture() {
        check_fixed((320, 240), (1, 1), "height=720", (960, 720), (1, 1));
        check_fixed((320, 240), (1, 1), "width=1000", (1000, 750), (1, 1));
        check_fixed((320, 240), (1, 1), "width=[1, 1000], height=[1, 600]", (800, 600), (1, 1));
        check_fixed((320, 240), (1, 1), "format=I420", (1280, 960), (1, 1));
        // Sides that fit to a pixel.
        check_fixed((852, 480), (1, 1), "width=1920, height=1080", (1920, 1080), (1, 1));
    }

    #[test]
    fn pixels_get_the_shape_that_the_picture_needs() {
        check_fixed((320, 240), (1, 1), "width=1280, height=720", (1280, 720), (3, 4));
        check_fixed((720, 576), (16, 15), "height=1080", (1350, 1080), (16, 15));
        check_fixed((720, 576), (16, 15), "height=1080, pixel-aspect-ratio=1/1", (1440, 1080), (1, 1));
        check_fixed((720, 576), (16, 15), "pixel-aspect-ratio=1/1", (2880, 2160), (1, 1));
        check_fixed(
            (720, 576),
            (64, 45),
            "width=[1, 1920], height=[1, 1080], pixel-aspect-ratio=1/1",
            (1920, 1080),
            (1, 1),
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
