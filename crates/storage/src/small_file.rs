//! Small files in the data folder that are written whole, at once or not at all.
//!
//! Owns: the order of writes, and the second copy of files that nobody else can give back. Does not: know what is in them; each has a
//! checksum of its own.
//! Invariants: a file has its name only with all of its content; the copy is never older than the file.
//! See: docs/formats/data-directory.md.

use std::io;

use crate::disk::{Disk, read_up_to};

/// Name of the second copy of a file.
pub fn copy_name(name: &str) -> String {
    format!("{name}.copy")
}

/// The first `bytes_max` bytes of a file; `None` if there is none.
pub fn read(disk: &dyn Disk, name: &str, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    // Looked for in the list: what a failed open means differs between disks.
    if !disk.list("")?.iter().any(|found| found == name) {
        return Ok(None);
    }
    read_up_to(disk.open(name)?.as_ref(), 0, bytes_max).map(Some)
}

/// Writes a file, durably and at once or not at all.
pub fn write(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = format!("{name}.new");
    match disk.unlink(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&draft, 0)?;
    file.write_at(0, bytes)?;
    file.sync_data()?;
    disk.rename(&draft, name)?;
    disk.sync_directory("")
}

/// Writes the copy of a file, then the file.
pub fn write_twice(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    write(disk, &copy_name(name), bytes)?;
    write(disk, name, bytes)
}
