// Queries that every dashboard asks in the same way. A histogram is native where Prometheus stores
// native ones, and classic elsewhere: `native or classic` takes what is there.
{
  local promql = self,
  local interval = '[$__rate_interval]',
  local grouping(labels) = if labels == [] then '' else 'by (%s) ' % std.join(', ', labels),

  // `job="…", …` in braces behind a family's name.
  series(family, selector):: '%s{%s}' % [family, selector],

  rate(family, selector):: 'rate(%s%s)' % [promql.series(family, selector), interval],

  // The rates of a counter, summed over all labels but these.
  sum(family, selector, by=[]):: 'sum %s(%s)' % [grouping(by), promql.rate(family, selector)],

  local either(native, classic) = '%s\nor\n%s' % [native, classic],

  quantile(q, family, selector, by=[])::
    either(
      'histogram_quantile(%s, %s)' % [q, promql.sum(family, selector, by)],
      'histogram_quantile(%s, %s)' % [q, promql.sum(family + '_bucket', selector, ['le'] + by)],
    ),

  // Durations a second.
  count(family, selector, by=[])::
    either(
      'sum %s(histogram_count(%s))' % [grouping(by), promql.rate(family, selector)],
      promql.sum(family + '_count', selector, by),
    ),

  mean(family, selector, by=[])::
    local native(what) = 'sum %s(histogram_%s(%s))' % [grouping(by), what, promql.rate(family, selector)];
    local classic(what) = promql.sum(family + '_' + what, selector, by);
    either(
      '%s / %s' % [native('sum'), native('count')],
      '%s / %s' % [classic('sum'), classic('count')],
    ),

  // All buckets. Classic ones have a label more, so `or` alone would take both.
  buckets(family, selector):: '%s\nor on ()\n%s' % [
    promql.sum(family, selector),
    promql.sum(family + '_bucket', selector, ['le']),
  ],

  // The share of lost probes, or of checks that did not find the port open.
  loss(selector, by):: '%(lost)s\n/\n(%(lost)s + %(received)s)' % {
    lost: promql.sum('tcp_echo_timeouts_total', selector, by),
    received: promql.sum('tcp_echo_received_total', selector, by),
  },
  notOpen(selector, by):: '1 -\n%s\n/\n%s' % [
    promql.sum('tcp_check_total', selector + ', outcome="open"', by),
    promql.sum('tcp_check_total', selector, by),
  ],

  local errors(prefix, selector, over, window) =
    local counted(what) = 'sum by (target, slo) (%s(%s_slo_%s_total{%s}[%s]))' % [over, prefix, what, selector, window];
    '1 - %s / %s' % [counted('good'), counted('probes')],
  local budget(prefix, selector) = '(1 - max by (target, slo) (%s_slo_objective_ratio{%s}))' % [prefix, selector],

  // What is left of the error budget of the time that is shown: 1 is all of it.
  budgetLeft(prefix, selector):: '1 -\n(%s)\n/\n%s' % [
    errors(prefix, selector, 'increase', '$__range'),
    budget(prefix, selector),
  ],

  // How many times too fast the budget burns.
  burn(prefix, selector, window):: '(%s)\n/\n%s' % [
    errors(prefix, selector, 'rate', window),
    budget(prefix, selector),
  ],
}
