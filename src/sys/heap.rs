//! Configures how the allocator treats buffers of megabytes.
//!
//! *Used by* `cli` when a program starts.

/// Allocations of more bytes than this come from the kernel and go back to it when they are freed. 1 MiB is more than anything
/// that is allocated often.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD: libc::c_int = 1 << 20;

/// Makes the allocator return freed large buffers to the kernel. By default, glibc reacts to the first large buffer that is
/// freed by allocating all further ones from the heaps of its threads, where they stay: a pull then holds twice the memory that
/// it uses. To be called once, at the start of a program.
#[cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "mallopt has no safe form"))]
pub(crate) fn return_large_buffers_to_kernel() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers, and may be called at any time.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD) };
}
