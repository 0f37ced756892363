//! A small disk of its own for one node, that can be filled or made read-only: a tmpfs, or an ext4 on
//! a loop device whose journal is aborted, as the kernel does when a disk fails.
//!
//! Promises: what was mounted is unmounted, at the latest when it is dropped. Owned by the stage.
//! Never does: write to anything but its mount point and its image.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::fault::DiskFault;

/// Size of a disk: little to fill, and enough for the logs of a row.
const SIZE_MIB: u64 = 64;
/// The file that fills it.
const FILLER: &str = "filler";
/// Written at a time while it is filled.
const PART_BYTES: usize = 64 << 10;

/// A mounted disk.
#[derive(Debug)]
pub struct Disk {
    point: PathBuf,
    fault: DiskFault,
    /// Mounts on top of one another that are not undone.
    num_mounts: usize,
}

impl Disk {
    /// Why disks can not be mounted here; none when they can.
    #[must_use]
    pub fn why_not_here() -> Option<String> {
        let all = tempfile::tempdir().map_err(|error| error.to_string()).and_then(|directory| {
            let mount = |fault| Self::mount(&directory.path().join("disk"), fault).map(drop);
            mount(DiskFault::Full).and_then(|()| mount(DiskFault::ReadOnly))
        });
        all.err()
    }

    /// Mounts a new, empty disk on `point`, over what is there.
    ///
    /// # Errors
    /// What mount says.
    pub fn mount(point: &Path, fault: DiskFault) -> Result<Self, String> {
        std::fs::create_dir_all(point).map_err(|error| error.to_string())?;
        let mut disk = Self { point: point.to_owned(), fault, num_mounts: 0 };
        disk.mount_new()?;
        Ok(disk)
    }

    fn mount_new(&mut self) -> Result<(), String> {
        let point = text(&self.point);
        match self.fault {
            DiskFault::Full => {
                let size = format!("size={SIZE_MIB}m");
                run("mount", &["-t", "tmpfs", "-o", &size, "millrace-test", &point])?;
            }
            DiskFault::ReadOnly => {
                let image = text(&self.point.with_extension("image"));
                let file = File::create(&image).map_err(|error| error.to_string())?;
                file.set_len(SIZE_MIB << 20).map_err(|error| error.to_string())?;
                // No room kept for root, so that root can fill it no more than others.
                run("mkfs.ext4", &["-q", "-F", "-m", "0", &image])?;
                run("mount", &["-o", "loop,errors=remount-ro", &image, &point])?;
            }
        }
        self.num_mounts += 1;
        Ok(())
    }

    /// Makes every write fail, until [`Disk::mend`], or [`Disk::renew`] for one that is read-only.
    ///
    /// # Errors
    /// What the system says; also when it is not so afterwards.
    pub fn fail(&mut self) -> Result<(), String> {
        match self.fault {
            DiskFault::Full => fill(&self.point.join(FILLER)).map_err(|error| error.to_string())?,
            DiskFault::ReadOnly => run("mount", &["-o", "remount,abort", &text(&self.point)])?,
        }
        self.refuses()
    }

    /// Puts a read-only view of the disk over it: every file that is opened by its path is refused a
    /// write, and [`Disk::mend`] can take the view away again.
    ///
    /// # Errors
    /// What mount says; also when it is not so afterwards.
    pub fn cover(&mut self) -> Result<(), String> {
        let point = text(&self.point);
        run("mount", &["--bind", &point, &point])?;
        self.num_mounts += 1;
        run("mount", &["-o", "remount,ro,bind", &point])?;
        self.refuses()
    }

    fn refuses(&self) -> Result<(), String> {
        match std::fs::write(self.point.join("probe"), [0; 4 << 10]) {
            Ok(()) => Err(format!("{} still takes files", self.point.display())),
            Err(error) => {
                let wanted = match self.fault {
                    DiskFault::Full => io::ErrorKind::StorageFull,
                    DiskFault::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
                };
                if error.kind() == wanted { Ok(()) } else { Err(error.to_string()) }
            }
        }
    }

    /// Takes the filler, or the view, away.
    ///
    /// # Errors
    /// What the system says.
    pub fn mend(&mut self) -> Result<(), String> {
        let filler = self.point.join(FILLER);
        if filler.exists() {
            std::fs::remove_file(filler).map_err(|error| error.to_string())?;
        }
        if self.num_mounts > 1 {
            self.unmount_one()?;
        }
        Ok(())
    }

    /// Mounts a new, empty disk in the place of one whose processes have ended.
    ///
    /// # Errors
    /// What mount says.
    pub fn renew(&mut self) -> Result<(), String> {
        while self.num_mounts > 0 {
            self.unmount_one()?;
        }
        self.mount_new()
    }

    fn unmount_one(&mut self) -> Result<(), String> {
        // Lazily: a process that ends just now may still hold a file.
        run("umount", &["-l", &text(&self.point)])?;
        self.num_mounts -= 1;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        while self.num_mounts > 0 {
            if let Err(error) = self.unmount_one() {
                eprintln!("{} stays mounted: {error}", self.point.display());
                return;
            }
        }
        // Not there for a tmpfs.
        let _ = std::fs::remove_file(self.point.with_extension("image"));
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Writes until the disk has no byte left.
fn fill(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    loop {
        match file.write_all(&[0; PART_BYTES]) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
