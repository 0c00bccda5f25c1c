//! The `fastvsr` command: one module per subcommand, each with its arguments; what several need lies in `clip`,
//! `encoder`, `upscaler` and `playback`. Everything runs on the element, which is compiled in.

/// As the standard library's, but nobody who reads is no reason to panic, and undoes nothing that is done.
macro_rules! println {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod av1;
mod bench;
mod clip;
mod compare;
mod doctor;
mod encoder;
mod fields;
mod gif;
mod hidden;
mod journal;
mod many;
mod models;
mod mp4;
mod mux;
mod pipe;
mod playback;
mod plugin_path;
mod prewarm;
mod progress;
mod streams;
mod target;
mod time;
mod ts;
mod upscale;
mod upscaler;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Video super-resolution: W x H in, 4W x 4H out, frame for frame.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Upscale(upscale::Args),
    Pipe(pipe::Args),
    Compare(compare::Args),
    Doctor(doctor::Args),
    Models(models::Args),
    Bench(bench::Args),
    Prewarm(prewarm::Args),
    PluginPath(plugin_path::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli.command) {
        Ok(code) => code,
        Err(err) if err.is::<playback::Interrupted>() => {
            eprintln!("fastvsr: {err:#}");
            ExitCode::from(130)
        }
        Err(err) => {
            eprintln!("fastvsr: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<ExitCode> {
    playback::catch_signals()?;
    gst::init()?;
    gstfastvsr::plugin_register_static()?;
    match command {
        Command::Upscale(args) => return upscale::run(args),
        Command::Pipe(args) => pipe::run(args)?,
        Command::Compare(args) => compare::run(args)?,
        Command::Doctor(args) => return doctor::run(args),
        Command::Models(args) => models::run(args)?,
        Command::Bench(args) => bench::run(args)?,
        Command::Prewarm(args) => prewarm::run(args)?,
        Command::PluginPath(args) => plugin_path::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}
