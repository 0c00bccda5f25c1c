//! The `fastvsr` command on real files: what goes in comes out larger, whole, and in time; what goes wrong is said.
#![cfg(feature = "cli")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::*;
use gst::prelude::*;
use gst_pbutils::prelude::*;

fn fastvsr(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fastvsr"));
    command.current_dir(folder).args(arguments);
    if arguments.first() == Some(&"upscale") {
        command.args(["--provider", "cpu"]);
    }
    command
}

#[track_caller]
fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = fastvsr(folder, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("CRITICAL"), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn fails(folder: &Path, arguments: &[&str], expected: &str) {
    let Output { status, stderr, .. } = fastvsr(folder, arguments).output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert!(status.code().is_some_and(|code| code == 1 || code == 2), "{arguments:?}: {status:?}");
    assert!(message.contains(expected) && !message.contains("panicked"), "{arguments:?}: {message}");
}

/// A film of 64x48 with a tone, `frames` long, made with the elements in `video` after the test picture.
fn film(folder: &Path, name: &str, frames: u32, video: &str, mux: &str) {
    let audio = frames * 1024 / 23;
    Pipeline::new(&format!(
        "videotestsrc num-buffers={frames} pattern=ball ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 ! \
         {video} ! x264enc speed-preset=ultrafast key-int-max=25 ! {mux} name=mux ! filesink location={} \
         audiotestsrc num-buffers={} samplesperbuffer=1024 ! audio/x-raw,rate=44100,channels=2 ! avenc_aac ! mux.",
        folder.join(name).display(),
        audio.div_ceil(26).max(2),
    ))
    .run();
}

/// Buffers of the first stream of a kind, without decoding: times in the stream, and sizes.
fn packets(file: &Path, kind: &str) -> Vec<(Option<gst::ClockTime>, usize)> {
    init();
    let pipeline = Pipeline::new(&format!("filesrc location={} ! parsebin name=streams", file.display()));
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let (bin, sizes, kind) = (pipeline.0.downgrade(), seen.clone(), kind.to_string());
    pipeline.by_name("streams").unwrap().connect_pad_added(move |_, pad| {
        let bin = bin.upgrade().unwrap();
        let sink = gst::ElementFactory::make("fakesink").property("sync", false).property("async", false).build();
        let sink = sink.unwrap();
        bin.add(&sink).unwrap();
        sink.sync_state_with_parent().unwrap();
        pad.link(&sink.static_pad("sink").unwrap()).unwrap();
        if pad.current_caps().is_some_and(|caps| caps.structure(0).unwrap().name().starts_with(&kind)) {
            let sizes = sizes.clone();
            pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
                let (buffer, event) = (info.buffer().unwrap(), pad.sticky_event::<gst::event::Segment>(0).unwrap());
                let segment = event.segment().downcast_ref::<gst::ClockTime>().unwrap();
                sizes.lock().unwrap().push((segment.to_stream_time(buffer.pts()), buffer.size()));
                gst::PadProbeReturn::Ok
            });
        }
    });
    pipeline.run();
    std::mem::take(&mut *seen.lock().unwrap())
}

/// The frames of a file: their times, and their luma.
fn frames(file: &Path) -> Vec<(gst::ClockTime, Vec<u8>)> {
    init();
    let pipeline = Pipeline::new(&format!(
        "filesrc location={} ! parsebin ! video/x-h264 ! decodebin ! videoconvert ! video/x-raw,format=GRAY8 ! \
         appsink name=sink sync=false",
        file.display()
    ));
    pipeline.set_state(gst::State::Playing).unwrap();
    let sink: gst_app::AppSink = pipeline.by_name("sink").unwrap().downcast().unwrap();
    let mut frames = Vec::new();
    while let Ok(sample) = sink.pull_sample() {
        let buffer = sample.buffer().unwrap();
        let segment = sample.segment().unwrap().downcast_ref::<gst::ClockTime>().unwrap();
        let time = segment.to_stream_time(buffer.pts()).unwrap();
        frames.push((time, plane(&buffer.to_owned(), &info(&sample.caps_owned().unwrap()), 0)));
    }
    assert_eq!(pipeline.error(), None);
    frames
}

fn times(file: &Path) -> Vec<u64> {
    frames(file).iter().map(|(time, _)| (time.nseconds() + 500_000) / 1_000_000).collect()
}

fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    10.0 * (255.0f64.powi(2) * a.len() as f64 / sum.max(1e-9)).log10()
}

fn video(file: &Path) -> gst_pbutils::DiscovererVideoInfo {
    init();
    let discoverer = gst_pbutils::Discoverer::new(TIMEOUT).unwrap();
    let info = discoverer.discover_uri(&glib::filename_to_uri(file, None).unwrap()).unwrap();
    info.video_streams().swap_remove(0).downcast().unwrap()
}

fn leftovers(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('.')).collect()
}

#[test]
fn a_film_keeps_its_frames_its_times_and_its_sound() {
    for (extension, mux) in [("mp4", "mp4mux"), ("mkv", "matroskamux")] {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (format!("in.{extension}"), format!("out.{extension}"));
        film(folder.path(), &input, 50, "identity", mux);
        succeeds(folder.path(), &["upscale", &input, &output]);
        let (input, output) = (folder.path().join(input), folder.path().join(output));
        assert_eq!((video(&output).width(), video(&output).height()), (256, 192));
        assert_eq!(times(&output).len(), 50);
        assert_eq!(times(&output), times(&input), "{extension}");
        let sizes = |file: &Path| packets(file, "audio").iter().map(|(_, size)| *size).collect::<Vec<_>>();
        assert!(!sizes(&input).is_empty());
        assert_eq!(sizes(&output), sizes(&input), "the sound was encoded anew");
        assert_eq!(leftovers(folder.path()), [] as [PathBuf; 0]);
    }
}

#[test]
fn sound_that_does_not_fit_is_encoded_anew() {
    let folder = tempfile::tempdir().unwrap();
    film(folder.path(), "in.mp4", 50, "identity", "mp4mux");
    succeeds(folder.path(), &["upscale", "in.mp4", "out.webm", "--scale", "2"]);
    let output = folder.path().join("out.webm");
    let sound = packets(&output, "audio/x-opus");
    let last = sound.last().and_then(|(time, _)| *time).expect("no sound");
    assert!(last.absdiff(gst::ClockTime::from_seconds(2)) < gst::ClockTime::from_mseconds(100), "ends at {last}");
    assert_eq!(packets(&output, "video").len(), 50);
}

#[test]
fn a_part_begins_at_zero() {
    let folder = tempfile::tempdir().unwrap();
    film(folder.path(), "in.mp4", 100, "identity", "mp4mux");
    succeeds(folder.path(), &["upscale", "in.mp4", "out.mp4", "--start", "2.4", "--duration", "0.8"]);
    assert_eq!(times(&folder.path().join("out.mp4")), (0..20).map(|n| n * 40).collect::<Vec<_>>());
}

#[test]
fn pixels_that_are_not_square_stay_so() {
    let folder = tempfile::tempdir().unwrap();
    let sar = "capssetter caps=video/x-raw,pixel-aspect-ratio=4/3";
    film(folder.path(), "wide.mp4", 5, sar, "mp4mux");
    succeeds(folder.path(), &["upscale", "wide.mp4", "out.mp4"]);
    assert_eq!(video(&folder.path().join("out.mp4")).par(), gst::Fraction::new(4, 3));
}

#[test]
fn a_smaller_scale_is_what_comes_out() {
    let folder = tempfile::tempdir().unwrap();
    film(folder.path(), "in.mp4", 3, "identity", "mp4mux");
    succeeds(folder.path(), &["upscale", "in.mp4", "out.mp4", "--scale", "2"]);
    let video = video(&folder.path().join("out.mp4"));
    assert_eq!((video.width(), video.height()), (128, 96));
    fails(folder.path(), &["upscale", "in.mp4", "no.mp4", "--scale", "5"], "scale");
}

#[test]
fn every_property_of_the_element_can_be_set() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(at, "in.mp4", 3, "identity", "mp4mux");
    succeeds(at, &["upscale", "in.mp4", "out.mp4", "--property", "scene-cuts=false", "--property", "color-fix=mean"]);
    let upscale = |property| ["upscale", "in.mp4", "no.mp4", "--property", property];
    fails(at, &upscale("max-memory=1000000"), "need about");
    fails(at, &upscale("max-memory"), "expected NAME=VALUE, got `max-memory`");
    fails(at, &upscale("color-fix=blue"), "--property color-fix=blue: expected a value as");
    fails(at, &upscale("device-id=-1"), "--property device-id=-1: expected a value as");
    fails(at, &upscale("colour-fix=mean"), "--property colour-fix: expected one of");
    fails(at, &upscale("model=compact-s-clean"), "--property model: expected one of");
    fails(at, &["prewarm", "64x48", "--property", "precision=fp8"], "--property precision=fp8: expected a value as");
}

#[test]
fn frames_of_uneven_length_keep_their_times_and_subtitles_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let spoken = "1\n00:00:00,100 --> 00:00:00,900\nHello <i>you</i>\n\n2\n00:00:01,200 --> 00:00:01,500\nBye\n\n";
    fs::write(folder.path().join("s.srt"), spoken).unwrap();
    let input = folder.path().join("in.mkv");
    // Three of every five frames are dropped by a rate that is not a divisor.
    Pipeline::new(&format!(
        "videotestsrc num-buffers=40 pattern=ball ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 ! \
         videorate drop-only=true max-rate=17 ! x264enc speed-preset=ultrafast ! matroskamux name=mux ! \
         filesink location={} filesrc location={} ! subparse ! mux.",
        input.display(),
        folder.path().join("s.srt").display()
    ))
    .run();
    let distances: std::collections::HashSet<u64> = times(&input).windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(distances.len() > 1, "the input is even");
    for output in ["out.mkv", "out.mp4"] {
        let run = fastvsr(folder.path(), &["upscale", "in.mkv", output]).output().unwrap();
        assert!(run.status.success(), "{run:?}");
        assert_eq!(String::from_utf8(run.stderr).unwrap(), "", "a note on what was left out");
        let output = folder.path().join(output);
        assert_eq!(times(&output), times(&input));
        let spoken: Vec<_> = packets(&output, "text").into_iter().filter(|(_, size)| *size > 2).collect();
        let at = |n: usize| spoken[n].0.unwrap().mseconds();
        assert_eq!((spoken.len(), at(0), at(1)), (2, 100, 1200), "{spoken:?}");
    }
}

#[test]
fn a_turned_film_is_turned_upright() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.mp4"), folder.path().join("out.mp4"));
    Pipeline::new(&format!(
        "videotestsrc num-buffers=5 pattern=gradient ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 ! \
         x264enc speed-preset=ultrafast ! mp4mux ! filesink location={}",
        input.display()
    ))
    .run();
    // As telephones write it: mp4mux 1.22 always writes the unit matrix, 44 bytes after the name of the track's header.
    let mut file = fs::read(&input).unwrap();
    let matrix = file.windows(4).position(|name| name == b"tkhd").unwrap() + 44;
    for (n, value) in [0, 0x1_0000, 0, -0x1_0000, 0, 0, 48 << 16, 0, 0x4000_0000_i32].into_iter().enumerate() {
        file[matrix + 4 * n..][..4].copy_from_slice(&value.to_be_bytes());
    }
    fs::write(&input, file).unwrap();
    let orientation = |file: &Path| {
        let tags = video(file).tags();
        tags.and_then(|tags| tags.get::<gst::tags::ImageOrientation>().map(|tag| tag.get().to_string()))
    };
    assert_eq!(orientation(&input).as_deref(), Some("rotate-90"));
    succeeds(folder.path(), &["upscale", "in.mp4", "out.mp4"]);
    assert_eq!((video(&output).width(), video(&output).height()), (192, 256));
    assert_ne!(orientation(&output).as_deref(), Some("rotate-90"));
    let (before, after) = (&frames(&input)[0].1, &frames(&output)[0].1);
    let mean = |pixels: Vec<u8>| pixels.iter().map(|v| f64::from(*v)).sum::<f64>() / pixels.len() as f64;
    let (top, bottom) = (mean(before[..64 * 4].to_vec()), mean(before[64 * 44..].to_vec()));
    let column = |from: usize| mean(after.chunks(192).flat_map(|row| row[from..from + 16].to_vec()).collect());
    assert!((top - bottom).abs() > 100.0, "the picture has no top");
    // A quarter of a turn to the right puts the top on the right.
    assert!((column(176) - top).abs() < 8.0, "right {:.0}, expected {top:.0}", column(176));
    assert!((column(0) - bottom).abs() < 8.0, "left {:.0}, expected {bottom:.0}", column(0));
}

/// When the first white frame is seen and the first tick after one second heard, in milliseconds.
fn flash_and_tick(file: &Path) -> (f64, f64) {
    let bright = |luma: &[u8]| luma.iter().map(|v| u64::from(*v)).sum::<u64>() > 128 * luma.len() as u64;
    let flash = frames(file).iter().find(|(_, luma)| bright(luma)).expect("no flash").0;
    let pipeline = Pipeline::new(&format!(
        "filesrc location={} ! parsebin ! audio/mpeg ! decodebin ! audioconvert ! \
         audio/x-raw,format=S16LE,channels=1,rate=44100 ! appsink name=sink sync=false",
        file.display()
    ));
    pipeline.set_state(gst::State::Playing).unwrap();
    let sink: gst_app::AppSink = pipeline.by_name("sink").unwrap().downcast().unwrap();
    while let Ok(sample) = sink.pull_sample() {
        let buffer = sample.buffer().unwrap();
        let segment = sample.segment().unwrap().downcast_ref::<gst::ClockTime>().unwrap();
        let Some(begin) = segment.to_stream_time(buffer.pts()) else { continue };
        for (n, value) in buffer.map_readable().unwrap().chunks_exact(2).enumerate() {
            let at = begin.nseconds() as f64 / 1e6 + n as f64 / 44.1;
            if at > 500.0 && i16::from_le_bytes([value[0], value[1]]).unsigned_abs() > 5000 {
                return (flash.nseconds() as f64 / 1e6, at);
            }
        }
    }
    panic!("no tick: {:?}", pipeline.error());
}

#[test]
fn sound_stays_with_the_picture() {
    for (extension, mux) in [("mp4", "mp4mux"), ("mkv", "matroskamux")] {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("in.{extension}");
        // Black, from about two seconds on white; a tick at nought and two.
        Pipeline::new(&format!(
            "videotestsrc num-buffers=2 pattern=blink ! video/x-raw,format=I420,width=64,height=48,framerate=1/4 ! \
             videorate ! video/x-raw,framerate=25/1 ! identity eos-after=80 ! x264enc key-int-max=25 ! \
             {mux} name=mux ! filesink location={} \
             audiotestsrc wave=ticks tick-interval=2000000000 freq=1000 num-buffers=129 samplesperbuffer=1024 ! \
             audio/x-raw,rate=44100,channels=2 ! avenc_aac ! mux.",
            folder.path().join(&name).display()
        ))
        .run();
        let (flash, tick) = flash_and_tick(&folder.path().join(&name));
        assert!((1500.0..2500.0).contains(&flash), "the flash of the input is at {flash} ms");
        for (part, from) in [(&[][..], 0.0), (&["--start", "1.0"], 1000.0)] {
            let output = format!("out{from}.{extension}");
            succeeds(folder.path(), &[&["upscale", &name, &output], part].concat());
            let (seen, heard) = flash_and_tick(&folder.path().join(output));
            println!(
                "{extension} from {from}: flash {flash} -> {seen} ms, tick {tick:.1} -> {heard:.1} ms, sound moved by {:.1} ms",
                (heard - seen) - (tick - flash)
            );
            assert!((seen - (flash - from)).abs() < 2.0, "the flash moved to {seen} ms");
            assert!(((heard - seen) - (tick - flash)).abs() < 40.0, "the sound moved: {heard} ms");
        }
    }
}

#[test]
fn other_codecs_and_ten_bits_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, format: &str, encoder: &str| {
        Pipeline::new(&format!(
            "videotestsrc num-buffers=5 pattern=ball ! video/x-raw,format={format},width=64,height=48,framerate=25/1 ! \
             {encoder} ! filesink location={}",
            folder.path().join(name).display()
        ))
        .run();
    };
    make("h264.mp4", "I420", "x264enc speed-preset=ultrafast ! mp4mux");
    succeeds(folder.path(), &["upscale", "h264.mp4", "h264-out.mp4"]);
    let expected = frames(&folder.path().join("h264-out.mp4"));
    for (name, format, encoder) in [
        ("h265.mp4", "I420", "x265enc speed-preset=ultrafast log-level=error ! h265parse ! mp4mux"),
        ("av1.mkv", "I420", "av1enc cpu-used=8 end-usage=q max-quantizer=20 ! av1parse ! matroskamux"),
        ("vp9.webm", "I420", "vp9enc deadline=1 cpu-used=8 min-quantizer=0 max-quantizer=10 ! webmmux"),
        ("h264-10.mp4", "I420_10LE", "x264enc speed-preset=ultrafast ! video/x-h264,profile=high-10 ! mp4mux"),
        ("h265-10.mkv", "I420_10LE", "x265enc speed-preset=ultrafast log-level=error ! h265parse ! matroskamux"),
    ] {
        make(name, format, encoder);
        let output = format!("{name}-out.mp4");
        succeeds(folder.path(), &["upscale", name, &output]);
        let output = folder.path().join(output);
        let seen = frames(&output);
        assert_eq!(seen.iter().map(|(time, _)| time.mseconds()).collect::<Vec<_>>(), [0, 40, 80, 120, 160], "{name}");
        assert_eq!(video(&output).depth() > 24, format == "I420_10LE", "{name}: {} bits", video(&output).depth());
        let worst = seen.iter().zip(&expected).map(|(a, b)| psnr(&a.1, &b.1)).fold(f64::INFINITY, f64::min);
        assert!(worst > 25.0, "{name}: {worst:.1} dB to the film as H.264");
    }
}

#[test]
fn a_preview_is_five_seconds_of_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    film(folder.path(), "in.mp4", 300, "identity", "mp4mux");
    succeeds(folder.path(), &["upscale", "in.mp4", "out.mp4", "--preview"]);
    // The sound is longer than the picture, so the middle lies between two frames.
    let times = times(&folder.path().join("out.mp4"));
    assert!(times[0] < 40 && times.windows(2).all(|pair| pair[1] - pair[0] == 40), "{times:?}");
    assert_eq!(times.len(), 125);
    let sound = packets(&folder.path().join("out.mp4"), "audio").len();
    assert!((213..=217).contains(&sound), "{sound} packets of sound");
}

#[test]
fn a_full_disk_is_an_error_in_words_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(at, "in.mp4", 100, "identity", "mp4mux");
    succeeds(at, &["upscale", "in.mp4", "whole.mp4"]);
    let frames: u64 = packets(&at.join("whole.mp4"), "video").iter().map(|(_, size)| *size as u64).sum();
    let whole = fs::metadata(at.join("whole.mp4")).unwrap().len();
    fs::create_dir(at.join("disk")).unwrap();
    // A small file system that nobody else sees; after the failure it grows.
    let script = r#"mount -t tmpfs -o size=$2 none disk || exit 99
        "$1" upscale --provider cpu in.mp4 disk/out.mp4 2>said; code=$?
        ls -A disk >left; mount -o remount,size=100m disk
        "$1" upscale --provider cpu in.mp4 disk/out.mp4 --resume && cp disk/out.mp4 "$3" && exit $code"#;
    for (name, size, after) in [
        ("frames.mp4", frames * 6 / 10, "which --resume can go on from"),
        ("mux.mp4", frames + whole * 6 / 10, "go on with --resume"),
    ] {
        let mut shell = Command::new("unshare");
        shell.args(["--map-root-user", "--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_fastvsr")]);
        let done = shell.arg(size.to_string()).arg(name).current_dir(at).output();
        let Ok(done) = done else { return eprintln!("skipped: there is no unshare") };
        if done.status.code() == Some(99) || String::from_utf8_lossy(&done.stderr).contains("unshare failed") {
            return eprintln!("skipped: nothing may be mounted here: {done:?}");
        }
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        let said = fs::read_to_string(at.join("said")).unwrap();
        assert!(said.to_lowercase().contains("no space left") && said.contains(after), "{said}");
        assert_eq!(fs::read_to_string(at.join("left")).unwrap().trim(), ".out.mp4.fastvsr");
        assert_eq!(times(&at.join(name)), times(&at.join("in.mp4")));
    }
}

#[test]
fn what_cannot_be_upscaled_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(at, "in.mp4", 5, "identity", "mp4mux");
    Pipeline::new(&format!(
        "audiotestsrc num-buffers=20 ! avenc_aac ! mp4mux ! filesink location={}",
        at.join("sound.mp4").display()
    ))
    .run();
    fs::write(at.join("text.mp4"), "not a video").unwrap();
    fs::write(at.join("empty.mp4"), "").unwrap();
    fs::write(at.join("there.mp4"), "").unwrap();
    fails(at, &["upscale", "nothing.mp4", "out.mp4"], "cannot read `nothing.mp4`");
    fails(at, &["upscale", ".", "out.mp4"], "expected a video file");
    fails(at, &["upscale", "sound.mp4", "out.mp4"], "expected a video stream, got audio alone");
    fails(at, &["upscale", "text.mp4", "out.mp4"], "is not a video that GStreamer can read");
    fails(at, &["upscale", "empty.mp4", "out.mp4"], "is not a video that GStreamer can read");
    fails(at, &["upscale", "in.mp4", "in.mp4"], "the same file");
    fails(at, &["upscale", "in.mp4", "there.mp4"], "--force");
    fails(at, &["upscale", "in.mp4", "out.avi"], "expected a name that ends in");
    fails(at, &["upscale", "in.mp4", "no/such/folder/out.mp4"], "expected a folder that can be written");
    fails(at, &["upscale", "in.mp4", "out.mp4", "--start", "1:00"], "expected a time before the end");
    fails(at, &["upscale", "in.mp4", "out.mp4", "--start", "soon"], "expected seconds");
    fails(at, &["upscale", "in.mp4", "out.mp4", "--model", "none"], "no model named `none`");
    fails(at, &["upscale", "in.mp4", "out.webm", "--codec", "h264"], "cannot be put into this kind of file");
    fails(at, &["upscale", "in.mp4", "out.mp4", "--resume", "--force"], "cannot be used with");
    assert!(!at.join("out.mp4").exists());
    assert_eq!(leftovers(at), [] as [PathBuf; 0]);
}

/// Begins to upscale and comes back when the journal has grown beyond some groups of pictures.
fn begin(folder: &Path, input: &str) -> Child {
    let mut command = fastvsr(folder, &["upscale", input, "out.mp4"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let journal = folder.join(".out.mp4.fastvsr");
    let deadline = Instant::now() + PATIENCE;
    while fs::metadata(&journal).map_or(0, |about| about.len()) < 60_000 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be interrupted");
        assert!(Instant::now() < deadline, "no frame was written");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn a_killed_run_goes_on_to_the_same_film() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(at, "in.mp4", 500, "identity", "mp4mux");
    succeeds(at, &["upscale", "in.mp4", "whole.mp4"]);
    let mut child = begin(at, "in.mp4");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!at.join("out.mp4").exists());
    fails(at, &["upscale", "in.mp4", "out.mp4"], "--resume");
    fails(at, &["upscale", "in.mp4", "out.mp4", "--resume", "--quality", "30"], "cannot resume");
    succeeds(at, &["upscale", "in.mp4", "out.mp4", "--resume"]);
    let (whole, resumed) = (frames(&at.join("whole.mp4")), frames(&at.join("out.mp4")));
    assert_eq!(resumed.len(), 500);
    for (n, (a, b)) in whole.iter().zip(&resumed).enumerate() {
        assert_eq!(a.0, b.0, "frame {n}");
        assert!(psnr(&a.1, &b.1) > 40.0, "frame {n}: {:.1} dB", psnr(&a.1, &b.1));
    }
    assert_eq!(leftovers(at), [] as [PathBuf; 0]);
}

#[test]
fn an_interrupted_run_leaves_no_broken_file_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(at, "in.mp4", 500, "identity", "mp4mux");
    let child = begin(at, "in.mp4");
    // SAFETY: a signal to a child that has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("--resume goes on"));
    assert!(!at.join("out.mp4").exists());
    succeeds(at, &["upscale", "in.mp4", "out.mp4", "--resume"]);
    assert_eq!(times(&at.join("out.mp4")), times(&at.join("in.mp4")));
}

#[test]
fn a_comparison_is_a_video_a_picture_and_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(at, "in.mp4", 10, "identity", "mp4mux");
    for wipe in [&[][..], &["--wipe"]] {
        let arguments = [&["compare", "in.mp4", "--html", "--force", "--provider", "cpu"], wipe].concat();
        succeeds(at, &arguments);
        let film = at.join("in-compare.mp4");
        assert_eq!(video(&film).width(), if wipe.is_empty() { 512 } else { 256 });
        assert_eq!(times(&film).len(), 10);
        assert!(fs::read(at.join("in-compare.png")).unwrap().starts_with(b"\x89PNG"));
        let page = fs::read_to_string(at.join("in-compare.html")).unwrap();
        assert_eq!(page.matches("data:image/png;base64,iVBOR").count(), 2);
        assert!(!page.contains('@') && !page.contains("http"), "the page needs something from elsewhere");
    }
    assert_eq!(leftovers(at), [] as [PathBuf; 0]);
}

#[test]
fn the_doctor_finds_what_the_tests_run_on_and_misses_what_is_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let said = succeeds(folder.path(), &["doctor"]);
    assert!(said.contains("Upscaling works.") && said.contains("provider     cpu          works"), "{said}");
    assert!(said.contains("ms a frame"), "{said}");
    let hidden = fastvsr(folder.path(), &["doctor"]).env("ORT_DYLIB_PATH", "/nothing").output().unwrap();
    let said = String::from_utf8(hidden.stdout).unwrap();
    assert_eq!(hidden.status.code(), Some(1));
    assert!(said.contains("pip install onnxruntime"), "{said}");
}

#[test]
fn models_are_listed_measured_and_warmed() {
    let folder = tempfile::tempdir().unwrap();
    let said = String::from_utf8(
        fastvsr(folder.path(), &["models"]).env("FASTVSR_MODEL_PATH", model("")).output().unwrap().stdout,
    )
    .unwrap();
    assert!(said.contains("compact-s") && said.contains("PSNR") && said.contains("counter"), "{said}");
    let said = succeeds(folder.path(), &["bench", "--provider", "cpu", "--sizes", "32x32", "--seconds", "1"]);
    assert!(said.contains("compact-s") && said.contains("128x128"), "{said}");
    for precision in ["fp32", "int8"] {
        let property = format!("precision={precision}");
        let arguments = ["bench", "--provider", "cpu", "--property", &property, "--model", "compact-s"];
        let said = succeeds(folder.path(), &[&arguments[..], &["--sizes", "32x32", "--seconds", "1"]].concat());
        assert!(said.contains(&format!("cpu {precision}")), "{said}");
    }
    let said = succeeds(folder.path(), &["prewarm", "32x32", "--provider", "cpu"]);
    assert!(said.contains("first frame after"), "{said}");
    fails(folder.path(), &["prewarm", "32"], "expected WIDTHxHEIGHT");
    for command in ["upscale", "compare", "doctor", "models", "bench", "prewarm", "plugin-path"] {
        assert!(succeeds(folder.path(), &[command, "--version"]).contains(env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn the_python_package_has_its_plugin_and_its_models() {
    let folder = tempfile::tempdir().unwrap();
    // As the Python package has them, and as a build has.
    for (program, plugins) in [("fastvsr/bin", "fastvsr/gstreamer-1.0"), ("release", "release")] {
        let (program, plugins) = (folder.path().join(program), folder.path().join(plugins));
        for place in [&program, &plugins] {
            fs::create_dir_all(place).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_fastvsr"), program.join("fastvsr")).unwrap();
        fs::write(plugins.join("libgstfastvsr.so"), "").unwrap();
        let said = Command::new(program.join("fastvsr")).arg("plugin-path").output().unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), plugins.to_str().unwrap());
    }
    // Its models are found by their names.
    let manifest = fs::read_to_string(Path::new(&model("counter")).join("model.toml")).unwrap();
    for place in ["fastvsr/models/own", "models/other"] {
        fs::create_dir_all(folder.path().join(place)).unwrap();
        fs::write(folder.path().join(place).join("model.toml"), &manifest).unwrap();
    }
    let listed = |program: &str| {
        let mut command = Command::new(folder.path().join(program).join("fastvsr"));
        String::from_utf8(command.arg("models").output().unwrap().stdout).unwrap()
    };
    assert!(listed("fastvsr/bin").contains("fastvsr/models/own"));
    assert!(!listed("release").contains("models/other"));
}
