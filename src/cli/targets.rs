//! What every list of targets must hold. Targets in, the complaint out, if there is one.

use std::collections::HashSet;

use super::shown;
use crate::config::limits::TARGETS_MAX;
use crate::config::{Target, setting};

/// Whether the list is short enough and each name is there once; if not, the whole complaint.
pub(super) fn check(list: &[Target]) -> Result<(), String> {
    if list.len() > TARGETS_MAX {
        let given = list.len();
        return Err(format!("{given} targets: must be at most {TARGETS_MAX}; write fewer"));
    }
    match setting::repeated_name(list) {
        None => Ok(()),
        Some(Target { name, address }) => Err(format!(
            "{}: two targets have this name; write e.g. {}={address} for one of them",
            shown(name),
            free_name(list),
        )),
    }
}

/// A name that no target has.
fn free_name(list: &[Target]) -> String {
    let names: HashSet<&str> = list.iter().map(|target| target.name.as_str()).collect();
    let candidates = std::iter::once("other".to_owned()).chain((2..).map(|n| format!("other{n}")));
    candidates.into_iter().find(|name| !names.contains(name.as_str())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    #[test]
    fn the_suggested_name_is_free() {
        let list: Vec<Target> =
            ["other=a:1", "a:1", "a:1"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(
            check(&list).unwrap_err(),
            "a:1: two targets have this name; write e.g. other2=a:1 for one of them"
        );
    }
}
