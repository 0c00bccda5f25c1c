//! Plain ONNX files as models: floats in, floats out, no manifest. The networks in `data/plain` do what can be said exactly.

mod common;

use std::{fs, path::Path};

use common::*;
use gst::prelude::*;

/// RGB pixels.
#[derive(Debug, Clone, PartialEq)]
struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    fn new(width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) -> Self {
        let pixels = (0..width * height).map(|n| pixel(n % width, n / width)).collect();
        Self { width, height, pixels }
    }

    /// One with detail everywhere, another for each number.
    fn detailed(width: usize, height: usize, seed: usize) -> Self {
        let level = |n: usize| ((n.wrapping_mul(2_654_435_761) >> 13) % 256) as u8;
        Self::new(width, height, |x, y| [0, 1, 2].map(|channel| level(((seed * 3 + channel) * 997 + y) * 1009 + x + 1)))
    }

    fn at(&self, x: usize, y: usize) -> [u8; 3] {
        self.pixels[y * self.width + x]
    }

    /// As the element pads it.
    fn padded(&self, width: usize, height: usize) -> Self {
        Self::new(width, height, |x, y| self.at(x.min(self.width - 1), y.min(self.height - 1)))
    }

    fn cropped(&self, width: usize, height: usize) -> Self {
        Self::new(width, height, |x, y| self.at(x, y))
    }

    fn enlarged(&self, scale: usize) -> Self {
        Self::new(self.width * scale, self.height * scale, |x, y| self.at(x / scale, y / scale))
    }

    /// The mean over `reach` pixels around each, outside black.
    fn blurred(&self, reach: usize) -> Self {
        let side = 2 * reach + 1;
        Self::new(self.width, self.height, |x, y| {
            [0, 1, 2].map(|channel| {
                let columns = x.saturating_sub(reach)..(x + reach + 1).min(self.width);
                let rows = y.saturating_sub(reach)..(y + reach + 1).min(self.height);
                let all = rows.flat_map(|y| columns.clone().map(move |x| (x, y)));
                let sum: usize = all.map(|(x, y)| usize::from(self.at(x, y)[channel])).sum();
                ((2 * sum + side * side) / (2 * side * side)) as u8
            })
        })
    }

    /// The mean of each block of pixels.
    fn blocks(&self, side: usize) -> Self {
        Self::new(self.width, self.height, |x, y| {
            [0, 1, 2].map(|channel| {
                let columns = x / side * side..(x / side * side + side).min(self.width);
                let rows = y / side * side..(y / side * side + side).min(self.height);
                let count = columns.len() * rows.len();
                let all = rows.flat_map(|y| columns.clone().map(move |x| (x, y)));
                let sum: usize = all.map(|(x, y)| usize::from(self.at(x, y)[channel])).sum();
                ((2 * sum + count) / (2 * count)) as u8
            })
        })
    }

    fn frame(&self, n: u64) -> gst::Buffer {
        let mut frame = picture(&rgb(self.width as u32, self.height as u32), |x, y| self.at(x, y));
        stamp(&mut frame, n);
        frame
    }

    #[track_caller]
    fn is(&self, expected: &Self, most: u8, about: &str) {
        assert_eq!((self.width, self.height), (expected.width, expected.height), "{about}");
        let worst = self.pixels.iter().flatten().zip(expected.pixels.iter().flatten());
        let worst = worst.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= most, "{about}: {worst} levels");
    }
}

fn file(name: &str) -> String {
    format!("plain/{name}.onnx")
}

/// All that leaves an element for these frames, all of one size.
fn run(element: &gst::Element, frames: &[Picture]) -> Vec<Picture> {
    let mut rig = Rig::with_caps(element, &rgb(frames[0].width as u32, frames[0].height as u32));
    for (n, frame) in frames.iter().enumerate() {
        assert_eq!(rig.push(frame.frame(n as u64)), Ok(gst::FlowSuccess::Ok), "frame {n}: {:?}", rig.error());
    }
    rig.eos();
    pictures(&rig)
}

fn pictures(rig: &Rig) -> Vec<Picture> {
    let info = info(&rig.output_caps());
    let (width, height) = (info.width() as usize, info.height() as usize);
    let pixels = |frame| plane(&frame, &info, 0).chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
    rig.frames().into_iter().map(|frame| Picture { width, height, pixels: pixels(frame) }).collect()
}

fn upscale(name: &str, frame: &Picture) -> Picture {
    run(&fastvsr(&file(name), 0), std::slice::from_ref(frame)).remove(0)
}

#[test]
fn every_scale_gives_every_pixel_its_place() {
    let frame = Picture::detailed(11, 6, 0);
    for scale in [2, 3, 4, 8] {
        upscale(&format!("x{scale}"), &frame).is(&frame.enlarged(scale), 0, &format!("x{scale}"));
    }
    let inverted = Picture::new(11, 6, |x, y| frame.at(x, y).map(|level| 255 - level));
    upscale("x1", &frame).is(&inverted, 0, "x1");
    upscale("halves", &frame).is(&frame.enlarged(2), 0, "halves");
}

#[test]
fn every_size_and_format_goes_through() {
    init();
    for (name, scale) in [("x1", 1), ("x3", 3), ("blocks-3", 1), ("reflecting", 2), ("blur-40x24", 2)] {
        for format in ["RGB", "BGRA", "GRAY8", "I420", "NV12", "Y42B", "Y444_10LE", "P010_10LE"] {
            for (width, height) in [(1, 1), (34, 18), (47, 31)] {
                let pipeline = Pipeline::new(&format!(
                    "videotestsrc num-buffers=3 ! video/x-raw,format={format},width={width},height={height} ! fastvsr \
                     model={} execution-provider=cpu ! video/x-raw,format={format},width={},height={} ! fakesink name=sink",
                    model(&file(name)).display(),
                    width * scale,
                    height * scale,
                ));
                let seen = pipeline.count("sink");
                pipeline.run();
                assert_eq!(seen.lock().unwrap().len(), 3, "{name}, {format}, {width}x{height}");
            }
        }
    }
}

#[test]
fn properties_hold_for_models_of_any_scale() {
    init();
    for (name, properties, scale) in [
        ("x1", "scale=1 color-fix=wavelet", 1),
        ("x1", "color-fix=mean max-memory=200000000", 1),
        ("x3", "scale=2 window=3", 2),
        ("x8", "scale=3 color-fix=wavelet", 3),
    ] {
        let pipeline = Pipeline::new(&format!(
            "videotestsrc num-buffers=4 ! video/x-raw,format=I420,width=40,height=30 ! fastvsr model={} execution-provider=cpu \
             {properties} ! video/x-raw,width={},height={} ! fakesink name=sink",
            model(&file(name)).display(),
            40 * scale,
            30 * scale,
        ));
        let seen = pipeline.count("sink");
        pipeline.run();
        assert_eq!(seen.lock().unwrap().len(), 4, "{name} {properties}");
    }
    refused(&model(&file("x3")), "scale=4", "expected a scale from 1 to 3");
}

#[test]
fn data_is_found_beside_the_file_and_nowhere_else() {
    let frame = Picture::detailed(9, 7, 0);
    let halved = Picture::new(9, 7, |x, y| frame.at(x, y).map(|level| level / 2));
    upscale("external", &frame).is(&halved, 1, "external");
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("external.onnx");
    fs::copy(model(&file("external")), &alone).unwrap();
    refused(&alone, "", "external.onnx.data");
}

#[test]
fn a_new_file_is_asked_for_its_scale_before_its_caps_are_agreed_upon() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody has measured what has this name.
    let new = folder.path().join(format!("{}.onnx", folder.path().file_name().unwrap().display()));
    fs::copy(model(&file("x3")), &new).unwrap();
    let pipeline = |filter: &str| {
        let pipeline = Pipeline::new(&format!(
            "videotestsrc num-buffers=1 ! video/x-raw,width=20,height=10 ! fastvsr model={} execution-provider=cpu ! {filter} \
             fakesink name=sink",
            new.display()
        ));
        pipeline.set_state(gst::State::Paused).unwrap();
        pipeline.settle();
        let caps = pipeline.by_name("sink").unwrap().static_pad("sink").unwrap().current_caps().unwrap();
        (info(&caps).width(), info(&caps).height())
    };
    assert_eq!(pipeline("video/x-raw,width=60 !"), (60, 30));
    assert_eq!(pipeline(""), (60, 30));
    assert_eq!(pipeline("video/x-raw,width=40 !"), (40, 20));
}

#[test]
fn frames_are_padded_to_what_the_network_takes() {
    let frame = Picture::detailed(10, 7, 1);
    upscale("blocks-3", &frame).is(&frame.padded(12, 9).blocks(3).cropped(10, 7), 1, "by 3");
    upscale("blocks-4", &frame).is(&frame.padded(12, 8).blocks(4).cropped(10, 7), 1, "by 4");
    let pixel = Picture::detailed(1, 1, 1);
    upscale("reflecting", &pixel).is(&pixel.enlarged(2), 0, "one pixel");
}

#[test]
fn a_network_of_one_size_makes_frames_of_any() {
    for (name, width, height) in [("blur-32x32", 32, 32), ("blur-40x24", 40, 24)] {
        for (w, h) in [(32, 32), (40, 24), (41, 33), (101, 67), (200, 24)] {
            let frame = Picture::detailed(w, h, w);
            let expected = frame.padded(w.max(width), h.max(height)).blurred(2).cropped(w, h).enlarged(2);
            upscale(name, &frame).is(&expected, 1, &format!("{name} on {w}x{h}"));
        }
        let small = Picture::detailed(9, 5, 0);
        let expected = small.padded(width, height).blurred(2).cropped(9, 5).enlarged(2);
        upscale(name, &small).is(&expected, 1, name);
    }
}

/// The first limit of memory that a model of frames of this size can be kept in.
fn limited(name: &str, frame: &Picture) -> (Picture, u64) {
    for limit in (130..400).step_by(2) {
        let pipeline = Pipeline::new(&format!(
            "appsrc name=src format=time caps=video/x-raw,format=RGB,width={},height={},framerate=25/1 ! fastvsr name=vsr \
             model={} execution-provider=cpu max-memory={} ! appsink name=sink sync=false",
            frame.width,
            frame.height,
            model(&file(name)).display(),
            limit << 20,
        ));
        let src: gst_app::AppSrc = pipeline.by_name("src").unwrap().downcast().unwrap();
        let sink: gst_app::AppSink = pipeline.by_name("sink").unwrap().downcast().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let _ = src.push_buffer(frame.frame(0));
        let _ = src.end_of_stream();
        let Some(sample) = sink.try_pull_sample(TIMEOUT) else {
            let error = pipeline.error().unwrap();
            assert!(error.contains("expected at most"), "{error}");
            continue;
        };
        let (caps, tile) = (sample.caps_owned().unwrap(), pipeline.by_name("vsr").unwrap());
        let tile = tile.property::<gst::Structure>("stats").get::<u64>("tile").unwrap();
        let info = info(&caps);
        let pixels = plane(&sample.buffer_owned().unwrap(), &info, 0);
        let pixels = pixels.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
        return (Picture { width: info.width() as usize, height: info.height() as usize, pixels }, tile);
    }
    panic!("{name}: no limit is enough");
}

#[test]
fn tiles_make_what_the_whole_frame_makes() {
    let frame = Picture::detailed(531, 397, 5);
    let expected = [
        ("blur", frame.blurred(2).enlarged(2)),
        // Lays its blocks from the frame's corner: tiles whose place is no multiple of theirs would have others.
        ("windows", frame.padded(536, 400).blocks(8).cropped(531, 397)),
    ];
    for (name, expected) in expected {
        let (got, tile) = limited(name, &frame);
        assert!((32..397).contains(&tile), "{name}: tiles of {tile}");
        got.is(&expected, 1, name);
    }
    let (got, tile) = limited("blur-32x32", &frame);
    assert_eq!(tile, 32);
    got.is(&frame.blurred(2).enlarged(2), 1, "tiles of the only size");
}

#[track_caller]
fn refused(model: &Path, properties: &str, expected: &str) {
    let message = Pipeline::new(&format!(
        "videotestsrc num-buffers=1 ! video/x-raw,width=64,height=48 ! fastvsr model={} execution-provider=cpu {properties} ! \
         fakesink",
        model.display()
    ))
    .run_to_error();
    assert!(message.contains(expected), "{}: {message}", model.display());
}

#[test]
fn a_network_that_sees_the_whole_frame_cannot_be_limited() {
    refused(&model(&file("global")), "max-memory=200000000", "no `geometry.memory`");
}

#[test]
fn what_is_no_plain_network_is_refused_in_words() {
    for (name, expected) in [
        ("two-inputs", "expected one input, of frames, got 2: input, strength"),
        ("sequence", "expected output `output` to be a tensor of float32 or float16, got Sequence"),
        ("bytes", "expected input `input` to be a tensor of float32 or float16, got"),
        ("grey", "expected input `input` to be RGB in planes, [1, 3, H, W], or [1, T, 3, H, W]"),
        ("last", "expected input `input` to be RGB in planes"),
        ("one-channel", "to be one RGB frame"),
        ("one-size", "whatever their size, got 64x64 out of"),
        ("any-number", "got a graph that takes any number of them"),
        ("even", "[time]\nlook-back = 1\nlook-ahead = 1"),
    ] {
        refused(&model(&file(name)), "", expected);
    }
}

#[test]
fn what_is_no_network_at_all_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read(model(&file("blur"))).unwrap();
    let noise: Vec<u8> = Picture::detailed(40, 40, 0).pixels.concat();
    for (name, bytes) in [("garbage", &noise[..]), ("empty", &[]), ("cut", &whole[..whole.len() / 2])] {
        let file = folder.path().join(format!("{name}.onnx"));
        fs::write(&file, bytes).unwrap();
        refused(&file, "", "cannot be used as it is: expected");
    }
    refused(&folder.path().join("none.onnx"), "", "expected an ONNX file");
}

/// Levels of flat frames, and what a mean by `weights` makes of them, whose ends are repeated.
fn mixed(levels: &[u8], weights: &[f64], before: usize) -> Vec<u8> {
    let at = |n: usize| f64::from(levels[n.saturating_sub(before).min(levels.len() - 1)]);
    let mean = |n: usize| weights.iter().enumerate().map(|(k, weight)| weight * at(n + k)).sum::<f64>();
    (0..levels.len()).map(|n| mean(n).round() as u8).collect()
}

const THREE: [f64; 3] = [0.25, 0.5, 0.25];
const FIVE: [f64; 5] = [0.125, 0.125, 0.5, 0.125, 0.125];

#[test]
fn every_frame_is_made_of_its_neighbours() {
    // Multiples of 8 and odd, so that no mean is half a level.
    let levels = [8, 40, 16, 200, 96, 96, 248, 0, 56];
    let causal = [0.125, 0.25, 0.625];
    for (name, weights, before) in [
        ("frames-3", &THREE[..], 1),
        ("channels-9", &THREE, 1),
        ("frames-5", &FIVE, 2),
        ("channels-15", &FIVE, 2),
        ("causal", &causal, 2),
    ] {
        for window in [0, 1, 4] {
            for length in 1..=levels.len() {
                let mut rig = Rig::new(&file(name), window);
                for (n, level) in levels[..length].iter().enumerate() {
                    rig.push(flat(&rgb(8, 4), n as u64, *level)).unwrap();
                }
                rig.eos();
                assert_eq!(info(&rig.output_caps()).width(), 16);
                let expected = mixed(&levels[..length], weights, before);
                assert_eq!(rig.levels(), expected, "{name}, windows of {window}, {length} frames");
            }
        }
    }
}

#[test]
fn frames_of_another_scene_are_not_seen() {
    let scene = |bright: bool| {
        let pixel = move |n: usize| {
            move |x: usize, y: usize| {
                if bright {
                    [240 - (x + n) as u8, 60 + y as u8, 20]
                } else {
                    [(x * 3 + n) as u8, 30, 90 + (2 * y) as u8]
                }
            }
        };
        (0..5).map(|n| Picture::new(64, 48, pixel(n))).collect::<Vec<_>>()
    };
    let (one, other) = (scene(true), scene(false));
    for name in ["frames-3", "channels-15"] {
        let both = run(&fastvsr(&file(name), 2), &[one.clone(), other.clone()].concat());
        let apart = [&one, &other].map(|scene| run(&fastvsr(&file(name), 1), scene)).concat();
        assert!(both == apart, "{name}");
    }
}

#[test]
fn sizes_take_turns() {
    for (name, scale) in [("x2", 2), ("blocks-4", 1), ("blur-40x24", 2), ("channels-9", 2)] {
        let mut rig = Rig::without_caps(&fastvsr(&file(name), 0));
        for turn in 0..6 {
            let (width, height) = [(8, 4), (50, 31), (33, 60)][turn % 3];
            rig.harness.set_src_caps(rgb(width, height));
            for n in 0..3 {
                let level = 40 + 8 * turn as u8;
                rig.push(flat(&rgb(width, height), 3 * turn as u64 + n, level)).unwrap();
            }
        }
        rig.eos();
        let out: Vec<_> = rig.frames().iter().map(|frame| frame.size()).collect();
        let sizes = [8 * 4, 50 * 31, 33 * 60].map(|pixels: usize| pixels * scale * scale * 3);
        assert_eq!(out.len(), 18, "{name}");
        // Rows of GStreamer's begin at multiples of four bytes.
        assert!(out.iter().enumerate().all(|(n, size)| *size >= sizes[n / 3 % 3]), "{name}: {out:?}");
    }
}

#[test]
fn openvino_makes_what_the_cpu_makes() {
    let frame = Picture::detailed(60, 40, 3).blurred(2);
    for name in ["x2", "halves", "blur", "blur-40x24", "blocks-3", "frames-3", "channels-15"] {
        let element = fastvsr(&file(name), 0);
        element.set_property_from_str("execution-provider", "openvino");
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        if element.set_state(gst::State::Paused).is_err() {
            let error = bus.pop_filtered(&[gst::MessageType::Error]).map(|message| error_text(&message));
            assert!(error.as_ref().is_some_and(|error| error.contains("was built without it")), "{error:?}");
            eprintln!("skipped: {}", error.unwrap_or_default());
            return;
        }
        element.set_state(gst::State::Null).unwrap();
        let frames = vec![frame.clone(); 3];
        let expected = run(&fastvsr(&file(name), 0), &frames);
        // It may compute in bfloat16, which has eight bits.
        for (got, expected) in run(&element, &frames).iter().zip(&expected) {
            got.is(expected, 2, name);
        }
    }
}

#[cfg(feature = "cli")]
mod command {
    use std::process::{Command, Output};

    use gst_pbutils::prelude::*;

    use super::*;

    /// The command with folders of its own.
    fn fastvsr(folder: &Path, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_fastvsr"))
            .current_dir(folder)
            .env("XDG_DATA_HOME", folder.join("data"))
            .env("XDG_CACHE_HOME", folder.join("cache"))
            .env_remove("FASTVSR_MODEL_PATH")
            .args(arguments)
            .output()
            .unwrap()
    }

    #[track_caller]
    fn succeeds(folder: &Path, arguments: &[&str]) -> String {
        let output = fastvsr(folder, arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn fails(folder: &Path, arguments: &[&str], expected: &str) {
        let Output { status, stderr, .. } = fastvsr(folder, arguments);
        let message = String::from_utf8(stderr).unwrap();
        assert!(!status.success() && message.contains(expected), "{arguments:?}: {message}");
    }

    fn plain(name: &str) -> String {
        model(&file(name)).display().to_string()
    }

    /// A package that was added, as an element runs it.
    fn added(folder: &Path, name: &str) -> gst::Element {
        init();
        gst::ElementFactory::make("fastvsr")
            .property("model", folder.join("data/fastvsr/models").join(name).to_str().unwrap())
            .property_from_str("execution-provider", "cpu")
            .build()
            .unwrap()
    }

    #[test]
    fn files_become_packages_and_go_again() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let told = succeeds(here, &["models", "add", &plain("blur")]);
        assert!(told.contains("scale        x2") && told.contains("sees 2 pixels around"), "{told}");
        assert_eq!(succeeds(here, &["models", "show", "blur"]), told);
        assert!(succeeds(here, &["models"]).contains("blur 1 ("));
        let frame = Picture::detailed(20, 10, 0);
        run(&added(here, "blur"), std::slice::from_ref(&frame))[0].is(&frame.blurred(2).enlarged(2), 1, "blur");

        fails(here, &["models", "add", &plain("blur")], "is there already");
        succeeds(here, &["models", "add", &plain("blur"), "--name", "soft"]);
        let package = here.join("data/fastvsr/models/soft").display().to_string();
        succeeds(here, &["models", "add", &package, "--name", "softer"]);
        assert!(succeeds(here, &["models", "show", "softer"]).contains("sees 2 pixels around"));
        // What was measured once is known.
        assert_eq!(fs::read_dir(here.join("cache/fastvsr/measured")).unwrap().count(), 1);
        for name in ["blur", "soft", "softer"] {
            succeeds(here, &["models", "remove", name]);
            fails(here, &["models", "show", name], "no model named");
        }
        assert_eq!(fs::read_dir(here.join("data/fastvsr/models")).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_added_or_removed_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        fails(here, &["models", "add", &plain("grey")], "expected input `input` to be RGB in planes");
        fails(here, &["models", "add", "none.onnx"], "expected an ONNX file");
        fails(here, &["models", "add", &plain("blur"), "--name", "../blur"], "expected a name of letters");
        fails(here, &["models", "add", &plain("blur"), "--name", "compact-s"], "choose another name");
        fails(here, &["models", "add", &plain("blur"), "--range", "100"], "expected 1 or 255, got 100");
        fails(here, &["models", "add", ".", "--name", "none"], "expected a model package's manifest");
        fails(here, &["models", "remove", "compact-s"], "the model in this program");
        fails(here, &["models", "remove", "none"], "expected a model in");
        let models = fs::read_dir(here.join("data/fastvsr/models")).unwrap();
        assert_eq!(models.count(), 0);
    }

    #[test]
    fn what_a_file_does_not_say_is_said_when_it_is_added() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        succeeds(here, &["models", "add", &plain("levels"), "--range", "255"]);
        let frame = Picture::new(20, 10, |x, y| [(x * 10) as u8, (y * 20) as u8, 240]);
        let brighter = Picture::new(20, 10, |x, y| frame.at(x, y).map(|level| level + 10)).enlarged(2);
        run(&added(here, "levels"), std::slice::from_ref(&frame))[0].is(&brighter, 0, "levels");

        fails(here, &["models", "add", &plain("even"), "--look-back", "2", "--look-ahead", "1"], "expected 3 frames");
        for name in ["even", "any-number"] {
            succeeds(here, &["models", "add", &plain(name), "--look-back", "1", "--look-ahead", "1"]);
            let mut rig = Rig::with_caps(&added(here, name), &rgb(8, 4));
            for (n, level) in [30, 60, 120, 30].into_iter().enumerate() {
                rig.push(flat(&rgb(8, 4), n as u64, level)).unwrap();
            }
            rig.eos();
            assert_eq!(rig.levels(), [40, 70, 70, 60], "{name}");
        }
    }

    #[test]
    fn films_are_upscaled_by_a_file_and_by_the_package_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let film = here.join("in.mkv").display().to_string();
        Pipeline::new(&format!(
            "videotestsrc num-buffers=4 pattern=ball ! video/x-raw,width=64,height=48,framerate=25/1 ! x264enc ! matroskamux ! \
             filesink location={film}"
        ))
        .run();
        for (name, scale) in [("x1", 1), ("x3", 3), ("frames-3", 2)] {
            let out = format!("{name}.mkv");
            succeeds(here, &["upscale", "in.mkv", &out, "--model", &plain(name), "--provider", "cpu"]);
            let discoverer = gst_pbutils::Discoverer::new(TIMEOUT).unwrap();
            let info = discoverer.discover_uri(&glib::filename_to_uri(here.join(out), None).unwrap()).unwrap();
            assert_eq!(
                info.video_streams()[0].caps().unwrap().structure(0).unwrap().get::<i32>("width"),
                Ok(64 * scale)
            );
        }
        succeeds(here, &["models", "add", &plain("x3"), "--name", "three"]);
        succeeds(here, &["upscale", "in.mkv", "package.mkv", "--model", "three", "--provider", "cpu"]);
        // Files have numbers of their own.
        let packets = |name: &str| {
            let (film, bare) = (here.join(name), here.join("bare"));
            Pipeline::new(&format!(
                "filesrc location={} ! matroskademux ! filesink location={}",
                film.display(),
                bare.display()
            ))
            .run();
            fs::read(bare).unwrap()
        };
        assert!(packets("x3.mkv") == packets("package.mkv"));
    }
}
