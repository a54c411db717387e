// What a user of the mixin may want to change: `(import 'mixin.libsonnet') + { _config+:: {…} }`.
{
  _config+:: {
    // Which series belong to rttscope, in rules and alerts. Dashboards ask for the job instead.
    selector: 'job="rttscope"',
    // Of every dashboard; links between them go by the first tag.
    tags: ['rttscope'],
    // Begins each dashboard's uid.
    uidPrefix: 'rttscope-',
    refresh: '10s',
    from: 'now-1h',
  },
}
