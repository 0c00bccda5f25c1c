//! Owns the model package: a folder with a manifest (`model.toml`) and one ONNX graph per stage.
//!
//! A package is read completely before it is used: the manifest is validated, every file is checked against its
//! SHA-256, and nothing outside the package's folder is opened. What the graphs contain is the business of
//! [`crate::engine`]; this module knows neither ONNX Runtime nor GStreamer.

mod embedded;
mod manifest;

use std::{
    borrow::Cow,
    env, fmt, fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

pub use manifest::{Geometry, Manifest, StageManifest, StateManifest, Time};

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

/// Where a graph's bytes are.
#[derive(Debug, Clone)]
pub enum Graph {
    /// The whole graph, checked against its hash.
    Bytes(Cow<'static, [u8]>),
    /// A graph with external data files beside it, all of them checked: ONNX Runtime must open it by path.
    File(PathBuf),
}

/// One stage of a package, ready to be made into a session.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Which of the three.
    pub kind: StageKind,
    /// File name in the package, for messages.
    pub file: String,
    /// Names and shapes of the recurrent state, empty for a stage without memory.
    pub states: Vec<StateManifest>,
    /// How far the stage sees around a pixel, in input pixels.
    pub halo: usize,
    /// The graph itself.
    pub graph: Graph,
}

/// A package whose files were all read and verified.
#[derive(Debug, Clone)]
pub struct Package {
    /// The parsed `model.toml`.
    pub manifest: Manifest,
    /// The stages that the package has, in running order; the decoder is always there.
    pub stages: Vec<Stage>,
}

/// Where a package comes from; equal sources are the same model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// The package inside the plugin file.
    Embedded,
    /// A folder, made canonical.
    Folder(PathBuf),
}

impl Source {
    /// Finds what the user means by `name`: a folder (anything with a `/`, or an existing one), the embedded package,
    /// or a package of that name in [`search_path`].
    ///
    /// # Errors
    /// Says which places were searched.
    pub fn find(name: &str) -> Result<Self> {
        if name == embedded::NAME {
            return Ok(Self::Embedded);
        }
        let folder = if name.contains('/') || Path::new(name).is_dir() {
            PathBuf::from(name)
        } else {
            let searched = search_path();
            match searched.iter().map(|dir| dir.join(name)).find(|dir| dir.join("model.toml").is_file()) {
                Some(folder) => folder,
                None => bail!(
                    "no model named `{name}`: expected the embedded `{}`, a folder with a model.toml, or a package in {}",
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
    pub fn manifest(&self) -> Result<Manifest> {
        match self {
            Self::Embedded => Manifest::parse(embedded::MANIFEST).context("the embedded model's manifest"),
            Self::Folder(folder) => {
                let path = folder.join("model.toml");
                let text = fs::read_to_string(&path).with_context(|| {
                    format!("cannot read `{}`: expected a model package's manifest", path.display())
                })?;
                Manifest::parse(&text).with_context(|| format!("in `{}`", path.display()))
            }
        }
    }

    /// Reads the manifest and all graphs, and checks every file's SHA-256.
    pub fn load(&self) -> Result<Package> {
        let manifest = self.manifest()?;
        let mut stages = Vec::with_capacity(3);
        for (kind, stage) in manifest.stages() {
            let graph = match self {
                Self::Embedded => Graph::Bytes(Cow::Borrowed(embedded::graph(kind))),
                Self::Folder(folder) => read_graph(folder, stage)?,
            };
            if let Graph::Bytes(bytes) = &graph {
                check_hash(&stage.file, &stage.sha256, Sha256::digest(bytes).as_slice())?;
            }
            stages.push(Stage {
                kind,
                file: stage.file.clone(),
                states: stage.state.clone(),
                halo: stage.halo.unwrap_or(0),
                graph,
            });
        }
        Ok(Package { manifest, stages })
    }
}

/// Folders that are searched for packages by name: `$FASTVSR_MODEL_PATH`, then `fastvsr/models` in the XDG data folders.
pub fn search_path() -> Vec<PathBuf> {
    let listed = env::var_os("FASTVSR_MODEL_PATH").unwrap_or_default();
    let home = env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")));
    let system = env::var_os("XDG_DATA_DIRS").unwrap_or_else(|| "/usr/local/share:/usr/share".into());
    env::split_paths(&listed)
        .filter(|dir| !dir.as_os_str().is_empty())
        .chain(home.into_iter().chain(env::split_paths(&system)).map(|dir| dir.join("fastvsr/models")))
        .collect()
}

fn read_graph(folder: &Path, stage: &StageManifest) -> Result<Graph> {
    let path = inside(folder, &stage.file)?;
    if stage.data.is_empty() {
        let bytes = fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        return Ok(Graph::Bytes(Cow::Owned(bytes)));
    }
    let whole = std::iter::once((&stage.file, &stage.sha256)).chain(stage.data.iter().map(|d| (&d.file, &d.sha256)));
    for (file, sha256) in whole {
        let path = inside(folder, file)?;
        let mut hasher = Sha256::new();
        let mut reader = fs::File::open(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        std::io::copy(&mut reader, &mut HashWriter(&mut hasher))
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        check_hash(file, sha256, hasher.finalize().as_slice())?;
    }
    Ok(Graph::File(path))
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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

fn check_hash(file: &str, expected: &str, digest: &[u8]) -> Result<()> {
    let got = digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
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
            package.stages.iter().map(|stage| stage.kind).collect::<Vec<_>>(),
            [StageKind::Encoder, StageKind::Unet, StageKind::Decoder]
        );
    }

    #[test]
    fn a_folder_is_a_package() {
        let folder = package("decoder.onnx", &hash(b"graph"));
        let loaded = load(folder.path()).unwrap();
        assert!(matches!(&loaded.stages[..], [Stage { graph: Graph::Bytes(bytes), .. }] if &bytes[..] == b"graph"));
    }

    #[test]
    fn a_changed_file_is_refused_with_both_hashes() {
        let folder = package("decoder.onnx", &hash(b"another graph"));
        let message = format!("{:#}", load(folder.path()).unwrap_err());
        assert!(message.contains(&hash(b"another graph")) && message.contains(&hash(b"graph")), "{message}");
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
