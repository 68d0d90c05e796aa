//! What a program or library says about itself: for which machine it is, who loads it, what it needs.

use object::elf::{
    DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, EM_AARCH64, EM_RISCV, EM_X86_64, FileHeader64,
    SHT_SYMTAB,
};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::{Endianness, read};

/// What matters of an ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// For whom it is.
    pub machine: Machine,
    /// The dynamic loader's path; `None` in libraries and static programs.
    pub interpreter: Option<String>,
    /// Names of the shared libraries that it asks for.
    pub needed: Vec<String>,
    /// Folders that it wants libraries to be searched in beside the loader's own.
    pub search_paths: Vec<String>,
    /// Whether it has a symbol table for debuggers, which nothing needs at run time.
    pub has_symbols: bool,
}

/// A kind of processor that images can be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit x86.
    Amd64,
    /// 64-bit Arm.
    Arm64,
    /// 64-bit RISC-V.
    Riscv64,
}

/// Why a file is not for an image.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It is no 64-bit ELF file, or a broken one.
    #[error("not a readable 64-bit program")]
    Unreadable(#[from] read::Error),
    /// It is for a processor that no image is made for.
    #[error("for a processor that no image is made for (ELF machine {0})")]
    Machine(u16),
}

impl Elf {
    /// Reads a file's content.
    ///
    /// # Errors
    /// See [`ElfError`].
    pub fn parse(data: &[u8]) -> Result<Self, ElfError> {
        let header = FileHeader64::<Endianness>::parse(data)?;
        let endian = header.endian()?;
        let machine = match header.e_machine(endian) {
            EM_X86_64 => Machine::Amd64,
            EM_AARCH64 => Machine::Arm64,
            EM_RISCV => Machine::Riscv64,
            other => return Err(ElfError::Machine(other)),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut interpreter = None;
        for segment in header.program_headers(endian, data)? {
            let named = segment.interpreter(endian, data)?;
            interpreter = interpreter.or(named.map(text));
        }
        let sections = header.sections(endian, data)?;
        let (mut needed, mut search_paths) = (Vec::new(), Vec::new());
        if let Some((entries, strings)) = sections.dynamic(endian, data)? {
            let strings = sections.strings(endian, data, strings)?;
            for entry in entries {
                match entry.tag(endian) {
                    DT_NULL => break,
                    DT_NEEDED => needed.push(text(entry.string(endian, strings)?)),
                    DT_RPATH | DT_RUNPATH => {
                        search_paths.push(text(entry.string(endian, strings)?));
                    }
                    _ => {}
                }
            }
        }
        let mut kinds = sections.iter().map(|section| section.sh_type(endian));
        Ok(Self {
            machine,
            interpreter,
            needed,
            search_paths,
            has_symbols: kinds.any(|kind| kind == SHT_SYMTAB),
        })
    }
}

impl Machine {
    /// Its name in images.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Riscv64 => "riscv64",
        }
    }
}
