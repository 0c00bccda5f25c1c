//! `fastvsr upscale`: a file into a larger one. First the video goes, frame by frame, into the journal beside the output;
//! then the output is put together from it. What was interrupted goes on with `--resume`.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use gst::prelude::*;

use crate::{
    clip::{self, Clip, Range},
    encoder::{self, Codec, Container},
    journal::{self, Done, Journal},
    mux,
    playback::{self, Interrupted, Playback},
    time,
    upscaler::Upscaler,
};

/// Video shown to the model before the first frame that is kept, when work begins in mid-stream: many times what its
/// memory needs to settle (examples/cluster/README.md has the measurement).
const WARM_UP: gst::ClockTime = gst::ClockTime::from_seconds(2);

/// How much `--preview` upscales.
const PREVIEW: gst::ClockTime = gst::ClockTime::from_seconds(5);

/// Upscale a video file, with its audio, subtitles and tags
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Video file
    input: PathBuf,
    /// File to write; its extension says the kind: .mp4, .mov, .mkv, .webm
    output: PathBuf,
    #[command(flatten)]
    upscaler: Upscaler,
    /// Video codec [default: h264; vp9 in .webm]
    #[arg(long)]
    codec: Option<Codec>,
    /// Quality of the encoded video, as x264's crf: 0 is lossless, 18 looks like it, 51 is the worst
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u32).range(0..=51))]
    quality: u32,
    /// Begin at this time: seconds, or [hours:]minutes:seconds
    #[arg(long, value_parser = time::parse)]
    start: Option<gst::ClockTime>,
    /// Upscale so much and no more
    #[arg(long, value_parser = time::parse)]
    duration: Option<gst::ClockTime>,
    /// Upscale five seconds from the middle (or from --start), to see what the whole would be like
    #[arg(long, conflicts_with = "duration")]
    preview: bool,
    /// Go on with a run that was interrupted
    #[arg(long)]
    resume: bool,
    /// Replace what is there: the output, and an interrupted run
    #[arg(long, conflicts_with = "resume")]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let begin = Instant::now();
    let clip = Clip::open(&args.input)?;
    let container = Container::of(&args.output)?;
    ensure!(
        args.output.canonicalize().ok().as_ref() != Some(&clip.path),
        "input and output are the same file, `{}`: expected another name for the output",
        args.output.display()
    );
    ensure!(
        args.force || args.resume || !args.output.exists(),
        "`{}` exists: give another name, or --force to replace it",
        args.output.display()
    );
    let range = range(args, &clip)?;
    let encoder = encoder::choose(args.codec, container, args.quality, clip.deep)?;
    if clip.interlaced {
        eprintln!("note: the video is interlaced and is deinterlaced, one frame for two fields");
    }

    let journal = journal::path(&args.output);
    let (writer, done) = open_journal(args, &clip, range, encoder.element)?;
    let outcome = upscale(args, &clip, range, &encoder.launch, writer, done);
    let frames = match outcome {
        Ok(frames) => frames,
        Err((err, frames)) => {
            if frames == 0 {
                let _ = fs::remove_file(&journal);
            } else if err.is::<Interrupted>() {
                return Err(err.context(format!("after {frames} frames; the same command with --resume goes on")));
            } else {
                return Err(err.context(format!("stopped after {frames} frames, which --resume can go on from")));
            }
            return Err(err);
        }
    };
    let notes = mux::write(&clip, range, container, &args.output)?;
    fs::remove_file(&journal)?;
    for note in notes {
        eprintln!("note: {note}");
    }
    let (seconds, new) = (begin.elapsed().as_secs_f64(), frames - done.frames);
    println!(
        "{}: {frames} frames, {} by {}, {seconds:.1} s ({:.1} fps)",
        args.output.display(),
        encoder.codec,
        encoder.element,
        new as f64 / seconds
    );
    Ok(())
}

/// Which part of the clip the arguments ask for.
fn range(args: &Args, clip: &Clip) -> Result<Range> {
    let middle = || clip.duration.map_or(gst::ClockTime::ZERO, |whole| whole.saturating_sub(PREVIEW) / 2);
    let from = args.start.unwrap_or_else(|| if args.preview { middle() } else { gst::ClockTime::ZERO });
    if let Some(end) = clip.duration.filter(|end| from >= *end) {
        bail!("--start: expected a time before the end at {}, got {}", time::show(end), time::show(from));
    }
    let duration = args.duration.or(args.preview.then_some(PREVIEW));
    ensure!(duration.is_none_or(|duration| !duration.is_zero()), "--duration: expected more than 0");
    Ok(Range { from, to: duration.map(|duration| from + duration) })
}

/// The journal to write, and what it has already.
fn open_journal(args: &Args, clip: &Clip, range: Range, encoder: &str) -> Result<(Journal, Done)> {
    let path = journal::path(&args.output);
    let to = range.to.map_or_else(String::new, |to| to.nseconds().to_string());
    let recipe = format!(
        "fastvsr {}, {:?} {}, --model {} --scale {}{}, {encoder} --quality {}, ns {}..{to}",
        env!("CARGO_PKG_VERSION"),
        clip.path,
        clip.identity,
        args.upscaler.model,
        args.upscaler.scale()?,
        args.upscaler.properties(),
        args.quality,
        range.from.nseconds(),
    );
    match (path.exists(), args.resume) {
        (true, true) => Journal::resume(&path, &recipe),
        (true, false) if !args.force => bail!(
            "an interrupted run for `{}` is there: go on with --resume, or begin anew with --force",
            args.output.display()
        ),
        (false, true) if args.output.exists() => {
            bail!("`{}` is finished: there is nothing to resume", args.output.display())
        }
        _ => Ok((Journal::create(&path, &recipe)?, Done::default())),
    }
}

/// Upscales and encodes the frames that the journal lacks. Gives the number of frames in it, also after an error.
fn upscale(
    args: &Args,
    clip: &Clip,
    range: Range,
    encoder: &str,
    writer: Journal,
    done: Done,
) -> Result<u64, (anyhow::Error, u64)> {
    let writer = Arc::new(Mutex::new((writer, None)));
    let result = play(args, clip, range, encoder, &writer, done);
    // The pipeline is gone, so nobody else has the lock for long.
    let (writer, failure) = &mut *writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let result = match failure.take() {
        Some(failure) => Err(failure),
        None => result.and_then(|()| Ok(writer.flush()?)),
    };
    let _ = writer.flush();
    match result {
        Ok(()) => Ok(writer.frames),
        Err(err) => Err((err, writer.frames)),
    }
}

type Shared = Arc<Mutex<(Journal, Option<anyhow::Error>)>>;

fn play(args: &Args, clip: &Clip, range: Range, encoder: &str, writer: &Shared, done: Done) -> Result<()> {
    let playback = Playback::new(&format!(
        "{} ! fastvsr name=vsr ! queue max-size-time=0 max-size-bytes=0 max-size-buffers=4 name=large ! \
         videoconvert ! {encoder} ! appsink name=sink sync=false max-buffers=8",
        clip::READ
    ))?;
    args.upscaler.configure(&playback.element("vsr"))?;

    // Only frames after the last that is kept, or from the start that is asked for, are encoded.
    let first = done.last.map_or(range.from.nseconds() as i64, |last| last + 1);
    let encoded = Arc::new(AtomicU64::new(0));
    // Dropped on the source pad: on its way into a pad GStreamer 1.22 complains.
    let large = playback.element("large").static_pad("src").expect("a queue has a source pad");
    large.add_probe(gst::PadProbeType::BUFFER, {
        let encoded = Arc::clone(&encoded);
        move |pad, info| match info.buffer().and_then(|buffer| clip::stream_time(pad, buffer.pts())) {
            Some(time) if time < first => gst::PadProbeReturn::Handled,
            _ => {
                encoded.fetch_add(1, Ordering::Relaxed);
                gst::PadProbeReturn::Ok
            }
        }
    });
    playback.sink("sink").set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample({
                let writer = Arc::clone(writer);
                move |sink| {
                    let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                    let (journal, failure) = &mut *writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    journal.append(&sample).map_err(|err| {
                        failure.get_or_insert(err.context("cannot write the upscaled video"));
                        gst::FlowError::Error
                    })?;
                    Ok(gst::FlowSuccess::Ok)
                }
            })
            .build(),
    );
    let warm = gst::ClockTime::from_nseconds(first.max(0) as u64).saturating_sub(WARM_UP);
    clip.attach(&playback, Range { from: warm, to: range.to })?;

    let bar = playback::progress(clip.frames(range));
    bar.set_position(done.frames);
    bar.reset_eta();
    let result = playback.run(|| bar.set_position(done.frames + encoded.load(Ordering::Relaxed)));
    bar.finish_and_clear();
    result?;
    drop(playback);
    let kept = writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).0.frames;
    let expected = done.frames + encoded.load(Ordering::Relaxed);
    ensure!(kept > 0, "`{}` has no frame in this range", args.input.display());
    if kept != expected {
        return Err(anyhow!("the encoder gave {kept} frames: expected {expected}")).context("please report this");
    }
    Ok(())
}
