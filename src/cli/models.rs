//! `fastvsr models`: the model packages that are found, with what they are and how well they do.

use std::{fs, path::Path};

use anyhow::Result;
use gstfastvsr::model::{self, Manifest, Source};

/// The card of the package in this program.
const EMBEDDED_CARD: &str = include_str!("../../models/compact-s/README.md");

/// List the model packages: the embedded one, and those in $FASTVSR_MODEL_PATH and the XDG data folders
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

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
        let mut packages: Vec<_> = entries.filter(|path| path.join("model.toml").is_file()).collect();
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
        card: fs::read_to_string(path.join("README.md")).ok(),
    }
}

/// Runs the command.
pub(crate) fn run(_: &Args) -> Result<()> {
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
    let wanted = |row: &str| row.contains("bicubic") || row.contains(name);
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
