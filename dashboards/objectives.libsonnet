// The row about objectives, the same for echo probes (`tcp_echo`) and checks (`tcp_check`).
local grafana = import 'grafana.libsonnet';
local promql = import 'promql.libsonnet';

local name = '{{target}}: {{slo}}';

function(prefix, selector) grafana.row('Objectives', [
  grafana.bars(
    'Error budget left',
    'Of the error budget of the time that is shown: 100 % if every probe was good, 0 % if as many were bad as the objective allows, and below 0 % if more.',
    grafana.now(promql.budgetLeft(prefix, selector), name),
    'percentunit',
    width=8,
    min=-1,
    max=1,
  ) {
    // The first step must be the lowest: red below nothing left.
    fieldConfig+: { defaults+: { thresholds: { mode: 'absolute', steps: [
      { value: null, color: 'red' },
      { value: 0, color: 'orange' },
      { value: 0.25, color: 'green' },
    ] } } },
  },
  grafana.lines(
    'How fast the error budget burns (1 h)',
    'Times the speed that uses up the budget of 30 days in 30 days. The lines are where alerts begin.',
    [grafana.query(promql.burn(prefix, selector, '1h'), name)],
    'suffix: ×',
    width=8,
    min=0,
    thresholds=[[1, 'yellow'], [6, 'orange'], [14.4, 'red']],
  ),
  grafana.table(
    'What the objectives are',
    'Threshold and wanted share, and the exact share over the time that is shown.',
    [
      { label: 'target', name: 'target' },
      { label: 'slo', name: 'objective' },
      { expr: 'max by (target, slo) (%s_slo_threshold_seconds{%s})' % [prefix, selector], name: 'within', unit: 's' },
      { expr: 'max by (target, slo) (%s_slo_objective_ratio{%s})' % [prefix, selector], name: 'wanted', unit: 'percentunit' },
      {
        local counted(what) = 'sum by (target, slo) (increase(%s_slo_%s_total{%s}[$__range]))' % [prefix, what, selector],
        expr: '%s / %s' % [counted('good'), counted('probes')],
        name: 'good',
        unit: 'percentunit',
      },
    ],
    width=8,
  ),
])
