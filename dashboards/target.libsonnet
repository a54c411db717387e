// One probed target in depth: where its time goes, what is lost, by which clock it is known.
local grafana = import 'grafana.libsonnet';
local objectives = import 'objectives.libsonnet';
local promql = import 'promql.libsonnet';
local variables = import 'variables.libsonnet';

local selector = variables.target;
local rtt = 'tcp_echo_rtt_seconds';
local app = 'tcp_echo_app_rtt_seconds';
local stage = 'tcp_echo_stage_seconds';

// In path order, each with its colour wherever it is drawn.
local stages = ['lag', 'send', 'network', 'peer', 'wakeup'];
local colours = { lag: 'purple', send: 'blue', network: 'green', peer: 'orange', wakeup: 'red' };
local each(query) = [
  grafana.query(query('%s, stage="%s"' % [selector, name]), name)
  for name in stages
];
local quantiles(family) = [
  grafana.query(promql.quantile(q[0], family, selector), q[1])
  for q in [[0.5, 'p50'], [0.9, 'p90'], [0.99, 'p99'], [0.999, 'p99.9']]
];
local gauge(family) = 'max by (address) (%s{%s})' % [family, selector];

function(config) grafana.dashboard(
  config,
  'target',
  'rttscope / target',
  'One probed target: round trips, stages, loss, clocks, connection, objectives.',
  variables.ofTarget('tcp_echo_up', multi=false),
  [
    grafana.row('Now', [
      grafana.stat('Up', 'Whether the newest finished probe was answered.', grafana.query('min(tcp_echo_up{%s})' % selector, 'up'), 'bool_yes_no', sparkline=false)
      { fieldConfig+: { defaults+: { thresholds: { mode: 'absolute', steps: [{ value: null, color: 'red' }, { value: 1, color: 'green' }] } } } },
      grafana.stat('Last round trip', 'By its best clock.', grafana.query('max(tcp_echo_last_rtt_seconds{%s})' % selector, 'last'), 's'),
      grafana.stat('Median', 'By the best clock.', grafana.query(promql.quantile(0.5, rtt, selector), 'p50'), 's'),
      grafana.stat('99th percentile', 'By the best clock.', grafana.query(promql.quantile(0.99, rtt, selector), 'p99'), 's'),
      grafana.stat('Loss', 'Lost in the sliding window of the prober.', grafana.query('max(tcp_echo_loss_percent{%s})' % selector, 'loss'), 'percent', [[0.1, 'orange'], [1, 'red']]),
      grafana.stat(
        'Clock in use',
        'The clock that most round trips were taken with.',
        grafana.now('topk(1, %s)' % promql.count(rtt, selector, ['clock']), '{{clock}}'),
        'none',
        text='name',
        sparkline=false,
      ),
    ]),
    grafana.row('Round trips', [
      grafana.heatmap('Round trips by the best clock', 'Probes a second by their round trip.', promql.buckets(rtt, selector)),
      grafana.lines('Quantiles by the best clock', '', quantiles(rtt), 's', height=9, min=0, legend='table'),
      grafana.heatmap('Round trips as an application sees them', 'From the moment when the probe was due: a late prober cannot hide it.', promql.buckets(app, selector)),
      grafana.lines('Quantiles as an application sees them', '', quantiles(app), 's', height=9, min=0, legend='table'),
    ]),
    grafana.row('Where the time goes', [
      grafana.stacked('Mean of each stage', 'Stacked, they are the mean round trip that an application sees.', each(function(selected) promql.mean(stage, selected)), 's', height=9) + grafana.coloured(colours),
      grafana.lines('99th percentile of each stage', 'Not stacked: they are of different probes.', each(function(selected) promql.quantile(0.99, stage, selected)), 's', height=9, min=0) + grafana.coloured(colours),
    ]),
    grafana.row('Loss and schedule', [
      grafana.lines('Loss', 'Share of lost probes.', [grafana.query(promql.loss(selector, ['address']), '{{address}}')], 'percentunit', width=8, min=0),
      grafana.lines(
        'Probes',
        'Each second.',
        [
          grafana.query(promql.sum('tcp_echo_sent_total', selector), 'sent'),
          grafana.query(promql.sum('tcp_echo_received_total', selector), 'received'),
          grafana.query(promql.sum('tcp_echo_timeouts_total', selector), 'lost'),
          grafana.query(promql.sum('tcp_echo_skipped_total', selector), 'skipped'),
          grafana.query(promql.sum('tcp_echo_late_total', selector), 'late'),
          grafana.query(promql.sum('tcp_echo_late_replies_total', selector), 'late replies'),
        ],
        'suffix: /s',
        width=8,
        min=0,
      ),
      grafana.lines(
        'Connections and names',
        'Connections that were made and lost, and failed resolutions of the name, over the last five minutes.',
        [
          grafana.query('sum(increase(tcp_echo_connects_total{%s}[5m]))' % selector, 'connected'),
          grafana.query('sum(increase(tcp_echo_dropped_total{%s}[5m]))' % selector, 'dropped'),
          grafana.query('sum(increase(tcp_echo_resolve_failures_total{%s}[5m]))' % selector, 'not resolved'),
        ],
        'none',
        width=8,
        min=0,
      ),
    ]),
    grafana.row('Clocks and stamps', [
      grafana.stacked('Clocks in use', 'Probes a second by the clock that their round trip was taken with.', [grafana.query(promql.count(rtt, selector, ['clock']), '{{clock}}')], 'suffix: /s', width=8),
      grafana.lines('Stamps missing', 'Kernel stamps that were asked for and never came, and residences that the peer did not tell.', [grafana.query(promql.sum('tcp_echo_stamps_missing_total', selector, ['stamp']), '{{stamp}}')], 'suffix: /s', width=8, min=0),
      grafana.lines('Samples rejected', 'Times that made no sense, by the reason.', [grafana.query(promql.sum('tcp_echo_samples_rejected_total', selector, ['reason']), '{{reason}}')], 'suffix: /s', width=8, min=0),
    ]),
    grafana.row('Connection (TCP_INFO)', [
      grafana.lines(
        "Round trip as the kernel's TCP sees it",
        'Smoothed, with its deviation, and the shortest of five minutes.',
        [
          grafana.query(gauge('tcp_info_rtt_seconds'), 'smoothed'),
          grafana.query(gauge('tcp_info_rttvar_seconds'), 'deviation'),
          grafana.query(gauge('tcp_info_min_rtt_seconds'), 'shortest'),
        ],
        's',
        width=8,
        min=0,
      ),
      grafana.lines('Segments sent again', 'Each second.', [grafana.query(promql.sum('tcp_info_retrans_total', selector, ['address']), '{{address}}')], 'suffix: /s', width=8, min=0),
      grafana.lines('Congestion window', 'In segments.', [grafana.query(gauge('tcp_info_snd_cwnd'), '{{address}}')], 'none', width=8, min=0),
    ]),
    objectives('tcp_echo', selector),
  ],
)
