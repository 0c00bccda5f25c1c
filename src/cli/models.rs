//! `fastvsr models`: the model packages that are found, with what they are and how well they do; and those of the user's own,
//! made of ONNX files or other packages, and removed again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use gstfastvsr::{
    engine::{self, Known},
    model::{self, Manifest, Package, PlainFile, Source},
};

use crate::upscaler;

/// The card of the package in this program.
const EMBEDDED_CARD: &str = include_str!("../../models/compact-s/README.md");

/// List the models: the embedded one, and the packages in $FASTVSR_MODEL_PATH and the XDG data folders; or add, show and remove one
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a package of an ONNX file, or copy one, into your folder of models
    Add(AddArgs),
    /// Tell all that is known of a model, or of an ONNX file
    Show {
        /// A name as in `fastvsr models`, an ONNX file, or a folder with a model.toml
        model: String,
    },
    /// Remove a package from your folder of models
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// An ONNX file (RGB, [1, 3, H, W], floats in, floats out), or a package's folder
    model: PathBuf,
    /// What it is to be called; the file's or folder's own name without this
    #[arg(long)]
    name: Option<String>,
    /// White in the file's frames
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    range: u8,
    /// Of the frames that the file sees at once, those before the one that it makes larger
    #[arg(long, requires = "look_ahead")]
    look_back: Option<u16>,
    /// And those after it
    #[arg(long, requires = "look_back")]
    look_ahead: Option<u16>,
}

/// A package by the name that chooses it, or what is wrong with it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) place: String,
    pub(crate) manifest: Result<Manifest>,
    card: Option<String>,
}

/// Every package; of two with one name the element takes the first.
pub(crate) fn all() -> Vec<Found> {
    let mut found = vec![Found {
        name: model::DEFAULT.into(),
        place: "embedded".into(),
        manifest: Source::Embedded.manifest(),
        card: Some(EMBEDDED_CARD.into()),
    }];
    for folder in model::search_path() {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut packages: Vec<_> = entries.filter(|path| path.join(model::MANIFEST).is_file()).collect();
        packages.sort();
        found.extend(packages.iter().map(|path| of_folder(path)));
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|package| seen.insert(package.name.clone()));
    found
}

fn of_folder(path: &Path) -> Found {
    Found {
        name: path.file_name().unwrap_or_default().to_string_lossy().into(),
        place: path.display().to_string(),
        manifest: Source::Folder(path.into()).manifest(),
        card: fs::read_to_string(path.join(model::CARD)).ok(),
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.command {
        None => list(),
        Some(Command::Add(args)) => add(args),
        Some(Command::Show { model }) => show(model),
        Some(Command::Remove { name }) => remove(name),
    }
}

/// The user's folder of models.
fn own_folder() -> Result<PathBuf> {
    model::user_folder().context("expected a home to keep models in: set HOME or XDG_DATA_HOME")
}

/// Where the user's package of a name lies, or would.
fn place(name: &str) -> Result<PathBuf> {
    let good = |character: char| character.is_alphanumeric() || "-_.+".contains(character);
    ensure!(
        name.chars().all(good) && name.starts_with(char::is_alphanumeric) && !name.ends_with(".onnx"),
        "expected a name of letters, digits, `-`, `_`, `.` and `+`, got `{name}`: choose one with --name"
    );
    ensure!(name != model::DEFAULT, "`{name}` is the model in this program: choose another name with --name");
    Ok(own_folder()?.join(name))
}

fn add(args: &AddArgs) -> Result<()> {
    let own = if args.model.is_dir() {
        args.model.canonicalize()?.file_name().map(PathBuf::from)
    } else {
        args.model.file_stem().map(PathBuf::from)
    };
    let own = own.unwrap_or_default().to_string_lossy().into_owned();
    let place = place(args.name.as_deref().unwrap_or(&own))?;
    ensure!(
        !place.exists(),
        "`{}` is there already: remove it with `fastvsr models remove`, or choose another name with --name",
        place.display()
    );
    let folder = own_folder()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    // Whole, or not there.
    let draft = tempfile::Builder::new().prefix(".draft-").tempdir_in(&folder)?;
    let package = draft.path().join("package");
    fs::create_dir(&package)?;
    if args.model.is_dir() {
        Package::copy(&args.model, &package)?;
    } else {
        let file = PlainFile::read(&args.model)?;
        let context = args.look_back.zip(args.look_ahead).map(|(back, ahead)| [back.into(), ahead.into()]);
        let manifest = engine::measure(upscaler::runtime()?, &file, Known { range: args.range, context })?;
        file.write(&manifest, &package)?;
    }
    fs::rename(&package, &place).with_context(|| format!("cannot make `{}`", place.display()))?;
    show(&place.to_string_lossy())
}

fn remove(name: &str) -> Result<()> {
    let place = place(name)?;
    if !place.join(model::MANIFEST).is_file() {
        let elsewhere =
            all().into_iter().find(|found| found.name == name).map(|found| format!("; `{name}` is at {}", found.place));
        bail!("expected a model in {}, got `{name}`{}", own_folder()?.display(), elsewhere.unwrap_or_default());
    }
    let removed = if place.is_symlink() { fs::remove_file(&place) } else { fs::remove_dir_all(&place) };
    removed.with_context(|| format!("cannot remove `{}`", place.display()))
}

fn show(model: &str) -> Result<()> {
    let source = Source::find(model)?;
    let manifest = upscaler::manifest(&source)?;
    let place = match source {
        Source::Embedded => "in this program".into(),
        Source::Folder(path) | Source::File(path) => path.display().to_string(),
    };
    let known =
        |number: Option<usize>, unit: &str| number.map_or("unknown".into(), |number| format!("{number} {unit}"));
    let geometry = &manifest.geometry;
    println!("name         {} {}", manifest.name, manifest.version);
    println!("what         {}", manifest.description);
    println!("licence      {}", manifest.license);
    println!("where        {place}");
    println!("scale        x{}", geometry.scale);
    let frames = match manifest.fixed() {
        Some(size) => format!("{}x{}, larger ones in tiles of that", size.width, size.height),
        None if (geometry.multiple, geometry.minimum) == (1, 0) => "any size".into(),
        None => {
            format!("any size, padded to multiples of {} and at least {}", geometry.multiple, geometry.minimum.max(1))
        }
    };
    println!("frames       {frames}");
    let time = manifest.time;
    println!("time         window {}, look-back {}, look-ahead {}", time.window, time.look_back, time.look_ahead);
    println!(
        "memory       {}",
        known(Some(geometry.memory).filter(|memory| *memory > 0), "bytes for each pixel of the input")
    );
    for (kind, stage) in manifest.stages() {
        println!(
            "{:<12} {}, sees {} around, SHA-256 {}",
            kind.to_string(),
            stage.file,
            known(stage.halo, "pixels"),
            stage.sha256
        );
    }
    Ok(())
}

fn list() -> Result<()> {
    for (index, package) in all().iter().enumerate() {
        if index > 0 {
            println!();
        }
        match &package.manifest {
            Ok(manifest) => {
                println!("{} {} ({})", package.name, manifest.version, package.place);
                println!("  {}", manifest.description);
                println!("  scale x{}, licence {}", manifest.geometry.scale, manifest.license);
            }
            Err(err) => println!("{} ({})\n  unusable: {err:#}", package.name, package.place),
        }
        for row in package.card.iter().flat_map(|card| figures(card, &package.name)) {
            println!("  {row}");
        }
    }
    Ok(())
}

/// The rows of a card's first table of figures that belong to the model and to bicubic, with the head of the table.
fn figures<'a>(card: &'a str, name: &str) -> Vec<&'a str> {
    let table: Vec<&str> = card
        .lines()
        .skip_while(|line| !(line.starts_with('|') && line.contains("PSNR")))
        .take_while(|line| line.starts_with('|'))
        .collect();
    let wanted = |row: &str| row.split('|').any(|cell| ["bicubic", name].contains(&cell.trim_matches([' ', '*'])));
    let keep = |(index, row): (usize, &&str)| index == 0 || wanted(row);
    table.iter().enumerate().filter(|(index, row)| keep((*index, row))).map(|(_, row)| *row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_the_embedded_card_are_found() {
        let rows = figures(EMBEDDED_CARD, model::DEFAULT);
        assert!(rows.len() >= 3 && rows[0].contains("PSNR") && rows.iter().any(|row| row.contains(model::DEFAULT)));
        assert!(figures("no table", "any").is_empty());
    }
}
