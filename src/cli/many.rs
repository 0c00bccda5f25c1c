//! Owns which films `fastvsr upscale FILM... --out FOLDER` means, what each is called there, and what became of them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow, ensure};
use walkdir::WalkDir;

use crate::{encoder::Container, playback::Interrupted};

/// What files with films in them end in. One that is named itself may end in anything.
const FILMS: [&str; 39] = [
    "3g2", "3gp", "asf", "avi", "divx", "dv", "dvr-ms", "evo", "f4v", "flv", "gif", "h264", "hevc", "ivf", "m1v",
    "m2t", "m2ts", "m2v", "m4v", "mjpeg", "mkv", "mod", "mov", "mp4", "mpe", "mpeg", "mpg", "mts", "mxf", "nut", "ogm",
    "ogv", "qt", "rmvb", "tod", "ts", "vob", "webm", "wmv",
];

/// What became of a film.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Upscaled,
    /// It is large enough.
    LeftAlone,
}

/// A film and what it is to be called, or why it cannot be had.
type Film = Result<(PathBuf, PathBuf)>;

/// Upscales all films by `one`, which gets input and output.
///
/// # Errors
/// If there is none, or the user interrupts; a film that fails does not end the others.
pub(crate) fn run(
    inputs: &[PathBuf],
    out: &Path,
    force: bool,
    mut one: impl FnMut(&Path, &Path) -> Result<Outcome>,
) -> Result<ExitCode> {
    fs::create_dir_all(out).with_context(|| format!("cannot make the folder `{}`", out.display()))?;
    let films = find(inputs, out)?;
    ensure!(!films.is_empty(), "expected a folder with films in it, as .mp4 or .mkv: there is none");
    let (mut upscaled, mut there, mut alone, mut failed) = (0, 0, 0, Vec::new());
    let all = films.len();
    for (film, number) in films.into_iter().zip(1..) {
        let result = film.and_then(|(input, output)| {
            if output.exists() && !force {
                return Ok(None);
            }
            eprintln!("[{number}/{all}] {}", input.display());
            let folder = output.parent().map_or(Ok(()), fs::create_dir_all);
            folder.with_context(|| format!("cannot make the folder of `{}`", output.display()))?;
            match one(&input, &output) {
                Err(err) if !err.is::<Interrupted>() => Err(err.context(format!("`{}`", input.display()))),
                result => result.map(Some),
            }
        });
        match result {
            Ok(Some(Outcome::Upscaled)) => upscaled += 1,
            Ok(Some(Outcome::LeftAlone)) => alone += 1,
            Ok(None) => there += 1,
            Err(err) if err.is::<Interrupted>() => return Err(err),
            Err(err) => {
                let reason = format!("{err:#}");
                eprintln!("fastvsr: {reason}");
                failed.push(reason);
            }
        }
    }
    let films = if all == 1 { "film" } else { "films" };
    eprintln!("{all} {films}: {upscaled} upscaled, {there} there already, {alone} left alone, {} failed", failed.len());
    for reason in &failed {
        eprintln!("  {reason}");
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The films in files and folders, each once, with their names in `out`.
fn find(inputs: &[PathBuf], out: &Path) -> Result<Vec<Film>> {
    let out = out.canonicalize()?;
    let mut films: Vec<Film> = Vec::new();
    let mut names = BTreeMap::new();
    let mut add = |path: &Path, place: &Path, films: &mut Vec<Film>| {
        let output = out.join(name(place));
        films.push(match names.insert(output.clone(), path.to_path_buf()) {
            Some(other) => Err(anyhow!(
                "`{}` and `{}` would both become `{}`: give one of them another name, or another --out",
                other.display(),
                path.display(),
                output.display()
            )),
            None => Ok((path.to_path_buf(), output)),
        });
    };
    for input in inputs {
        if !input.is_dir() {
            add(input, Path::new(input.file_name().unwrap_or_default()), &mut films);
            continue;
        }
        // What this program made is no film to upscale, and hidden files are not whole.
        let entries = WalkDir::new(input).sort_by_file_name().into_iter().filter_entry(|entry| {
            let hidden = entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.');
            let made = entry.depth() > 0 && entry.path().canonicalize().is_ok_and(|path| path == out);
            !hidden && !made
        });
        for entry in entries {
            match entry {
                Ok(entry) if entry.path().is_file() && is_film(entry.path()) => {
                    let place = entry.path().strip_prefix(input).unwrap_or(entry.path());
                    add(entry.path(), place, &mut films);
                }
                Ok(_) => {}
                Err(err) => films.push(Err(anyhow!("cannot read a folder: {err}"))),
            }
        }
    }
    Ok(films)
}

fn is_film(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    FILMS.contains(&extension.as_str())
}

/// Its own name where that says a kind of file that can be written; else another ending behind it, so that no two films
/// become one.
fn name(place: &Path) -> PathBuf {
    if Container::of(place).is_ok() {
        return place.to_path_buf();
    }
    let mut name = place.as_os_str().to_owned();
    name.push(".mkv");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn films_are_found_once_and_keep_their_places() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for file in
            ["in/b.MP4", "in/a/c.vob", "in/a/text.txt", "in/.hidden/d.mp4", "in/out/e.mp4", "x/b.MP4", "odd.bin"]
        {
            fs::create_dir_all(at(file).parent().unwrap()).unwrap();
            fs::write(at(file), "").unwrap();
        }
        let found = find(&[at("in"), at("x"), at("odd.bin")], &at("in/out")).unwrap();
        let out = at("in/out").canonicalize().unwrap();
        let expected = [
            Ok((at("in/a/c.vob"), out.join("a/c.vob.mkv"))),
            Ok((at("in/b.MP4"), out.join("b.MP4"))),
            Err("would both become"),
            Ok((at("odd.bin"), out.join("odd.bin.mkv"))),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.into_iter().zip(expected) {
            match (found, expected) {
                (Err(err), Err(text)) => assert!(err.to_string().contains(text), "{err}"),
                (found, expected) => assert_eq!(found.unwrap(), expected.unwrap()),
            }
        }
    }
}
