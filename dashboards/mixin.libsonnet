// The mixin: dashboards, rules and alerts for rttscope. Rules and alerts are those of
// `rttscope rules`, which wrote rules.json.
(import 'config.libsonnet') {
  local mixin = self,
  local groups = (import 'rules.json').groups,
  local written = 'job="rttscope"',

  local having(key) = {
    groups: [
      group {
        rules: [
          rule { expr: std.strReplace(rule.expr, written, mixin._config.selector) }
          for rule in group.rules
          if std.objectHas(rule, key)
        ],
      }
      for group in groups
      if std.length([rule for rule in group.rules if std.objectHas(rule, key)]) > 0
    ],
  },

  prometheusRules+:: having('record'),
  prometheusAlerts+:: having('alert'),

  grafanaDashboards+:: {
    'overview.json': (import 'overview.libsonnet')(mixin._config),
    'target.json': (import 'target.libsonnet')(mixin._config),
    'half-open.json': (import 'half-open.libsonnet')(mixin._config),
    'relay.json': (import 'relay.libsonnet')(mixin._config),
    'self.json': (import 'self.libsonnet')(mixin._config),
  },
}
