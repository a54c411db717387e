// Half-open checks: which ports are open, how far away they are, and whether a check ever became
// a connection.
local grafana = import 'grafana.libsonnet';
local objectives = import 'objectives.libsonnet';
local promql = import 'promql.libsonnet';
local variables = import 'variables.libsonnet';

local selector = variables.check;
local rtt = 'tcp_check_rtt_seconds';
local colours = {
  open: 'green',
  refused: 'orange',
  timeout: 'red',
  unreachable: 'purple',
  local_error: 'yellow',
  'error': 'dark-red',
  unresolved: 'blue',
};

function(config) grafana.dashboard(
  config,
  'half-open',
  'rttscope / half-open',
  'Half-open checks: outcomes, round trips, retransmissions, completed handshakes, objectives.',
  variables.ofTarget('tcp_check_up')
  + [grafana.labelVariable('method', 'Method', 'tcp_check_up{%s}' % variables.program)],
  [
    grafana.row('Now', [
      grafana.stat('Ports open', 'Targets whose newest finished check found the port open.', grafana.query('sum(tcp_check_up{%s})' % selector, 'open'), 'none'),
      grafana.stat('Ports not open', 'Targets whose newest finished check did not.', grafana.query('count(tcp_check_up{%s}) - sum(tcp_check_up{%s})' % [selector, selector], 'not open'), 'none', [[1, 'red']]),
      grafana.stat('Not open', 'Share of the checks that did not find the port open.', grafana.query(promql.notOpen(selector, []), 'not open'), 'percentunit', [[0.001, 'orange'], [0.01, 'red']]),
      grafana.stat('Median round trip', 'From the answered SYN to its answer.', grafana.query(promql.quantile(0.5, rtt, selector), 'p50'), 's'),
      grafana.stat('99th percentile', 'From the answered SYN to its answer.', grafana.query(promql.quantile(0.99, rtt, selector), 'p99'), 's'),
      grafana.stat('Completed handshakes', 'Checks of the time that is shown that the server saw as a connection. Those by `dial` always are.', grafana.now('sum(increase(tcp_check_completed_handshakes_total{%s}[$__range]))' % selector, 'completed'), 'none', [[1, 'orange']], sparkline=false),
    ]),
    grafana.row('Ports', [
      grafana.table(
        'Ports',
        'One line for each target; times by the best clock, over the last minutes.',
        [
          { label: 'target', name: 'target' },
          { label: 'method', name: 'method' },
          { expr: 'min by (target, method) (tcp_check_up{%s})' % selector, name: 'open', unit: 'bool_yes_no' },
          { expr: promql.notOpen(selector, ['target', 'method']), name: 'not open', unit: 'percentunit' },
          { expr: promql.quantile(0.5, rtt, selector, ['target', 'method']), name: 'p50', unit: 's' },
          { expr: promql.quantile(0.99, rtt, selector, ['target', 'method']), name: 'p99', unit: 's' },
          { expr: promql.sum('tcp_check_syn_retransmits_total', selector, ['target', 'method']), name: 'SYNs again', unit: 'suffix: /s' },
        ],
        height=7,
      ),
      grafana.stacked('Outcomes', 'Checks a second.', [grafana.query(promql.sum('tcp_check_total', selector, ['outcome']), '{{outcome}}')], 'suffix: /s') + grafana.coloured(colours),
      grafana.lines('Not open', 'Share of the checks.', [grafana.query(promql.notOpen(selector, ['target']), '{{target}}')], 'percentunit', min=0),
    ]),
    grafana.row('Round trips', [
      grafana.heatmap('Round trips', 'Checks a second by their round trip: from the answered SYN to SYN-ACK or RST.', promql.buckets(rtt, selector)),
      grafana.lines('99th percentile', 'From the answered SYN to its answer.', [grafana.query(promql.quantile(0.99, rtt, selector, ['target']), '{{target}}')], 's', height=9, min=0),
      grafana.heatmap('Until the answer was known', 'From the first SYN on, so with every SYN that had to be sent again.', promql.buckets('tcp_check_elapsed_seconds', selector)),
      grafana.lines(
        'What the network took and what we saw',
        'Medians.',
        [
          grafana.query(promql.quantile(0.5, rtt, selector), 'round trip'),
          grafana.query(promql.quantile(0.5, 'tcp_check_elapsed_seconds', selector), 'until known'),
          grafana.query(promql.quantile(0.5, 'tcp_check_lag_seconds', selector), 'sent late by'),
        ],
        's',
        height=9,
        min=0,
      ),
    ]),
    grafana.row('Quality of the measurement', [
      grafana.stacked('Clocks in use', 'Checks a second by the clock that their round trip was taken with.', [grafana.query(promql.count(rtt, selector, ['clock']), '{{clock}}')], 'suffix: /s', width=8),
      grafana.lines(
        'SYNs sent again, handshakes completed',
        'Each second.',
        [
          grafana.query(promql.sum('tcp_check_syn_retransmits_total', selector), 'SYNs sent again'),
          grafana.query(promql.sum('tcp_check_completed_handshakes_total', selector), 'handshakes completed'),
        ],
        'suffix: /s',
        width=8,
        min=0,
      ),
      grafana.lines(
        'Schedule',
        'Checks a second; skipped and late ones say that the prober has too little CPU.',
        [
          grafana.query(promql.sum('tcp_check_sent_total', selector), 'sent'),
          grafana.query(promql.sum('tcp_check_skipped_total', selector), 'skipped'),
          grafana.query(promql.sum('tcp_check_late_total', selector), 'late'),
        ],
        'suffix: /s',
        width=8,
        min=0,
      ),
    ]),
    objectives('tcp_check', selector),
  ],
)
