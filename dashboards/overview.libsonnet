// Everything that is probed, on one page: who is down, who is slow, whose budget is gone.
local grafana = import 'grafana.libsonnet';
local objectives = import 'objectives.libsonnet';
local promql = import 'promql.libsonnet';
local variables = import 'variables.libsonnet';

local selector = variables.target;
local rtt = 'tcp_echo_rtt_seconds';

function(config) grafana.dashboard(
  config,
  'overview',
  'rttscope / overview',
  'Every probed target: state, round trips, loss, objectives.',
  variables.ofTarget('tcp_echo_up'),
  [
    grafana.row('Now', [
      grafana.stat(
        'Targets up',
        'Targets whose newest finished probe was answered.',
        grafana.query('sum(tcp_echo_up{%s})' % selector, 'up'),
        'none',
      ),
      grafana.stat(
        'Targets down',
        'Targets whose newest finished probe was lost.',
        grafana.query('count(tcp_echo_up{%s}) - sum(tcp_echo_up{%s})' % [selector, selector], 'down'),
        'none',
        [[1, 'red']],
      ),
      grafana.stat(
        'Loss',
        'Share of lost probes, of all targets together.',
        grafana.query(promql.loss(selector, []), 'loss'),
        'percentunit',
        [[0.001, 'orange'], [0.01, 'red']],
      ),
      grafana.stat(
        'Median round trip',
        'Of all probes together, each by its best clock.',
        grafana.query(promql.quantile(0.5, rtt, selector), 'p50'),
        's',
      ),
      grafana.stat(
        '99th percentile',
        'Of all probes together, each by its best clock.',
        grafana.query(promql.quantile(0.99, rtt, selector), 'p99'),
        's',
      ),
      grafana.stat(
        'Alerts firing',
        'Alerts of `rttscope rules`, if Prometheus has them.',
        grafana.query('count(ALERTS{job=~"$job", alertname=~"Rttscope.*", alertstate="firing"}) or vector(0)', 'firing'),
        'none',
        [[1, 'red']],
      ),
    ]),
    grafana.row('Targets', [
      grafana.table(
        'Targets',
        'One line for each target; times by the best clock, over the last minutes.',
        [
          {
            label: 'target',
            name: 'target',
            link: {
              title: 'This target in depth',
              url: '/d/%starget?var-datasource=${datasource}&${job:queryparam}&var-target=${__value.raw}&${__url_time_range}' % config.uidPrefix,
            },
          },
          { expr: 'min by (target) (tcp_echo_up{%s})' % selector, name: 'up', unit: 'bool_yes_no' },
          { expr: promql.loss(selector, ['target']), name: 'loss', unit: 'percentunit' },
          { expr: promql.quantile(0.5, rtt, selector, ['target']), name: 'p50', unit: 's' },
          { expr: promql.quantile(0.99, rtt, selector, ['target']), name: 'p99', unit: 's' },
          { expr: promql.quantile(0.99, 'tcp_echo_app_rtt_seconds', selector, ['target']), name: 'p99 of the application', unit: 's' },
          { expr: promql.sum('tcp_echo_skipped_total', selector, ['target']), name: 'skipped', unit: 'suffix: /s' },
        ],
        height=7,
      ),
    ]),
    grafana.row('Round trips', [
      grafana.lines(
        'Median round trip',
        'By the best clock that each probe had.',
        [grafana.query(promql.quantile(0.5, rtt, selector, ['target']), '{{target}}')],
        's',
        min=0,
      ),
      grafana.lines(
        '99th percentile',
        'By the best clock that each probe had.',
        [grafana.query(promql.quantile(0.99, rtt, selector, ['target']), '{{target}}')],
        's',
        min=0,
      ),
      grafana.heatmap(
        'All round trips',
        'Probes a second by their round trip.',
        promql.buckets(rtt, selector),
        height=10,
      ),
      grafana.lines(
        'Loss',
        'Share of lost probes.',
        [grafana.query(promql.loss(selector, ['target']), '{{target}}')],
        'percentunit',
        height=10,
        min=0,
      ),
    ]),
    objectives('tcp_echo', selector),
    grafana.row('Quality of the measurement', [
      grafana.stacked(
        'Clocks in use',
        'Probes a second by the clock that their round trip was taken with.',
        [grafana.query(promql.count(rtt, selector, ['clock']), '{{clock}}')],
        'suffix: /s',
        width=8,
      ),
      grafana.lines(
        'Skipped and late',
        'Slots of the schedule that passed unused, and probes sent late: the prober has too little CPU.',
        [
          grafana.query(promql.sum('tcp_echo_skipped_total', selector), 'skipped'),
          grafana.query(promql.sum('tcp_echo_late_total', selector), 'late'),
        ],
        'suffix: /s',
        width=8,
        min=0,
      ),
      grafana.table(
        'What is missing here',
        'Abilities that an instance lacks, with the reason.',
        [
          { label: 'instance', name: 'instance' },
          { label: 'name', name: 'ability' },
          { label: 'reason', name: 'reason' },
          { expr: 'rttscope_capability{%s} == 0' % variables.program, name: 'works', unit: 'bool_yes_no' },
        ],
        width=8,
      ),
    ]),
  ],
)
