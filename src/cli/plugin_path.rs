//! `fastvsr plugin-path`: the folder of the plugin, for GST_PLUGIN_PATH.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Print the folder of the plugin, for GST_PLUGIN_PATH
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

const PLUGIN: &str = "libgstfastvsr.so";

/// Runs the command.
///
/// # Errors
/// If there is none.
pub(crate) fn run(_: &Args) -> Result<()> {
    let program = env::current_exe().context("the program does not know its own place")?;
    let program = program.parent().unwrap_or(Path::new("/"));
    let system = gst::Registry::get().find_plugin("coreelements").and_then(|plugin| plugin.filename());
    let system = system.and_then(|file| Some(file.parent()?.to_owned()));
    // That of the Python package, of a build, and GStreamer's own.
    let places: Vec<PathBuf> =
        [program.with_file_name("gstreamer-1.0"), program.to_owned()].into_iter().chain(system).collect();
    let found = places.iter().find(|folder| folder.join(PLUGIN).is_file()).with_context(|| {
        let places: Vec<_> = places.iter().map(|folder| folder.display().to_string()).collect();
        format!(
            "expected {PLUGIN} in {}; `gst-inspect-1.0 fastvsr` tells the file if GStreamer finds it",
            places.join(" or ")
        )
    })?;
    println!("{}", found.display());
    Ok(())
}
