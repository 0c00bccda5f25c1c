//! Any text as a manifest, and any manifest as a package whose files do not exist: an error, or a package that is sane.

#![no_main]

use std::{fs, sync::LazyLock};

use gstfastvsr::model::{Manifest, Source};
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fuzz_target!(|text: &str| {
    let Ok(manifest) = Manifest::parse(text) else { return };
    assert!((2..=16).contains(&manifest.geometry.scale));
    assert!(manifest.stages().count() > 0);
    for (_, stage) in manifest.stages() {
        for state in &stage.state {
            assert!(manifest.geometry.multiple.is_multiple_of(state.stride));
        }
    }
    fs::write(FOLDER.path().join("model.toml"), text).unwrap();
    let source = Source::find(FOLDER.path().to_str().unwrap()).unwrap();
    assert!(source.load().is_err(), "a file was read outside the package, which has none");
});
