//! The parts of the system that a spool needs beyond std's portable ones: permissions, owners, inodes, and writes at an
//! offset.
//!
//! A spool runs only on Unix. Windows has other permissions, and std has no stable name for a file's identity there, so
//! the spool refuses to open before it touches the disk ([`AVAILABLE`]). The stand-ins below let it compile on such a
//! system; nothing calls them.

#[cfg(unix)]
pub use unix::*;

#[cfg(not(unix))]
pub use stand_ins::*;

#[cfg(unix)]
mod unix {
    pub use libc::{O_NOFOLLOW, O_NONBLOCK};
    pub use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};

    use std::fs::{self, File, Permissions};
    use std::io;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    /// Whether a spool can be opened on this system.
    pub const AVAILABLE: bool = true;

    /// Sets the permissions of a file or a directory.
    pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    /// Returns the user that this process creates files as: a pipe has an owner too, and needs no disk.
    pub fn user() -> io::Result<u32> {
        let (pipe, _) = io::pipe()?;
        Ok(File::from(OwnedFd::from(pipe)).metadata()?.uid())
    }
}

#[cfg(not(unix))]
mod stand_ins {
    use std::fs::{DirBuilder, File, Metadata, OpenOptions};
    use std::io;
    use std::path::Path;

    /// Whether a spool can be opened on this system.
    pub const AVAILABLE: bool = false;

    pub const O_NOFOLLOW: i32 = 0;
    pub const O_NONBLOCK: i32 = 0;

    fn unavailable<T>() -> io::Result<T> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn set_mode(_path: &Path, _mode: u32) -> io::Result<()> {
        unavailable()
    }

    pub fn user() -> io::Result<u32> {
        unavailable()
    }

    pub trait FileExt {
        fn write_all_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
            unavailable()
        }
    }

    impl FileExt for File {}

    pub trait MetadataExt {
        fn dev(&self) -> u64 {
            0
        }
        fn ino(&self) -> u64 {
            0
        }
        fn nlink(&self) -> u64 {
            0
        }
        fn uid(&self) -> u32 {
            0
        }
        fn mode(&self) -> u32 {
            0
        }
    }

    impl MetadataExt for Metadata {}

    pub trait OpenOptionsExt {
        fn mode(&mut self, _mode: u32) -> &mut Self {
            self
        }
        fn custom_flags(&mut self, _flags: i32) -> &mut Self {
            self
        }
    }

    impl OpenOptionsExt for OpenOptions {}

    pub trait DirBuilderExt {
        fn mode(&mut self, _mode: u32) -> &mut Self {
            self
        }
    }

    impl DirBuilderExt for DirBuilder {}
}
