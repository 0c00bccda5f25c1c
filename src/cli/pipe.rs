//! `fastvsr pipe`: Y4M on standard input, larger Y4M on standard output, for programs that are no GStreamer. The frames
//! come and go in one format, with the parameters that they came with.
//!
//! The format is read here: GStreamer 1.22 reads and writes no more than 8 bits of it, and what else there is takes a
//! frame that was cut off for the end.

use std::{
    io::{self, BufRead, BufReader, BufWriter, IsTerminal, Read, Write},
    sync::mpsc,
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use gst::prelude::*;
use gst_video::{
    VideoChromaSite, VideoColorMatrix, VideoColorPrimaries, VideoColorRange, VideoColorimetry, VideoFormat,
    VideoFrameExt, VideoFrameRef, VideoInfo, VideoTransferFunction,
};

use crate::{
    playback::{Playback, check_interrupted},
    target::{self, Target},
    upscaler::Upscaler,
};

/// Upscale Y4M from standard input to standard output: `ffmpeg -i FILE -f yuv4mpegpipe - | fastvsr pipe | ...`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    upscaler: Upscaler,
    #[command(flatten)]
    target: Target,
}

/// Longest line of parameters.
const LINE: u64 = 4096;

/// What a stream begins with, and each of its frames.
const STREAM: &str = "YUV4MPEG2";
const FRAME: &str = "FRAME";

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let stdout = io::stdout();
    ensure!(
        !stdout.is_terminal(),
        "standard output is a terminal: expected a pipe or file, as in `fastvsr pipe <a.y4m >b.y4m`"
    );
    let mut input = BufReader::with_capacity(1 << 20, io::stdin());
    let header = line(&mut input)?.context("expected Y4M on standard input, got nothing")?;
    let info = parse(&header)?;
    let most = args.upscaler.scale()?;
    let output = args.target.of(&info, most, target::ANY)?;

    let playback = Playback::new(
        "appsrc name=in format=time block=true max-bytes=0 max-time=0 max-buffers=2 ! fastvsr name=vsr ! \
         capsfilter name=size ! videoscale method=lanczos add-borders=false ! capsfilter name=whole ! \
         appsink name=out sync=false max-buffers=2",
    )?;
    let vsr = playback.element("vsr");
    args.upscaler.configure(&vsr)?;
    target::ask(&vsr, &playback.element("size"), &output, most);
    let size = gst::Caps::builder("video/x-raw").field("width", output.width() as i32);
    playback.element("whole").set_property("caps", size.field("height", output.height() as i32).build());
    let source = playback.source("in");
    source.set_caps(Some(&info.to_caps()?));
    playback.set_state(gst::State::Playing)?;

    let (parameters, waiting) = mpsc::channel();
    let reader = thread::spawn({
        let info = info.clone();
        move || {
            let result = read(&mut input, &info, &source, &parameters);
            let _ = source.end_of_stream();
            result
        }
    });
    let mut writer = BufWriter::with_capacity(1 << 20, stdout.lock());
    let mut written = 0;
    let mut write = |sample: Option<gst::Sample>| -> Result<()> {
        let sent = match &sample {
            None => writer.write_all(&enlarged(&header, &info, &output)).and_then(|()| writer.flush()),
            Some(sample) => {
                let info = VideoInfo::from_caps(sample.caps().context("frames without caps")?)?;
                let buffer = sample.buffer().context("a sample without a frame")?;
                let frame = VideoFrameRef::from_buffer_ref_readable(buffer, &info)?;
                writer.write_all(&waiting.recv().context("more frames than came")?).and_then(|()| {
                    for plane in 0..frame.n_planes() {
                        let (stride, row, rows) = layout(&frame, plane);
                        let data = frame.plane_data(plane).map_err(io::Error::other)?;
                        data.chunks(stride).take(rows).try_for_each(|data| writer.write_all(&data[..row]))?;
                    }
                    writer.flush()
                })
            }
        };
        sent.with_context(|| format!("standard output was closed after {written} frames"))?;
        written += u64::from(sample.is_some());
        Ok(())
    };
    write(None)?;
    let sink = playback.sink("out");
    loop {
        check_interrupted()?;
        match sink.try_pull_sample(gst::ClockTime::from_mseconds(100)) {
            Some(sample) => write(Some(sample))?,
            None => match playback.error() {
                Some(err) => return Err(err),
                None if sink.is_eos() => break,
                None => {}
            },
        }
    }
    reader.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
}

/// Hands the frames to the pipeline, and their lines of parameters to the writer.
fn read(
    input: &mut impl BufRead,
    info: &VideoInfo,
    source: &gst_app::AppSrc,
    parameters: &mpsc::Sender<Vec<u8>>,
) -> Result<()> {
    let fps = info.fps();
    let time = |n: u64| match fps.numer() {
        0 => gst::ClockTime::from_mseconds(40) * n,
        numer => {
            gst::ClockTime::SECOND.mul_div_round(n * fps.denom() as u64, numer as u64).unwrap_or(gst::ClockTime::MAX)
        }
    };
    for n in 0.. {
        let cut = || format!("the input ends in the middle of frame {n}, counted from 0");
        let Some(line) = line(input).with_context(cut)? else { break };
        ensure!(
            line.strip_prefix(FRAME.as_bytes()).is_some_and(|rest| matches!(rest.first(), Some(b' ' | b'\n'))),
            "expected FRAME before frame {n}, got `{}`",
            String::from_utf8_lossy(&line).trim_end()
        );
        let mut buffer = gst::Buffer::with_size(info.size())?;
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(time(n));
            buffer.set_duration(time(n + 1).saturating_sub(time(n)));
            let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer, info)?;
            for plane in 0..frame.n_planes() {
                let (stride, row, rows) = layout(&frame, plane);
                let mut data = frame.plane_data_mut(plane)?.chunks_mut(stride).take(rows);
                data.try_for_each(|data| input.read_exact(&mut data[..row])).with_context(cut)?;
            }
        }
        // Whoever does not take it has a reason of its own.
        if parameters.send(line).is_err() || source.push_buffer(buffer).is_err() {
            break;
        }
    }
    Ok(())
}

/// A line with its end; `None` if there is nothing more.
fn line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    input.take(LINE).read_until(b'\n', &mut line)?;
    ensure!(line.is_empty() || line.ends_with(b"\n"), "expected the end of a line of Y4M");
    Ok((!line.is_empty()).then_some(line))
}

/// Bytes from row to row of a plane, bytes of a row, and rows.
fn layout<T>(frame: &VideoFrameRef<T>, plane: u32) -> (usize, usize, usize)
where
    VideoFrameRef<T>: VideoFrameExt,
{
    // In the formats here each plane has one component, of its number.
    let info = frame.info();
    let row = info.comp_width(plane as u8) as usize * info.comp_pstride(plane as u8) as usize;
    (info.stride()[plane as usize] as usize, row, info.comp_height(plane as u8) as usize)
}

/// What the frames behind a header are.
fn parse(header: &[u8]) -> Result<VideoInfo> {
    let text = String::from_utf8_lossy(header);
    let mut words = text.split_ascii_whitespace();
    ensure!(
        words.next() == Some(STREAM),
        "expected Y4M on standard input, which begins with {STREAM}, as `ffmpeg -i FILE -f yuv4mpegpipe -` makes it"
    );
    let (mut width, mut height, mut fps, mut par) = (0, 0, (0, 1), (0, 0));
    let (mut colours, mut range) = ("420jpeg", VideoColorRange::Range16_235);
    for word in words {
        let expected = || format!("expected a number in `{word}` of the Y4M header");
        let (name, value) = word.split_at_checked(1).with_context(expected)?;
        let pair = || -> Option<(i32, i32)> {
            let (numer, denom) = value.split_once(':')?;
            Some((numer.parse().ok()?, denom.parse().ok()?)).filter(|(numer, denom)| *numer >= 0 && *denom >= 0)
        };
        match name {
            "W" => width = value.parse().ok().with_context(expected)?,
            "H" => height = value.parse().ok().with_context(expected)?,
            "F" => fps = pair().with_context(expected)?,
            "A" => par = pair().with_context(expected)?,
            "I" if !["p", "?"].contains(&value) => bail!(
                "expected progressive frames (Ip), got I{value}: deinterlace them before, as `ffmpeg -vf bwdif` does"
            ),
            "C" => colours = value,
            "X" if value == "COLORRANGE=FULL" => range = VideoColorRange::Range0_255,
            _ => {}
        }
    }
    ensure!(width > 0 && height > 0, "expected width and height in the Y4M header, got `{}`", text.trim_end());
    let (format, site) = match colours {
        "420" | "420jpeg" => (VideoFormat::I420, VideoChromaSite::JPEG),
        "420mpeg2" => (VideoFormat::I420, VideoChromaSite::MPEG2),
        "420paldv" => (VideoFormat::I420, VideoChromaSite::DV),
        "422" => (VideoFormat::Y42b, VideoChromaSite::MPEG2),
        "444" => (VideoFormat::Y444, VideoChromaSite::NONE),
        "mono" => (VideoFormat::Gray8, VideoChromaSite::NONE),
        "420p10" => (VideoFormat::I42010le, VideoChromaSite::MPEG2),
        "422p10" => (VideoFormat::I42210le, VideoChromaSite::MPEG2),
        "444p10" => (VideoFormat::Y44410le, VideoChromaSite::NONE),
        _ => bail!(
            "C{colours}: expected 420, 422, 444 or mono in 8 bits, or 420p10, 422p10 or 444p10; put `-pix_fmt yuv420p10le` \
             before the - of ffmpeg"
        ),
    };
    let fraction = |(numer, denom): (i32, i32), unknown: gst::Fraction| {
        if numer == 0 || denom == 0 { unknown } else { gst::Fraction::new(numer, denom) }
    };
    // What players assume of a film that does not tell.
    let matrix = if height > 576 { VideoColorMatrix::Bt709 } else { VideoColorMatrix::Bt601 };
    let colorimetry =
        VideoColorimetry::new(range, matrix, VideoTransferFunction::Unknown, VideoColorPrimaries::Unknown);
    let info = VideoInfo::builder(format, width, height)
        .fps(fraction(fps, gst::Fraction::new(0, 1)))
        .par(fraction(par, gst::Fraction::new(1, 1)))
        .chroma_site(site)
        .colorimetry(&colorimetry);
    info.build().with_context(|| format!("frames of {width}x{height} are larger than can be"))
}

/// The header for larger frames: all else is as it was.
fn enlarged(header: &[u8], input: &VideoInfo, output: &VideoInfo) -> Vec<u8> {
    let par = |info: &VideoInfo| format!("A{}:{}", info.par().numer(), info.par().denom());
    let same_shape = input.par() == output.par();
    let mut enlarged = Vec::new();
    for word in header.trim_ascii_end().split(|byte| *byte == b' ') {
        match word.first() {
            Some(b'W') => enlarged.push(format!("W{}", output.width()).into_bytes()),
            Some(b'H') => enlarged.push(format!("H{}", output.height()).into_bytes()),
            Some(b'A') if !same_shape => {}
            _ => enlarged.push(word.to_vec()),
        }
    }
    if !same_shape {
        enlarged.push(par(output).into_bytes());
    }
    [enlarged.join(&b' '), b"\n".to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_written() {
        gst::init().unwrap();
        let header = b"YUV4MPEG2 W720 H576 F25:1 Ip A16:15 C422p10 XYSCSS=422P10 XCOLORRANGE=FULL\n";
        let info = parse(header).unwrap();
        assert_eq!((info.width(), info.height(), info.format()), (720, 576, VideoFormat::I42210le));
        assert_eq!((info.fps(), info.par()), (gst::Fraction::new(25, 1), gst::Fraction::new(16, 15)));
        assert_eq!(info.colorimetry().range(), VideoColorRange::Range0_255);
        let output = VideoInfo::builder(info.format(), 1440, 1080).build().unwrap();
        let larger = enlarged(header, &info, &output);
        assert_eq!(larger, b"YUV4MPEG2 W1440 H1080 F25:1 Ip C422p10 XYSCSS=422P10 XCOLORRANGE=FULL A1:1\n");
        assert_eq!(parse(b"YUV4MPEG2 W2 H2 F0:0 A0:0\n").unwrap().fps(), gst::Fraction::new(0, 1));
    }

    #[test]
    fn headers_that_cannot_be_served_are_refused() {
        gst::init().unwrap();
        for (header, expected) in [
            ("RIFF", "begins with YUV4MPEG2"),
            ("YUV4MPEG2 W2", "expected width and height"),
            ("YUV4MPEG2 W2 Hx", "expected a number in `Hx`"),
            ("YUV4MPEG2 W2 H-2", "expected a number in `H-2`"),
            ("YUV4MPEG2 W2 H2 F25", "expected a number in `F25`"),
            ("YUV4MPEG2 W2 H2 It", "deinterlace"),
            ("YUV4MPEG2 W2 H2 Im", "deinterlace"),
            ("YUV4MPEG2 W2 H2 C420p16", "expected 420, 422, 444"),
            ("YUV4MPEG2 W2147483647 H2147483647", "larger than can be"),
        ] {
            let refused = format!("{:#}", parse(header.as_bytes()).unwrap_err());
            assert!(refused.contains(expected), "{header}: {refused}");
        }
    }
}
