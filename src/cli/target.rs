//! Owns how large the output becomes and what shape its pixels have, and that the element is asked for it.

use anyhow::{Context, Result, bail, ensure};
use gst::prelude::*;
use gst_video::VideoInfo;

use crate::prewarm;

/// How large the output becomes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// Output pixels per input pixel along each axis, also between whole numbers: from 1, a film restored in its size, to
    /// the model's own, which is the default
    #[arg(long, value_parser = factor)]
    scale: Option<f64>,
    /// Pixels in a row of the output; the rows follow, unless --height is given too
    #[arg(long, conflicts_with = "scale", value_parser = clap::value_parser!(u32).range(2..=16384))]
    width: Option<u32>,
    /// Rows of the output, as in 1080
    #[arg(long, conflicts_with = "scale", value_parser = clap::value_parser!(u32).range(2..=16384))]
    height: Option<u32>,
    /// As large as fits into this size, as in 1920x1080
    #[arg(long, conflicts_with_all = ["scale", "width", "height"], value_parser = prewarm::size)]
    fit: Option<(u32, u32)>,
    /// Square pixels, whatever shape the film's have
    #[arg(long)]
    square: bool,
}

fn factor(text: &str) -> Result<f64> {
    let factor = text.parse().ok().filter(|factor| (1.0..=16.0).contains(factor));
    factor.with_context(|| format!("expected a number from 1 to 16, as in 2 or 1.5, got `{text}`"))
}

/// What encoders want, and most players.
pub(crate) const EVEN: f64 = 2.0;

/// Any number of pixels.
pub(crate) const ANY: f64 = 1.0;

impl Target {
    /// The frames that are to be made of a film's frames by a model that makes them at most `most` times as large. Their
    /// sides are multiples of `step`.
    ///
    /// # Errors
    /// If that is smaller than the film, or a shape that it cannot have.
    pub(crate) fn of(&self, film: &VideoInfo, most: u32, step: f64) -> Result<VideoInfo> {
        let (from_width, from_height, most) = (f64::from(film.width()), f64::from(film.height()), f64::from(most));
        let par = if self.square { gst::Fraction::new(1, 1) } else { film.par() };
        let wide = shape(film) / ratio(par);
        let (width, height) = match (self.fit, self.width.map(f64::from), self.height.map(f64::from)) {
            (Some((width, height)), ..) => fit(wide, f64::from(width), f64::from(height)),
            (None, Some(width), Some(height)) => (width, height),
            (None, Some(width), None) => (width, width / wide),
            (None, None, Some(height)) => (height * wide, height),
            (None, None, None) => {
                let factor = self.scale.unwrap_or(most);
                ensure!(factor <= most, "--scale: expected 1 to {most}, which is the model's own, got {factor}");
                let height = (from_height * factor).max(from_width * factor / wide);
                let (w, h) = fit(wide, from_width * most, from_height * most);
                if height < h { (height * wide, height) } else { (w, h) }
            }
        };
        let whole = |side: f64| ((side / step).round() * step).max(step);
        let (width, height) = (whole(width), whole(height));
        ensure!(
            width >= from_width || height >= from_height,
            "the film is {from_width}x{from_height}: expected a size at least as large, got {width}x{height}; --below \
             leaves films alone that are large enough"
        );
        let par = if is_shape(wide, width, height, step) {
            par
        } else if self.square {
            bail!(
                "--square with --width and --height: expected a size of the film's shape, as --fit {width}x{height} finds it"
            );
        } else {
            gst::Fraction::approximate_f64(shape(film) * height / width).context("a shape that pixels cannot have")?
        };
        let output = VideoInfo::builder(film.format(), width as u32, height as u32);
        Ok(output.par(par).fps(film.fps()).colorimetry(&film.colorimetry()).build()?)
    }
}

fn ratio(fraction: gst::Fraction) -> f64 {
    f64::from(fraction.numer()) / f64::from(fraction.denom())
}

/// How many times as wide as high a picture is shown.
fn shape(info: &VideoInfo) -> f64 {
    f64::from(info.width()) / f64::from(info.height()) * ratio(info.par())
}

/// The largest sides, one `wide` times the other, within a size.
fn fit(wide: f64, width: f64, height: f64) -> (f64, f64) {
    if width > height * wide { (height * wide, height) } else { (width, width / wide) }
}

/// Whether a size is `wide` times as wide as high, as near as multiples of `step` can be.
fn is_shape(wide: f64, width: f64, height: f64, step: f64) -> bool {
    (width - height * wide).abs().min((width / wide - height).abs()) < step
}

/// Lets `filter`, behind `element`, ask for the picture of each size that comes as large as it fits into `output`; the
/// element has made it at most `most` times as large.
pub(crate) fn ask(element: &gst::Element, filter: &gst::Element, output: &VideoInfo, most: u32) {
    let (filter, output) = (filter.downgrade(), output.clone());
    let pad = element.static_pad("sink").expect("a filter has a sink pad");
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::PadProbeData::Event(event)) = &info.data
            && let gst::EventView::Caps(caps) = event.view()
            && let Ok(input) = VideoInfo::from_caps(caps.caps())
            && let Some(filter) = filter.upgrade()
        {
            filter.set_property("caps", wanted(&input, &output, most));
        }
        gst::PadProbeReturn::Ok
    });
}

/// What `input` is to become of it that fits into `output`. What lies beyond the element's reach is left to a scaler.
fn wanted(input: &VideoInfo, output: &VideoInfo, most: u32) -> gst::Caps {
    let wide = shape(input) / ratio(output.par());
    let (mut width, mut height) = (f64::from(output.width()), f64::from(output.height()));
    let exact = is_shape(wide, width, height, EVEN);
    if !exact {
        (width, height) = fit(wide, width, height);
    }
    let reach = |side: f64, from: u32| (side.round() as u32).clamp(from, from * most);
    let (width, height) = (reach(width, input.width()), reach(height, input.height()));
    let caps = gst::Caps::builder("video/x-raw").field("width", width as i32).field("height", height as i32);
    let reached = (width, height) == (output.width(), output.height());
    caps.field_if("pixel-aspect-ratio", output.par(), exact && reached).build()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        target: Target,
    }

    fn film(width: u32, height: u32, par: (i32, i32)) -> VideoInfo {
        gst::init().unwrap();
        let film = VideoInfo::builder(gst_video::VideoFormat::I420, width, height);
        film.par(gst::Fraction::new(par.0, par.1)).build().unwrap()
    }

    fn target(arguments: &str, film: &VideoInfo, step: f64) -> Result<VideoInfo> {
        let arguments = std::iter::once("test").chain(arguments.split_whitespace());
        Arguments::try_parse_from(arguments)?.target.of(film, 4, step)
    }

    #[track_caller]
    fn check(arguments: &str, film: &VideoInfo, size: (u32, u32), par: (i32, i32)) {
        let got = target(arguments, film, EVEN).unwrap();
        assert_eq!((got.width(), got.height()), size, "{arguments}");
        assert_eq!(got.par(), gst::Fraction::new(par.0, par.1), "{arguments}");
    }

    #[test]
    fn a_target_keeps_the_shape_of_the_picture() {
        let dvd = film(720, 576, (16, 15));
        check("", &dvd, (2880, 2304), (16, 15));
        check("--scale 1", &dvd, (720, 576), (16, 15));
        check("--scale 1.5", &dvd, (1080, 864), (16, 15));
        check("--height 1080", &dvd, (1350, 1080), (16, 15));
        check("--height 1080 --square", &dvd, (1440, 1080), (1, 1));
        check("--width 1440 --square", &dvd, (1440, 1080), (1, 1));
        check("--fit 1920x1080", &dvd, (1350, 1080), (16, 15));
        check("--fit 1920x1080 --square", &dvd, (1440, 1080), (1, 1));
        check("--square", &dvd, (2880, 2160), (1, 1));
        check("--scale 1 --square", &dvd, (768, 576), (1, 1));
        check("--width 1920 --height 1080", &dvd, (1920, 1080), (3, 4));
        check("--fit 1920x1080", &film(852, 480, (1, 1)), (1918, 1080), (1, 1));
        check("--scale 3", &film(31, 17, (1, 1)), (94, 52), (1, 1));
        assert_eq!(target("--scale 3", &film(31, 17, (1, 1)), ANY).unwrap().width(), 93);
    }

    #[test]
    fn a_target_that_makes_no_sense_is_refused() {
        let film = film(1920, 1080, (1, 1));
        for (arguments, expected) in [
            ("--height 720", "at least as large"),
            ("--scale 5", "expected 1 to 4"),
            ("--scale 0.5", "expected a number from 1 to 16"),
            ("--scale x", "expected a number from 1 to 16"),
            ("--scale 2 --height 2160", "cannot be used with"),
            ("--fit 4000x3000 --width 2160", "cannot be used with"),
            ("--square --width 4000 --height 4000", "--fit 4000x4000"),
        ] {
            let refused = format!("{:#}", target(arguments, &film, EVEN).unwrap_err());
            assert!(refused.contains(expected), "{arguments}: {refused}");
        }
    }

    #[test]
    fn pictures_of_other_sizes_are_asked_for_as_they_fit() {
        let output = film(128, 96, (1, 1));
        let asked = |width, height| wanted(&film(width, height, (1, 1)), &output, 4).to_string();
        let par = ", pixel-aspect-ratio=(fraction)1/1";
        assert_eq!(asked(64, 48), format!("video/x-raw, width=(int)128, height=(int)96{par}"));
        assert_eq!(asked(96, 48), "video/x-raw, width=(int)128, height=(int)64");
        assert_eq!(asked(16, 12), "video/x-raw, width=(int)64, height=(int)48");
        assert_eq!(asked(256, 192), "video/x-raw, width=(int)256, height=(int)192");
    }
}
