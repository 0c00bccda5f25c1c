//! The plugin file as GStreamer's own tools see it.

mod common;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::model;

/// The plugin file, built beside the test programs, alone in a folder.
struct Plugin {
    folder: tempfile::TempDir,
}

impl Plugin {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("{}gstfastvsr{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
        let programs = env::current_exe().unwrap().parent().unwrap().to_path_buf();
        let built = [programs.join(&name), programs.parent().unwrap().join(&name)];
        let newest = built
            .iter()
            .filter(|file| file.is_file())
            .max_by_key(|file| fs::metadata(file).and_then(|data| data.modified()).unwrap())
            .unwrap_or_else(|| panic!("the plugin is not built: {built:?}"));
        std::os::unix::fs::symlink(newest, folder.path().join(&name)).unwrap();
        Self { folder }
    }

    /// A tool of GStreamer that finds this plugin, with a registry of its own.
    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            .env("GST_PLUGIN_PATH", self.folder.path())
            .env("GST_REGISTRY", self.folder.path().join("registry.bin"))
            .env("LC_ALL", "C.UTF-8");
        command
    }
}

#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text + &String::from_utf8_lossy(&output.stderr)
}

/// What does not depend on the machine, the build or the version of GStreamer.
fn stable(text: &str) -> String {
    let changes = ["Filename", "Version", "Source release date"];
    let mut lines: Vec<_> = text
        .lines()
        .map(str::trim_end)
        .skip_while(|line| !line.starts_with("Factory Details"))
        .filter(|line| !changes.iter().any(|change| line.trim_start().starts_with(change)))
        .collect();
    // What the base classes bring is not ours to pin.
    let inherited = |line: &str| ["name  ", "parent  ", "qos  "].iter().any(|name| line.trim_start().starts_with(name));
    let mut skipping = false;
    lines.retain(|line| {
        let depth = line.len() - line.trim_start().len();
        if depth <= 2 {
            skipping = inherited(line);
        }
        !skipping
    });
    lines.join("\n") + "\n"
}

#[test]
fn gst_inspect_shows_what_it_always_showed() {
    const REGENERATE: &str = "FASTVSR_UPDATE_GOLDEN";
    let got = stable(&output(Plugin::new().tool("gst-inspect-1.0").args(["--no-colors", "fastvsr"])));
    let golden: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/inspect.txt");
    if env::var_os(REGENERATE).is_some() {
        fs::write(&golden, &got).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap();
    // GStreamer 1.26 has more empty lines, and a heading with nothing below it.
    let said = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty() && *line != "Element Flags:");
        lines.map(ToString::to_string).collect()
    };
    assert!(
        said(&got) == said(&expected),
        "`gst-inspect-1.0 fastvsr` has changed; if that is meant, run this test with {REGENERATE}=1 and look at the \
         difference.\nexpected:\n{expected}\ngot:\n{got}"
    );
}

/// Looks for the objects that the tracer found alive at the end.
#[track_caller]
fn no_leaks(text: &str) {
    let (alive, formats): (Vec<_>, Vec<_>) =
        text.lines().filter(|line| line.contains("object-alive")).partition(|line| !line.contains("_build_format"));
    assert!(!formats.is_empty(), "the tracer did not run: {text}");
    assert!(alive.is_empty(), "{alive:#?}");
}

#[test]
fn nothing_leaks() {
    let text = output(
        Plugin::new().tool("gst-launch-1.0").env("GST_TRACERS", "leaks").env("GST_DEBUG", "GST_TRACER:7").args([
            "videotestsrc",
            "num-buffers=10",
            "!",
            "video/x-raw,format=BGRA,width=16,height=16",
            "!",
            "fastvsr",
            "execution-provider=cpu",
            "window=4",
            &format!("model={}", model("counter").display()),
            "!",
            "fakesink",
        ]),
    );
    no_leaks(&text);
}

#[test]
fn an_interrupted_pipeline_leaks_nothing_either() {
    // An error in the middle of a window: the frames that wait must go too. From a live source, because gst-launch-1.0
    // can miss an error that comes before its main loop runs, and then never ends.
    let plugin = Plugin::new();
    let mut command = plugin.tool("gst-launch-1.0");
    command.env("GST_TRACERS", "leaks").env("GST_DEBUG", "GST_TRACER:7").args([
        "videotestsrc",
        "is-live=true",
        "!",
        "video/x-raw,format=RGB,width=16,height=16",
        "!",
        "fastvsr",
        "execution-provider=cpu",
        "window=4",
        &format!("model={}", model("counter").display()),
        "!",
        "identity",
        "error-after=6",
        "!",
        "fakesink",
    ]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    no_leaks(&text);
}

#[test]
fn a_launch_line_with_the_embedded_model_runs() {
    output(Plugin::new().tool("gst-launch-1.0").args([
        "videotestsrc",
        "num-buffers=5",
        "!",
        "video/x-raw,width=32,height=32",
        "!",
        "fastvsr",
        "!",
        "video/x-raw,width=128,height=128",
        "!",
        "fakesink",
    ]));
}

/// Sessions for the frame size are then still being made, where the provider makes any.
#[test]
fn a_process_that_ends_after_its_first_frame_ends_well() {
    let plugin = Plugin::new();
    let pipeline = "videotestsrc num-buffers=1 ! video/x-raw,format=RGB,width=160,height=96 ! fastvsr ! fakesink";
    for _ in 0..5 {
        output(plugin.tool("gst-launch-1.0").args(["--no-fault", "--quiet"]).args(pipeline.split(' ')));
    }
}
