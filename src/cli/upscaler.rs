//! Owns the element as the command line uses it: the arguments that choose model and provider, and the runtime.

use std::{iter, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, anyhow};
use clap::builder::PossibleValuesParser;
use gst::prelude::*;
use gstfastvsr::{
    ExecutionProvider, Precision,
    engine::{self, Engine, Key, Known, Provider, Runtime, Severity},
    model::{Manifest, PlainFile, Source},
};
use sha2::{Digest, Sha256};

/// What `--provider` may be, as the element's property has it.
pub(crate) fn providers() -> PossibleValuesParser {
    PossibleValuesParser::new(iter::once("auto").chain(Provider::ALL.map(Provider::name)))
}

/// Which model runs, and on what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Upscaler {
    /// Model: a name as in `fastvsr models`, an ONNX file, or a folder with a model.toml
    #[arg(long, default_value = gstfastvsr::model::DEFAULT)]
    pub(crate) model: String,
    /// What runs the model
    #[arg(long, default_value = "auto", value_parser = providers())]
    pub(crate) provider: String,
    /// Frames that are upscaled together; 0 = the model's own
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1024))]
    pub(crate) window: u32,
    /// Another property of the element, as in --property max-memory=2000000000; may be given again. `gst-inspect-1.0
    /// fastvsr` lists them
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = property)]
    pub(crate) properties: Vec<(String, String)>,
}

/// Properties that have an option of their own, or none that a program could use.
const NOT_BY_NAME: [&str; 8] =
    ["model", "execution-provider", "window", "scale", "runtime-library", "name", "parent", "stats"];

/// Reads `NAME=VALUE`.
pub(crate) fn property(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').with_context(|| format!("expected NAME=VALUE, got `{text}`"))?;
    Ok((name.into(), value.into()))
}

impl Upscaler {
    /// A model on a provider, all else as by default.
    pub(crate) fn new(model: &str, provider: &str, window: u32) -> Self {
        Self { model: model.into(), provider: provider.into(), window, properties: Vec::new() }
    }

    /// Sets up the element of this name in a pipeline.
    ///
    /// # Errors
    /// If no ONNX Runtime can be loaded, or the element lacks one of the properties or cannot have that value.
    pub(crate) fn configure(&self, element: &gst::Element) -> Result<()> {
        runtime()?;
        element.set_property("model", &self.model);
        element.set_property_from_str("execution-provider", &self.provider);
        element.set_property("window", self.window);
        self.properties.iter().try_for_each(|(name, value)| set(element, name, value))
    }

    /// The properties as they were given, with a space before each.
    pub(crate) fn properties(&self) -> String {
        self.properties.iter().map(|(name, value)| format!(" --property {name}={value}")).collect()
    }

    /// Stands for the very graphs of the model: another version under the same name has another.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        let manifest = format!("{:?}", manifest(&Source::find(&self.model)?)?);
        Ok(Sha256::digest(manifest).iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// The engine that the element has.
    ///
    /// # Errors
    /// If model or provider cannot be used.
    pub(crate) fn engine(&self) -> Result<Arc<Engine>> {
        let element = gst::ElementFactory::make("fastvsr").build()?;
        self.configure(&element)?;
        let key = Key {
            source: Source::find(&self.model)?,
            provider: element.property::<ExecutionProvider>("execution-provider").provider(),
            device_id: element.property("device-id"),
            precision: element.property::<Precision>("precision").precision(),
        };
        // The error's own text has its reason.
        Engine::open(runtime()?, &key).map_err(|err| anyhow!("{err}"))
    }

    /// The model's output pixels per input pixel along each axis.
    pub(crate) fn scale(&self) -> Result<u32> {
        Ok(manifest(&Source::find(&self.model)?)?.geometry.scale as u32)
    }
}

/// A model's manifest; a plain file's is measured.
///
/// # Errors
/// If there is none that is valid, or the file is no plain network.
pub(crate) fn manifest(source: &Source) -> Result<Manifest> {
    match source {
        Source::File(path) => Manifest::parse(&engine::measure(runtime()?, &PlainFile::read(path)?, Known::default())?),
        source => source.manifest(),
    }
}

/// Sets a property, which is read as gst-launch-1.0 does.
///
/// # Errors
/// If the element lacks it, or it cannot have that value.
fn set(element: &gst::Element, name: &str, value: &str) -> Result<()> {
    let known: Vec<_> = element.list_properties().into_iter().filter(|p| !NOT_BY_NAME.contains(&p.name())).collect();
    let property = known.iter().find(|property| property.name() == name).with_context(|| {
        let names: Vec<_> = known.iter().map(|property| property.name()).collect();
        format!("--property {name}: expected one of {}", names.join(", "))
    })?;
    let read = glib::Value::deserialize(value, property.value_type()).ok();
    let read = read
        .filter(|value| property.value_is_valid(value))
        .with_context(|| format!("--property {name}={value}: expected a value as `gst-inspect-1.0 fastvsr` says"))?;
    element.set_property_from_value(name, &read);
    Ok(())
}

/// The process's ONNX Runtime. The element, compiled in, has no file of its own to look beside: this looks where the
/// plugin's would be.
pub(crate) fn runtime() -> Result<&'static Runtime> {
    Ok(engine::load_runtime(None, &folders(), log)?)
}

/// Folders where an installed runtime lies: beside GStreamer's plugins; under the prefix of this program.
fn folders() -> Vec<PathBuf> {
    let plugins = gst::Registry::get()
        .find_plugin("coreelements")
        .and_then(|plugin| plugin.filename())
        .and_then(|file| Some(file.parent()?.join("../fastvsr")));
    let program = std::env::current_exe().ok().and_then(|file| Some(file.parent()?.to_owned())).unwrap_or_default();
    plugins.into_iter().chain([program.join("../lib/fastvsr")]).collect()
}

fn log(severity: Severity, text: &str) {
    if severity == Severity::Error {
        gst::error!(gst::CAT_RUST, "ONNX Runtime: {text}");
    } else {
        gst::debug!(gst::CAT_RUST, "ONNX Runtime: {text}");
    }
}

/// Plays `count` frames of a test picture through the model and hands out the time at which each left, counted from
/// the start of loading.
///
/// # Errors
/// If the model does not run at this size.
pub(crate) fn measure(
    upscaler: &Upscaler,
    (width, height): (u32, u32),
    count: u32,
    limit: std::time::Duration,
) -> Result<Vec<std::time::Duration>> {
    let playback = crate::playback::Playback::new(&format!(
        "videotestsrc num-buffers={count} pattern=ball ! video/x-raw,format=I420,width={width},height={height} ! \
         fastvsr name=vsr ! appsink name=sink sync=false max-buffers=1"
    ))?;
    upscaler.configure(&playback.element("vsr"))?;
    let begin = std::time::Instant::now();
    playback.set_state(gst::State::Playing)?;
    let sink = playback.sink("sink");
    let mut times = Vec::new();
    while times.len() < count as usize && (times.len() < 2 || begin.elapsed() < limit) {
        crate::playback::check_interrupted()?;
        match sink.try_pull_sample(gst::ClockTime::from_mseconds(200)) {
            Some(_) => times.push(begin.elapsed()),
            None => {
                if let Some(err) = playback.error() {
                    return Err(err).with_context(|| format!("`{}` at {width}x{height}", upscaler.model));
                }
            }
        }
    }
    Ok(times)
}
