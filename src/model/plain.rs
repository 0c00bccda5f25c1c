//! Owns plain ONNX files: networks that people have, with neither manifest nor package. The engine measures what their
//! manifests would say; this writes it down.

use std::{fmt::Write as _, path::Path, sync::Arc};

use anyhow::{Context, Result};

use super::{Graph, MANIFEST, MAX_FILE, Manifest, ONNX, Package, check_hash, manifest::FORMAT, read, sha256, write};

/// An ONNX file without a manifest, read.
#[derive(Debug, Clone)]
pub struct PlainFile {
    /// Its name, and that of the external data beside it if there is any.
    name: String,
    bytes: Vec<u8>,
    data: Option<(String, Arc<[u8]>)>,
}

impl PlainFile {
    /// Reads the file, and its external data where that lies beside it under the name that PyTorch gives it, `FILE.data`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let file = |path: &Path| {
            read(path, MAX_FILE).with_context(|| format!("cannot read `{}`: expected an ONNX file", path.display()))
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let beside = format!("{name}.data");
        let data = path.with_file_name(&beside);
        let data = data.exists().then(|| Ok::<_, anyhow::Error>((beside, file(&data)?.into()))).transpose()?;
        Ok(Self { bytes: file(path)?, name, data })
    }

    /// Its name, without folders.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Stands for its very contents, and those of its data.
    pub fn fingerprint(&self) -> String {
        let data = self.data.iter().map(|(name, bytes)| format!(" {name} {}", sha256(bytes)));
        format!("{} {}{}", self.name, sha256(&self.bytes), data.collect::<String>())
    }

    /// The manifest that says `geometry` and `time`, in TOML, of this file, and `stage` of its one stage.
    pub fn manifest(&self, geometry: &str, time: &str, stage: &str) -> String {
        let name = self.name.strip_suffix(ONNX).unwrap_or(&self.name);
        let data = self
            .data
            .iter()
            .map(|(name, bytes)| format!("data = [{{ file = {}, sha256 = \"{}\" }}]\n", quote(name), sha256(bytes)));
        format!(
            "format = {}\nname = {}\nversion = \"1\"\nlicense = \"unknown\"\ndescription = {}\n\n[geometry]\n{geometry}\n\
             [time]\n{time}\n[stages.decoder]\nfile = {}\nsha256 = \"{}\"\n{}{stage}",
            FORMAT,
            quote(name),
            quote(&format!("made of {}", self.name)),
            quote(&self.name),
            sha256(&self.bytes),
            data.collect::<String>(),
        )
    }

    /// The package of this file and the manifest that was written for it.
    ///
    /// # Errors
    /// If the manifest is not valid, or another file's.
    pub fn package(self, manifest: &str) -> Result<Package> {
        let manifest = Manifest::parse(manifest)?;
        let (kind, stage) = manifest.stages().next().expect("a decoder is always there");
        check_hash(&self.name, &stage.sha256, &self.bytes)?;
        let (stage, data) = (stage.clone(), self.data.into_iter().collect());
        let graph = Graph { kind, manifest: stage, bytes: self.bytes.into(), int8: None, data };
        Ok(Package { manifest, graphs: vec![graph] })
    }

    /// Writes the file, its data, and a manifest into a folder.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, manifest: &str, folder: &Path) -> Result<()> {
        let data = self.data.iter().map(|(name, bytes)| (name.as_str(), &**bytes));
        let files = [(self.name.as_str(), &*self.bytes), (MANIFEST, manifest.as_bytes())];
        files.into_iter().chain(data).try_for_each(|(name, bytes)| write(folder, name, bytes))
    }
}

/// A string in TOML.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => drop(write!(quoted, "\\u{:04x}", u32::from(character))),
            _ => quoted.push(character),
        }
    }
    quoted + "\""
}
