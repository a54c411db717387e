// What is chosen at the top of a dashboard, and the selectors that the choices make.
local grafana = import 'grafana.libsonnet';
{
  program: 'job=~"$job", instance=~"$instance"',
  target: self.program + ', target=~"$target", address=~"$address"',
  check: self.target + ', method=~"$method"',

  ofProgram:: [
    grafana.labelVariable('job', 'Job', 'rttscope_build_info'),
    grafana.labelVariable('instance', 'Instance', 'rttscope_build_info{job=~"$job"}'),
  ],

  // `family` is one that every target of this kind has.
  ofTarget(family, multi=true):: self.ofProgram + [
    grafana.labelVariable('target', 'Target', '%s{%s}' % [family, self.program], multi),
    grafana.labelVariable('address', 'Address', '%s{%s, target=~"$target"}' % [family, self.program]),
  ],
}
