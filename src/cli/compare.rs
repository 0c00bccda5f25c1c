//! `fastvsr compare`: the same frames by bicubic interpolation and by the model, as a video, a picture, and a page with
//! a line to drag.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use gst::prelude::*;
use gst_video::{VideoFrameExt, VideoFrameRef, VideoInfo};
use gstfastvsr::frames::RGB;

use crate::{
    clip::{Clip, Deinterlace, Range},
    encoder::{self, Container},
    hidden,
    playback::{self, Playback},
    progress::{self, Progress},
    target::{self, Target},
    time,
    upscaler::Upscaler,
};

/// Frames in which the line of a wipe goes from left to right and back.
const SWEEP: usize = 150;

/// Compare bicubic interpolation with the model: writes a video and a picture of its middle
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Video file
    input: PathBuf,
    /// Names of the results, without extension [default: the input's name and `-compare`, in the current folder]
    #[arg(long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    upscaler: Upscaler,
    #[command(flatten)]
    target: Target,
    /// A line that moves across the picture, instead of both side by side
    #[arg(long)]
    wipe: bool,
    /// Also write a page with a line to drag, in one file
    #[arg(long)]
    html: bool,
    /// Begin at this time
    #[arg(long, value_parser = time::parse, default_value = "0")]
    start: gst::ClockTime,
    /// Compare so much
    #[arg(long, value_parser = time::parse, default_value = "5")]
    duration: gst::ClockTime,
    /// Replace results that are there
    #[arg(long)]
    force: bool,
}

/// The two frames of one moment, RGB.
struct Pair {
    info: VideoInfo,
    bicubic: Vec<u8>,
    fastvsr: Vec<u8>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    playback::be_orderly();
    let clip = Clip::open(&args.input, Deinterlace::Auto)?;
    let stem = args.input.file_stem().unwrap_or_default().to_string_lossy();
    let base = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{stem}-compare")));
    let result = |extension: &str| PathBuf::from(format!("{}.{extension}", base.display()));
    let (video, picture, page) = (result("mp4"), result("png"), result("html"));
    for path in [&video, &picture].into_iter().chain(args.html.then_some(&page)) {
        ensure!(args.force || !path.exists(), "`{}` exists: give --force to replace it", path.display());
    }
    let from = clip.zero + args.start;
    let range = Range { from, to: Some(from + args.duration) };

    let part = hidden::path(&video, "part");
    let middle = film(args, &clip, range, &part).inspect_err(|_| drop(fs::remove_file(&part)))?;
    fs::rename(&part, &video).with_context(|| format!("cannot write `{}`", video.display()))?;
    let (info, both) = side_by_side(&middle)?;
    save(&picture, &png(&info, &both)?)?;
    if args.html {
        save(&page, html(&stem, &middle)?.as_bytes())?;
    }
    for path in [Some(&video), Some(&picture), args.html.then_some(&page)].into_iter().flatten() {
        println!("{}", path.display());
    }
    Ok(())
}

/// Writes the video; gives the frames of its middle.
fn film(args: &Args, clip: &Clip, range: Range, part: &Path) -> Result<Pair> {
    let most = args.upscaler.scale()?;
    let video = args.target.of(&clip.video, most, target::ANY)?;
    let unlimited = "max-size-time=0 max-size-bytes=0 max-size-buffers=0";
    let reader = Playback::new(&format!(
        "{} ! video/x-raw,format=RGB ! tee name=tee  \
         tee. ! queue {unlimited} ! videoscale method=catrom add-borders=false name=scale ! capsfilter name=size ! \
         appsink name=bicubic sync=false max-buffers=2  \
         tee. ! queue {unlimited} ! fastvsr name=vsr ! capsfilter name=asked ! appsink name=fastvsr sync=false max-buffers=2",
        clip.read()
    ))?;
    args.upscaler.configure(&reader.element("vsr"))?;
    // Whatever size of frames comes, both branches give the same.
    for (element, filter) in [("scale", "size"), ("vsr", "asked")] {
        target::ask(&reader.element(element), &reader.element(filter), &video, most);
    }
    clip.attach(&reader, range)?;
    reader.set_state(gst::State::Playing)?;

    let total = clip.frames(range);
    let mut progress = Progress::new(progress::Form::Bar, &args.input, total, 0);
    let mut writer: Option<Playback> = None;
    let (mut count, mut first, mut middle) = (0, None, None);
    while let Some((pair, time, duration)) = pull(&reader)? {
        let (info, pixels) = if args.wipe { wipe(&pair, count) } else { side_by_side(&pair)? };
        let writer = match &mut writer {
            Some(writer) => writer,
            None => writer.insert(start_writer(&info, clip, part)?),
        };
        let mut frame = gst::Buffer::from_mut_slice(pixels);
        {
            let frame = frame.make_mut();
            frame.set_pts(time.saturating_sub(*first.get_or_insert(time)));
            frame.set_duration(duration);
        }
        if writer.source("frames").push_buffer(frame).is_err() {
            return Err(writer.error().context("the encoder takes no frame")?);
        }
        if middle.is_none() || total.is_some_and(|total| count as u64 == total / 2) {
            middle = Some(pair);
        }
        count += 1;
        progress.set(count as u64);
    }
    drop(progress);
    let writer = writer.with_context(|| format!("`{}` has no frame in this range", args.input.display()))?;
    writer.source("frames").end_of_stream()?;
    writer.run(|| {})?;
    middle.context("the clip has no frame")
}

/// The next frames of both branches, with their time and duration; `None` at the end.
fn pull(reader: &Playback) -> Result<Option<(Pair, gst::ClockTime, Option<gst::ClockTime>)>> {
    let (Some(bicubic), Some(fastvsr)) = (wait(reader, "bicubic")?, wait(reader, "fastvsr")?) else { return Ok(None) };
    let info = VideoInfo::from_caps(fastvsr.caps().context("frames without caps")?)?;
    let buffer = fastvsr.buffer().context("a sample without a frame")?;
    let time = buffer.pts().context("a frame without a time")?;
    let pair = Pair { bicubic: pixels(&bicubic, &info)?, fastvsr: pixels(&fastvsr, &info)?, info };
    Ok(Some((pair, time, buffer.duration())))
}

fn wait(reader: &Playback, name: &str) -> Result<Option<gst::Sample>> {
    let sink = reader.sink(name);
    loop {
        playback::check_interrupted()?;
        if let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_mseconds(100)) {
            return Ok(Some(sample));
        }
        if let Some(err) = reader.error() {
            return Err(err);
        }
        if sink.is_eos() {
            return Ok(None);
        }
    }
}

/// Rows without gaps.
fn pixels(sample: &gst::Sample, expected: &VideoInfo) -> Result<Vec<u8>> {
    let info = VideoInfo::from_caps(sample.caps().context("frames without caps")?)?;
    ensure!(
        (info.width(), info.height()) == (expected.width(), expected.height()),
        "bicubic gave {}x{}: expected {}x{}",
        info.width(),
        info.height(),
        expected.width(),
        expected.height()
    );
    let frame = VideoFrameRef::from_buffer_ref_readable(sample.buffer().context("a sample without a frame")?, &info)?;
    let (stride, row) = (frame.plane_stride()[0] as usize, info.width() as usize * RGB);
    Ok(frame.plane_data(0)?.chunks(stride).flat_map(|data| data[..row].to_vec()).collect())
}

/// Bicubic on the left, the model on the right.
fn side_by_side(pair: &Pair) -> Result<(VideoInfo, Vec<u8>)> {
    let row = pair.info.width() as usize * RGB;
    let rows = pair.bicubic.chunks(row).zip(pair.fastvsr.chunks(row));
    let pixels = rows.flat_map(|(left, right)| [left, right].concat()).collect();
    let info = VideoInfo::builder(gst_video::VideoFormat::Rgb, 2 * pair.info.width(), pair.info.height());
    Ok((info.fps(pair.info.fps()).par(pair.info.par()).build()?, pixels))
}

/// Bicubic to the left of a white line, the model to its right.
fn wipe(pair: &Pair, count: usize) -> (VideoInfo, Vec<u8>) {
    let width = pair.info.width() as usize;
    let phase = count % SWEEP * 2;
    let line = width * phase.min(2 * SWEEP - phase) / SWEEP;
    let (row, cut) = (width * RGB, line * RGB);
    let rows = pair.bicubic.chunks(row).zip(pair.fastvsr.chunks(row));
    let mut pixels: Vec<u8> = rows.flat_map(|(left, right)| [&left[..cut], &right[cut..]].concat()).collect();
    for row in pixels.chunks_mut(row) {
        let end = (cut + 2 * RGB).min(row.len());
        row[cut.min(end)..end].fill(255);
    }
    (pair.info.clone(), pixels)
}

/// A pipeline that encodes composed frames.
fn start_writer(info: &VideoInfo, clip: &Clip, part: &Path) -> Result<Playback> {
    let (width, height) = (info.width().next_multiple_of(2), info.height().next_multiple_of(2));
    let film = &clip.video;
    let video = VideoInfo::builder(film.format(), width, height).par(info.par()).fps(film.fps());
    let encoder = encoder::choose(None, Container::Mp4, 18, &video.colorimetry(&film.colorimetry()).build()?)?;
    let label = "shaded-background=true valignment=top font-desc=\"Sans 12\"";
    let writer = Playback::new(&format!(
        "appsrc name=frames format=time block=true max-buffers=4 ! videoconvert ! \
         textoverlay text=bicubic halignment=left {label} ! textoverlay text=fastvsr halignment=right {label} ! \
         {} ! mp4mux ! filesink name=part",
        encoder.launch
    ))?;
    writer.source("frames").set_caps(Some(&info.to_caps()?));
    writer.element("part").set_property("location", part);
    writer.set_state(gst::State::Playing)?;
    Ok(writer)
}

/// One frame as a PNG file.
fn png(info: &VideoInfo, pixels: &[u8]) -> Result<Vec<u8>> {
    let encoder =
        Playback::new("appsrc name=frame ! pngenc compression-level=6 snapshot=true ! appsink name=sink sync=false")?;
    let source = encoder.source("frame");
    source.set_caps(Some(&info.to_caps()?));
    encoder.set_state(gst::State::Playing)?;
    source.push_buffer(gst::Buffer::from_slice(pixels.to_vec()))?;
    source.end_of_stream()?;
    let sample = wait(&encoder, "sink")?.context("the picture could not be encoded")?;
    Ok(sample.buffer().context("an empty picture")?.map_readable()?.to_vec())
}

/// The page, with both pictures inside.
fn html(title: &str, pair: &Pair) -> Result<String> {
    let data = |pixels: &[u8]| -> Result<String> { Ok(glib::base64_encode(&png(&pair.info, pixels)?).to_string()) };
    let title = glib::markup_escape_text(title);
    Ok(include_str!("compare.html")
        .replace("@WIDTH@", &pair.info.width().to_string())
        .replace("@BICUBIC@", &data(&pair.bicubic)?)
        .replace("@FASTVSR@", &data(&pair.fastvsr)?)
        .replace("@TITLE@", &title))
}

/// Writes a file, whole or not at all.
fn save(path: &Path, data: &[u8]) -> Result<()> {
    let part = hidden::path(path, "part");
    fs::write(&part, data)
        .and_then(|()| fs::rename(&part, path))
        .inspect_err(|_| drop(fs::remove_file(&part)))
        .with_context(|| format!("cannot write `{}`", path.display()))
}
