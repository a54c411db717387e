//! Relabelling as Prometheus does it: a target's labels in, the changed labels or none out. Pure.

use std::borrow::Cow;

use super::{Labels, Target};
use crate::config::discovery::{RelabelAction as Action, RelabelConfig, is_label_name};

/// The label that holds the address.
pub const ADDRESS: &str = "__address__";

/// The label that names a module of the agent.
pub const MODULE: &str = "__module__";

/// Applies the rules in order; `false` if one of them drops the target.
pub fn relabel(labels: &mut Labels, rules: &[RelabelConfig]) -> bool {
    rules.iter().all(|rule| apply(labels, rule))
}

/// What is probed of a discovered target, if anything: rules applied, internal labels gone.
#[must_use]
pub fn target(job: usize, mut labels: Labels, rules: &[RelabelConfig]) -> Option<Target> {
    if !relabel(&mut labels, rules) {
        return None;
    }
    let address = labels.remove(ADDRESS).filter(|address| !address.is_empty())?;
    let module = labels.remove(MODULE).filter(|module| !module.is_empty());
    labels.retain(|name, value| !name.starts_with("__") && !value.is_empty());
    Some(Target { job, address, labels, module })
}

fn apply(labels: &mut Labels, rule: &RelabelConfig) -> bool {
    let regex = rule.regex.regex();
    match rule.action {
        Action::Keep => return regex.is_match(&joined(labels, rule)),
        Action::Drop => return !regex.is_match(&joined(labels, rule)),
        Action::Replace => replace(labels, rule),
        Action::LabelMap => {
            let mapped: Vec<_> = labels
                .iter()
                .filter(|(name, _)| regex.is_match(name))
                .map(|(name, value)| {
                    let name = regex.replace(name, rule.replacement.as_str());
                    (name.into_owned(), value.clone())
                })
                .collect();
            // A name that no page could show is as a label that is not there.
            labels.extend(mapped.into_iter().filter(|(name, _)| is_label_name(name)));
        }
        Action::LabelDrop => labels.retain(|name, _| !regex.is_match(name)),
        Action::LabelKeep => labels.retain(|name, _| regex.is_match(name)),
    }
    true
}

fn replace(labels: &mut Labels, rule: &RelabelConfig) {
    let value = joined(labels, rule);
    let Some(captures) = rule.regex.regex().captures(&value) else { return };
    let (mut name, mut replacement) = (String::new(), String::new());
    captures.expand(&rule.target_label, &mut name);
    captures.expand(&rule.replacement, &mut replacement);
    if !is_label_name(&name) {
        return;
    }
    if replacement.is_empty() {
        labels.remove(&name);
    } else {
        labels.insert(name, replacement);
    }
}

/// The values of the source labels; a label that is not there is empty.
fn joined<'a>(labels: &'a Labels, rule: &RelabelConfig) -> Cow<'a, str> {
    let value = |name: &String| labels.get(name).map_or("", String::as_str);
    if let [name] = &rule.source_labels[..] {
        return Cow::Borrowed(value(name));
    }
    let values: Vec<&str> = rule.source_labels.iter().map(value).collect();
    Cow::Owned(values.join(&rule.separator))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use proptest::prelude::*;

    use super::*;

    fn rules(text: &str) -> Vec<RelabelConfig> {
        serde_saphyr::from_str(text).unwrap()
    }

    fn labels(text: &str) -> Labels {
        let pairs = text.split(' ').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap()).map(owned).collect()
    }

    fn owned((name, value): (&str, &str)) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    /// `None` for a dropped target.
    fn check(before: &str, text: &str, after: Option<&str>) {
        let mut changed = labels(before);
        let kept = relabel(&mut changed, &rules(text));
        assert_eq!(kept.then_some(changed), after.map(labels), "{before} by {text}");
    }

    #[test]
    fn replace_writes_what_the_groups_say() {
        let before = "a=foo b=bar c=baz";
        for (rule, after) in [
            (
                "regex: f(.*), source_labels: [a], target_label: d, replacement: ch$1-ch$1",
                "a=foo b=bar c=baz d=choo-choo",
            ),
            // Joined by the separator, and matched as a whole.
            (
                "source_labels: [a, b], separator: ';', regex: 'f(.*);(.*)r', target_label: a, \
              replacement: 'b${1}${2}m'",
                "a=boobam b=bar c=baz",
            ),
            ("source_labels: [a], regex: o, target_label: d", before),
            (
                "source_labels: [a], regex: o|foo, target_label: d, replacement: x",
                "a=foo b=bar c=baz d=x",
            ),
            // Nothing to match, and a constant.
            ("target_label: d, replacement: x", "a=foo b=bar c=baz d=x"),
            ("source_labels: [missing], target_label: a", "b=bar c=baz"),
            ("source_labels: [a], target_label: a, replacement: ''", "b=bar c=baz"),
            // The name of a group reaches as far as it can: $1x is no group.
            ("source_labels: [a], target_label: d, replacement: $1x", before),
            (
                "source_labels: [a], target_label: '${1}_x', replacement: $$",
                "a=foo b=bar c=baz foo_x=$",
            ),
            (
                "source_labels: [a], regex: '(f)(oo)', target_label: '$2', replacement: $1",
                "a=foo b=bar c=baz oo=f",
            ),
            // A name that is none writes nothing.
            ("source_labels: [a], regex: 'f(x?)oo', target_label: '$1', replacement: x", before),
        ] {
            check(before, &format!("[{{{rule}}}]"), Some(after));
        }
        check(
            "a=1\n2",
            "[{source_labels: [a], regex: 1.2, target_label: b, replacement: y}]",
            Some("a=1\n2 b=y"),
        );
    }

    #[test]
    fn the_other_actions() {
        for (before, rule, after) in [
            ("a=foo", "action: drop, source_labels: [a], regex: fo+", None),
            ("a=foo", "action: drop, source_labels: [a], regex: fo", Some("a=foo")),
            ("a=foo", "action: keep, source_labels: [a], regex: foo", Some("a=foo")),
            ("a=foo", "action: keep, source_labels: [a], regex: fo", None),
            ("a=foo", "action: KEEP, source_labels: [b], regex: ''", Some("a=foo")),
            ("a=foo", "action: drop, source_labels: [b], regex: .+", Some("a=foo")),
            (
                "a=foo b1=bar b2=baz",
                "action: labelmap, regex: '(b.)x?', replacement: n_$1",
                Some("a=foo b1=bar b2=baz n_b1=bar n_b2=baz"),
            ),
            ("__meta_x=1", "action: labelmap, regex: __meta_(.+)", Some("__meta_x=1 x=1")),
            ("__meta_1=1", "action: labelmap, regex: __meta_(.+)", Some("__meta_1=1")),
            ("a=1 ab=2 b=3", "action: labeldrop, regex: a.*", Some("b=3")),
            ("a=1 ab=2 b=3", "action: labelkeep, regex: a.*", Some("a=1 ab=2")),
        ] {
            check(before, &format!("[{{{rule}}}]"), after);
        }
    }

    #[test]
    fn rules_see_what_those_before_them_wrote() {
        check(
            "__address__=h:1",
            "[{source_labels: [__address__], regex: '(.+):\\d+', target_label: host}, \
              {source_labels: [host], target_label: __address__, replacement: '$1:9'}, \
              {action: keep, source_labels: [__address__], regex: 'h:9'}]",
            Some("__address__=h:9 host=h"),
        );
    }

    #[test]
    fn internal_and_empty_labels_end_here_and_so_does_a_target_without_an_address() {
        let found = target(7, labels("__address__=h:1 __meta_x=1 a=2 b= __module__=m"), &[]);
        let module = Some("m".to_owned());
        let expected = Target { job: 7, address: "h:1".to_owned(), labels: labels("a=2"), module };
        assert_eq!(found.unwrap(), expected);
        assert_eq!(target(0, labels("__address__= a=2"), &[]), None);
        assert_eq!(target(0, labels("a=2"), &[]), None);
        let away = rules("[{target_label: __address__, replacement: ''}]");
        assert_eq!(target(0, labels("__address__=h:1"), &away), None);
    }

    fn some_labels() -> impl Strategy<Value = Labels> {
        prop::collection::btree_map("(__)?[a-c]{1,2}", "[a-c:;$1]{0,4}", 0..6)
    }

    proptest! {
        #[test]
        fn keep_and_drop_are_each_others_opposite(before in some_labels(), word in "[a-c]{0,2}.?") {
            prop_assume!(word.parse::<crate::config::discovery::Expression>().is_ok());
            let rule = |action: &str| {
                let mut rule = rules(&format!("[{{action: {action}, source_labels: [a, b]}}]"));
                rule[0].regex = word.parse().unwrap();
                rule
            };
            let (mut kept, mut left) = (before.clone(), before.clone());
            prop_assert_ne!(relabel(&mut kept, &rule("keep")), relabel(&mut left, &rule("drop")));
            prop_assert_eq!((&kept, &left), (&before, &before));
        }

        #[test]
        fn a_label_copied_is_the_label(before in some_labels()) {
            let mut after = before.clone();
            relabel(&mut after, &rules("[{source_labels: [a], target_label: copy}]"));
            let full = before.get("a").filter(|value| !value.is_empty());
            prop_assert_eq!(after.get("copy"), full);
        }

        #[test]
        fn no_internal_label_and_no_empty_address_leaves(before in some_labels(), host in "h?") {
            let mut before = before;
            before.insert(ADDRESS.to_owned(), host.clone());
            let found = target(0, before, &[]);
            prop_assert_eq!(found.is_some(), !host.is_empty());
            if let Some(found) = found {
                prop_assert!(found.labels.keys().all(|name| !name.starts_with("__")));
            }
        }
    }
}
