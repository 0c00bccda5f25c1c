//! Owns the encoded frames on their way from the encoder to the finished file: a hidden file beside the output that only
//! grows, so that whatever ends the process leaves all that was written. It is cut at its last key frame to go on.
//!
//! Two lines of text, the recipe and the caps of the frames, then for each frame: times in the stream (presentation,
//! decoding, duration; nanoseconds), a byte that says whether it is a key frame, the number of bytes, and the bytes.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{hidden, time::in_stream};

const HEADER: usize = 8 + 8 + 8 + 1 + 4;

/// Stands for a time that the encoder did not give.
const NONE: i64 = i64::MIN;

/// Times are counted from here in the samples that are given back, because the first decoding times are negative; as
/// in GStreamer's encoders.
const ORIGIN: gst::ClockTime = gst::ClockTime::from_seconds(3600 * 1000);

/// A frame without its bytes.
#[derive(Debug, Clone, Copy)]
struct Record {
    pts: i64,
    dts: i64,
    duration: i64,
    key: bool,
    bytes: u32,
}

impl Record {
    fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&self.pts.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dts.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.duration.to_le_bytes());
        bytes[24] = self.key.into();
        bytes[25..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    /// The next record; `None` at the end, also where the last one was not written whole.
    fn read(reader: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = [0; HEADER];
        match reader.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(err) => return Err(err),
        }
        let time = |at: usize| i64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let length = u32::from_le_bytes(bytes[25..].try_into().expect("four bytes"));
        Ok(Some(Self { pts: time(0), dts: time(8), duration: time(16), key: bytes[24] != 0, bytes: length }))
    }
}

/// What a journal has already.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) frames: u64,
    /// Presentation time of the last frame, in nanoseconds.
    pub(crate) last: Option<i64>,
}

/// A journal that grows. No other process has it while this one does.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
    caps: Option<gst::Caps>,
    pub(crate) frames: u64,
}

/// The last part of a journal's name.
const KIND: &str = "fastvsr";

/// What every recipe begins with.
const MARK: &str = "fastvsr ";

impl Journal {
    /// Whether an output has one.
    pub(crate) fn exists(output: &Path) -> bool {
        hidden::path(output, KIND).symlink_metadata().is_ok()
    }

    /// The journal of an output, which may be new.
    ///
    /// # Errors
    /// If another process has it, or it is no journal.
    pub(crate) fn open(output: &Path) -> Result<Self> {
        let (path, file) = hidden::open(output, KIND)?;
        file.try_lock().map_err(|_| anyhow!("`{}` is being written by another fastvsr", output.display()))?;
        // The other one may have finished, and removed it, in between.
        let same = |about: fs::Metadata| Ok::<_, io::Error>(about.ino() == file.metadata()?.ino());
        ensure!(fs::metadata(&path).and_then(same)?, "`{}` was just written by another fastvsr", output.display());
        let mut start = [0; MARK.len()];
        let known = file.read_at(&mut start, 0)? == 0 || start == *MARK.as_bytes();
        ensure!(known, "`{}` is not an interrupted run of fastvsr: remove it", path.display());
        Ok(Self { path, file: BufWriter::new(file), caps: None, frames: 0 })
    }

    /// Begins anew. The recipe says what the frames are made of.
    pub(crate) fn begin(&mut self, recipe: &str) -> Result<()> {
        self.file.get_ref().set_len(0)?;
        writeln!(self.file, "{MARK}{recipe}")
            .and_then(|()| self.file.flush())
            .inspect_err(|_| self.remove())
            .with_context(|| format!("cannot write `{}`", self.path.display()))
    }

    /// Goes on: cuts it at its last key frame.
    ///
    /// # Errors
    /// If it belongs to another recipe.
    pub(crate) fn resume(&mut self, recipe: &str) -> Result<Done> {
        let mut reader = BufReader::new(self.file.get_ref().try_clone()?);
        let (old, caps) = head(&mut reader)?;
        let old = old.strip_prefix(MARK).unwrap_or_default();
        ensure!(
            old == recipe,
            "cannot resume: expected the interrupted run's `{old}`, got `{recipe}`; give the same arguments, or begin \
             anew with --force"
        );
        let (mut at, mut done, mut last) = (reader.stream_position()?, Done::default(), None);
        let (mut keep, mut kept) = (at, done);
        let length = reader.get_ref().metadata()?.len();
        while let Some(record) = Record::read(&mut reader)? {
            let end = at + HEADER as u64 + u64::from(record.bytes);
            if end > length {
                break;
            }
            if record.key {
                (keep, kept) = (at, Done { frames: done.frames, last });
            }
            reader.seek_relative(i64::from(record.bytes))?;
            at = end;
            done.frames += 1;
            last = last.max(Some(record.pts));
        }
        let mut file = reader.into_inner();
        file.set_len(keep)?;
        file.seek(SeekFrom::End(0))?;
        (self.caps, self.frames) = (caps, kept.frames);
        Ok(kept)
    }

    /// The frames that are in it, for a muxer whose times begin at `start`.
    pub(crate) fn read(&self, start: gst::ClockTime) -> Result<Frames> {
        Frames::open(&self.path, start)
    }

    /// Takes it away; what is open of it stays this process's.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Writes the next encoded frame.
    pub(crate) fn append(&mut self, sample: &gst::Sample) -> Result<()> {
        let (caps, buffer) = sample.caps().zip(sample.buffer()).context("the encoder gave no frame")?;
        match &self.caps {
            None => {
                writeln!(self.file, "{}", caps)?;
                self.caps = Some(caps.to_owned());
            }
            Some(known) if known.as_ref() != caps => {
                bail!("the encoder changed its format: expected {known}, got {caps}; begin anew with --force")
            }
            Some(_) => {}
        }
        let segment = sample.segment().context("the encoder gave no segment")?;
        let time = |time: Option<gst::ClockTime>| time.and_then(|time| in_stream(segment, time));
        let data = buffer.map_readable()?;
        let record = Record {
            pts: time(buffer.pts()).context("the encoder gave a frame without a time")?,
            dts: time(buffer.dts()).unwrap_or(NONE),
            duration: buffer.duration().map_or(NONE, |time| time.nseconds() as i64),
            key: !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT),
            bytes: data.len().try_into()?,
        };
        if record.key {
            // What lies before a key frame is what a crash leaves.
            self.file.flush()?;
            self.file.get_ref().sync_data()?;
        }
        self.file.write_all(&record.to_bytes())?;
        self.file.write_all(&data)?;
        self.frames += 1;
        Ok(())
    }

    /// Writes all that waits.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Recipe, and caps unless no frame was written.
fn head(reader: &mut impl BufRead) -> Result<(String, Option<gst::Caps>)> {
    let mut line = || -> Result<String> {
        let mut line = String::new();
        reader.take(1 << 20).read_line(&mut line).context("not an interrupted run")?;
        Ok(line.trim_end_matches('\n').to_string())
    };
    let (recipe, caps) = (line()?, line()?);
    let caps = if caps.is_empty() { None } else { Some(caps.parse()?) };
    Ok((recipe, caps))
}

/// The frames of a journal, as samples for a muxer whose times begin at `start`.
#[derive(Debug)]
pub(crate) struct Frames {
    reader: BufReader<File>,
    caps: gst::Caps,
    segment: gst::Segment,
    start: i64,
    last_dts: i64,
    /// Presentation and decoding time of the first frame.
    first: Option<(i64, i64)>,
    /// When all frames so far have been shown.
    end: i64,
}

impl Frames {
    fn open(path: &Path, start: gst::ClockTime) -> Result<Self> {
        let mut reader = BufReader::new(File::open(path)?);
        let (_, caps) = head(&mut reader)?;
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_start(ORIGIN);
        Ok(Self {
            reader,
            caps: caps.context("the input has no frame in this range")?,
            segment: segment.upcast(),
            start: start.nseconds() as i64,
            last_dts: NONE,
            first: None,
            end: 0,
        })
    }

    /// What the frames are.
    pub(crate) fn caps(&self) -> &gst::Caps {
        &self.caps
    }

    /// The next frame.
    pub(crate) fn next(&mut self) -> Result<Option<gst::Sample>> {
        let Some(record) = Record::read(&mut self.reader)? else { return Ok(None) };
        let mut data = vec![0; record.bytes as usize];
        self.reader.read_exact(&mut data)?;
        let last = self.reader.fill_buf()?.is_empty();
        let mut buffer = gst::Buffer::from_mut_slice(data);
        let time =
            |time: i64| gst::ClockTime::from_nseconds((ORIGIN.nseconds() as i64 + time - self.start).max(0) as u64);
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(time(record.pts));
            if record.dts != NONE {
                // Where a run was resumed, the encoder's guess of the first decoding times may lie before the last.
                self.last_dts = record.dts.max(self.last_dts.saturating_add(1)).min(record.pts);
                buffer.set_dts(time(self.last_dts));
            }
            if record.duration != NONE {
                let (pts, dts) = *self.first.get_or_insert((record.pts, self.last_dts));
                self.end = self.end.max(record.pts + record.duration);
                // MP4 ends when all frames have been decoded. Where some are missing, that is before the last is shown.
                let rest = if last { (self.end - pts) - (self.last_dts - dts) } else { 0 };
                buffer.set_duration(gst::ClockTime::from_nseconds(record.duration.max(rest) as u64));
            }
            if !record.key {
                buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
            }
        }
        Ok(Some(gst::Sample::builder().caps(&self.caps).segment(&self.segment).buffer(&buffer).build()))
    }
}
