//! Colour: what is flat comes out of the embedded model with the mean colour that went in, whatever the pixel format.

mod common;

use common::{
    samples::{FORMATS, Sample, each_sample, get, put},
    *,
};
use gst::prelude::*;
use gst_video::{
    VideoColorMatrix as Matrix, VideoColorPrimaries as Primaries, VideoColorRange as Range, VideoColorimetry,
    VideoFormat, VideoFrameExt, VideoFrameRef, VideoInfo, VideoTransferFunction as Transfer,
};
use palette::{FromColor, Lab, color_difference::Ciede2000, encoding, rgb::Rgb};

/// Side of a patch in input pixels, and how many of them stand in a row.
const SIDE: usize = 24;
const COLUMNS: usize = 8;

/// Greys, bars at 75 % of full saturation, skin: R'G'B' in 8 bits.
const PATCHES: [[u8; 3]; 3 * COLUMNS] = [
    [0, 0, 0],
    [36, 36, 36],
    [73, 73, 73],
    [109, 109, 109],
    [146, 146, 146],
    [182, 182, 182],
    [219, 219, 219],
    [255, 255, 255],
    [191, 191, 191],
    [191, 191, 0],
    [0, 191, 191],
    [0, 191, 0],
    [191, 0, 191],
    [191, 0, 0],
    [0, 0, 191],
    [255, 255, 255],
    // The two of the ColorChecker first.
    [115, 82, 68],
    [194, 150, 130],
    [255, 224, 196],
    [238, 193, 163],
    [224, 172, 105],
    [198, 134, 66],
    [141, 85, 36],
    [66, 40, 30],
];

/// Level of alpha where there is any.
const ALPHA: u8 = 77;

/// The standards' matrices with their primaries and transfer functions.
const STANDARDS: [(Matrix, Transfer, Primaries); 3] = [
    (Matrix::Bt601, Transfer::Bt601, Primaries::Smpte170m),
    (Matrix::Bt709, Transfer::Bt709, Primaries::Bt709),
    (Matrix::Bt2020, Transfer::Bt202010, Primaries::Bt2020),
];

/// A stream of the patches, whose right and lower edges are cut, so that frames must be padded.
fn stream(format: VideoFormat, colorimetry: VideoColorimetry) -> VideoInfo {
    let (width, height) = (COLUMNS * SIDE - 3, PATCHES.len() / COLUMNS * SIDE - 3);
    video_info(format, width as u32, height as u32, &colorimetry)
}

fn video_info(format: VideoFormat, width: u32, height: u32, colorimetry: &VideoColorimetry) -> VideoInfo {
    init();
    VideoInfo::builder(format, width, height).fps(gst::Fraction::new(25, 1)).colorimetry(colorimetry).build().unwrap()
}

fn is_gray(info: &VideoInfo) -> bool {
    info.n_components() == 1
}

/// Kr and Kb of BT.601, BT.709 and BT.2020.
fn weights(info: &VideoInfo) -> (f64, f64) {
    match info.colorimetry().matrix() {
        Matrix::Bt601 => (0.299, 0.114),
        Matrix::Bt709 => (0.2126, 0.0722),
        Matrix::Bt2020 => (0.2627, 0.0593),
        other => panic!("{other:?}"),
    }
}

/// Where the samples of luma, or of R, G and B, and those of chroma begin, and how far they reach.
fn levels_of(info: &VideoInfo) -> [(f64, f64); 2] {
    let unit = f64::from(1 << (info.comp_depth(0) - 8));
    match info.colorimetry().range() {
        Range::Range0_255 => {
            let full = 256.0 * unit - 1.0;
            [(0.0, full), (128.0 * unit, full)]
        }
        _ => [(16.0 * unit, 219.0 * unit), (128.0 * unit, 224.0 * unit)],
    }
}

/// R'G'B' between 0 and 1 as components of a stream.
fn encode(info: &VideoInfo, [r, g, b]: [f64; 3]) -> [f64; 3] {
    let [(zero, luma), (middle, chroma)] = levels_of(info);
    if info.is_rgb() {
        return [r, g, b].map(|value| zero + luma * value);
    }
    let (kr, kb) = weights(info);
    let y = kr * r + (1.0 - kr - kb) * g + kb * b;
    let (u, v) = ((b - y) / (2.0 - 2.0 * kb), (r - y) / (2.0 - 2.0 * kr));
    [zero + luma * y, middle + chroma * u, middle + chroma * v]
}

/// The reverse of [`encode`]; grey has no colour.
fn decode(info: &VideoInfo, components: [f64; 3]) -> [f64; 3] {
    let [(zero, luma), (middle, chroma)] = levels_of(info);
    if info.is_rgb() {
        return components.map(|value| (value - zero) / luma);
    }
    let y = (components[0] - zero) / luma;
    if is_gray(info) {
        return [y; 3];
    }
    let (kr, kb) = weights(info);
    let [u, v] = [components[1], components[2]].map(|value| (value - middle) / chroma);
    let (r, b) = (y + (2.0 - 2.0 * kr) * v, y + (2.0 - 2.0 * kb) * u);
    [r, (y - kr * r - kb * b) / (1.0 - kr - kb), b]
}

/// CIEDE2000 between two colours of a stream.
fn difference(info: &VideoInfo, one: [f64; 3], other: [f64; 3]) -> f64 {
    let lab = |rgb: [f64; 3]| {
        let [r, g, b] = rgb.map(|value| value.clamp(0.0, 1.0));
        match info.colorimetry().primaries() {
            Primaries::Bt2020 => Lab::from_color(Rgb::<encoding::Rec2020, f64>::new(r, g, b)),
            _ => Lab::from_color(Rgb::<encoding::Rec709, f64>::new(r, g, b)),
        }
    };
    lab(one).difference(lab(other))
}

/// The patches as a frame.
fn chart(info: &VideoInfo, patches: &[[u8; 3]]) -> gst::Buffer {
    let mut data = vec![0; info.size()];
    each_sample(info, info.stride(), info.offset(), |Sample { component, x, y, at }| {
        let patch = patches[y / SIDE * COLUMNS + x / SIDE].map(|value| f64::from(value) / 255.0);
        let value = encode(info, patch).get(component).map_or(f64::from(ALPHA), |value| value.round());
        put(&mut data, info, at, value as u16);
    });
    gst::Buffer::from_mut_slice(data)
}

/// Mean of each component in the middle of each patch, `scale` times as large.
fn means(info: &VideoInfo, buffer: &gst::Buffer, scale: usize) -> Vec<[f64; 3]> {
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let map = buffer.map_readable().unwrap();
    let side = SIDE * scale;
    let inner = side / 4..side * 3 / 4;
    let mut sums = [[(0.0, 0.0); 3]; PATCHES.len()];
    each_sample(info, frame.plane_stride(), frame.plane_offset(), |Sample { component, x, y, at }| {
        if component < 3 && inner.contains(&(x % side)) && inner.contains(&(y % side)) {
            let (sum, count) = &mut sums[y / side * COLUMNS + x / side][component];
            *sum += f64::from(get(&map, info, at));
            *count += 1.0;
        }
    });
    sums.iter().map(|patch| patch.map(|(sum, count)| if count > 0.0 { sum / count } else { 0.0 })).collect()
}

/// What a pipeline makes of frames, and the caps of its output.
fn upscale(caps: &gst::Caps, element: &str, frames: Vec<gst::Buffer>) -> (Vec<gst::Buffer>, gst::Caps) {
    let pipeline = Pipeline::new(&format!(
        "appsrc name=in format=time ! fastvsr name=vsr execution-provider=cpu window=1 {element} ! appsink name=out sync=false"
    ));
    let source: gst_app::AppSrc = pipeline.by_name("in").unwrap().downcast().unwrap();
    let sink: gst_app::AppSink = pipeline.by_name("out").unwrap().downcast().unwrap();
    source.set_caps(Some(caps));
    pipeline.set_state(gst::State::Playing).unwrap();
    for (n, mut frame) in frames.into_iter().enumerate() {
        stamp(&mut frame, n as u64);
        source.push_buffer(frame).unwrap();
    }
    source.end_of_stream().unwrap();
    let samples: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    assert_eq!(pipeline.error(), None);
    let caps = samples[0].caps_owned().unwrap();
    (samples.iter().map(|sample| sample.buffer_owned().unwrap()).collect(), caps)
}

/// Holds the embedded model, so that pipelines need not load it again and again.
fn hold_model() -> Rig {
    Rig::with_caps(&fastvsr("compact-s", 1), &rgb(8, 8))
}

/// The worst difference of a patch between two frames, and its words.
fn worst(input: &VideoInfo, before: &gst::Buffer, output: &VideoInfo, after: &gst::Buffer) -> (f64, String) {
    let (before, after) = (means(input, before, 1), means(output, after, 4));
    let patches = before.iter().zip(&after).enumerate().map(|(patch, (before, after))| {
        let [one, other] = [before, after].map(|components| decode(input, *components));
        let stream = format!("{} {}", input.format(), input.colorimetry());
        (difference(input, one, other), format!("{stream}, patch {patch}: {before:.1?} became {after:.1?}"))
    });
    patches.max_by(|one, other| one.0.total_cmp(&other.0)).unwrap()
}

/// Holds flats of every format and range to their colour; prints the worst of each.
#[track_caller]
fn flats_keep_their_colour((matrix, transfer, primaries): (Matrix, Transfer, Primaries)) {
    let _model = hold_model();
    let mut failed = Vec::new();
    for format in FORMATS {
        let is_rgb = gst_video::VideoFormatInfo::from_format(format).is_rgb();
        let matrix = if is_rgb { Matrix::Rgb } else { matrix };
        for range in [Range::Range0_255, Range::Range16_235] {
            let colorimetry = VideoColorimetry::new(range, matrix, transfer, primaries);
            let input = stream(format, colorimetry);
            let frame = chart(&input, &PATCHES);
            let (frames, caps) = upscale(&input.to_caps().unwrap(), "", vec![frame.clone(), frame.clone()]);
            let output = info(&caps);
            assert_eq!((frames.len(), output.format(), output.colorimetry()), (2, format, colorimetry));
            let (difference, what) = worst(&input, &frame, &output, &frames[1]);
            println!("{difference:.2} {what}");
            if difference > 1.0 {
                failed.push((difference, what));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn flats_keep_their_colour_in_bt601() {
    flats_keep_their_colour(STANDARDS[0]);
}

#[test]
fn flats_keep_their_colour_in_bt709() {
    flats_keep_their_colour(STANDARDS[1]);
}

#[test]
fn flats_keep_their_colour_in_bt2020() {
    flats_keep_their_colour(STANDARDS[2]);
}

/// The luma of a frame's middle row.
fn middle_row(info: &VideoInfo, buffer: &gst::Buffer) -> Vec<u16> {
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let map = buffer.map_readable().unwrap();
    let mut row = Vec::new();
    each_sample(info, frame.plane_stride(), frame.plane_offset(), |Sample { component, y, at, .. }| {
        if component == 0 && y == info.height() as usize / 2 {
            row.push(get(&map, info, at));
        }
    });
    row
}

#[test]
fn a_ramp_in_ten_bits_keeps_more_than_eight() {
    let _model = hold_model();
    for format in [VideoFormat::I42010le, VideoFormat::P01010le] {
        let (width, height) = (640, 16);
        let input = video_info(format, width, height, &"bt709".parse().unwrap());
        let place = |x: usize, width: u32| 64.0 + 876.0 * (x as f64 + 0.5) / f64::from(width);
        let mut data = vec![0; input.size()];
        each_sample(&input, input.stride(), input.offset(), |Sample { component, x, at, .. }| {
            put(&mut data, &input, at, if component == 0 { place(x, width).round() as u16 } else { 512 });
        });
        let frame = gst::Buffer::from_mut_slice(data);
        let (frames, caps) = upscale(&input.to_caps().unwrap(), "", vec![frame.clone(), frame]);
        let output = info(&caps);
        let row = middle_row(&output, &frames[1]);
        let levels = row.iter().collect::<std::collections::HashSet<_>>().len();
        let back = row.windows(2).map(|pair| pair[0].saturating_sub(pair[1])).max().unwrap();
        let off = (0..row.len()).map(|x| (f64::from(row[x]) - place(x, output.width())).abs());
        let off = off.fold(0.0, f64::max);
        println!("{format}: {levels} levels, back by {back}, off by {off:.1}");
        assert!(levels > 800, "{format}: {levels} levels");
        assert!(back <= 1, "{format}: back by {back}");
        assert!(off <= 4.0, "{format}: off by {off}");
    }
}

#[test]
fn hdr_passes() {
    init();
    for format in ["I420_10LE", "P010_10LE"] {
        for colorimetry in ["bt2100-pq", "bt2100-hlg"] {
            let mut caps = gst::Caps::builder("video/x-raw")
                .field("format", format)
                .field("width", 32)
                .field("height", 16)
                .field("framerate", gst::Fraction::new(25, 1))
                .field("colorimetry", colorimetry)
                .field("mastering-display-info", "35400:14600:8500:39850:6550:2300:15635:16450:10000000:1")
                .field("content-light-level", "1000:400")
                .build();
            let input = info(&caps);
            let mut data = vec![0; input.size()];
            let colour = [700, 480, 600];
            each_sample(&input, input.stride(), input.offset(), |Sample { component, at, .. }| {
                put(&mut data, &input, at, colour[component]);
            });
            let element = format!("model={}", model("nearest").display());
            let (frames, got) = upscale(&caps, &element, vec![gst::Buffer::from_mut_slice(data)]);
            for side in ["width", "height"] {
                let small: i32 = caps.structure(0).unwrap().get(side).unwrap();
                caps.make_mut().set(side, small * 4);
            }
            assert!(caps.can_intersect(&got) && caps.is_subset(&got), "expected {caps}, got {got}");
            let fields = ["colorimetry", "mastering-display-info", "content-light-level"];
            let texts = |caps: &gst::Caps| fields.map(|field| caps.structure(0).unwrap().get::<String>(field).unwrap());
            assert_eq!(texts(&got), texts(&caps));
            // No tone is mapped: the levels are those that came in.
            let map = frames[0].map_readable().unwrap();
            let output = info(&got);
            each_sample(&output, output.stride(), output.offset(), |Sample { component, at, .. }| {
                let level = get(&map, &output, at);
                assert!(level.abs_diff(colour[component]) <= 1, "{got}, component {component}: {level}");
            });
        }
    }
}

/// Patches that stay in range when the model `drifting` changes them.
fn moderate() -> Vec<[u8; 3]> {
    PATCHES.map(|patch| patch.map(|value| 32 + (u16::from(value) * 3 / 4) as u8)).to_vec()
}

/// What the model `drifting` makes of the moderate patches with a colour fix: the worst difference, and the output.
fn drift(format: VideoFormat, fix: &str) -> ((f64, String), VideoInfo, gst::Buffer) {
    init();
    let is_rgb = gst_video::VideoFormatInfo::from_format(format).is_rgb();
    let input = stream(format, if is_rgb { "sRGB" } else { "bt709" }.parse().unwrap());
    let frame = chart(&input, &moderate());
    let element = format!("model={} color-fix={fix}", model("drifting").display());
    let (frames, caps) = upscale(&input.to_caps().unwrap(), &element, vec![frame.clone()]);
    let output = info(&caps);
    (worst(&input, &frame, &output, &frames[0]), output, frames[0].clone())
}

#[test]
fn a_colour_fix_brings_drifting_colours_back() {
    let formats = [VideoFormat::Rgb, VideoFormat::Bgra, VideoFormat::I420, VideoFormat::Gray8, VideoFormat::P01010le];
    let mut failed = Vec::new();
    for format in formats {
        let (drifted, _, _) = drift(format, "none");
        assert!(drifted.0 > 3.0, "{drifted:?}");
        // Chroma in 8 bits can be off by a level of its own, which in dark skin is as much as this.
        let most = if format == VideoFormat::I420 { 1.4 } else { 1.0 };
        for fix in ["mean", "wavelet"] {
            let (fixed, _, _) = drift(format, fix);
            println!("{fix}: {:.2} after {:.2}, {}", fixed.0, drifted.0, fixed.1);
            if fixed.0 > most {
                failed.push((fix, fixed));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_colour_fix_leaves_detail_and_alpha() {
    for fix in ["mean", "wavelet"] {
        let (_, output, buffer) = drift(VideoFormat::Bgra, fix);
        let pixels = plane(&buffer, &output, 0);
        let pixels: Vec<_> = pixels.chunks_exact(4).collect();
        assert!(pixels.iter().all(|pixel| pixel[3] == ALPHA), "{fix}");
        // In the middle of a patch the model adds 7 to 8 levels to a pixel and takes as much from the next.
        for (row, column) in [(40, 136), (141, 430), (232, 620)] {
            let here = row * output.width() as usize + column;
            for (one, next) in pixels[here][..3].iter().zip(pixels[here + 1]) {
                let step = one.abs_diff(*next);
                assert!((13..=21).contains(&step), "{fix}, row {row}, column {column}: {step}");
            }
        }
    }
}
