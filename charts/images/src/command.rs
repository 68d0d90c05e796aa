//! The command line: builds programs, assembles their images, writes them and says how big they are.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser;

use crate::notices::Packages;
use crate::programs::{self, Files};
use crate::reference::Reference;
use crate::spec::{IMAGES, Image, VERSION};
use crate::{Assembled, assemble};

/// Every image.
const ALL: &str = "all";

/// Assembles container images of Weft from programs that it builds, without a registry or a daemon.
#[derive(Debug, Parser)]
#[command(name = "cargo image", bin_name = "cargo image", version)]
pub struct Arguments {
    /// Which image: weft-proxy, weft or all.
    #[arg(long, default_value = ALL, value_parser = image_names())]
    image: String,
    /// Cargo's profile that the programs are built with: dist, release or dev.
    #[arg(long, default_value = "dist")]
    profile: String,
    /// Takes the programs from this folder instead of building them.
    #[arg(long, value_name = "DIR", conflicts_with = "profile")]
    binaries: Option<PathBuf>,
    /// The images' tag.
    #[arg(long, default_value = VERSION)]
    tag: String,
    /// What stands before the images' names, such as registry.example/mesh.
    #[arg(long, value_name = "REGISTRY")]
    prefix: Option<String>,
    /// Folder of the archives; `images` in cargo's target folder where it is not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Writes each image's files into a folder of its name in DIR, instead of archives.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "tag", "prefix"])]
    roots: Option<PathBuf>,
}

impl Arguments {
    /// Does what they say. Progress goes to the standard error, the table of sizes to the standard output.
    ///
    /// # Errors
    /// What is wrong with the arguments, the programs or this machine; what was written before stays.
    pub fn run(&self) -> anyhow::Result<()> {
        let images: Vec<&'static Image> = IMAGES
            .iter()
            .filter(|image| [ALL, image.name].contains(&&*self.image))
            .collect();
        // Whatever is wrong with the names is said before anything takes time.
        let references = images
            .iter()
            .map(|image| Reference::new(image, self.prefix.as_deref(), &self.tag))
            .collect::<Result<Vec<_>, _>>()?;
        let packages = Packages::read()?;
        let files = programs(self, &images)?;
        let mut table = vec![HEADINGS.map(str::to_owned)];
        for (image, reference) in images.into_iter().zip(references) {
            progress(&format!("{}: libraries and layers", image.name));
            let notices = packages.notices(image)?;
            let assembled = assemble(image, &files, &notices)
                .with_context(|| format!("image {}", image.name))?;
            let written = match &self.roots {
                Some(folder) => write_root(&assembled, folder)?,
                None => write_archive(&assembled, &reference, self.out.as_deref())?,
            };
            table.push(row(&assembled, &written));
        }
        print_table(&table);
        Ok(())
    }
}

fn image_names() -> Vec<&'static str> {
    let names = IMAGES.iter().map(|image| image.name);
    names.chain([ALL]).collect()
}

fn programs(arguments: &Arguments, images: &[&Image]) -> anyhow::Result<Files> {
    if let Some(folder) = &arguments.binaries {
        return Ok(programs::in_folder(images, folder));
    }
    progress(&format!(
        "building with profile {}: the first time takes minutes",
        arguments.profile
    ));
    Ok(programs::build(images, &arguments.profile)?)
}

fn write_root(assembled: &Assembled, folder: &Path) -> anyhow::Result<PathBuf> {
    let folder = folder.join(assembled.image.name);
    // What is there already would be taken for part of the image, and is not ours to remove.
    anyhow::ensure!(
        !folder.exists(),
        "{} is there already: remove it first",
        folder.display()
    );
    let written = assembled.write_root(&folder);
    written.with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// Whoever looks at the archive's path sees the whole one or the earlier one.
fn write_archive(
    assembled: &Assembled,
    reference: &Reference,
    folder: Option<&Path>,
) -> anyhow::Result<PathBuf> {
    let folder = folder.map_or_else(default_folder, Path::to_path_buf);
    let path = folder.join(format!("{}.tar", assembled.image.name));
    let part = path.with_extension("tar.part");
    let write = || {
        fs::create_dir_all(&folder)?;
        assembled.write_archive(reference, BufWriter::new(File::create(&part)?))?;
        fs::rename(&part, &path)
    };
    write().with_context(|| path.display().to_string())?;
    progress(&format!("{reference} is in {}", path.display()));
    Ok(path)
}

fn default_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    Path::new(&target).join("images")
}

const HEADINGS: [&str; 5] = ["image", "unpacked", "compressed", "digest", "written to"];

fn row(assembled: &Assembled, written: &Path) -> [String; 5] {
    [
        assembled.image.name.to_owned(),
        megabytes(assembled.unpacked()),
        megabytes(assembled.compressed()),
        assembled.digest().to_string(),
        written.display().to_string(),
    ]
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn print_table(rows: &[[String; 5]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let [image, unpacked, compressed, digest, _] = std::array::from_fn(width);
    for [a, b, c, d, e] in rows {
        println!("{a:image$}  {b:>unpacked$}  {c:>compressed$}  {d:digest$}  {e}");
    }
}

/// Progress is not the result.
fn progress(line: &str) {
    eprintln!("{line}");
}
