//! Owns the model package: a folder with a manifest (`model.toml`) and one ONNX graph per stage; and plain ONNX files, which
//! become packages once the engine has measured what a manifest says.
//!
//! A package is read completely before it is used: the manifest is validated, every file is read once and its bytes are
//! checked against their SHA-256, and nothing outside the package's folder is opened. What was hashed is what runs. What the
//! graphs contain is the business of [`crate::engine`]; this module knows neither ONNX Runtime nor GStreamer.

mod embedded;
mod manifest;
mod plain;

use std::{
    borrow::Cow,
    fmt, fs,
    io::Read,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

pub use manifest::{Geometry, Manifest, StageManifest, StateManifest, Time};
pub use plain::PlainFile;

use crate::folders;

/// Name of the package that lies inside the plugin file.
pub const DEFAULT: &str = embedded::NAME;

/// The three stages of the method, in the order in which they run (paper, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StageKind {
    /// f8 encoder of the asymmetric VAE: `frames` -> `latent`.
    Encoder,
    /// One-step denoiser on the latent grid: `latent` -> `denoised`.
    Unet,
    /// f16 decoder of the asymmetric VAE: `denoised` -> `frames_hr`.
    Decoder,
}

impl fmt::Display for StageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encoder => "encoder",
            Self::Unet => "unet",
            Self::Decoder => "decoder",
        })
    }
}

/// The graph of one stage, read and verified.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Which of the three stages.
    pub kind: StageKind,
    /// What the manifest says of it.
    pub manifest: StageManifest,
    /// The graph itself.
    pub bytes: Cow<'static, [u8]>,
    /// The graph in 8-bit integers, if there is one.
    pub int8: Option<Cow<'static, [u8]>>,
    /// Its external data by the names that the graph has for them.
    pub data: Vec<(String, Arc<[u8]>)>,
}

/// A package whose files were all read and verified.
#[derive(Debug, Clone)]
pub struct Package {
    /// The parsed `model.toml`.
    pub manifest: Manifest,
    /// The graphs of the stages that the package has, in running order; the decoder's is always there.
    pub graphs: Vec<Graph>,
}

impl Package {
    /// Reads a package's folder and writes what its manifest names, the manifest, and the card into another.
    ///
    /// # Errors
    /// If a file is not what the manifest says, or cannot be written.
    pub fn copy(from: &Path, to: &Path) -> Result<()> {
        let from = from.canonicalize()?;
        let package = Source::Folder(from.clone()).load()?;
        let write = |name: &str, bytes: &[u8]| write(to, name, bytes);
        for Graph { manifest, bytes, int8, data, .. } in &package.graphs {
            write(&manifest.file, bytes)?;
            if let (Some(int8), Some(bytes)) = (&manifest.int8, int8) {
                write(&int8.file, bytes)?;
            }
            data.iter().try_for_each(|(name, bytes)| write(name, bytes))?;
        }
        if from.join(CARD).exists() {
            write(CARD, &read_inside(&from, CARD)?)?;
        }
        write(MANIFEST, &read_inside(&from, MANIFEST)?)
    }

    /// Whether any stage can also work in 8-bit integers.
    pub fn has_int8(&self) -> bool {
        self.graphs.iter().any(|graph| graph.int8.is_some())
    }
}

/// File that makes a folder a package.
pub const MANIFEST: &str = "model.toml";

/// File in a package that people read.
pub const CARD: &str = "README.md";

/// Where packages lie in a folder of data.
const INSTALLED: &str = "fastvsr/models";

/// Ending of the names of plain ONNX files.
const ONNX: &str = ".onnx";

/// Largest manifest, in bytes: it is a page of text.
const MAX_MANIFEST: u64 = 1 << 20;

/// Largest file, in bytes: more than any model has that a frame could be put through.
const MAX_FILE: u64 = 1 << 36;

/// Where a package comes from; equal sources are the same model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// The package inside the plugin file.
    Embedded,
    /// A folder, made canonical.
    Folder(PathBuf),
    /// An ONNX file without a manifest, made canonical.
    File(PathBuf),
}

impl Source {
    /// Finds what the user means by `name`: a file that ends in `.onnx`, a folder (anything with a `/`, or an existing one),
    /// the embedded package, or a package of that name in [`search_path`].
    ///
    /// # Errors
    /// Says which places were searched.
    pub fn find(name: &str) -> Result<Self> {
        if name == embedded::NAME {
            return Ok(Self::Embedded);
        }
        if name.ends_with(ONNX) && !Path::new(name).is_dir() {
            let expected = || format!("no model `{name}`: expected an ONNX file");
            return Ok(Self::File(Path::new(name).canonicalize().with_context(expected)?));
        }
        let folder = if name.contains('/') || Path::new(name).is_dir() {
            PathBuf::from(name)
        } else {
            let searched = search_path();
            match searched.iter().map(|dir| dir.join(name)).find(|dir| dir.join(MANIFEST).is_file()) {
                Some(folder) => folder,
                None => bail!(
                    "no model named `{name}`: expected the embedded `{}`, an ONNX file, a folder with a model.toml, or a \
                     package in {}",
                    embedded::NAME,
                    searched.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
                ),
            }
        };
        let canonical = folder.canonicalize().with_context(|| {
            format!("no model package at `{}`: expected a folder with a model.toml", folder.display())
        })?;
        Ok(Self::Folder(canonical))
    }

    /// Reads and validates the manifest alone; cheap enough for a caps query.
    ///
    /// # Errors
    /// If there is none that is valid. A plain file has none before the engine has measured it.
    pub fn manifest(&self) -> Result<Manifest> {
        match self {
            Self::Embedded => Manifest::parse(embedded::MANIFEST).context("the embedded model's manifest"),
            Self::Folder(folder) => {
                let path = folder.join(MANIFEST);
                let read = read(&path, MAX_MANIFEST).and_then(|bytes| Ok(String::from_utf8(bytes)?));
                let text = read.with_context(|| {
                    format!("cannot read `{}`: expected a model package's manifest", path.display())
                })?;
                Manifest::parse(&text).with_context(|| format!("in `{}`", path.display()))
            }
            Self::File(path) => bail!("`{}` has no manifest before it is measured", path.display()),
        }
    }

    /// Reads the manifest and all graphs, and checks every file's SHA-256.
    pub fn load(&self) -> Result<Package> {
        let manifest = self.manifest()?;
        let graphs = manifest.stages().map(|(kind, stage)| {
            let read = |file: &str, sha256: &str| {
                let bytes = match self {
                    Self::Embedded => Cow::Borrowed(embedded::file(file)?),
                    Self::Folder(folder) => Cow::Owned(read_inside(folder, file)?),
                    Self::File(_) => unreachable!("it has no manifest"),
                };
                check_hash(file, sha256, &bytes)?;
                Ok::<_, anyhow::Error>(bytes)
            };
            let data = stage.data.iter().map(|data| {
                let bytes: Arc<[u8]> = read(&data.file, &data.sha256)?.into();
                Ok((data.file.clone(), bytes))
            });
            Ok(Graph {
                kind,
                manifest: stage.clone(),
                bytes: read(&stage.file, &stage.sha256)?,
                int8: stage.int8.as_ref().map(|int8| read(&int8.file, &int8.sha256)).transpose()?,
                data: data.collect::<Result<_>>()?,
            })
        });
        let graphs = graphs.collect::<Result<Vec<_>>>()?;
        Ok(Package { manifest, graphs })
    }
}

/// Folders that are searched for packages by name: `$FASTVSR_MODEL_PATH`, `fastvsr/models` in the user's data folder, in the
/// Python package that this code is in, and in the system's data folders.
pub fn search_path() -> Vec<PathBuf> {
    let system = folders::list("XDG_DATA_DIRS", "/usr/local/share:/usr/share");
    let python = folders::python_package().map(|package| package.join("models"));
    let installed = system.into_iter().map(|folder| folder.join(INSTALLED));
    let named = folders::list("FASTVSR_MODEL_PATH", "");
    named.into_iter().chain(user_folder()).chain(python).chain(installed).collect()
}

/// The user's folder among them; `None` without a home.
pub fn user_folder() -> Option<PathBuf> {
    folders::of_user("XDG_DATA_HOME", ".local/share").map(|folder| folder.join(INSTALLED))
}

/// Reads a file of a package.
fn read_inside(folder: &Path, file: &str) -> Result<Vec<u8>> {
    let path = inside(folder, file)?;
    read(&path, MAX_FILE).with_context(|| format!("cannot read `{}`", path.display()))
}

/// Writes a file of a package, and the folders that its name has.
fn write(folder: &Path, file: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(file);
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, bytes));
    written.with_context(|| format!("cannot write `{}`", path.display()))
}

/// Reads a regular file of at most `most` bytes. Whatever else has its name may have no end, or no beginning.
fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    // Asked before it is opened: to open a FIFO is to wait for who writes into it.
    ensure!(fs::metadata(path)?.is_file(), "expected a file, got something else of that name");
    let file = fs::File::open(path)?;
    let facts = file.metadata()?;
    ensure!(facts.is_file(), "expected a file, got something else of that name");
    ensure!(facts.len() <= most, "expected at most {most} bytes, got {}", facts.len());
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(facts.len() as usize)?;
    // It may grow while it is read.
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Resolves a manifest's file name, refusing whatever would leave the package: absolute paths, `..`, and links.
fn inside(folder: &Path, file: &str) -> Result<PathBuf> {
    let relative = Path::new(file);
    ensure!(
        !file.is_empty() && relative.components().all(|part| matches!(part, Component::Normal(_))),
        "file `{file}` in the manifest: expected a relative path inside the package, without `..`"
    );
    let path = folder.join(relative);
    let real = path
        .canonicalize()
        .with_context(|| format!("file `{file}` is named in the manifest but `{}` cannot be opened", path.display()))?;
    ensure!(
        real.starts_with(folder),
        "file `{file}` in the manifest is a link that leaves the package: it leads to `{}`",
        real.display()
    );
    Ok(real)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check_hash(file: &str, expected: &str, bytes: &[u8]) -> Result<()> {
    let got = sha256(bytes);
    ensure!(
        got.eq_ignore_ascii_case(expected),
        "file `{file}` is not what the manifest describes: expected SHA-256 {expected}, got {got}; \
         it is damaged, truncated or from another version, so install the package again"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"
        format = 1
        name = "plain"
        version = "1.0.0"
        license = "MIT"
        description = "a decoder alone"
        [geometry]
        scale = 4
        multiple = 1
        [time]
        window = 1
        [stages.decoder]
        file = "FILE"
        sha256 = "HASH"
    "#;

    fn package(file: &str, sha256: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("decoder.onnx"), b"graph").unwrap();
        fs::write(folder.path().join("model.toml"), PLAIN.replace("FILE", file).replace("HASH", sha256)).unwrap();
        folder
    }

    fn load(folder: &Path) -> Result<Package> {
        Source::find(&format!("{}/", folder.display()))?.load()
    }

    fn hash(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_embedded_package_is_whole() {
        let package = Source::find(DEFAULT).unwrap().load().unwrap();
        assert_eq!(package.manifest.name, DEFAULT);
        assert_eq!(
            package.graphs.iter().map(|graph| graph.kind).collect::<Vec<_>>(),
            [StageKind::Encoder, StageKind::Unet, StageKind::Decoder]
        );
    }

    #[test]
    fn a_folder_is_a_package() {
        let folder = package("decoder.onnx", &hash(b"graph"));
        let loaded = load(folder.path()).unwrap();
        assert!(matches!(&loaded.graphs[..], [graph] if &graph.bytes[..] == b"graph"));
    }

    #[test]
    fn a_changed_file_is_refused_with_both_hashes() {
        let folder = package("decoder.onnx", &hash(b"another graph"));
        let message = format!("{:#}", load(folder.path()).unwrap_err());
        assert!(message.contains(&hash(b"another graph")) && message.contains(&hash(b"graph")), "{message}");
    }

    #[test]
    fn external_data_is_checked_too() {
        let folder = package("decoder.onnx", &hash(b"graph"));
        fs::write(folder.path().join("weights"), b"weights").unwrap();
        let data = |sha256: &str| {
            let manifest = PLAIN.replace("FILE", "decoder.onnx").replace("HASH", &hash(b"graph"));
            let manifest = format!("{manifest}data = [{{ file = \"weights\", sha256 = \"{sha256}\" }}]");
            fs::write(folder.path().join("model.toml"), manifest).unwrap();
            load(folder.path())
        };
        let (name, bytes) = &data(&hash(b"weights")).unwrap().graphs[0].data[0];
        assert_eq!((name.as_str(), &bytes[..]), ("weights", &b"weights"[..]));
        let message = format!("{:#}", data(&hash(b"others")).unwrap_err());
        assert!(message.contains("`weights` is not what the manifest describes"), "{message}");
    }

    #[test]
    fn only_files_of_a_likely_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("model.toml");
        let refused = |expected: &str| {
            let message = format!("{:#}", load(folder.path()).unwrap_err());
            assert!(message.contains(expected), "{message}");
        };
        std::os::unix::fs::symlink("/dev/zero", &manifest).unwrap();
        refused("expected a file, got something else");
        fs::remove_file(&manifest).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(&manifest).status().unwrap();
        assert!(fifo.success());
        refused("expected a file, got something else");
        fs::remove_file(&manifest).unwrap();
        fs::File::create(&manifest).unwrap().set_len(2 << 20).unwrap();
        refused("expected at most 1048576 bytes, got 2097152");
    }

    #[test]
    fn paths_stay_inside_the_package() {
        for file in ["../decoder.onnx", "/etc/passwd", "sub/../../decoder.onnx", ""] {
            let folder = package(file, &hash(b"graph"));
            let message = format!("{:#}", load(folder.path()).unwrap_err());
            assert!(message.contains("expected a relative path inside the package"), "{file}: {message}");
        }
    }

    #[test]
    fn links_that_leave_the_package_are_refused() {
        let outside = tempfile::NamedTempFile::new().unwrap();
        let folder = package("link.onnx", &hash(b""));
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link.onnx")).unwrap();
        let message = format!("{:#}", load(folder.path()).unwrap_err());
        assert!(message.contains("leaves the package"), "{message}");
    }

    #[test]
    fn a_missing_model_says_where_it_was_searched() {
        let message = format!("{:#}", Source::find("no-such-model").unwrap_err());
        assert!(message.contains("compact-s") && message.contains("fastvsr/models"), "{message}");
        let message = format!("{:#}", Source::find("./no/such/folder").unwrap_err());
        assert!(message.contains("./no/such/folder"), "{message}");
    }
}
