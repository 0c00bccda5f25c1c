//! Owns the choice of video encoder, by what is installed, and what each container can hold.

use std::{fmt, path::Path};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use gst::{glib::translate::IntoGlib, prelude::*};
use gst_video::{VideoColorRange, VideoColorimetry, VideoInfo};

use crate::{
    av1::{self, Colours},
    playback::Playback,
};

/// Most frames between two key frames: what a crash can cost, and how finely a player can seek.
const KEY_INTERVAL: u32 = 120;

/// A video codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Codec {
    /// H.264
    H264,
    /// H.265
    H265,
    /// AV1
    Av1,
    /// VP9
    Vp9,
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::H264 => "H.264",
            Self::H265 => "H.265",
            Self::Av1 => "AV1",
            Self::Vp9 => "VP9",
        })
    }
}

impl Codec {
    /// Elements that encode it, best first, with the Debian package of the one that is easiest to have.
    fn elements(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::H264 => (&["nvh264enc", "x264enc", "openh264enc"], "gstreamer1.0-plugins-ugly"),
            Self::H265 => (&["nvh265enc", "x265enc"], "gstreamer1.0-plugins-bad"),
            Self::Av1 => (&["svtav1enc", "av1enc"], "gstreamer1.0-plugins-bad"),
            Self::Vp9 => (&["vp9enc"], "gstreamer1.0-plugins-good"),
        }
    }

    /// What leaves the encoder, as all containers take it.
    fn tail(self, deep: bool) -> &'static str {
        match (self, deep) {
            (Self::H264, false) => "h264parse ! video/x-h264,stream-format=avc,alignment=au",
            (Self::H264, true) => "h264parse ! video/x-h264,stream-format=avc,alignment=au,profile=high-10",
            (Self::H265, _) => "h265parse ! video/x-h265,stream-format=hvc1,alignment=au",
            (Self::Av1, _) => "av1parse ! video/x-av1,stream-format=obu-stream,alignment=tu",
            (Self::Vp9, _) => "vp9parse ! video/x-vp9",
        }
    }
}

/// The file format of the output, by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Container {
    Mp4,
    Mov,
    Matroska,
    WebM,
}

impl Container {
    /// The container that a file name asks for.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        Ok(match extension.as_str() {
            "mp4" | "m4v" => Self::Mp4,
            "mov" => Self::Mov,
            "mkv" => Self::Matroska,
            "webm" => Self::WebM,
            _ => bail!("`{}`: expected a name that ends in .mp4, .mov, .mkv or .webm", path.display()),
        })
    }

    /// Element that writes it.
    pub(crate) fn muxer(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4mux",
            Self::Mov => "qtmux",
            Self::Matroska => "matroskamux",
            Self::WebM => "webmmux",
        }
    }

    /// Whether it is MP4 or QuickTime, its elder.
    pub(crate) fn is_mp4(self) -> bool {
        matches!(self, Self::Mp4 | Self::Mov)
    }

    /// Element that encodes audio which the container cannot hold as it is.
    pub(crate) fn audio_encoder(self) -> &'static str {
        match self {
            Self::Mp4 | Self::Mov => "avenc_aac",
            Self::Matroska => "flacenc",
            Self::WebM => "opusenc",
        }
    }

    fn holds(self, codec: Codec) -> bool {
        match self {
            Self::Mp4 => true,
            Self::Matroska => true,
            Self::Mov => matches!(codec, Codec::H264 | Codec::H265),
            Self::WebM => matches!(codec, Codec::Av1 | Codec::Vp9),
        }
    }
}

/// An encoder that works here.
#[derive(Debug, Clone)]
pub(crate) struct Encoder {
    pub(crate) codec: Codec,
    /// Name of its element.
    pub(crate) element: &'static str,
    /// Whether it gets 10 bits.
    pub(crate) deep: bool,
    /// Elements from raw video of any size and format to what a container takes, in one size and format.
    pub(crate) launch: String,
    /// What its streams are to say of their colours and do not by themselves.
    untold: Option<Colours>,
}

impl Encoder {
    /// What the elements gave, with all that the codec has to say.
    pub(crate) fn complete(&self, mut sample: gst::Sample) -> gst::Sample {
        let told = self.untold.zip(sample.buffer()).and_then(|(colours, buffer)| {
            let mut told = gst::Buffer::from_mut_slice(av1::coloured(&buffer.map_readable().ok()?, colours)?);
            let same = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META;
            buffer.copy_into(told.get_mut()?, same, ..).ok()?;
            Some(told)
        });
        if let Some(told) = told {
            sample.make_mut().set_buffer(Some(&told));
        }
        sample
    }
}

/// Chooses the encoder for frames of a film: of the codec asked for, or H.264 (VP9 in WebM; what has 10 bits for HDR). `quality`
/// is that of x264's `crf`. It is tried, into the container.
///
/// # Errors
/// If the container cannot hold the codec at this size, or nothing that encodes it is installed.
pub(crate) fn choose(codec: Option<Codec>, container: Container, quality: u32, film: &VideoInfo) -> Result<Encoder> {
    let codec = codec.unwrap_or(match container {
        Container::WebM => Codec::Vp9,
        // Few players show H.264 in 10 bits.
        _ if is_hdr(film) && Codec::H265.elements().0.iter().any(|element| works(element)) => Codec::H265,
        _ => Codec::H264,
    });
    if !container.holds(codec) {
        bail!("{} cannot be put into this kind of file; use .mkv or .mp4, or another --codec", codec);
    }
    let (elements, package) = codec.elements();
    let Some(element) = elements.iter().copied().find(|element| works(element)) else {
        bail!(
            "no {codec} encoder works here: expected one of {}; on Debian `apt install {package}`",
            elements.join(", ")
        );
    };
    let deep = film.format_info().depth().iter().any(|bits| *bits > 8) && takes_ten_bits(element);
    let format = if deep { "I420_10LE" } else { "I420" };
    let (width, height) = (film.width(), film.height());
    // GStreamer's own for this format and size where the film's are not those of YUV.
    let encoded = gst::Caps::builder("video/x-raw").field("format", format);
    let encoded = encoded.field("width", width as i32).field("height", height as i32);
    let encoded = encoded.field("colorimetry", film.colorimetry().to_string()).build();
    let mut colours = VideoInfo::from_caps(&encoded)?.colorimetry();
    let mut tail = codec.tail(deep && element == "x264enc").to_string();
    let mut untold = None;
    if codec == Codec::Av1 {
        // Its encoders write no colours into the stream, and a range that is limited.
        untold = Some(numbers(&colours));
        let limited = VideoColorRange::Range16_235;
        colours = VideoColorimetry::new(limited, colours.matrix(), colours.transfer(), colours.primaries());
        tail += &format!(" ! capssetter caps=video/x-av1,colorimetry={colours}");
    }
    // Frames of another size in mid-film are fitted into the size of the first.
    let launch = format!(
        "videoconvert n-threads=0 ! videoscale method=lanczos n-threads=0 add-borders=true ! video/x-raw,format={format},\
         width={width},height={height},pixel-aspect-ratio={par},colorimetry={colours} ! \
         capssetter caps=video/x-raw,framerate={fps} ! {} ! {tail}",
        settings(element, quality),
        par = ratio(film.par()),
        fps = ratio(film.fps()),
    );
    let trial = Playback::new(&format!("videotestsrc num-buffers=1 ! {launch} ! {} ! fakesink", container.muxer()))?;
    trial
        .run(|| {})
        .with_context(|| format!("{codec} by {element} does not go into this kind of file at {width}x{height}"))?;
    Ok(Encoder { codec, element, deep, launch, untold })
}

/// Colours by their numbers in ISO/IEC 23091-4.
fn numbers(colours: &VideoColorimetry) -> Colours {
    // SAFETY: functions of one number each, which gstreamer-video has no safe form of.
    unsafe {
        [
            gst_video::ffi::gst_video_color_primaries_to_iso(colours.primaries().into_glib()),
            gst_video::ffi::gst_video_transfer_function_to_iso(colours.transfer().into_glib()),
            gst_video::ffi::gst_video_color_matrix_to_iso(colours.matrix().into_glib()),
        ]
    }
    .map(|number| number as u8)
}

/// Whether it is brighter than the usual screen: PQ or HLG.
pub(crate) fn is_hdr(film: &VideoInfo) -> bool {
    use gst_video::VideoTransferFunction::{AribStdB67, Smpte2084};
    matches!(film.colorimetry().transfer(), Smpte2084 | AribStdB67)
}

fn ratio(fraction: gst::Fraction) -> String {
    format!("{}/{}", fraction.numer(), fraction.denom())
}

/// Encoders on a GPU are installed on machines without one: whether it opens its device tells.
fn works(element: &str) -> bool {
    let Ok(element) = gst::ElementFactory::make(element).build() else { return false };
    let opened = element.set_state(gst::State::Ready).is_ok();
    let _ = element.set_state(gst::State::Null);
    opened
}

fn takes_ten_bits(element: &str) -> bool {
    let caps = gst::Caps::builder("video/x-raw").field("format", "I420_10LE").build();
    let factory = gst::ElementFactory::find(element);
    factory.is_some_and(|factory| factory.can_sink_any_caps(&caps))
}

fn settings(element: &str, quality: u32) -> String {
    // AV1 and VP9 count to 63 where H.264 counts to 51.
    let wide = quality * 63 / 51;
    match element {
        "nvh264enc" | "nvh265enc" => format!("{element} rc-mode=constqp qp-const={quality} gop-size={KEY_INTERVAL}"),
        "x264enc" => {
            format!("x264enc pass=qual quantizer={} speed-preset=veryfast key-int-max={KEY_INTERVAL}", quality.min(50))
        }
        "openh264enc" => format!(
            "openh264enc rate-control=quality qp-min={quality} qp-max={} gop-size={KEY_INTERVAL}",
            (quality + 4).min(51)
        ),
        // Open groups of pictures could not be cut at their key frame.
        "x265enc" => format!(
            "x265enc speed-preset=veryfast key-int-max={KEY_INTERVAL} log-level=error \
             option-string=\"crf={quality}:open-gop=0\""
        ),
        "svtav1enc" => format!("svtav1enc crf={wide} preset=8 intra-period-length={KEY_INTERVAL}"),
        "av1enc" => format!(
            "av1enc end-usage=q min-quantizer={wide} max-quantizer={wide} cpu-used=8 keyframe-max-dist={KEY_INTERVAL}"
        ),
        "vp9enc" => format!(
            "vp9enc end-usage=cq cq-level={wide} target-bitrate=0 deadline=1 cpu-used=6 row-mt=true \
             keyframe-max-dist={KEY_INTERVAL}"
        ),
        _ => unreachable!("`elements` names no other"),
    }
}
