//! Prometheus rules for what a prober measures: a prober's objectives and targets flow in, a rule
//! file as YAML text flows out. Recording rules of error ratios, alerts on how fast the error
//! budget burns, and alerts on what should not go unseen. The dashboards' mixin is made from the
//! same text, so this is the only place where a rule is written.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::Slo;

/// What rules are wanted for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The `job` label that Prometheus gives to rttscope.
    pub job: String,
    /// What is measured.
    pub measured: Vec<Measured>,
    /// The objectives; without any, those that rttscope exports are taken, whatever they are.
    pub slos: Vec<Slo>,
    /// Targets that must be there.
    pub targets: Vec<String>,
}

/// A way of measuring, with metrics of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// Echo probes.
    Echo,
    /// Half-open checks.
    Check,
}

/// A rule file: what Prometheus reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleFile {
    /// Evaluated one beside the other.
    pub groups: Vec<Group>,
}

/// Rules that are evaluated one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Unique in its file.
    pub name: String,
    /// Later ones see what earlier ones recorded.
    pub rules: Vec<Rule>,
}

/// One rule; keys as Prometheus names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Rule {
    /// Stores what an expression gives under a new name.
    Record {
        /// The new name.
        record: String,
        /// The expression, perhaps on several lines.
        expr: String,
    },
    /// Tells somebody what an expression finds.
    Alert {
        /// The alert's name.
        alert: &'static str,
        /// The expression, perhaps on several lines.
        expr: String,
        /// How long it must hold.
        #[serde(rename = "for")]
        hold: &'static str,
        /// `severity`, and what tells this alert from others of its name.
        labels: BTreeMap<&'static str, String>,
        /// `summary` and `description`.
        annotations: BTreeMap<&'static str, String>,
    },
}

/// The rules for these objectives and targets.
#[must_use]
pub fn file(request: &Request) -> RuleFile {
    let mut groups = Vec::new();
    for measured in &request.measured {
        let name = measured.words().name;
        let slo = Group {
            name: format!("rttscope-{name}-slo"),
            rules: objectives(request, measured.words()),
        };
        let measurements = match measured {
            Measured::Echo => echo(request),
            Measured::Check => checks(request),
        };
        groups.extend([slo, Group { name: format!("rttscope-{name}"), rules: measurements }]);
    }
    groups.push(Group { name: "rttscope".to_owned(), rules: program(request) });
    RuleFile { groups }
}

impl RuleFile {
    /// As a Prometheus server reads it, and a person.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut yaml = String::from(YAML_HEAD);
        for group in &self.groups {
            yaml.push_str(&format!("  - name: {}\n    rules:\n", group.name));
            group.rules.iter().for_each(|rule| yaml.push_str(&rule.to_yaml()));
        }
        yaml
    }

    /// The same as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("texts in maps with text keys");
        json + "\n"
    }
}

impl Rule {
    fn to_yaml(&self) -> String {
        let block = |expr: &str| {
            let lines: Vec<String> =
                expr.lines().map(|line| format!("          {line}\n")).collect();
            format!("        expr: |-\n{}", lines.concat())
        };
        match self {
            Self::Record { record, expr } => format!("      - record: {record}\n{}", block(expr)),
            Self::Alert { alert, expr, hold, labels, annotations } => {
                let pair =
                    |(name, text): (&&str, &str)| format!("          {name}: {}\n", quoted(text));
                let labels = labels.iter().map(|(name, text)| pair((name, text)));
                let annotations = annotations.iter().map(|(name, text)| pair((name, text)));
                format!(
                    "      - alert: {alert}\n{}        for: {hold}\n        labels:\n{}        \
                     annotations:\n{}",
                    block(expr),
                    labels.collect::<String>(),
                    annotations.collect::<String>()
                )
            }
        }
    }
}

/// What differs between the ways of measuring.
struct Words {
    name: &'static str,
    /// The beginning of its families' names.
    prefix: &'static str,
    /// Several measurements.
    many: &'static str,
    budget_alert: &'static str,
    skipped_alert: &'static str,
    missing_alert: &'static str,
}

impl Measured {
    const fn words(self) -> &'static Words {
        match self {
            Self::Echo => &ECHO,
            Self::Check => &CHECK,
        }
    }
}

const ECHO: Words = Words {
    name: "echo",
    prefix: "tcp_echo",
    many: "probes",
    budget_alert: "RttscopeProbeBudgetBurn",
    skipped_alert: "RttscopeProbesSkipped",
    missing_alert: "RttscopeTargetMissing",
};

const CHECK: Words = Words {
    name: "check",
    prefix: "tcp_check",
    many: "checks",
    budget_alert: "RttscopeCheckBudgetBurn",
    skipped_alert: "RttscopeChecksSkipped",
    missing_alert: "RttscopeCheckedTargetMissing",
};

/// How fast a budget may burn before somebody is told: the table of the SRE workbook, chapter 5.
struct Burn {
    /// Times the speed that uses the budget up in 30 days exactly.
    factor: &'static str,
    long: &'static str,
    /// A twelfth of it: the alert ends soon after the burning does.
    short: &'static str,
    hold: &'static str,
    severity: &'static str,
}

const BURNS: [Burn; 4] = [
    Burn { factor: "14.4", long: "1h", short: "5m", hold: "2m", severity: PAGE },
    Burn { factor: "6", long: "6h", short: "30m", hold: "15m", severity: PAGE },
    Burn { factor: "3", long: "1d", short: "2h", hold: "1h", severity: TICKET },
    Burn { factor: "1", long: "3d", short: "6h", hold: "3h", severity: TICKET },
];

/// Every window of [`BURNS`].
const WINDOWS: [&str; 7] = ["5m", "30m", "1h", "2h", "6h", "1d", "3d"];

/// The error ratios, and the alerts on them.
fn objectives(request: &Request, words: &Words) -> Vec<Rule> {
    let Words { prefix, .. } = words;
    let job = request.job_matcher();
    let ratio = |window: &str| format!("target_slo:{prefix}_slo_errors:ratio_rate{window}");
    let record = |window| Rule::Record {
        record: ratio(window),
        expr: format!(
            "1 -\nrate({prefix}_slo_good_total{{{job}}}[{window}])\n/\n\
             rate({prefix}_slo_probes_total{{{job}}}[{window}])"
        ),
    };
    let mut rules: Vec<Rule> = WINDOWS.into_iter().map(record).collect();
    for burn in &BURNS {
        let Burn { factor, long, short, .. } = burn;
        let burns = |only: &str, objective: &str| {
            let series = |window| format!("{}{{{job}{only}}}", ratio(window));
            let budget = format!("{factor} * (1 - {objective})");
            let (long, short) = (series(long), series(short));
            budget_alert(burn, words, format!("{long} > {budget}\nand\n{short} > {budget}"))
        };
        if request.slos.is_empty() {
            rules.push(burns("", &format!("{prefix}_slo_objective_ratio{{{job}}}")));
        }
        rules.extend(request.slos.iter().map(|slo| {
            let only = format!(", slo={}", quoted(&slo.name));
            burns(&only, &slo.objective_ratio.to_string()).labelled("slo", &slo.name)
        }));
    }
    rules
}

fn budget_alert(burn: &Burn, words: &Words, expr: String) -> Rule {
    let Burn { factor, long, short, hold, severity } = burn;
    let rule = alert(words.budget_alert, severity, hold, expr).saying(
        format!(
            "The error budget of {{{{ $labels.slo }}}} for {{{{ $labels.target }}}} burns {factor} \
             times as fast as 30 days allow."
        ),
        format!(
            "{{{{ $value | humanizePercentage }}}} of the {} of the last {long} were not good, and \
             the last {short} are no better.",
            words.many
        ),
    );
    rule.labelled("long_window", long).labelled("short_window", short)
}

/// What echo probes tell besides their objectives.
fn echo(request: &Request) -> Vec<Rule> {
    let job = request.job_matcher();
    let down = alert(
        "RttscopeTargetDown",
        PAGE,
        "1m",
        format!(
            "increase(tcp_echo_received_total{{{job}}}[2m]) == 0\nand\n\
             increase(tcp_echo_timeouts_total{{{job}}}[2m]) > 0"
        ),
    )
    .saying(
        "{{ $labels.target }} answers no probe.",
        "No probe of {{ $labels.address }} was answered for two minutes.",
    );
    let stamps = alert(
        "RttscopeStampsMissing",
        TICKET,
        "15m",
        format!(
            "rate(tcp_echo_stamps_missing_total{{{job}, stamp!=\"peer\"}}[10m])\n\
             / ignoring (stamp) group_left\nrate(tcp_echo_received_total{{{job}}}[10m])\n> 0.01"
        ),
    )
    .saying(
        "Kernel stamps of {{ $labels.target }} are missing.",
        "{{ $value | humanizePercentage }} of the probes have no stamp {{ $labels.stamp }}: their \
         times are the application's, or lack a stage.",
    );
    with_missing_targets(request, &ECHO, vec![down, stamps, skipped(request, &ECHO)])
}

/// What half-open checks tell besides their objectives.
fn checks(request: &Request) -> Vec<Rule> {
    let job = request.job_matcher();
    let down = alert(
        "RttscopePortDown",
        PAGE,
        "1m",
        format!(
            "increase(tcp_check_total{{{job}, outcome=\"open\"}}[2m]) == 0\n\
             and ignoring (outcome)\nincrease(tcp_check_sent_total{{{job}}}[2m]) > 0"
        ),
    )
    .saying(
        "{{ $labels.target }} is not open.",
        "No check of {{ $labels.address }} found it open for two minutes.",
    );
    let completed = alert(
        "RttscopeHandshakesCompleted",
        TICKET,
        "0m",
        format!(
            "increase(tcp_check_completed_handshakes_total{{{job}, method!=\"dial\"}}[15m]) > 0"
        ),
    )
    .saying(
        "Checks of {{ $labels.target }} complete handshakes.",
        "{{ $value | humanize }} checks by {{ $labels.method }} in 15 minutes were connections to \
         the server: the prober is held up, or something answers for it.",
    );
    with_missing_targets(request, &CHECK, vec![down, completed, skipped(request, &CHECK)])
}

fn skipped(request: &Request, words: &Words) -> Rule {
    let (job, Words { prefix, many, .. }) = (request.job_matcher(), words);
    let rate = |what: &str| format!("rate({prefix}_{what}_total{{{job}}}[10m])");
    let (skipped, sent) = (rate("skipped"), rate("sent"));
    let expr = format!("{skipped}\n/\n({sent} + {skipped})\n> 0.01");
    alert(words.skipped_alert, TICKET, "15m", expr).saying(
        format!("The prober of {{{{ $labels.target }}}} skips {many}."),
        format!(
            "{{{{ $value | humanizePercentage }}}} of the {many} of 10 minutes were not sent: the \
             prober has too little CPU, or too many targets."
        ),
    )
}

/// The rules, and an alert for each target that must be there.
fn with_missing_targets(request: &Request, words: &Words, mut rules: Vec<Rule>) -> Vec<Rule> {
    rules.extend(request.targets.iter().map(|target| {
        let (prefix, job) = (words.prefix, request.job_matcher());
        let expr = format!("absent({prefix}_up{{{job}, target={}}})", quoted(target));
        alert(words.missing_alert, TICKET, "5m", expr)
            .saying(
                "{{ $labels.target }} is not probed.",
                format!("No rttscope tells of {{{{ $labels.target }}}} by {}.", words.many),
            )
            .labelled("target", target)
    }));
    rules
}

/// What rttscope tells of itself.
fn program(request: &Request) -> Vec<Rule> {
    let job = request.job_matcher();
    let down = alert("RttscopeDown", PAGE, "2m", format!("up{{{job}}} == 0")).saying(
        "rttscope at {{ $labels.instance }} does not answer.",
        "Prometheus cannot scrape {{ $labels.instance }}: nothing is known of its targets.",
    );
    let absent = alert("RttscopeAbsent", PAGE, "5m", format!("absent(up{{{job}}})")).saying(
        "Prometheus knows of no rttscope.",
        "There is no scrape target with the job label of rttscope.",
    );
    let capability = alert(
        "RttscopeCapabilityLost",
        TICKET,
        "5m",
        format!(
            "rttscope_capability{{{job}}} == 0\nand on (job, instance, name)\nmax by (job, \
             instance, name) (max_over_time(rttscope_capability{{{job}}}[1d])) == 1"
        ),
    )
    .saying(
        "rttscope at {{ $labels.instance }} lost {{ $labels.name }}.",
        "It had it within the last day, and now says: {{ $labels.reason }}",
    );
    let reload = alert(
        "RttscopeReloadFailed",
        TICKET,
        "5m",
        format!("rttscope_config_last_reload_successful{{{job}}} == 0"),
    )
    .saying(
        "rttscope at {{ $labels.instance }} refused its new configuration.",
        "It works on with the old one; its log says what is wrong.",
    );
    let discovery = alert(
        "RttscopeDiscoveryFailed",
        TICKET,
        "15m",
        format!("rttscope_discovery_last_refresh_successful{{{job}}} == 0"),
    )
    .saying(
        "rttscope at {{ $labels.instance }} learns nothing new from {{ $labels.source }}.",
        "It probes whom this source named last; its log and /api/v1/status say what is wrong.",
    );
    vec![down, absent, capability, reload, discovery]
}

impl Request {
    fn job_matcher(&self) -> String {
        format!("job={}", quoted(&self.job))
    }
}

fn alert(alert: &'static str, severity: &'static str, hold: &'static str, expr: String) -> Rule {
    let labels = BTreeMap::from([("severity", severity.to_owned())]);
    Rule::Alert { alert, expr, hold, labels, annotations: BTreeMap::new() }
}

impl Rule {
    fn saying(mut self, summary: impl Into<String>, description: impl Into<String>) -> Self {
        if let Self::Alert { annotations, .. } = &mut self {
            annotations.insert("summary", summary.into());
            annotations.insert("description", description.into());
        }
        self
    }

    /// With one more label, whose value is no template.
    fn labelled(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Alert { labels, .. } = &mut self {
            labels.insert(name, value.replace("{{", "{{ \"{{\" }}"));
        }
        self
    }
}

/// In double quotes, as JSON, YAML and PromQL all read it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Somebody must act at once.
const PAGE: &str = "page";
/// Somebody must look at it within days.
const TICKET: &str = "ticket";

const YAML_HEAD: &str =
    "# Recording rules and alerts for rttscope: the output of `rttscope rules`.\ngroups:\n";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::SloClock;

    fn request(slos: Vec<Slo>, targets: &[&str]) -> Request {
        let targets = targets.iter().map(|&target| target.to_owned()).collect();
        Request { job: "a \"b\"".to_owned(), measured: vec![Measured::Check], slos, targets }
    }

    fn exprs(file: &RuleFile, name: &str) -> Vec<String> {
        let rules = file.groups.iter().flat_map(|group| &group.rules);
        let named = rules.filter_map(|rule| match rule {
            Rule::Record { record, expr } => (record == name).then_some(expr),
            Rule::Alert { alert, expr, .. } => (*alert == name).then_some(expr),
        });
        named.cloned().collect()
    }

    #[test]
    fn each_objective_has_its_own_budget() {
        let slo = |name: &str, objective_ratio| Slo {
            name: name.to_owned(),
            threshold: Duration::from_millis(1),
            objective_ratio,
            clock: SloClock::Best,
        };
        let file = file(&request(vec![slo("gold", 0.999), slo("lead", 0.9)], &[]));
        let burns = exprs(&file, "RttscopeCheckBudgetBurn");
        assert_eq!(burns.len(), 8);
        let ratio = "target_slo:tcp_check_slo_errors:ratio_rate";
        let gold = r#"{job="a \"b\"", slo="gold"}"#;
        let expected = format!(
            "{ratio}1h{gold} > 14.4 * (1 - 0.999)\nand\n{ratio}5m{gold} > 14.4 * (1 - 0.999)"
        );
        assert_eq!(burns[0], expected);
        assert!(burns[7].contains("> 1 * (1 - 0.9)") && burns[7].contains("slo=\"lead\""));
    }

    #[test]
    fn without_objectives_the_exported_ones_are_taken() {
        let file = file(&request(Vec::new(), &[]));
        let burns = exprs(&file, "RttscopeCheckBudgetBurn");
        assert_eq!(burns.len(), 4);
        assert!(burns.iter().all(|expr| expr.contains("(1 - tcp_check_slo_objective_ratio{")));
        assert!(!file.to_yaml().contains("tcp_echo"), "only checks were asked for");
    }

    #[test]
    fn a_target_that_is_named_must_be_there() {
        let file = file(&request(Vec::new(), &["db", "c\\d"]));
        let absent = exprs(&file, "RttscopeCheckedTargetMissing");
        assert_eq!(absent.len(), 2);
        assert_eq!(absent[1], r#"absent(tcp_check_up{job="a \"b\"", target="c\\d"})"#);
    }

    #[test]
    fn every_window_that_an_alert_needs_is_recorded() {
        let names =
            WINDOWS.map(|window| format!("target_slo:tcp_check_slo_errors:ratio_rate{window}"));
        let file = file(&request(Vec::new(), &[]));
        assert!(names.iter().all(|name| exprs(&file, name).len() == 1));
        for burn in &BURNS {
            assert!(WINDOWS.contains(&burn.long) && WINDOWS.contains(&burn.short));
        }
    }
}
