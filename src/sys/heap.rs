//! How the allocator treats buffers of megabytes.

/// Allocations of more bytes than this come from the kernel and go back to it when freed: 1 MiB, above anything that is
/// allocated often.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;

/// Makes the allocator give large buffers back. Left alone, glibc takes the first large one that is freed as a sign that
/// all should come from the heaps of its threads, where they stay: a pull then holds twice what it uses. Once, at the
/// start of a program.
#[cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "mallopt has no safe form"))]
pub fn give_back_large_buffers() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two integers, and is allowed at any time.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}
