//! The kernel's loop interface (`include/uapi/linux/loop.h`).

use std::os::fd::RawFd;

pub(super) const MAJOR: u64 = 7;
pub(super) const FLAG_READ_ONLY: u32 = 1;
pub(super) const FLAG_AUTOCLEAR: u32 = 4;
pub(super) const FLAG_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Status {
    pub device: u64,
    pub inode: u64,
    pub rdevice: u64,
    pub offset: u64,
    pub size_limit: u64,
    pub number: u32,
    pub encrypt_type: u32,
    pub encrypt_key_size: u32,
    pub flags: u32,
    pub file_name: [u8; 64],
    pub crypt_name: [u8; 64],
    pub encrypt_key: [u8; 32],
    pub init: [u64; 2],
}

impl Status {
    pub(super) const EMPTY: Status = Status {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

/// `struct loop_config`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    pub fd: u32,
    pub block_size: u32,
    pub info: Status,
    pub reserved: [u64; 8],
}

const _: () = assert!(size_of::<Status>() == 232 && size_of::<Config>() == 304);

mod raw {
    use super::{Config, Status};
    nix::ioctl_none_bad!(clr_fd, 0x4C01);
    nix::ioctl_write_ptr_bad!(set_status64, 0x4C04, Status);
    nix::ioctl_read_bad!(get_status64, 0x4C05, Status);
    nix::ioctl_none_bad!(set_capacity, 0x4C07);
    nix::ioctl_write_ptr_bad!(configure, 0x4C0A, Config);
    nix::ioctl_none_bad!(get_free, 0x4C82);
    nix::ioctl_read_bad!(block_device_size, 0x8008_1272, u64);
}

/// Number of a free device.
pub(super) fn get_free(control: RawFd) -> nix::Result<i32> {
    // SAFETY: no argument; the kernel checks what the descriptor is.
    unsafe { raw::get_free(control) }
}

pub(super) fn configure(device: RawFd, config: &Config) -> nix::Result<()> {
    // SAFETY: `config` is the kernel's `struct loop_config` (checked by size) and is only read.
    unsafe { raw::configure(device, config) }.map(drop)
}

pub(super) fn status(device: RawFd) -> nix::Result<Status> {
    let mut status = Status::EMPTY;
    // SAFETY: `status` is the kernel's `struct loop_info64` (checked by size); any bytes are a valid value.
    unsafe { raw::get_status64(device, &raw mut status) }?;
    Ok(status)
}

pub(super) fn set_status(device: RawFd, status: &Status) -> nix::Result<()> {
    // SAFETY: as in `status`; only read.
    unsafe { raw::set_status64(device, status) }.map(drop)
}

pub(super) fn set_capacity(device: RawFd) -> nix::Result<()> {
    // SAFETY: no argument.
    unsafe { raw::set_capacity(device) }.map(drop)
}

pub(super) fn clear(device: RawFd) -> nix::Result<()> {
    // SAFETY: no argument.
    unsafe { raw::clr_fd(device) }.map(drop)
}

/// BLKGETSIZE64, in bytes.
pub(super) fn size_bytes(device: RawFd) -> nix::Result<u64> {
    let mut size = 0;
    // SAFETY: the kernel writes one `u64`.
    unsafe { raw::block_device_size(device, &raw mut size) }?;
    Ok(size)
}
