//! What goes wrong says so on the bus: what was expected, what is there, what to do.

mod common;

use std::{env, fs, path::Path, process::Command};

use common::*;
use gst::prelude::*;
use sha2::{Digest, Sha256};

/// The error that an element posts when it starts.
#[track_caller]
fn error_at_start(element: &gst::Element) -> String {
    init();
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    assert!(element.set_state(gst::State::Paused).is_err(), "the element starts");
    let message = bus.pop_filtered(&[gst::MessageType::Error]).expect("an error is posted");
    let _ = element.set_state(gst::State::Null);
    error_text(&message)
}

#[track_caller]
fn says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "expected `{word}` in: {error}");
    }
}

fn fastvsr_of(folder: &Path) -> gst::Element {
    let element = fastvsr("nearest", 1);
    element.set_property("model", folder.to_str().unwrap());
    element
}

/// A copy of a test package, changed: its graph by `graph`, its manifest by `manifest`.
fn broken(name: &str, graph: impl FnOnce(&mut Vec<u8>), manifest: impl FnOnce(String) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = fs::read(model(name).join("decoder.onnx")).unwrap();
    let old = hash(&bytes);
    graph(&mut bytes);
    let text = fs::read_to_string(model(name).join("model.toml")).unwrap().replace(&old, &hash(&bytes));
    fs::write(folder.path().join("decoder.onnx"), bytes).unwrap();
    fs::write(folder.path().join("model.toml"), manifest(text)).unwrap();
    folder
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_copied_package_works() {
    let folder = broken("nearest", |_| {}, |text| text);
    let mut rig = Rig::with_caps(&fastvsr_of(folder.path()), &rgb(8, 4));
    rig.push_flat([3]);
    assert_eq!(rig.levels(), [3]);
}

#[test]
fn a_missing_model() {
    let element = fastvsr("nearest", 1);
    element.set_property("model", "no-such-model");
    says(&error_at_start(&element), &["no-such-model", "expected", "compact-s", "model.toml"]);
}

#[test]
fn a_missing_folder() {
    let element = fastvsr("nearest", 1);
    element.set_property("model", "./no/such/folder");
    says(&error_at_start(&element), &["./no/such/folder", "expected a folder with a model.toml"]);
}

#[test]
fn a_folder_without_a_manifest() {
    let folder = tempfile::tempdir().unwrap();
    says(&error_at_start(&fastvsr_of(folder.path())), &["model.toml", "expected a model package's manifest"]);
}

#[test]
fn a_manifest_that_is_no_toml() {
    let folder = broken("nearest", |_| {}, |_| "not a manifest".into());
    says(&error_at_start(&fastvsr_of(folder.path())), &["model.toml", "the manifest is not valid"]);
}

#[test]
fn a_missing_graph() {
    let folder = broken("nearest", |_| {}, |text| text);
    fs::remove_file(folder.path().join("decoder.onnx")).unwrap();
    says(&error_at_start(&fastvsr_of(folder.path())), &["decoder.onnx", "named in the manifest"]);
}

#[test]
fn a_damaged_graph() {
    let folder = broken("nearest", |_| {}, |text| text);
    let file = folder.path().join("decoder.onnx");
    let mut bytes = fs::read(&file).unwrap();
    bytes.truncate(100);
    fs::write(&file, &bytes).unwrap();
    let error = error_at_start(&fastvsr_of(folder.path()));
    says(&error, &["decoder.onnx", "expected SHA-256", &hash(&bytes), "install the package again"]);
}

#[test]
fn a_truncated_graph_with_the_right_hash() {
    for length in [0, 1, 100, 400] {
        let folder = broken("nearest", |graph| graph.truncate(length), |text| text);
        says(&error_at_start(&fastvsr_of(folder.path())), &["decoder", "decoder.onnx", "cannot be loaded"]);
    }
}

#[test]
fn a_graph_of_noise() {
    let noise = |graph: &mut Vec<u8>| graph.iter_mut().enumerate().for_each(|(n, byte)| *byte = (n * 89 % 251) as u8);
    let folder = broken("nearest", noise, |text| text);
    says(&error_at_start(&fastvsr_of(folder.path())), &["decoder.onnx", "cannot be loaded"]);
}

#[test]
fn a_graph_of_floats() {
    let error = error_at_start(&fastvsr("floats", 1));
    says(&error, &["decoder.onnx", "expected input `frames` to be u8 [T, H, W, 3]", "got Tensor<f32>"]);
}

#[test]
fn a_state_that_the_graph_does_not_have() {
    let state = "\n[[stages.decoder.state]]\ninput = \"s\"\noutput = \"t\"\nchannels = 1\nstride = 1\n";
    let folder = broken("nearest", |_| {}, |text| text + state);
    says(&error_at_start(&fastvsr_of(folder.path())), &["expected an input `s`", "got frames"]);
}

#[test]
fn a_state_that_the_manifest_does_not_name() {
    let folder = broken("counter", |_| {}, |text| text[..text.find("[[").unwrap()].into());
    says(&error_at_start(&fastvsr_of(folder.path())), &["expected no input but frames", "`count`"]);
}

#[test]
fn a_state_of_another_shape() {
    let folder = broken("counter", |_| {}, |text| text.replace("channels = 1", "channels = 5"));
    says(&error_at_start(&fastvsr_of(folder.path())), &["`count`", "[1, h, w, 5]", "got"]);
}

#[test]
fn a_state_of_planes() {
    let error = error_at_start(&fastvsr("planes", 1));
    says(&error, &["decoder.onnx", "expected input `state` to be f32 [1, h, w, 1]", "got Tensor<f32>(1, 1, H, W)"]);
}

#[test]
fn a_graph_of_another_scale() {
    for name in ["nearest", "counter"] {
        for scale in [2, 3, 8] {
            let folder = broken(name, |_| {}, |text| text.replace("scale = 4", &format!("scale = {scale}")));
            let expected = format!("expected `frames_hr` of shape [1, {0}, {0}, 3], got [1, 64, 64, 3]", 16 * scale);
            says(&error_at_start(&fastvsr_of(folder.path())), &["decoder", &expected]);
        }
    }
}

#[test]
fn a_state_that_changes_its_size() {
    let error = error_at_start(&fastvsr("growing", 1));
    says(&error, &["decoder", "expected `state_out` of shape [1, 16, 16, 1], got [1, 16, 32, 1]"]);
}

#[test]
fn an_encoder_that_is_a_decoder() {
    let encoder = |text: String| {
        let stage = &text[text.find("[stages.decoder]").unwrap()..].replace("decoder]", "encoder]");
        format!("{text}\n{stage}")
    };
    let folder = broken("nearest", |_| {}, encoder);
    says(&error_at_start(&fastvsr_of(folder.path())), &["encoder", "expected an output `latent`", "got frames_hr"]);
}

#[test]
fn a_provider_that_does_not_work_here() {
    for provider in ["cuda", "tensorrt"] {
        let element = fastvsr("nearest", 1);
        element.set_property_from_str("execution-provider", provider);
        // The device that no machine has, where the runtime knows the provider.
        element.set_property("device-id", 99);
        says(&error_at_start(&element), &[provider, "does not work here"]);
    }
}

#[test]
fn a_precision_that_the_provider_does_not_have() {
    let element = fastvsr("nearest", 1);
    element.set_property_from_str("precision", "fp16");
    says(&error_at_start(&element), &["cpu", "expected auto or fp32", "got fp16"]);
}

/// Runs a test in a process of its own, in which no runtime is loaded yet.
#[track_caller]
fn alone(name: &str, set_up: impl FnOnce(&mut Command), test: impl FnOnce()) {
    const CHILD: &str = "FASTVSR_TEST_ALONE";
    if env::var_os(CHILD).is_some() {
        return test();
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]).env(CHILD, "1");
    set_up(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "no test is named {name}");
}

#[test]
fn a_runtime_that_is_no_library() {
    alone(
        "a_runtime_that_is_no_library",
        |_| {},
        || {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), "not a library").unwrap();
            let path = file.path().to_str().unwrap();
            let element = fastvsr("nearest", 1);
            element.set_property("runtime-library", path);
            let error = error_at_start(&element);
            says(&error, &[path, "cannot be loaded", "expected version 1.23 or later", "file too short"]);
        },
    );
}

#[test]
fn a_runtime_that_is_another_library() {
    alone(
        "a_runtime_that_is_another_library",
        |_| {},
        || {
            let element = fastvsr("nearest", 1);
            element.set_property("runtime-library", "libgstreamer-1.0.so.0");
            let error = error_at_start(&element);
            says(&error, &["libgstreamer-1.0.so.0", "cannot be loaded", "OrtGetApiBase", "runtime-library"]);
        },
    );
}

#[test]
fn a_runtime_that_does_not_exist() {
    alone(
        "a_runtime_that_does_not_exist",
        |_| {},
        || {
            let element = fastvsr("nearest", 1);
            element.set_property("runtime-library", "./no/libonnxruntime.so");
            says(&error_at_start(&element), &["./no/libonnxruntime.so", "No such file", "pip install"]);
        },
    );
}

#[test]
fn a_runtime_in_the_environment_is_never_replaced_by_another() {
    alone(
        "a_runtime_in_the_environment_is_never_replaced_by_another",
        |command| {
            command.env("ORT_DYLIB_PATH", "./no/libonnxruntime.so");
        },
        || says(&error_at_start(&fastvsr("nearest", 1)), &["./no/libonnxruntime.so", "No such file"]),
    );
}

/// Whether the system's own runtime is all that was found: Debian 13's GStreamer brings ONNX Runtime 1.21.
fn too_old(error: &str) -> bool {
    error.contains("ONNX Runtime cannot be loaded") && error.contains("/usr/lib")
}

#[test]
fn no_runtime_anywhere() {
    alone(
        "no_runtime_anywhere",
        |command| {
            for name in ["VIRTUAL_ENV", "CONDA_PREFIX", "HOME", "LD_LIBRARY_PATH", "ORT_DYLIB_PATH"] {
                command.env_remove(name);
            }
        },
        || {
            if let Ok(runtime) = gstfastvsr::engine::load_runtime(None, &[], |_, _| {}) {
                // The system itself has one: then it must be found, and not in what was taken away.
                assert!(runtime.library.starts_with("/usr"), "{}", runtime.library.display());
                return;
            }
            let error = error_at_start(&fastvsr("nearest", 1));
            says(&error, &["pip install onnxruntime-openvino", "`runtime-library`", "ORT_DYLIB_PATH", "/usr/lib"]);
            let reason: &[&str] =
                if too_old(&error) { &["expected version 1.23 or later"] } else { &["was not found", "Tried:"] };
            says(&error, reason);
        },
    );
}

#[test]
fn a_second_runtime_in_the_same_process() {
    let _first = Rig::new("nearest", 1);
    let element = fastvsr("nearest", 1);
    element.set_property("runtime-library", "./another/libonnxruntime.so");
    says(&error_at_start(&element), &["./another/libonnxruntime.so", "loaded first", "the same `runtime-library`"]);
}

#[test]
fn variables_that_are_empty_lead_nowhere() {
    // In a folder with something by every name that an empty prefix could lead to.
    let folder = tempfile::tempdir().unwrap();
    for prefix in ["", ".local/"] {
        let capi = folder.path().join(format!("{prefix}lib/python3.11/site-packages/onnxruntime/capi"));
        fs::create_dir_all(&capi).unwrap();
        fs::write(capi.join("libonnxruntime.so"), "no library").unwrap();
    }
    let models = folder.path().join("fastvsr/models/of-the-folder");
    fs::create_dir_all(&models).unwrap();
    fs::copy(model("nearest").join("model.toml"), models.join("model.toml")).unwrap();
    alone(
        "variables_that_are_empty_lead_nowhere",
        |command| {
            command.current_dir(folder.path());
            for name in ["VIRTUAL_ENV", "CONDA_PREFIX", "HOME", "ORT_DYLIB_PATH", "XDG_DATA_HOME", "XDG_DATA_DIRS"] {
                command.env(name, "");
            }
            command.env("FASTVSR_MODEL_PATH", "fastvsr/models");
        },
        || {
            let element = fastvsr("nearest", 1);
            element.set_property("model", "of-the-folder");
            says(&error_at_start(&element), &["no model named `of-the-folder`", "/usr/share/fastvsr/models"]);
            element.set_property("model", "compact-s");
            if gstfastvsr::engine::load_runtime(None, &[], |_, _| {}).is_ok() {
                // The system itself has one.
                return;
            }
            let error = error_at_start(&element);
            says(&error, &[if too_old(&error) { "expected version 1.23 or later" } else { "was not found" }]);
            assert!(!error.contains("no library") && !error.contains(" lib/") && !error.contains(" .local"), "{error}");
        },
    );
}

#[test]
fn a_data_file_that_the_manifest_does_not_list_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["model.toml", "decoder.onnx"] {
        fs::copy(model("unlisted").join(file), folder.path().join(file)).unwrap();
    }
    let weight = 40f32.to_le_bytes();
    fs::write(folder.path().join("weight.bin"), weight).unwrap();
    alone(
        "a_data_file_that_the_manifest_does_not_list_is_not_read",
        |command| {
            command.env("FASTVSR_TEST_PACKAGE", folder.path()).current_dir(folder.path());
        },
        || {
            let folder = env::var_os("FASTVSR_TEST_PACKAGE").unwrap();
            let element = fastvsr_of(Path::new(&folder));
            says(&error_at_start(&element), &["decoder.onnx", "weight.bin not found"]);
            // Listed, it is read, and the graph gets what was hashed.
            let manifest = Path::new(&folder).join("model.toml");
            let listed = format!("data = [{{ file = \"weight.bin\", sha256 = \"{}\" }}]\n", hash(&40f32.to_le_bytes()));
            let text = fs::read_to_string(&manifest).unwrap().replace("sha256 =", &format!("{listed}sha256 ="));
            fs::write(&manifest, text).unwrap();
            let mut rig = Rig::with_caps(&element, &rgb(8, 4));
            rig.push_flat([3]);
            assert_eq!(rig.levels(), [43]);
        },
    );
}

#[test]
fn a_state_that_no_machine_has_room_for() {
    let mut rig = Rig::with_caps(&fastvsr("boundless", 1), &rgb(2048, 2048));
    let caps = rgb(2048, 2048);
    assert_eq!(rig.push(gst::Buffer::with_size(info(&caps).size()).unwrap()), Err(gst::FlowError::Error));
    says(&rig.error().unwrap(), &["ran out of memory on a frame of 2048x2048", "make the frames smaller"]);
}

#[test]
fn a_missing_model_after_a_passthrough() {
    let element = fastvsr("nearest", 1);
    element.set_property("model", "no-such-model");
    element.set_property("passthrough", true);
    let mut rig = Rig::with_caps(&element, &rgb(8, 4));
    rig.push_flat([0]);
    element.set_property("passthrough", false);
    assert!(rig.push(flat(&rgb(8, 4), 1, 0)).is_err());
    says(&rig.error().unwrap(), &["no-such-model", "expected"]);
}

#[test]
fn after_an_error_the_element_can_be_mended() {
    let element = fastvsr("nearest", 1);
    element.set_property("model", "no-such-model");
    error_at_start(&element);
    element.set_property("model", model("nearest").to_str().unwrap());
    let mut rig = Rig::with_caps(&element, &rgb(8, 4));
    rig.push_flat([1]);
    assert_eq!(rig.levels(), [1]);
}

#[test]
fn the_provider_auto_takes_one_that_works() {
    let element = fastvsr("nearest", 1);
    element.set_property_from_str("execution-provider", "auto");
    let mut rig = Rig::with_caps(&element, &rgb(8, 4));
    rig.push_flat([40]);
    assert_eq!(rig.levels(), [40]);
    let provider = rig.stats().get::<String>("provider").unwrap();
    assert!(["tensorrt", "cuda", "openvino", "cpu"].contains(&provider.as_str()), "{provider}");
}
