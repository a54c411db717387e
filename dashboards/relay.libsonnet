// The relay.
local grafana = import 'grafana.libsonnet';
local promql = import 'promql.libsonnet';
local variables = import 'variables.libsonnet';

local selector = variables.program + ', listener=~"$listener", upstream=~"$upstream"';
local listener = variables.program + ', listener=~"$listener"';
local connect = 'tcp_relay_connect_seconds';

function(config) grafana.dashboard(
  config,
  'relay',
  'rttscope / relay',
  'The relay: connections, bytes, upstreams.',
  variables.ofProgram + [
    grafana.labelVariable('listener', 'Listener', 'tcp_relay_connections_total{%s}' % variables.program),
    grafana.labelVariable('upstream', 'Upstream', 'tcp_relay_connections_total{%s}' % variables.program),
  ],
  [
    grafana.row('Now', [
      grafana.stat('Connections open', '', grafana.query('sum(tcp_relay_connections_active{%s})' % selector, 'open'), 'none', width=6),
      grafana.stat('Connections made', 'Each second.', grafana.query(promql.sum('tcp_relay_connections_total', selector), 'made'), 'suffix: /s', width=6),
      grafana.stat('Upstreams down', '', grafana.query('count(tcp_relay_upstream_up{%s} == 0) or vector(0)' % selector, 'down'), 'none', [[1, 'red']], width=6),
      grafana.stat('Connecting, 99th percentile', 'How long connecting to an upstream takes.', grafana.query(promql.quantile(0.99, connect, selector), 'p99'), 's', width=6),
    ]),
    grafana.row('Connections', [
      grafana.lines('Connections open', '', [grafana.query('sum by (upstream) (tcp_relay_connections_active{%s})' % selector, '{{upstream}}')], 'none', min=0),
      grafana.lines('Connections made', 'Each second.', [grafana.query(promql.sum('tcp_relay_connections_total', selector, ['upstream']), '{{upstream}}')], 'suffix: /s', min=0),
      grafana.lines('Attempts that failed', 'Each second; the client may have got another upstream.', [grafana.query(promql.sum('tcp_relay_connect_failures_total', selector, ['upstream']), '{{upstream}}')], 'suffix: /s', min=0),
      grafana.lines('First byte, 99th percentile', 'From the connection to an upstream until its first byte.', [grafana.query(promql.quantile(0.99, 'tcp_relay_first_byte_seconds', selector), 'p99')], 's', min=0),
      grafana.heatmap('Connecting to upstreams', 'Connections a second by the time until the upstream had accepted.', promql.buckets(connect, selector)),
      grafana.stacked('Connections ended', 'Each second, by the reason.', [grafana.query(promql.sum('tcp_relay_closed_total', listener, ['reason']), '{{reason}}')], 'suffix: /s', height=9),
    ]),
    grafana.row('Bytes and upstreams', [
      grafana.lines('Read', 'From clients and from upstreams.', [grafana.query(promql.sum('tcp_relay_read_bytes_total', selector, ['side']), '{{side}}')], 'Bps', width=8, min=0),
      grafana.lines('Written', 'To clients and to upstreams.', [grafana.query(promql.sum('tcp_relay_written_bytes_total', selector, ['side']), '{{side}}')], 'Bps', width=8, min=0),
      grafana.lines('Upstream up', '1 if it takes connections, else 0.', [grafana.query('min by (upstream) (tcp_relay_upstream_up{%s})' % selector, '{{upstream}}')], 'none', width=8, min=0, max=1),
    ]),
  ],
)
