//! Films as people have them, through `fastvsr upscale`: recordings, tapes, cameras' pictures in a row, colours that
//! nobody told. Each is made here, small, and stands for its kind.
#![cfg(feature = "cli")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use common::*;
use gst::prelude::*;

fn upscale(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fastvsr"));
    command.current_dir(folder).arg("upscale").args(arguments).args(["--provider", "cpu"]);
    let size = ["--scale", "--width", "--height", "--fit"].iter().any(|name| arguments.contains(name));
    command.args(if size { &[][..] } else { &["--scale", "2"] }).output().unwrap()
}

/// Upscales, and gives the notes.
#[track_caller]
fn upscaled(folder: &Path, arguments: &[&str]) -> String {
    let output = upscale(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Makes a file of a test picture, 64x48 with 25 frames a second, and a tone for as long.
fn film(file: &Path, frames: u32, raw: &str, encoder: &str, mux: &str, audio: &str) {
    let sound = match audio {
        "" => String::new(),
        encoder => format!(
            "audiotestsrc num-buffers={} samplesperbuffer=1920 ! audio/x-raw,rate=48000,channels=2 ! {encoder} ! mux.",
            frames
        ),
    };
    Pipeline::new(&format!(
        "videotestsrc num-buffers={frames} pattern=ball ! video/x-raw,width=64,height=48,framerate=25/1,{raw} ! \
         {encoder} ! {mux} name=mux ! filesink location={}  {sound}",
        file.display()
    ))
    .run();
}

/// What one stream of a file has: its caps, and when its packets are presented, counted from the beginning of the file.
#[derive(Debug, Clone)]
struct Track {
    caps: gst::Caps,
    times: Vec<u64>,
}

/// The streams of a file whose format begins so.
fn tracks(file: &Path, kind: &str) -> Vec<Track> {
    init();
    let pipeline = Pipeline::new(&format!("filesrc location={} ! parsebin name=streams", file.display()));
    let tracks = Arc::<Mutex<Vec<(String, Track)>>>::default();
    let (bin, seen) = (pipeline.0.downgrade(), tracks.clone());
    pipeline.by_name("streams").unwrap().connect_pad_added(move |_, pad| {
        let sink = gst::ElementFactory::make("fakesink").property("sync", false).property("async", false);
        let (sink, bin) = (sink.build().unwrap(), bin.upgrade().unwrap());
        bin.add(&sink).unwrap();
        sink.sync_state_with_parent().unwrap();
        let seen = seen.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            let event = pad.sticky_event::<gst::event::Segment>(0).unwrap();
            let segment = event.segment().downcast_ref::<gst::ClockTime>().unwrap();
            let time = segment.to_running_time(info.buffer().unwrap().pts());
            let time = time.map_or(u64::MAX, |time| (time.nseconds() + 500_000) / 1_000_000);
            let mut seen = seen.lock().unwrap();
            let name = pad.name().to_string();
            match seen.iter_mut().find(|(known, _)| *known == name) {
                Some((_, track)) => track.times.push(time),
                None => seen.push((name, Track { caps: pad.current_caps().unwrap(), times: vec![time] })),
            }
            gst::PadProbeReturn::Ok
        });
        pad.link(&sink.static_pad("sink").unwrap()).unwrap();
    });
    pipeline.run();
    let tracks = std::mem::take(&mut *tracks.lock().unwrap());
    let name = |track: &Track| track.caps.structure(0).unwrap().name().to_string();
    tracks.into_iter().map(|(_, track)| track).filter(|track| name(track).starts_with(kind)).collect()
}

/// When the frames of the only video are shown, in order.
#[track_caller]
fn shown(file: &Path) -> Vec<u64> {
    let mut video = tracks(file, "video");
    assert_eq!(video.len(), 1, "{video:?}");
    let mut times = video.remove(0).times;
    times.sort_unstable();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    times
}

fn leftovers(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('.')).collect()
}

#[test]
fn sound_of_recordings_is_there_and_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // Their demuxers count from elsewhere than nought, or show their streams one by one.
    for (name, encoder, mux, audio) in [
        ("a.ts", "x264enc key-int-max=25", "mpegtsmux", "avenc_aac"),
        ("a.m2ts", "x264enc key-int-max=25", "mpegtsmux m2ts-mode=true", "avenc_ac3"),
        (
            "a.mpg",
            "x264enc tune=zerolatency key-int-max=25 ! video/x-h264,stream-format=byte-stream",
            "mpegpsmux",
            "avenc_mp2 ! mpegaudioparse",
        ),
        ("a.flv", "x264enc ! h264parse", "flvmux", "avenc_aac ! aacparse"),
    ] {
        let input = at.join(name);
        film(&input, 50, "format=I420", encoder, mux, audio);
        for (part, from) in [(&[][..], 0), (&["--start", "0.8"], 800)] {
            let output = at.join(format!("{name}-{from}.mkv"));
            upscaled(at, &[&[name, output.to_str().unwrap()], part].concat());
            let (video, sound) = (shown(&output), tracks(&output, "audio"));
            assert_eq!(video.len(), 50 - from / 40, "{name}");
            assert!(video[0] <= 40, "{name}: the picture begins at {} ms", video[0]);
            assert_eq!(sound.len(), 1, "{name}: the sound is gone");
            // GStreamer 1.22 itself loses up to six packets at the beginning of a programme stream.
            let (first, last) = (sound[0].times[0], *sound[0].times.iter().rfind(|time| **time < 1 << 40).unwrap());
            assert!(first.abs_diff(video[0]) <= 200, "{name}: picture at {} ms, sound at {first} ms", video[0]);
            assert!(last.abs_diff(*video.last().unwrap()) <= 120, "{name}: ends at {last} ms");
        }
    }
}

#[test]
fn interlaced_films_give_a_frame_for_each_frame_or_for_each_field() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for order in ["top-field-first", "bottom-field-first"] {
        let input = format!("{order}.ts");
        let raw = format!("format=I420,interlace-mode=interleaved,field-order={order}");
        film(&at.join(&input), 20, &raw, "x264enc interlaced=true speed-preset=ultrafast", "mpegtsmux", "");
        for (mode, frames, distance) in [("auto", 20, 40), ("frame", 20, 40), ("field", 40, 20), ("off", 20, 40)] {
            let output = format!("{order}-{mode}.mkv");
            upscaled(at, &[&input, &output, "--deinterlace", mode]);
            let times = shown(&at.join(&output));
            assert_eq!(times.len(), frames, "{order}, {mode}: {times:?}");
            assert!(times.windows(2).all(|pair| (pair[1] - pair[0]).abs_diff(distance) <= 1), "{mode}: {times:?}");
        }
        let refused = upscale(at, &[&input, "no.mkv", "--deinterlace", "film"]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("expects 60 fields a second"), "{said}");
        assert!(said.contains("got 50.0000 fields a second in 8 bits, 64 wide"), "{said}");
    }
}

#[test]
fn fields_of_two_moments_become_two_frames() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    Pipeline::new(&format!(
        "videotestsrc num-buffers=40 pattern=bar horizontal-speed=4 ! \
         video/x-raw,format=I420,width=64,height=48,framerate=50/1 ! \
         interlace field-pattern=1:1 top-field-first=true ! x264enc interlaced=true tune=zerolatency quantizer=10 ! \
         mpegtsmux ! filesink location={}",
        at.join("in.ts").display()
    ))
    .run();
    let frames = shown(&at.join("in.ts")).len();
    let said = upscaled(at, &["in.ts", "out.mkv"]);
    assert!(said.contains("one frame for each field"), "{said}");
    let times = shown(&at.join("out.mkv"));
    assert_eq!(times.len(), 2 * frames);
    assert!(times.windows(2).all(|pair| (pair[1] - pair[0]).abs_diff(20) <= 1), "{times:?}");
    upscaled(at, &["in.ts", "frame.mkv", "--deinterlace", "frame"]);
    assert_eq!(shown(&at.join("frame.mkv")).len(), frames);
}

#[test]
fn of_a_film_made_thirty_frames_a_second_the_twenty_four_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for mux in ["matroskamux", "mpegtsmux"] {
        let pipeline = Pipeline::new(&format!(
            "videotestsrc num-buffers=96 pattern=bar horizontal-speed=8 ! \
             video/x-raw,format=I420,width=64,height=48,framerate=24000/1001 ! interlace field-pattern=2:3 ! \
             capssetter caps=video/x-raw,interlace-mode=interleaved,field-order=top-field-first ! \
             x264enc interlaced=true tune=zerolatency quantizer=10 key-int-max=20 ! h264parse name=parse ! {mux} ! \
             filesink location={}",
            at.join(mux).display()
        ));
        // A third of a second is lost.
        let packets = Mutex::new(0..);
        pipeline.by_name("parse").unwrap().static_pad("src").unwrap().add_probe(
            gst::PadProbeType::BUFFER,
            move |_, _| {
                let lost = (60..70).contains(&packets.lock().unwrap().next().unwrap());
                if lost { gst::PadProbeReturn::Drop } else { gst::PadProbeReturn::Ok }
            },
        );
        pipeline.run();
        for (name, options, begin) in
            [("auto.mkv", &["--deinterlace", "auto"][..], 0), ("part.mkv", &["--start", "1"], 1000)]
        {
            let said = upscaled(at, &[&[mux, name, "--force"][..], options].concat());
            assert!(said.contains("24 frames a second"), "{said}");
            let times: Vec<_> = shown(&at.join(name)).into_iter().map(|time| time + begin).collect();
            let expected = (0..96).map(|n| n * 1001 / 24).filter(|time| *time >= begin && !(2002..2335).contains(time));
            let expected: Vec<_> = expected.collect();
            // Where something is missing the fields beside it belong to no frame.
            let alike = |time: &u64| expected.iter().any(|expected| expected.abs_diff(*time) <= 34);
            assert!(times.len().abs_diff(expected.len()) <= 3, "{mux}, {name}: {times:?}");
            assert!(times.iter().all(alike), "{mux}, {name}: {times:?}, not {expected:?}");
            assert!(times.windows(2).filter(|pair| (pair[1] - pair[0]).abs_diff(42) <= 1).count() + 6 > times.len());
        }
    }
}

#[test]
fn pictures_in_a_row_are_a_film() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (name, encoder, mux) in [
        ("jpeg.avi", "jpegenc", "avimux"),
        ("jpeg.mov", "jpegenc", "qtmux"),
        ("jpeg.mkv", "jpegenc", "matroskamux"),
        ("png.mov", "pngenc", "qtmux"),
    ] {
        film(&at.join(name), 5, "format=RGB", &format!("videoconvert ! {encoder}"), mux, "");
        let output = format!("{name}.mkv");
        upscaled(at, &[name, &output]);
        assert_eq!(shown(&at.join(output)).len(), 5, "{name}");
    }
}

#[test]
fn when_and_where_it_was_recorded_is_kept_or_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(&at.join("a.mov"), 5, "format=RGB", "videoconvert ! jpegenc", "qtmux", "");
    let mut bytes = fs::read(at.join("a.mov")).unwrap();
    let find = |bytes: &[u8], name: &[u8]| bytes.windows(4).position(|four| four == name);
    let date = [0xd0, 0, 0, 0];
    let head = find(&bytes, b"mvhd").unwrap();
    bytes[head + 8..head + 12].copy_from_slice(&date);
    // At its end is the box that describes the film.
    let place = b"\0\0\0\x1a\xa9xyz\0\x0e\x15\xc7+52.50+013.40/";
    let user = [&[0, 0, 0, 8 + place.len() as u8][..], b"udta", place].concat();
    // Apple's keys; MP4 has four bytes more at their beginning.
    let keys = b"\0\0\0\x14hdlr\0\0\0\0\0\0\0\0mdta\0\0\0\x11keysof Apple's";
    let user = [&user, &[0, 0, 0, 8 + keys.len() as u8][..], b"meta", keys].concat();
    let movie = find(&bytes, b"moov").unwrap() - 4;
    let size = u32::from_be_bytes(bytes[movie..movie + 4].try_into().unwrap()) + user.len() as u32;
    bytes[movie..movie + 4].copy_from_slice(&size.to_be_bytes());
    fs::write(at.join("a.mov"), [bytes, user].concat()).unwrap();
    for name in ["b.mov", "b.mp4", "b.mkv"] {
        let said = upscaled(at, &["a.mov", name]);
        let bytes = fs::read(at.join(name)).unwrap();
        assert_eq!(shown(&at.join(name)).len(), 5);
        if name == "b.mkv" {
            assert!(said.contains("where and with what it was recorded is left out"), "{said}");
        } else {
            assert_eq!(said, "");
            assert!(bytes.windows(place.len()).any(|part| part == place), "{name}");
            assert!(bytes.windows(keys.len()).any(|part| part == keys), "{name}");
            let head = find(&bytes, b"mvhd").unwrap();
            assert_eq!(bytes[head + 8..head + 12], date, "{name}");
        }
    }
}

#[test]
fn lost_marks_of_default_streams_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let two = "flacenc ! mux.  audiotestsrc num-buffers=5 ! flacenc";
    film(&at.join("a.mkv"), 5, "format=I420", H264, "matroskamux", two);
    assert_eq!(upscaled(at, &["a.mkv", "all-on.mkv"]), "");
    // In the place of one track's name: FlagDefault, off, and bytes that mean nothing.
    let mut bytes = fs::read(at.join("a.mkv")).unwrap();
    let name = bytes.windows(9).position(|part| part == b"\x53\x6e\x86Audio\0").unwrap();
    bytes[name..name + 9].copy_from_slice(b"\x88\x81\0\xec\x84\0\0\0\0");
    fs::write(at.join("a.mkv"), bytes).unwrap();
    let said = upscaled(at, &["a.mkv", "one-off.mkv"]);
    assert!(said.contains("which sound and subtitles are on by default"), "{said}");
}

#[test]
fn what_gstreamer_lacks_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(&at.join("a.mov"), 5, "format=RGB", "videoconvert ! jpegenc", "qtmux", "");
    let mut bytes = fs::read(at.join("a.mov")).unwrap();
    let place = bytes.windows(4).rposition(|four| four == b"jpeg").unwrap();
    bytes[place..place + 4].copy_from_slice(b"AVxx");
    fs::write(at.join("a.mov"), bytes).unwrap();
    let output = upscale(at, &["a.mov", "b.mov"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("GStreamer lacks") && said.contains("AVxx"), "{said}");
    assert!(leftovers(at).is_empty());
}

#[test]
fn gifs_are_films_of_what_is_seen_as_long_as_it_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut file =
        gif::Encoder::new(fs::File::create(at.join("a.gif")).unwrap(), 32, 24, &[255, 255, 255, 0, 0, 0, 9, 9, 9])
            .unwrap();
    file.set_repeat(gif::Repeat::Infinite).unwrap();
    // White; a black corner, for no time; nothing that is seen.
    for (colour, (width, height), delay) in [(0, (32, 24), 10), (1, (16, 12), 0), (2, (32, 24), 20)] {
        let pixels = vec![colour; usize::from(width) * usize::from(height)];
        let mut frame = gif::Frame::from_indexed_pixels(width, height, pixels, Some(2));
        frame.delay = delay;
        file.write_frame(&frame).unwrap();
    }
    drop(file);
    upscaled(at, &["a.gif", "a.mkv"]);
    assert_eq!(shown(&at.join("a.mkv")), [0, 100, 200]);
    let (film, grey) = (at.join("a.mkv"), at.join("grey"));
    let decode = "decodebin ! videoconvert ! video/x-raw,format=GRAY8";
    Pipeline::new(&format!("filesrc location={} ! {decode} ! filesink location={}", film.display(), grey.display()))
        .run();
    // Both ends of the diagonal.
    let pixels = fs::read(grey).unwrap();
    let seen = pixels.chunks(64 * 48).map(|frame| [frame[0] > 128, frame[frame.len() - 1] > 128]);
    assert_eq!(seen.collect::<Vec<_>>(), [[true, true], [false, true], [false, true]]);

    let whole = fs::read(at.join("a.gif")).unwrap();
    fs::write(at.join("cut.gif"), &whole[..whole.len() - 20]).unwrap();
    upscaled(at, &["cut.gif", "cut.mkv"]);
    assert!((1..=3).contains(&shown(&at.join("cut.mkv")).len()));
    for (name, bytes, reason) in [
        ("header.gif", &whole[..20], "no picture in it can be decoded"),
        ("empty.gif", &[&whole[..25], b";"].concat(), "no picture in it can be decoded"),
        ("huge.gif", &[&whole[..6], &[255; 4], &whole[10..]].concat(), "pixels, got 65535x65535"),
    ] {
        fs::write(at.join(name), bytes).unwrap();
        let output = upscale(at, &[name, "no.mkv"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(reason), "{name}: {said}");
    }
}

#[test]
fn whatever_decodes_is_upscaled() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (format, encoder) in [
        ("v210", "identity"),
        ("RGB", "identity"),
        ("Y444", "x264enc ! video/x-h264,profile=high-4:4:4"),
        ("BGRA", "avenc_ffv1 ! video/x-ffv"),
        ("GBR_12LE", "avenc_ffv1 ! video/x-ffv"),
        ("GRAY8", "avenc_ffv1 ! video/x-ffv"),
        ("Y41B", "avenc_ffv1 ! video/x-ffv"),
        ("Y444_12LE", "avenc_ffv1 ! video/x-ffv"),
    ] {
        let (input, output) = (format!("{format}.in.mkv"), format!("{format}.mkv"));
        let mux = if format == "v210" || format == "RGB" { "qtmux" } else { "matroskamux" };
        film(&at.join(&input), 5, &format!("format={format}"), encoder, mux, "");
        upscaled(at, &[&input, &output]);
        assert_eq!(shown(&at.join(&output)).len(), 5, "{format}");
    }
}

#[test]
fn a_dropout_costs_the_frames_that_are_gone_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(&at.join("in.ts"), 100, "format=I420", "x264enc key-int-max=10", "mpegtsmux", "avenc_aac");
    let mut bytes = fs::read(at.join("in.ts")).unwrap();
    let length = bytes.len();
    bytes[length / 2..length * 6 / 10].fill(0);
    fs::write(at.join("in.ts"), bytes).unwrap();
    upscaled(at, &["in.ts", "out.mp4"]);
    let times = shown(&at.join("out.mp4"));
    assert!((75..100).contains(&times.len()), "{} frames", times.len());
    assert!(times.last().unwrap().abs_diff(99 * 40) <= 80, "{times:?}");
    assert_eq!(leftovers(at), [] as [PathBuf; 0]);
}

#[test]
fn a_size_that_changes_is_fitted_and_an_odd_one_made_even() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let both = ["64", "96"].map(|width| {
        let part = at.join(format!("{width}.ts"));
        Pipeline::new(&format!(
            "videotestsrc num-buffers=25 ! video/x-raw,format=I420,width={width},height=48,framerate=25/1 ! \
             x264enc key-int-max=25 ! mpegtsmux ! filesink location={}",
            part.display()
        ))
        .run();
        fs::read(part).unwrap()
    });
    fs::write(at.join("in.ts"), both.concat()).unwrap();
    upscaled(at, &["in.ts", "out.mkv"]);
    let video = tracks(&at.join("out.mkv"), "video").remove(0);
    let format = video.caps.structure(0).unwrap();
    assert_eq!((format.get::<i32>("width"), format.get::<i32>("height")), (Ok(128), Ok(96)));
    assert!(video.times.len() >= 48, "{} frames", video.times.len());

    let encoder = "videoscale ! video/x-raw,format=Y444,width=31,height=17 ! avenc_ffv1 ! video/x-ffv";
    film(&at.join("odd.mkv"), 3, "format=Y444", encoder, "matroskamux", "");
    let said = upscaled(at, &["odd.mkv", "odd.mp4", "--scale", "3"]);
    assert!(said.contains("stretched to 94x52"), "{said}");
}

#[test]
fn colours_that_nobody_told_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // H.264 that says that its range is full, and nothing of its matrix.
    film(&at.join("in.mkv"), 3, "format=I420,colorimetry=1:4:0:0", "x264enc", "matroskamux", "");
    upscaled(at, &["in.mkv", "out.mkv"]);
    let caps = tracks(&at.join("out.mkv"), "video").remove(0).caps;
    let told: String = caps.structure(0).unwrap().get("colorimetry").unwrap();
    assert!(told.starts_with("1:4:"), "{told}");
}

#[test]
fn av1_tells_its_colours_in_the_stream_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(&at.join("in.mkv"), 3, "format=I420,colorimetry=bt709", "x264enc ! h264parse", "matroskamux", "");
    film(&at.join("rgb.mov"), 3, "format=RGB", "identity", "qtmux", "");
    // What encoders get is YUV: a matrix of RGB would be a lie there, which decoders refuse.
    for (input, name, colours) in [
        ("in.mkv", "out.mkv", "bt709"),
        ("in.mkv", "out.mp4", "bt709"),
        ("in.mkv", "out.webm", "bt709"),
        ("rgb.mov", "rgb.mkv", "bt601"),
        ("rgb.mov", "rgb.mp4", "bt601"),
    ] {
        upscaled(at, &[input, name, "--codec", "av1"]);
        assert_eq!(shown(&at.join(name)).len(), 3);
        // Nothing that the file around it says.
        let pipeline = Pipeline::new(&format!(
            "filesrc location={} ! parsebin ! capssetter replace=true \
             caps=video/x-av1,stream-format=obu-stream,alignment=tu ! av1parse ! tee name=units \
             units. ! queue ! av1dec ! fakesink  units. ! queue ! fakesink name=end",
            at.join(name).display()
        ));
        let told = Arc::<Mutex<Option<gst::Caps>>>::default();
        let seen = told.clone();
        let end = pipeline.by_name("end").unwrap().static_pad("sink").unwrap();
        end.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
            *seen.lock().unwrap() = pad.current_caps();
            gst::PadProbeReturn::Ok
        });
        pipeline.run();
        let told = told.lock().unwrap().take().unwrap();
        assert_eq!(told.structure(0).unwrap().get("colorimetry"), Ok(colours), "{name}: {told}");
    }
}

#[test]
fn a_film_for_bright_screens_keeps_its_ten_bits() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let encoder = "x265enc log-level=error ! h265parse";
    film(&at.join("in.mkv"), 3, "format=I420_10LE,colorimetry=bt2100-pq", encoder, "matroskamux", "");
    let said = upscaled(at, &["in.mkv", "out.mp4"]);
    assert!(said.contains("HDR: it is encoded as H.265 in 10 bits"), "{said}");
    let caps = tracks(&at.join("out.mp4"), "video/x-h265").remove(0).caps;
    assert_eq!(caps.structure(0).unwrap().get("colorimetry"), Ok("bt2100-pq"));
}

#[test]
fn a_part_without_sound_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    Pipeline::new(&format!(
        "videotestsrc num-buffers=50 ! video/x-raw,width=64,height=48,framerate=25/1 ! x264enc key-int-max=5 ! \
         matroskamux name=mux ! filesink location={}  \
         audiotestsrc num-buffers=25 samplesperbuffer=1920 ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! mux.",
        at.join("in.mkv").display()
    ))
    .run();
    // Sound that is encoded anew has no track without data, sound that is copied has.
    let said = upscaled(at, &["in.mkv", "out.webm", "--start", "1.6"]);
    assert!(said.contains("1 of 2 streams have nothing in this part"), "{said}");
    assert_eq!(upscaled(at, &["in.mkv", "out.mkv", "--start", "1.6"]), "");
    assert_eq!((shown(&at.join("out.webm")).len(), shown(&at.join("out.mkv")).len()), (10, 10));
}

#[test]
fn subtitles_keep_their_styles_or_a_note_says_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let head = "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname\nStyle: Default,Arial\n";
    film(&at.join("plain.mkv"), 25, "format=I420", "x264enc", "matroskamux", "");
    // Styled subtitles as a Matroska file has them: the head once, then lines.
    let pipeline = Pipeline::new(&format!(
        "filesrc location={} ! matroskademux ! h264parse ! matroskamux name=mux ! filesink location={} \
         appsrc name=lines format=time ! application/x-ass ! mux.",
        at.join("plain.mkv").display(),
        at.join("in.mkv").display()
    ));
    let lines: gst_app::AppSrc = pipeline.by_name("lines").unwrap().downcast().unwrap();
    let head = gst::Buffer::from_slice(head);
    lines.set_caps(Some(&gst::Caps::builder("application/x-ass").field("codec_data", head).build()));
    let mut line = gst::Buffer::from_slice("0,0,Default,,0,0,0,,{\\b1}Hello{\\b0}");
    line.make_mut().set_pts(gst::ClockTime::from_mseconds(100));
    line.make_mut().set_duration(gst::ClockTime::from_mseconds(500));
    lines.push_buffer(line).unwrap();
    lines.end_of_stream().unwrap();
    pipeline.run();
    assert_eq!(tracks(&at.join("in.mkv"), "text").len() + tracks(&at.join("in.mkv"), "application/x-ass").len(), 1);
    let kept = upscaled(at, &["in.mkv", "out.mkv"]);
    assert_eq!(kept, "");
    assert!(fs::read(at.join("out.mkv")).unwrap().windows(7).any(|bytes| bytes == b"{\\b1}He"), "the styles are gone");
    let said = upscaled(at, &["in.mkv", "out.mp4"]);
    assert!(said.contains("plain text"), "{said}");
}

#[test]
fn a_run_disturbs_no_other_and_no_file_that_is_not_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(&at.join("in.mp4"), 5, "format=I420", "x264enc", "mp4mux", "");
    let precious = || fs::write(at.join("precious"), "precious").unwrap();
    let unharmed = || assert_eq!(fs::read_to_string(at.join("precious")).unwrap(), "precious");
    for (hidden, arguments) in [
        (".a.mp4.fastvsr", &["in.mp4", "a.mp4"][..]),
        (".a.mp4.fastvsr", &["in.mp4", "a.mp4", "--force"]),
        (".a.mp4.part", &["in.mp4", "a.mp4", "--force"]),
    ] {
        precious();
        let link = at.join(hidden);
        std::os::unix::fs::symlink(at.join("precious"), &link).unwrap();
        upscale(at, arguments);
        unharmed();
        let _ = fs::remove_file(link);
    }
    // A file of somebody else's under the journal's name.
    fs::write(at.join(".b.mp4.fastvsr"), "precious").unwrap();
    let refused = upscale(at, &["in.mp4", "b.mp4", "--force"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(fs::read_to_string(at.join(".b.mp4.fastvsr")).unwrap(), "precious");
    // Another run that has the journal.
    fs::write(at.join(".c.mp4.fastvsr"), "").unwrap();
    let other = fs::File::open(at.join(".c.mp4.fastvsr")).unwrap();
    other.lock().unwrap();
    for how in ["--resume", "--force"] {
        let refused = upscale(at, &["in.mp4", "c.mp4", how]);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("being written by another fastvsr"), "{refused:?}");
    }
    fs::create_dir(at.join("d.mp4")).unwrap();
    let refused = upscale(at, &["in.mp4", "d.mp4", "--force"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is a folder or device"), "{refused:?}");
    let long = format!("{}.mp4", "x".repeat(250));
    upscaled(at, &["in.mp4", &long]);
    assert!(!at.join(".d.mp4.fastvsr").exists());
}

#[test]
fn nobody_who_reads_undoes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(&at.join("in.mp4"), 5, "format=I420", "x264enc", "mp4mux", "");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fastvsr"));
    let done =
        command.current_dir(at).args(["upscale", "in.mp4", "out.mp4", "--provider", "cpu"]).stdout(full).output();
    let done = done.unwrap();
    assert!(done.status.success() && at.join("out.mp4").exists(), "{done:?}");
}

#[test]
fn sound_that_nothing_decodes_does_not_cost_the_film() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // Called by a format that no decoder of GStreamer knows, and MP4 does not hold.
    let unknown = "capssetter join=false replace=true caps=audio/x-tta,rate=48000,channels=2,width=16";
    film(&at.join("in.mkv"), 10, "format=I420", "x264enc", "matroskamux", unknown);
    let said = upscaled(at, &["in.mkv", "out.mp4"]);
    assert!(said.contains("a stream that cannot be read or encoded is left out"), "{said}");
    assert_eq!(shown(&at.join("out.mp4")).len(), 10);
}

/// Size and shape of the pixels of the only video.
fn frame(file: &Path) -> (i32, i32, gst::Fraction) {
    let caps = tracks(file, "video").remove(0).caps;
    let format = caps.structure(0).unwrap();
    let par = format.get("pixel-aspect-ratio").unwrap_or(gst::Fraction::new(1, 1));
    (format.get("width").unwrap(), format.get("height").unwrap(), par)
}

#[test]
fn films_become_as_large_as_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(&at.join("in.mp4"), 5, "format=I420,pixel-aspect-ratio=16/15", "x264enc", "mp4mux", "");
    for (arguments, width, height, par) in [
        (&["--height", "108"][..], 144, 108, (16, 15)),
        (&["--height", "90", "--square"], 128, 90, (1, 1)),
        (&["--width", "192"], 192, 144, (16, 15)),
        (&["--fit", "400x150"], 200, 150, (16, 15)),
        (&["--fit", "160x90", "--square"], 128, 90, (1, 1)),
        (&["--width", "192", "--height", "108"], 192, 108, (4, 5)),
        (&["--scale", "1"], 64, 48, (16, 15)),
        (&["--scale", "1.5"], 96, 72, (16, 15)),
        (&["--scale", "2.5", "--square"], 170, 120, (1, 1)),
    ] {
        upscaled(at, &[&["in.mp4", "out.mp4", "--force"], arguments].concat());
        assert_eq!(frame(&at.join("out.mp4")), (width, height, gst::Fraction::new(par.0, par.1)), "{arguments:?}");
        assert_eq!(shown(&at.join("out.mp4")).len(), 5, "{arguments:?}");
    }
    let said = upscaled(at, &["in.mp4", "large.mkv", "--height", "240"]);
    assert!(said.contains("320x240 is more than 4 times 64x48") && said.contains("interpolated"), "{said}");
    assert_eq!(frame(&at.join("large.mkv")).1, 240);
    let refused = upscale(at, &["in.mp4", "small.mkv", "--height", "20"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("expected a size at least as large"), "{refused:?}");
    let said = upscaled(at, &["in.mp4", "alone.mp4", "--below", "48"]);
    assert!(said.contains("left alone") && !at.join("alone.mp4").exists(), "{said}");
}

#[test]
fn a_folder_of_films_is_done_once_whatever_fails() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir_all(at.join("films/old")).unwrap();
    film(&at.join("films/a.mp4"), 5, "format=I420", "x264enc", "mp4mux", "");
    film(&at.join("films/old/b.avi"), 5, "format=I420", "jpegenc", "avimux", "");
    film(&at.join("c.mkv"), 5, "format=I420", "videoscale ! video/x-raw,height=96 ! x264enc", "matroskamux", "");
    fs::write(at.join("films/broken.mkv"), "no film").unwrap();
    fs::write(at.join("films/notes.txt"), "no film").unwrap();
    let all = ["films", "c.mkv", "--out", "films/large", "--below", "96", "--scale", "1.5"];
    let first = upscale(at, &all);
    let said = String::from_utf8_lossy(&first.stderr);
    assert_eq!(first.status.code(), Some(1), "{said}");
    assert!(said.contains("4 films: 2 upscaled, 0 there already, 1 left alone, 1 failed"), "{said}");
    assert!(said.contains("`films/broken.mkv`"), "{said}");
    assert_eq!(frame(&at.join("films/large/a.mp4")).0, 96);
    assert_eq!(shown(&at.join("films/large/old/b.avi.mkv")).len(), 5);
    fs::remove_file(at.join("films/broken.mkv")).unwrap();
    let said = upscaled(at, &all);
    assert!(said.contains("3 films: 0 upscaled, 2 there already, 1 left alone, 0 failed"), "{said}");
    let refused = upscale(at, &["films", "c.mkv", "more", "--scale", "2"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--out FOLDER"), "{refused:?}");
    let none = upscale(at, &["films/large/old", "--out", "films/large/old", "--below", "1"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("there already"), "{none:?}");
}

#[test]
fn programs_read_the_progress() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(&at.join("in.mp4"), 25, "format=I420", "x264enc", "mp4mux", "");
    let done = upscale(at, &["in.mp4", "out.mp4", "--progress", "json"]);
    assert!(done.status.success(), "{done:?}");
    let said = String::from_utf8(done.stdout).unwrap();
    let lines: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stages: Vec<_> = lines.iter().map(|line| line["stage"].as_str().unwrap()).collect();
    assert_eq!((stages[0], stages[stages.len() - 2..].to_vec()), ("load", vec!["mux", "done"]), "{said}");
    assert!(stages.contains(&"upscale"), "{said}");
    let last = lines.last().unwrap();
    assert_eq!(
        (last["frame"].as_u64(), last["of"].as_u64(), last["film"].as_str()),
        (Some(25), Some(25), Some("in.mp4"))
    );
    assert!(lines.iter().all(|line| line.get("fps").is_some() && line.get("eta").is_some()), "{said}");
}

#[test]
fn what_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    film(&at.join("in.m2ts"), 25, "format=I420", "x264enc", "mpegtsmux m2ts-mode=true", "avenc_ac3");
    assert_eq!(upscaled(at, &["in.m2ts", "known.mkv"]), "");
    disguise(at, 0xfe);
    let said = upscaled(at, &["in.m2ts", "unknown.mkv"]);
    assert!(said.contains("type 0x06) that GStreamer does not know"), "{said}");
}

#[test]
fn sound_whose_table_tells_nothing_is_known_by_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (encoder, format) in [("avenc_ac3", "audio/x-ac3"), ("avenc_aac", "audio/mpeg")] {
        film(&at.join("in.m2ts"), 25, "format=I420", "x264enc", "mpegtsmux m2ts-mode=true", encoder);
        disguise(at, 0x0a); // a language
        assert_eq!(upscaled(at, &["in.m2ts", "out.mkv", "--force"]), "");
        let (video, sound) = (shown(&at.join("out.mkv")), tracks(&at.join("out.mkv"), format));
        assert_eq!((video.len(), sound.len()), (25, 1), "{encoder}");
        assert!(sound[0].times[0].abs_diff(video[0]) <= 120, "{encoder}: {} and {} ms", sound[0].times[0], video[0]);
    }
}

/// Makes the type of the sound of `in.m2ts` one that says nothing, in every table of the programme, and its descriptors such.
fn disguise(at: &Path, descriptor: u8) {
    let mut bytes = fs::read(at.join("in.m2ts")).unwrap();
    for packet in bytes.chunks_mut(192).filter(|packet| packet.len() == 192) {
        let table = 4 + 5 + if packet[7] & 0x20 != 0 { 1 + usize::from(packet[8]) } else { 0 };
        if packet[5] & 0x40 != 0 && packet.get(table) == Some(&2) && packet[table + 1] & 0xf0 == 0xb0 {
            disguise_table(&mut packet[table..], descriptor);
        }
    }
    fs::write(at.join("in.m2ts"), bytes).unwrap();
}

/// Lets a table of a programme tell nothing of its second stream but that there is one.
fn disguise_table(table: &mut [u8], tag: u8) {
    let end = 3 + usize::from(u16::from_be_bytes([table[1], table[2]]) & 0xfff) - 4;
    let length = |at: usize, table: &[u8]| usize::from(u16::from_be_bytes([table[at], table[at + 1]]) & 0xfff);
    let first = 12 + length(10, table);
    let second = first + 5 + length(first + 3, table);
    table[second] = 6;
    let (mut descriptor, last) = (second + 5, second + 5 + length(second + 3, table));
    while descriptor < last {
        let end = descriptor + 2 + usize::from(table[descriptor + 1]);
        table[descriptor] = tag;
        table[descriptor + 2..end].iter_mut().zip(b"eng\0".iter().cycle()).for_each(|(byte, letter)| *byte = *letter);
        descriptor = end;
    }
    let mut checksum = u32::MAX;
    for byte in &table[..end] {
        checksum ^= u32::from(*byte) << 24;
        for _ in 0..8 {
            checksum = (checksum << 1) ^ if checksum >> 31 == 1 { 0x04c1_1db7 } else { 0 };
        }
    }
    table[end..end + 4].copy_from_slice(&checksum.to_be_bytes());
}

/// One kind of file: its name's end, raw format, video encoder, muxer, audio encoder.
type Kind = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// Upscales films of all these kinds into all kinds of files: every frame, the sound in time, nothing else.
#[track_caller]
fn all_kinds(kinds: &[Kind], outputs: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (&(end, raw, encoder, mux, audio), number) in kinds.iter().zip(0..) {
        let input = format!("in-{number}.{end}");
        film(&at.join(&input), 25, raw, encoder, mux, audio);
        let output = format!("{number}.{}", outputs[number % outputs.len()]);
        upscaled(at, &[&input, &output, "--model", model("nearest").to_str().unwrap()]);
        let (video, sound) = (shown(&at.join(&output)), tracks(&at.join(&output), "audio"));
        let what = format!("{input} ({encoder}, {audio}) -> {output}");
        // GStreamer 1.22 reads no last frame in Ogg.
        assert_eq!(video.len(), 25 - usize::from(end == "ogv"), "{what}: {video:?}");
        assert!(
            video[0] <= 80 && video.windows(2).all(|pair| (pair[1] - pair[0]).abs_diff(40) <= 1),
            "{what}: {video:?}"
        );
        assert_eq!(sound.len(), usize::from(!audio.is_empty()), "{what}: the sound");
        for sound in sound {
            // Vorbis begins with packets that have no time.
            let times: Vec<_> = sound.times.into_iter().filter(|time| *time < 1 << 40).collect();
            let (first, last) = (times[0], *times.last().unwrap());
            assert!(first.abs_diff(video[0]) <= 200, "{what}: picture at {} ms, sound at {first} ms", video[0]);
            // GStreamer 1.26 reads PCM from QuickTime in packets of half a second.
            let packet = if audio == "identity" && gst::version() >= (1, 26, 0, 0) { 500 } else { 160 };
            assert!(last.abs_diff(960) <= packet, "{what}: the last sound begins at {last} ms");
        }
    }
}

const H264: &str = "x264enc speed-preset=ultrafast key-int-max=12 ! h264parse";

#[test]
fn kinds_of_matroska_and_webm() {
    all_kinds(
        &[
            ("mkv", "format=I420", H264, "matroskamux", "avenc_aac"),
            ("mkv", "format=I420", H264, "matroskamux", "flacenc"),
            ("mkv", "format=I420", H264, "matroskamux", "opusenc"),
            ("mkv", "format=I420", H264, "matroskamux", "avenc_ac3"),
            ("mkv", "format=I420", H264, "matroskamux", "lamemp3enc ! mpegaudioparse"),
            ("mkv", "format=I420", H264, "matroskamux", "identity"),
            ("mkv", "format=I420", "x265enc log-level=error ! h265parse", "matroskamux", "vorbisenc"),
            ("mkv", "format=Y42B", "avenc_ffv1 ! video/x-ffv", "matroskamux", "flacenc"),
            ("mkv", "format=Y444", "x264enc ! video/x-h264,profile=high-4:4:4 ! h264parse", "matroskamux", ""),
            ("mkv", "format=I420_10LE", "x264enc ! video/x-h264,profile=high-10 ! h264parse", "matroskamux", ""),
            ("mkv", "format=I420", "vp8enc deadline=1", "matroskamux", "vorbisenc"),
            ("mkv", "format=I420", "jpegenc", "matroskamux", "avenc_ac3"),
            ("mkv", "format=I420", "theoraenc", "matroskamux", "opusenc"),
            ("mkv", "format=GRAY8", "avenc_ffv1 ! video/x-ffv", "matroskamux", "avenc_mp2 ! mpegaudioparse"),
            ("mkv", "format=I420,pixel-aspect-ratio=16/15", H264, "matroskamux", "avenc_aac"),
            ("webm", "format=I420", "vp8enc deadline=1", "webmmux", "vorbisenc"),
            ("webm", "format=I420", "vp9enc deadline=1", "webmmux", "opusenc"),
        ],
        &["mkv", "mp4"],
    );
}

#[test]
fn kinds_of_mp4_and_quicktime() {
    all_kinds(
        &[
            ("mp4", "format=I420", H264, "mp4mux", "avenc_aac"),
            ("mp4", "format=I420", H264, "mp4mux fragment-duration=200", "avenc_aac"),
            ("mp4", "format=I420", H264, "mp4mux faststart=true", "lamemp3enc ! mpegaudioparse"),
            ("mp4", "format=I420", H264, "mp4mux", "avenc_alac"),
            ("mp4", "format=I420", "x265enc log-level=error ! h265parse", "mp4mux", "avenc_ac3"),
            ("mov", "format=I420", H264, "qtmux", "identity"),
            ("mov", "format=I420", "jpegenc", "qtmux", "avenc_aac"),
            ("mov", "format=I422_10LE", "avenc_prores_ks", "qtmux", "identity"),
            ("mov", "format=UYVY", "identity", "qtmux", ""),
            ("mov", "format=RGB", "identity", "qtmux", "avenc_aac"),
            ("mp4", "format=I420,interlace-mode=interleaved,field-order=top-field-first", H264, "mp4mux", "avenc_aac"),
            ("3gp", "format=I420", H264, "3gppmux", "avenc_aac"),
        ],
        &["mp4", "mkv", "mov"],
    );
}

#[test]
fn kinds_of_recordings_and_older_files() {
    all_kinds(
        &[
            ("ts", "format=I420", H264, "mpegtsmux", "avenc_aac ! aacparse"),
            ("ts", "format=I420", H264, "mpegtsmux", "avenc_ac3"),
            ("ts", "format=I420", "x265enc log-level=error ! h265parse", "mpegtsmux", "lamemp3enc ! mpegaudioparse"),
            ("ts", "format=I420", H264, "mpegtsmux", "opusenc"),
            ("m2ts", "format=I420", H264, "mpegtsmux m2ts-mode=true", "avenc_ac3"),
            ("flv", "format=I420", H264, "flvmux", "avenc_aac ! aacparse"),
            ("flv", "format=I420", "avenc_flv", "flvmux", "avenc_aac ! aacparse"),
            ("avi", "format=Y42B", "avenc_huffyuv", "avimux", "identity"),
            ("avi", "format=I420", "avenc_msmpeg4", "avimux", "lamemp3enc ! mpegaudioparse"),
            ("avi", "format=I420", "jpegenc", "avimux", "identity"),
            ("avi", "format=I420", "avenc_mpeg4 ! mpeg4videoparse", "avimux", "lamemp3enc ! mpegaudioparse"),
            ("avi", "format=I420", "identity", "avimux", ""),
            ("ogv", "format=I420", "theoraenc", "oggmux", "vorbisenc"),
            ("ogv", "format=I420", "theoraenc", "oggmux", "opusenc"),
        ],
        &["mkv", "mp4"],
    );
}
