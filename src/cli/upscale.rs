//! `fastvsr upscale`: a file into a larger one, or many. First the video goes, frame by frame, into the journal beside the
//! output; then the output is put together from it. What was interrupted goes on with `--resume`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use gst::prelude::*;
use gst_video::VideoInfo;
use gstfastvsr::sync::lock;

use crate::{
    clip::{Clip, Deinterlace, Range},
    encoder::{self, Codec, Container, Encoder},
    journal::{Done, Journal},
    many::{self, Outcome},
    mux,
    playback::{self, Interrupted, Playback},
    progress::{self, Progress},
    target::{self, Target},
    time,
    upscaler::Upscaler,
};

/// Video shown to the model before the first frame that is kept, when work begins in mid-stream: many times what its
/// memory needs to settle (examples/cluster/README.md has the measurement).
const WARM_UP: gst::ClockTime = gst::ClockTime::from_seconds(2);

/// How much `--preview` upscales.
const PREVIEW: gst::ClockTime = gst::ClockTime::from_seconds(5);

/// Upscale video files, with their audio, subtitles and tags
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Video file, and the file to write, whose extension says its kind: .mp4, .mov, .mkv, .webm; or, with --out, any
    /// number of files, and of folders with films in them
    #[arg(required = true, value_name = "INPUT OUTPUT | FILM")]
    films: Vec<PathBuf>,
    /// Folder for all the films; what is there is not made again, and what was interrupted goes on
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Leave films alone that have so many rows
    #[arg(long, value_name = "ROWS")]
    below: Option<u32>,
    #[command(flatten)]
    upscaler: Upscaler,
    #[command(flatten)]
    target: Target,
    /// Video codec [default: h264; vp9 in .webm]
    #[arg(long)]
    codec: Option<Codec>,
    /// Quality of the encoded video, as x264's crf: 0 is lossless, 18 looks like it, 51 is the worst
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u32).range(0..=51))]
    quality: u32,
    /// What becomes of interlaced video
    #[arg(long, value_enum, default_value_t = Deinterlace::Auto)]
    deinterlace: Deinterlace,
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
    /// How progress is told
    #[arg(long, value_enum, default_value_t = progress::Form::Bar)]
    progress: progress::Form,
}

/// All that is settled before the work begins.
struct Job<'a> {
    args: &'a Args,
    output: &'a Path,
    clip: Clip,
    range: Range,
    /// What its frames become.
    video: VideoInfo,
    encoder: Encoder,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    playback::be_orderly();
    match (&args.out, &args.films[..]) {
        (Some(out), films) => {
            // Kept, so that it is loaded once.
            let _engine = args.upscaler.engine()?;
            many::run(films, out, args.force, |input, output| {
                one(args, input, output, !args.force && Journal::exists(output))
            })
        }
        (None, [input, output]) => one(args, input, output, args.resume).map(|_| ExitCode::SUCCESS),
        (None, films) => {
            bail!("expected an input and an output, or --out FOLDER for many films, got {} names", films.len())
        }
    }
}

/// Upscales one film.
fn one(args: &Args, input: &Path, output: &Path, resume: bool) -> Result<Outcome> {
    let begin = Instant::now();
    let clip = Clip::open(input, args.deinterlace)?;
    let container = Container::of(output)?;
    let there = output.metadata();
    ensure!(
        output.canonicalize().ok().as_ref() != Some(&clip.path),
        "input and output are the same file, `{}`: expected another name for the output",
        output.display()
    );
    ensure!(
        there.as_ref().map_or(true, |about| about.is_file()),
        "`{}` is a folder or device: expected the name of a file to write",
        output.display()
    );
    ensure!(
        args.force || resume || there.is_err(),
        "`{}` exists: give another name, or --force to replace it",
        output.display()
    );
    if args.below.is_some_and(|rows| clip.video.height() >= rows) {
        eprintln!("note: `{}` has {} rows and is left alone", input.display(), clip.video.height());
        return Ok(Outcome::LeftAlone);
    }
    let range = range(args, &clip)?;
    let most = args.upscaler.scale()?;
    let video = args.target.of(&clip.video, most, target::EVEN)?;
    let encoder = encoder::choose(args.codec, container, args.quality, &video)?;
    for note in notes(args, &clip, &encoder, &video, most) {
        eprintln!("note: {note}");
    }

    let job = Job { args, output, clip, range, video, encoder };
    let (journal, done) = open_journal(&job, resume)?;
    let mut progress = Progress::new(args.progress, input, job.clip.frames(range), done.frames);
    let (journal, result) = upscale(&job, journal, done, &mut progress);
    let frames = journal.frames;
    result.map_err(|err| {
        if frames == 0 {
            journal.remove();
            err
        } else if err.is::<Interrupted>() {
            err.context(format!("after {frames} frames; the same command with --resume goes on"))
        } else {
            err.context(format!("stopped after {frames} frames, which --resume can go on from"))
        }
    })?;
    progress.stage("mux");
    let notes = mux::write(&job.clip, range, container, &journal, output)?;
    journal.remove();
    progress.stage("done");
    drop(progress);
    for note in notes {
        eprintln!("note: {note}");
    }
    if args.progress != progress::Form::Json {
        let (seconds, new) = (begin.elapsed().as_secs_f64(), frames - done.frames);
        println!(
            "{}: {frames} frames, {} by {}, {seconds:.1} s ({:.1} fps)",
            output.display(),
            job.encoder.codec,
            job.encoder.element,
            new as f64 / seconds
        );
    }
    Ok(Outcome::Upscaled)
}

/// What the user should know before the work.
fn notes(args: &Args, clip: &Clip, encoder: &Encoder, video: &VideoInfo, most: u32) -> Vec<String> {
    let mut notes = Vec::new();
    let film = &clip.video;
    if encoder::is_hdr(film) {
        let bits = if encoder.deep { "10 bits" } else { "8 bits, which show steps; --codec h265 has 10" };
        notes.push(format!("the film is HDR: it is encoded as {} in {bits}", encoder.codec));
    }
    if clip.interlaced && args.deinterlace == Deinterlace::Auto {
        let (what, other) = match clip.deinterlace {
            Deinterlace::Film => {
                ("the 24 frames a second of the film that was made 30", "field gives one for each field")
            }
            Deinterlace::Field => ("one frame for each field, as it was filmed", "frame gives one for two"),
            _ => ("one frame for two fields, which show one moment", "field gives one for each"),
        };
        notes.push(format!("the video is interlaced and is deinterlaced, {what}; --deinterlace {other}"));
    }
    let (width, height) = (video.width(), video.height());
    if (film.width() | film.height()) % 2 == 1 {
        notes.push(format!(
            "encoders want even sizes: the picture is stretched to {width}x{height}, by less than a pixel"
        ));
    }
    if width > film.width() * most || height > film.height() * most {
        notes.push(format!(
            "{width}x{height} is more than {most} times {}x{}, which the model makes: the rest is interpolated",
            film.width(),
            film.height()
        ));
    }
    notes
}

/// Which part of the clip the arguments ask for.
fn range(args: &Args, clip: &Clip) -> Result<Range> {
    let middle = || clip.duration.map_or(gst::ClockTime::ZERO, |whole| whole.saturating_sub(PREVIEW) / 2);
    let start = args.start.unwrap_or_else(|| if args.preview { middle() } else { gst::ClockTime::ZERO });
    if let Some(end) = clip.duration.filter(|end| start >= *end) {
        bail!("--start: expected a time before the end at {}, got {}", time::show(end), time::show(start));
    }
    let from = clip.zero + start;
    let duration = args.duration.or(args.preview.then_some(PREVIEW));
    ensure!(duration.is_none_or(|duration| !duration.is_zero()), "--duration: expected more than 0");
    Ok(Range { from, to: duration.map(|duration| from + duration) })
}

/// The journal to write, and what it has already.
fn open_journal(job: &Job, resume: bool) -> Result<(Journal, Done)> {
    let Job { args, output, clip, range, video, encoder } = job;
    let to = range.to.map_or_else(String::new, |to| to.nseconds().to_string());
    let recipe = format!(
        "{}, {:?} {}, --model {} {} --provider {}{}, {}x{} of {}, {} --quality {} --deinterlace {:?}, ns {}..{to}",
        env!("CARGO_PKG_VERSION"),
        clip.path,
        clip.identity,
        args.upscaler.model,
        args.upscaler.fingerprint()?,
        args.upscaler.provider,
        args.upscaler.properties(),
        video.width(),
        video.height(),
        video.par(),
        encoder.element,
        args.quality,
        clip.deinterlace,
        range.from.nseconds(),
    );
    let there = Journal::exists(output);
    ensure!(there || !resume || !output.exists(), "`{}` is finished: there is nothing to resume", output.display());
    let mut journal = Journal::open(output)?;
    let done = match (there, resume) {
        (true, true) => journal.resume(&recipe)?,
        (true, false) if !args.force => bail!(
            "an interrupted run for `{}` is there: go on with --resume, or begin anew with --force",
            output.display()
        ),
        _ => {
            journal.begin(&recipe)?;
            Done::default()
        }
    };
    Ok((journal, done))
}

/// Upscales and encodes the frames that the journal lacks. Gives the journal back, also after an error.
fn upscale(job: &Job, journal: Journal, done: Done, progress: &mut Progress) -> (Journal, Result<()>) {
    let shared = Arc::new(Mutex::new((Some(journal), None)));
    let result = play(job, &shared, done, progress);
    // The pipeline is gone, and nobody else writes.
    let (journal, failure) = &mut *lock(&shared);
    let mut journal = journal.take().expect("nobody else takes it");
    let flushed = journal.flush();
    let result = failure.take().map_or(result, Err).and_then(|()| Ok(flushed?));
    (journal, result)
}

type Shared = Arc<Mutex<(Option<Journal>, Option<anyhow::Error>)>>;

fn play(job: &Job, writer: &Shared, done: Done, progress: &mut Progress) -> Result<()> {
    let Job { args, clip, range, video, encoder, .. } = job;
    let playback = Playback::new(&format!(
        "{} ! fastvsr name=vsr ! capsfilter name=size ! queue max-size-time=0 max-size-bytes=0 max-size-buffers=4 name=large ! {} ! \
         appsink name=sink sync=false max-buffers=8",
        clip.read(),
        encoder.launch
    ))?;
    let element = playback.element("vsr");
    args.upscaler.configure(&element)?;
    target::ask(&element, &playback.element("size"), video, args.upscaler.scale()?);

    // Only frames after the last that is kept, or from the start that is asked for, are encoded.
    let first = done.last.map_or(range.from.nseconds() as i64, |last| last + 1);
    let encoded = Arc::new(AtomicU64::new(0));
    // Dropped on the source pad: on its way into a pad GStreamer 1.22 complains.
    let large = playback.element("large").static_pad("src").expect("a queue has a source pad");
    large.add_probe(gst::PadProbeType::BUFFER, {
        let encoded = Arc::clone(&encoded);
        move |pad, info| match info.buffer().and_then(|buffer| time::stream_time(pad, buffer.pts())) {
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
                let (writer, encoder) = (Arc::clone(writer), encoder.clone());
                move |sink| {
                    let sample = encoder.complete(sink.pull_sample().map_err(|_| gst::FlowError::Eos)?);
                    let (journal, failure) = &mut *lock(&writer);
                    journal.as_mut().ok_or(gst::FlowError::Flushing)?.append(&sample).map_err(|err| {
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

    playback.run(|| progress.set(done.frames + encoded.load(Ordering::Relaxed)))?;
    drop(playback);
    clip.check_unchanged()?;
    let kept = lock(writer).0.as_ref().map_or(0, |journal| journal.frames);
    let expected = done.frames + encoded.load(Ordering::Relaxed);
    ensure!(kept > 0, "`{}` has no frame in this range", clip.path.display());
    if kept != expected {
        return Err(anyhow!("the encoder gave {kept} frames: expected {expected}")).context("please report this");
    }
    Ok(())
}
