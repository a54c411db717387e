// Grafana's dashboard model, as little of it as the dashboards here need: panels are made from
// queries, rows from panels, a dashboard from rows. Nothing here knows a metric.
{
  local grafana = self,

  // The data source that is chosen at the top of a dashboard.
  datasource:: { type: 'prometheus', uid: '${datasource}' },

  // One query; `legend` is a template of labels.
  query(expr, legend=''):: {
    expr: expr,
    legendFormat: legend,
    datasource: grafana.datasource,
    editorMode: 'code',
    range: true,
    instant: false,
    format: 'time_series',
  },

  // The value at the end of the time that is shown.
  now(expr, legend=''):: grafana.query(expr, legend) { range: false, instant: true },

  // One row for each series of it, in a table.
  columns(expr):: grafana.now(expr) { format: 'table' },

  local panel(type, title, description, queries, width, height) = {
    type: type,
    title: title,
    description: description,
    datasource: grafana.datasource,
    targets: [queries[i] { refId: std.char(std.codepoint('A') + i) } for i in std.range(0, std.length(queries) - 1)],
    transparent: false,
    gridPos: { x: 0, y: 0, w: width, h: height },
    transformations: [],
  },

  local steps(list) = {
    mode: 'absolute',
    steps: [{ value: null, color: 'green' }] + [{ value: step[0], color: step[1] } for step in list],
  },

  // Lines over time.
  lines(title, description, queries, unit, width=12, height=8, min=null, max=null, thresholds=[], legend='list')::
    panel('timeseries', title, description, queries, width, height) {
      fieldConfig: {
        defaults: {
          unit: unit,
          [if min != null then 'min']: min,
          [if max != null then 'max']: max,
          [if thresholds != [] then 'thresholds']: steps(thresholds),
          custom: {
            drawStyle: 'line',
            lineWidth: 1,
            fillOpacity: 5,
            showPoints: 'never',
            spanNulls: false,
            [if thresholds != [] then 'thresholdsStyle']: { mode: 'dashed' },
          },
        },
        overrides: [],
      },
      options: {
        legend: {
          displayMode: legend,
          placement: 'bottom',
          showLegend: true,
          calcs: if legend == 'table' then ['lastNotNull', 'mean', 'max'] else [],
        },
        tooltip: { mode: 'multi', sort: 'desc' },
      },
    },

  // The same, one upon the other.
  stacked(title, description, queries, unit, width=12, height=8, max=null)::
    grafana.lines(title, description, queries, unit, width, height, min=0, max=max) {
      fieldConfig+: { defaults+: { custom+: {
        fillOpacity: 60,
        lineWidth: 0,
        stacking: { mode: 'normal', group: 'A' },
      } } },
      options+: { tooltip: { mode: 'multi', sort: 'none' } },
    },

  // Gives lines of this name this colour.
  coloured(names):: {
    fieldConfig+: { overrides+: [
      {
        matcher: { id: 'byName', options: name },
        properties: [{ id: 'color', value: { mode: 'fixed', fixedColor: names[name] } }],
      }
      for name in std.objectFields(names)
    ] },
  },

  // How often which duration, over time: native histograms or classic buckets.
  heatmap(title, description, expr, width=12, height=9)::
    panel('heatmap', title, description, [grafana.query(expr, '{{le}}') { format: 'heatmap' }], width, height) {
      fieldConfig: { defaults: { custom: {} }, overrides: [] },
      options: {
        calculate: false,
        cellGap: 1,
        color: {
          mode: 'scheme',
          scheme: 'Turbo',
          fill: 'dark-orange',
          scale: 'exponential',
          exponent: 0.5,
          steps: 64,
          reverse: false,
        },
        // Below it a cell is empty, not dark.
        filterValues: { le: 1e-9 },
        rowsFrame: { layout: 'auto' },
        showValue: 'never',
        yAxis: { unit: 's', axisPlacement: 'left', reverse: false },
        cellValues: { unit: 'suffix: /s' },
        legend: { show: true },
        tooltip: { show: true, yHistogram: true },
        exemplars: { color: 'rgba(255,0,255,0.7)' },
      },
    },

  // One number, coloured by its steps.
  stat(title, description, query, unit, thresholds=[], width=4, height=4, text='auto', sparkline=true)::
    panel('stat', title, description, [query], width, height) {
      fieldConfig: {
        defaults: { unit: unit, thresholds: steps(thresholds) },
        overrides: [],
      },
      options: {
        colorMode: 'value',
        graphMode: if sparkline then 'area' else 'none',
        justifyMode: 'auto',
        orientation: 'auto',
        reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
        textMode: text,
      },
    },

  // A bar for each series, coloured by its steps.
  bars(title, description, query, unit, thresholds=[], width=8, height=8, min=0, max=null)::
    panel('bargauge', title, description, [query], width, height) {
      fieldConfig: {
        defaults: {
          unit: unit,
          min: min,
          [if max != null then 'max']: max,
          thresholds: steps(thresholds),
        },
        overrides: [],
      },
      options: {
        displayMode: 'lcd',
        orientation: 'horizontal',
        valueMode: 'color',
        showUnfilled: true,
        minVizWidth: 8,
        minVizHeight: 16,
        reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
      },
    },

  // One row for each set of labels; `columns` is a list of { label, name, link } for labels and of
  // { expr, name, unit } for queries, in the order in which they are shown.
  table(title, description, columns, width=24, height=8)::
    local asked = [column for column in columns if std.objectHas(column, 'expr')];
    local letter(i) = std.char(std.codepoint('A') + i);
    local valueOf(expr) = 'Value' + (
      if std.length(asked) == 1 then ''
      else ' #' + [letter(i) for i in std.range(0, std.length(asked) - 1) if asked[i].expr == expr][0]
    );
    local key(column) = if std.objectHas(column, 'expr') then valueOf(column.expr) else column.label;
    local numbered = [{ key: key(columns[i]), index: i, name: columns[i].name } for i in std.range(0, std.length(columns) - 1)];
    panel('table', title, description, [grafana.columns(column.expr) for column in asked], width, height) {
      transformations: [
        { id: 'merge', options: {} },
        { id: 'filterFieldsByName', options: { include: { names: [column.key for column in numbered] } } },
        { id: 'organize', options: {
          indexByName: { [column.key]: column.index for column in numbered },
          renameByName: { [column.key]: column.name for column in numbered },
        } },
      ],
      fieldConfig: {
        defaults: { noValue: '' },
        overrides: [
          {
            matcher: { id: 'byName', options: column.name },
            properties: [{ id: 'unit', value: column.unit }],
          }
          for column in asked
          if std.objectHas(column, 'unit')
        ] + [
          {
            matcher: { id: 'byName', options: column.name },
            properties: [{ id: 'links', value: [column.link] }],
          }
          for column in columns
          if std.objectHas(column, 'link')
        ],
      },
      options: {
        frameIndex: 0,
        showHeader: true,
        footer: { show: false, reducer: ['sum'] },
        cellHeight: 'sm',
      },
    },

  // A heading and panels below it, from left to right.
  row(title, panels):: { title: title, panels: panels },

  local variable(name, label) = { name: name, label: label, hide: 0, skipUrlSync: false },

  // Chooses among the values of a label.
  labelVariable(name, label, series, multi=true):: variable(name, label) {
    type: 'query',
    datasource: grafana.datasource,
    query: { query: 'label_values(%s, %s)' % [series, name], refId: 'A' },
    refresh: 2,
    sort: 1,
    multi: multi,
    includeAll: multi,
    [if multi then 'allValue']: '.*',
    current: if multi then { text: 'All', value: '$__all' } else { text: '', value: '' },
    options: [],
    regex: '',
  },

  local datasourceVariable = variable('datasource', 'Data source') {
    type: 'datasource',
    query: 'prometheus',
    refresh: 1,
    multi: false,
    includeAll: false,
    current: { text: '', value: '' },
    options: [],
    regex: '',
  },

  // Puts panels beside each other until a line of 24 columns is full, each line below the last.
  local place(panels, top) =
    local step(at, panel) =
      local wraps = at.x + panel.gridPos.w > 24;
      local x = if wraps then 0 else at.x;
      local y = if wraps then at.bottom else at.y;
      {
        x: x + panel.gridPos.w,
        y: y,
        bottom: std.max(at.bottom, y + panel.gridPos.h),
        panels: at.panels + [panel { gridPos+: { x: x, y: y } }],
      };
    std.foldl(step, panels, { x: 0, y: top, bottom: top, panels: [] }),

  local rowPanel(title, y) = {
    type: 'row',
    title: title,
    collapsed: false,
    gridPos: { x: 0, y: y, w: 24, h: 1 },
    panels: [],
  },

  local placedRows(rows) =
    local step(at, row) =
      local placed = place(row.panels, at.y + 1);
      { y: placed.bottom, panels: at.panels + [rowPanel(row.title, at.y)] + placed.panels };
    local panels = std.foldl(step, rows, { y: 0, panels: [] }).panels;
    [panels[i] { id: i + 1 } for i in std.range(0, std.length(panels) - 1)],

  dashboard(config, name, title, description, variables, rows):: {
    uid: config.uidPrefix + name,
    title: title,
    description: description,
    tags: config.tags,
    timezone: 'browser',
    editable: true,
    graphTooltip: 1,
    time: { from: config.from, to: 'now' },
    refresh: config.refresh,
    schemaVersion: 38,
    templating: { list: [datasourceVariable] + variables },
    annotations: { list: [] },
    links: [{
      title: 'rttscope',
      type: 'dashboards',
      icon: 'external link',
      tooltip: '',
      tags: [config.tags[0]],
      asDropdown: true,
      targetBlank: false,
      includeVars: true,
      keepTime: true,
    }],
    panels: placedRows(rows),
  },
}
