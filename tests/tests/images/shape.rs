//! Whether archives are OCI image layouts, and the same for the same programs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use weft_images::spec::{UID, VERSION};
use weft_images::{IMAGES, Reference, assemble};

use crate::layout::{Layout, blob_path, sha256_unpacked};
use crate::made::{folder, images, notices, under_test};
use crate::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![
    every_descriptor_is_true,
    names_are_where_tools_look,
    configurations_say_how_to_run,
    the_same_programs_make_the_same_bytes,
    another_program_makes_another_digest,
];

fn every_descriptor_is_true() {
    for made in images() {
        let layout = Layout::unpack(&made.archive, folder(&format!("true-{}", made.image.name)));
        assert_eq!(
            layout.json("oci-layout"),
            json!({"imageLayoutVersion": "1.0.0"})
        );
        let index = layout.json("index.json");
        assert_eq!(index["schemaVersion"], 2);
        assert_eq!(
            index["mediaType"],
            "application/vnd.oci.image.index.v1+json"
        );
        let [manifest_said] = &index["manifests"].as_array().expect("a list")[..] else {
            panic!("one image: {index}");
        };
        let is = |descriptor: &Value, kind: &str| {
            assert_eq!(
                descriptor["mediaType"],
                format!("application/vnd.oci.image.{kind}")
            );
            layout.blob(descriptor);
        };
        is(manifest_said, "manifest.v1+json");
        let (manifest, config) = layout.image();
        assert_eq!(manifest["schemaVersion"], 2);
        assert_eq!(manifest["mediaType"], manifest_said["mediaType"]);
        is(&manifest["config"], "config.v1+json");
        let layers = manifest["layers"].as_array().expect("layers");
        assert!(matches!(layers.len(), 1 | 2), "{}", layers.len());
        for layer in layers {
            is(layer, "layer.v1.tar+gzip");
        }
        assert_eq!(config["rootfs"]["type"], "layers");
        let unpacked = layout.layers();
        let unpacked: Vec<_> = unpacked.iter().map(|path| sha256_unpacked(path)).collect();
        assert_eq!(config["rootfs"]["diff_ids"], json!(unpacked));
        let history = config["history"].as_array().expect("a history");
        assert_eq!(history.len(), layers.len(), "one line for each layer");

        // Nothing is missing, and nothing is there that nothing refers to.
        let referred = [manifest_said, &manifest["config"]].into_iter();
        let mut expected: BTreeSet<_> = referred.chain(layers).map(blob_path).collect();
        expected.extend(["oci-layout", "index.json", "manifest.json"].map(str::to_owned));
        assert_eq!(layout.paths(), expected);
    }
}

fn names_are_where_tools_look() {
    let prefixes = [
        (None, "docker.io/library/", ""),
        (Some("mesh"), "docker.io/mesh/", "mesh/"),
        (Some("localhost:5000"), "localhost:5000/", "localhost:5000/"),
        (
            Some("registry.example/mesh/"),
            "registry.example/mesh/",
            "registry.example/mesh/",
        ),
    ];
    let made = &images()[0];
    for (at, (prefix, full, short)) in prefixes.into_iter().enumerate() {
        let reference = Reference::new(made.image, prefix, "1.2-rc3").expect("good");
        let folder = folder(&format!("names-{at}"));
        let archive = folder.join("archive.tar");
        let file = File::create(&archive).expect("a file");
        let written = made.assembled.write_archive(&reference, file);
        written.expect("an archive");
        let unpacked = folder.join("unpacked");
        fs::create_dir(&unpacked).expect("a folder");
        let layout = Layout::unpack(&archive, unpacked);
        let index = layout.json("index.json");
        let manifest = &index["manifests"][0];
        assert_eq!(
            manifest["annotations"],
            json!({
                "io.containerd.image.name": format!("{full}weft-proxy:1.2-rc3"),
                "org.opencontainers.image.ref.name": "1.2-rc3",
            })
        );
        let (_, config) = layout.image();
        assert_eq!(
            manifest["platform"],
            json!({"architecture": config["architecture"], "os": "linux"})
        );
        // Of Docker without containerd's store.
        let descriptors = layout.image().0;
        let layers = descriptors["layers"].as_array().expect("layers");
        assert_eq!(
            layout.json("manifest.json"),
            json!([{
                "Config": blob_path(&descriptors["config"]),
                "RepoTags": [format!("{short}weft-proxy:1.2-rc3")],
                "Layers": layers.iter().map(blob_path).collect::<Vec<_>>(),
            }])
        );
    }
}

fn configurations_say_how_to_run() {
    for made in images() {
        let name = made.image.name;
        let layout = Layout::unpack(&made.archive, folder(&format!("config-{name}")));
        let (manifest, image) = layout.image();
        let machine = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        assert_eq!(image["architecture"], machine);
        assert_eq!(image["os"], "linux");
        let config = &image["config"];
        assert_eq!(UID, 2140, "which charts and webhooks say too");
        assert_eq!(config["User"], "2140:2140");
        let program = format!("/usr/bin/{name}");
        assert_eq!(config["Entrypoint"], json!([program]), "an image's program");
        assert!(config["Cmd"].is_null(), "{config}");
        assert_eq!(config["Env"], json!(["PATH=/usr/bin"]));
        for labels in [&config["Labels"], &manifest["annotations"]] {
            let said = |what: &str| labels[format!("org.opencontainers.image.{what}")].clone();
            assert_eq!(said("version"), VERSION);
            assert_eq!(said("licenses"), "Apache-2.0");
            for text in ["title", "description"] {
                assert!(said(text).as_str().is_some_and(|it| it.len() > 3), "{text}");
            }
        }
    }
}

fn the_same_programs_make_the_same_bytes() {
    // Copies of another hour, from another folder.
    let folder = folder("copies");
    let mut copies = under_test();
    for path in copies.values_mut() {
        let copy = folder.join(path.file_name().expect("a name"));
        fs::copy(&path, &copy).expect("a copy");
        let file = File::options().write(true).open(&copy).expect("the copy");
        let earlier = SystemTime::now() - Duration::from_secs(86_400 * 400);
        file.set_modified(earlier).expect("its time");
        *path = copy;
    }
    for made in images() {
        let again = assemble(made.image, &copies, &notices(made.image)).expect("an image");
        let mut archive = Vec::new();
        let written = again.write_archive(&crate::made::reference(made.image), &mut archive);
        written.expect("an archive");
        let first = fs::read(&made.archive).expect("the archive");
        assert!(first == archive, "{} differs", made.image.name);
    }
}

fn another_program_makes_another_digest() {
    let mut files = under_test();
    let proxy = files["weft-proxy"].clone();
    for file in files.values_mut() {
        file.clone_from(&proxy);
    }
    for image in IMAGES {
        let made = images().iter().find(|made| made.image.name == image.name);
        let made = &made.expect("one of each").assembled;
        let other = assemble(image, &files, &notices(image)).expect("an image");
        let is_same = image.programs.iter().all(|it| it.name == "weft-proxy");
        assert_eq!(other.digest() == made.digest(), is_same, "{}", image.name);
        // What is no program of Weft's is fetched once.
        if other.roots[0].bytes() == made.roots[0].bytes() {
            assert_eq!(other.layers[0].digest, made.layers[0].digest);
        }
    }
}
