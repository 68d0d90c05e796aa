//! `cargo image`: builds Weft's programs and writes container images of them.

use clap::Parser as _;
use weft_images::command::Arguments;

fn main() -> anyhow::Result<()> {
    Arguments::parse().run()
}
