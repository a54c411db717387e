// rttscope itself: what it runs on, what it lacks, what it costs, and its responder.
local grafana = import 'grafana.libsonnet';
local promql = import 'promql.libsonnet';
local variables = import 'variables.libsonnet';

local selector = variables.program;
local noise = 'rttscope_noise_floor_seconds';
local of(family) = '%s{%s}' % [family, selector];

function(config) grafana.dashboard(
  config,
  'self',
  'rttscope / self',
  'The prober and the responder themselves: abilities, noise floor, resources.',
  variables.ofProgram,
  [
    grafana.row('Instances', [
      grafana.table(
        'Instances',
        'One line for each rttscope.',
        [
          { label: 'instance', name: 'instance' },
          { label: 'version', name: 'version' },
          { label: 'os', name: 'system' },
          { label: 'arch', name: 'architecture' },
          { expr: of('rttscope_build_info'), name: 'running', unit: 'bool_yes_no' },
        ],
        width=10,
        height=7,
      ),
      grafana.table(
        'Abilities',
        'What this machine lets each rttscope do, with the reason for what it does not.',
        [
          { label: 'instance', name: 'instance' },
          { label: 'name', name: 'ability' },
          { expr: of('rttscope_capability'), name: 'works', unit: 'bool_yes_no' },
          { label: 'reason', name: 'reason' },
        ],
        width=14,
        height=7,
      ),
    ]),
    grafana.row('What this machine can resolve', [
      grafana.heatmap('Noise floor', 'How late measuring threads wake up from timed waits: wake-ups a second by their lateness.', promql.buckets(noise, selector)),
      grafana.lines(
        'Noise floor of each thread',
        'Median and 99th percentile.',
        [
          grafana.query(promql.quantile(0.5, noise, selector, ['instance', 'thread']), '{{instance}} {{thread}} p50'),
          grafana.query(promql.quantile(0.99, noise, selector, ['instance', 'thread']), '{{instance}} {{thread}} p99'),
        ],
        's',
        height=9,
        min=0,
      ),
    ]),
    grafana.row('Resources', [
      grafana.lines('CPU', 'Of one core.', [grafana.query('rate(process_cpu_seconds_total{%s}[$__rate_interval])' % selector, '{{instance}}')], 'percentunit', width=6, min=0),
      grafana.lines('Memory', 'Resident.', [grafana.query(of('process_resident_memory_bytes'), '{{instance}}')], 'bytes', width=6, min=0),
      grafana.lines('File descriptors', 'Share of the limit.', [grafana.query('%s / %s' % [of('process_open_fds'), of('process_max_fds')], '{{instance}}')], 'percentunit', width=6, min=0),
      grafana.lines('Threads', '', [grafana.query(of('process_threads'), '{{instance}}')], 'none', width=6, min=0),
    ]),
    grafana.row('What was lost', [
      grafana.lines(
        'Not told',
        'Over five minutes: JSON lines and log lines that nobody read in time, HTTP connections beyond the limit.',
        [
          grafana.query('sum(increase(rttscope_report_samples_dropped_total{%s}[5m]))' % selector, 'JSON lines'),
          grafana.query('sum(increase(rttscope_log_lines_dropped_total{%s}[5m]))' % selector, 'log lines'),
          grafana.query('sum(increase(rttscope_http_connections_refused_total{%s}[5m]))' % selector, 'HTTP connections'),
        ],
        'none',
        min=0,
      ),
      grafana.lines('Not seen by eBPF', 'Events and connection attempts that the programs could not tell of, over five minutes.', [grafana.query('sum by (what) (increase(rttscope_ebpf_lost_total{%s}[5m]))' % selector, '{{what}}')], 'none', min=0),
    ]),
    grafana.row('Responder', [
      grafana.lines('Connections open', '', [grafana.query('sum by (instance, listener) (%s)' % of('tcp_responder_connections_active'), '{{instance}} {{listener}}')], 'none', width=8, min=0),
      grafana.lines(
        'Bytes',
        'In and out.',
        [
          grafana.query(promql.sum('tcp_responder_received_bytes_total', selector), 'received'),
          grafana.query(promql.sum('tcp_responder_sent_bytes_total', selector), 'sent'),
        ],
        'Bps',
        width=8,
        min=0,
      ),
      grafana.lines(
        'Connections turned away',
        'Each second: at once, because of the limit, and later, by the reason.',
        [
          grafana.query(promql.sum('tcp_responder_refused_total', selector, ['reason']), 'refused: {{reason}}'),
          grafana.query(promql.sum('tcp_responder_closed_total', selector, ['reason']), 'closed: {{reason}}'),
          grafana.query(promql.sum('tcp_responder_accept_errors_total', selector), 'accept failed'),
        ],
        'suffix: /s',
        width=8,
        min=0,
      ),
      grafana.heatmap('Residence', 'v3 frames a second by the time from kernel in to kernel out.', promql.buckets('tcp_responder_residence_seconds', selector)),
      grafana.lines('Quantiles of the residence', '', [
        grafana.query(promql.quantile(0.5, 'tcp_responder_residence_seconds', selector), 'p50'),
        grafana.query(promql.quantile(0.99, 'tcp_responder_residence_seconds', selector), 'p99'),
      ], 's', height=9, min=0),
    ]),
  ],
)
