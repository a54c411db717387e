"""Draws dashboards from live data, so that somebody can look at every panel without a Grafana:
asks a Prometheus server each panel's queries over the last minutes, and writes one picture for each
dashboard. A panel without data says so.

Usage: draw.py URL FOLDER MINUTES [VARIABLE=VALUE…] DASHBOARD.json…"""

import json
import math
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.colors
import matplotlib.pyplot as plt

STEPS = 120
VARIABLES = {"__rate_interval": "10s"}
BACKGROUND = "#181b1f"
TEXT = "#ccccdc"
COLUMN_INCHES = 0.75
LINE_INCHES = 0.42


def main():
    url, folder, minutes, *others = sys.argv[1:]
    VARIABLES.update(other.split("=", 1) for other in others if "=" in other)
    paths = [other for other in others if "=" not in other]
    span = float(minutes) * 60
    # Every query about the same moments, so that what is stacked stands on what is below it.
    end = time.time()
    VARIABLES["__range"] = f"{int(span)}s"
    plt.rcParams.update({"font.size": 7, "text.color": TEXT, "axes.labelcolor": TEXT})
    plt.rcParams.update({"xtick.color": TEXT, "ytick.color": TEXT, "axes.edgecolor": "#444"})
    for path in paths:
        with open(path, encoding="utf-8") as file:
            dashboard = json.load(file)
        picture = pathlib.Path(folder) / (pathlib.Path(path).stem + ".png")
        chosen = choices(url, dashboard)
        draw(dashboard, lambda target: ask(url, target, chosen, end, span), picture)
        print(picture)


def fetch(url, path, **fields):
    query = urllib.parse.urlencode(fields)
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}") as answer:
        return json.load(answer)["data"]


def choices(url, dashboard):
    """What is chosen at the top: everything, or the first value where only one can be."""
    chosen = dict(VARIABLES)
    for variable in dashboard["templating"]["list"]:
        free = variable["name"] not in chosen
        if free and variable["type"] == "query" and not variable["multi"]:
            series = variable["query"]["query"].removeprefix("label_values(").rpartition(", ")[0]
            found = fetch(url, "query", query=substituted(series, chosen))["result"]
            values = sorted(each["metric"][variable["name"]] for each in found)
            chosen[variable["name"]] = values[0] if values else ".*"
    return chosen


def substituted(expr, chosen):
    return re.sub(r"\$(\w+)", lambda name: chosen.get(name[1], ".*"), expr)


def ask(url, target, chosen, end, span):
    """The series of one query, each with its labels and its points."""
    expr = substituted(target["expr"], chosen)
    if target["instant"]:
        found = fetch(url, "query", query=expr, time=end)["result"]
    else:
        begin, step = end - span, span / STEPS
        found = fetch(url, "query_range", query=expr, start=begin, end=end, step=step)["result"]
    for series in found:
        for one, several in (("value", "values"), ("histogram", "histograms")):
            if one in series:
                series[several] = [series[one]]
    return found


def draw(dashboard, answers, picture):
    panels = dashboard["panels"]
    lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(24 * COLUMN_INCHES, lines * LINE_INCHES), facecolor="#111217")
    for panel in panels:
        place = panel["gridPos"]
        if panel["type"] == "row":
            figure.text(0.01, 1 - (place["y"] + 0.7) / lines, panel["title"], size=10)
            continue
        axes = figure.add_axes(
            [
                (place["x"] + 0.9) / 24,
                1 - (place["y"] + place["h"] - 1.6) / lines,
                (place["w"] - 1.2) / 24,
                (place["h"] - 2.6) / lines,
            ],
            facecolor=BACKGROUND,
        )
        axes.set_title(panel["title"], loc="left", size=8, color=TEXT)
        answered = [(target, answers(target)) for target in panel["targets"]]
        if not any(found for _, found in answered):
            axes.text(0.5, 0.5, "No data", ha="center")
            continue
        DRAWERS[panel["type"]](axes, panel, answered)
    figure.savefig(picture, dpi=70, facecolor=figure.get_facecolor())
    plt.close(figure)


def legend(target, series):
    template = target["legendFormat"]
    if not template:
        return str(series["metric"])
    return re.sub(r"\{\{(\w+)\}\}", lambda name: series["metric"].get(name[1], ""), template)


def points(series):
    times = [at for at, _ in series.get("values", [])]
    return times, [float(value) for _, value in series.get("values", [])]


def colours(panel):
    named = {}
    for override in panel["fieldConfig"]["overrides"]:
        for setting in override["properties"]:
            if setting["id"] == "color":
                fixed = setting["value"]["fixedColor"].replace("dark-", "dark")
                named[override["matcher"]["options"]] = fixed
    return named


def draw_lines(axes, panel, answered):
    defaults = panel["fieldConfig"]["defaults"]
    named = colours(panel)
    lines = [
        (legend(target, series), *points(series))
        for target, found in answered
        for series in found
    ]
    stacked = "stacking" in defaults["custom"]
    if stacked:
        times = sorted({at for _, times, _ in lines for at in times})
        rows = [[dict(zip(at, values)).get(moment, 0) for moment in times] for _, at, values in lines]
        rows = [[0 if math.isnan(value) else value for value in row] for row in rows]
        given = {"colors": [named[name] for name, _, _ in lines]} if named else {}
        axes.stackplot(times, rows, labels=[name for name, _, _ in lines], alpha=0.7, **given)
    else:
        for name, times, values in lines:
            axes.plot(times, values, label=name, linewidth=1, color=named.get(name))
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is not None:
            axes.axhline(step["value"], color=step["color"], linestyle="--", linewidth=0.7)
    axes.set_ylim(bottom=defaults.get("min"), top=defaults.get("max"))
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, defaults["unit"]))
    axes.xaxis.set_major_formatter(lambda at, _: time.strftime("%H:%M:%S", time.localtime(at)))
    axes.grid(color="#2c2f34", linewidth=0.5)
    below = dict(loc="upper left", bbox_to_anchor=(0, -0.12), borderaxespad=0, frameon=False)
    axes.legend(fontsize=6, ncols=4, labelcolor=TEXT, **below)


def draw_heatmap(axes, panel, answered):
    cells = [cell for _, found in answered for cell in heat(found)]
    if not cells:
        axes.text(0.5, 0.5, "No data", ha="center")
        return
    moments = sorted({at for at, *_ in cells})
    width = min((later - at for at, later in zip(moments, moments[1:])), default=1)
    scale = matplotlib.colors.PowerNorm(0.5, 0, max(rate for *_, rate in cells))
    paint = matplotlib.colormaps["turbo"]
    for at, low, high, rate in cells:
        low = max(low, 1e-7)
        axes.bar(at, high - low, width, low, color=paint(scale(rate)))
    axes.set_yscale("log")
    unit = panel["options"]["yAxis"]["unit"]
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.xaxis.set_major_formatter(lambda at, _: time.strftime("%H:%M:%S", time.localtime(at)))


def heat(found):
    """Cells that are not empty, as (time, lower end, upper end, rate)."""
    classic = [series for series in found if "le" in series["metric"]]
    below = {}
    low = 0.0
    for series in sorted(classic, key=lambda series: float(series["metric"]["le"])):
        end = float(series["metric"]["le"])
        for at, value in zip(*points(series)):
            rate = value - below.get(at, 0.0)
            below[at] = value
            if rate > 1e-9 and math.isfinite(end):
                yield at, low, end, rate
        low = end
    for series in found:
        for at, histogram in series.get("histograms", []):
            for _, low, high, rate in histogram.get("buckets", []):
                if float(rate) > 1e-9:
                    yield at, float(low), float(high), float(rate)


def draw_numbers(axes, panel, answered):
    unit = panel["fieldConfig"]["defaults"]["unit"]
    by_name = panel["options"].get("textMode") == "name"
    axes.set_axis_off()
    found = [
        (legend(target, series), points(series)[1][-1])
        for target, found in answered
        for series in found
    ]
    if panel["type"] == "stat":
        text = "\n".join(name if by_name else shown(value, unit) for name, value in found)
        axes.text(0.5, 0.4, text, ha="center", va="center", size=16, color=step_colour(panel, found[0][1]))
        return
    for index, (name, value) in enumerate(found):
        y = 0.9 - index / max(len(found), 6)
        axes.text(0, y, name)
        axes.text(0.95, y, shown(value, unit), ha="right", color=step_colour(panel, value))


def step_colour(panel, value):
    colour = "green"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return colour


def draw_table(axes, panel, answered):
    organize = panel["transformations"][-1]["options"]
    keys = sorted(organize["indexByName"], key=organize["indexByName"].get)
    names = organize["renameByName"]
    units = {
        override["matcher"]["options"]: override["properties"][0]["value"]
        for override in panel["fieldConfig"]["overrides"]
        if override["properties"][0]["id"] == "unit"
    }
    rows = {}
    for target, found in answered:
        value_key = "Value" if len(answered) == 1 else f"Value #{target['refId']}"
        for series in found:
            labels = {key: text for key, text in series["metric"].items() if key in keys}
            row = rows.setdefault(tuple(sorted(labels.items())), dict(labels))
            row[value_key] = shown(points(series)[1][-1], units.get(names[value_key], "none"))
    axes.set_axis_off()
    cells = [[row.get(key, "")[:60] for key in keys] for row in rows.values()]
    table = axes.table(
        cellText=cells, colLabels=[names[key] for key in keys], loc="upper center", cellLoc="left"
    )
    for cell in table.get_celld().values():
        cell.set(facecolor=BACKGROUND, edgecolor="#333")
        cell.get_text().set_color(TEXT)


def shown(value, unit):
    if math.isnan(value):
        return "NaN"
    if unit == "s":
        for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "µs"), (1e9, "ns")):
            if abs(value) * factor >= 1:
                return f"{value * factor:.3g} {name}"
        return "0"
    if unit == "percentunit":
        return f"{value * 100:.4g}%"
    if unit == "percent":
        return f"{value:.4g}%"
    if unit == "bool_yes_no":
        return "Yes" if value else "No"
    if unit in ("bytes", "Bps"):
        power = 0 if value < 1 else min(int(math.log(value, 1024)), 4)
        per = "/s" if unit == "Bps" else ""
        return f"{value / 1024**power:.3g} {['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}{per}"
    return f"{value:.4g}" + unit.removeprefix("suffix:").replace("none", "")


DRAWERS = {
    "timeseries": draw_lines,
    "heatmap": draw_heatmap,
    "stat": draw_numbers,
    "bargauge": draw_numbers,
    "table": draw_table,
}

if __name__ == "__main__":
    main()
