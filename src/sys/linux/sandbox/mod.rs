//! Landlock and seccomp: what the program still needs in, restrictions of the kernel out, or why
//! there are none.

mod files;

cfg_if::cfg_if! {
    if #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))] {
        mod calls;
    } else {
        use elsewhere as calls;
    }
}

pub(in crate::sys) use self::calls::{gap as seccomp_gap, restrict as restrict_calls};
pub(in crate::sys) use self::files::{Held, gap as landlock_gap, restrict as restrict_files};

/// CPUs for which nobody has tried which system calls the program makes.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod elsewhere {
    use crate::sys::sandbox::Permits;

    pub(in crate::sys) fn gap() -> Option<String> {
        Some("the filter of system calls is for x86_64 and aarch64".to_owned())
    }

    pub(in crate::sys) fn restrict(_permits: &Permits) -> Result<(), String> {
        Err(gap().unwrap_or_default())
    }
}
