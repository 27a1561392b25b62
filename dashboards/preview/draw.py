#!/usr/bin/env python3
"""Draws both dashboards into PNGs from a running Prometheus and the weir it scrapes.

It reads the same JSON as Grafana, fills in the same variables, sends the same queries and keeps the
same grid. It is no Grafana: it knows the panels and options these two dashboards use.

    python3 -m venv target/preview
    target/preview/bin/pip install -r dashboards/preview/requirements.txt
    target/preview/bin/python dashboards/preview/draw.py --prometheus http://127.0.0.1:9090
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import re
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates
import matplotlib.pyplot as plt
import matplotlib.ticker
from PIL import Image

WIDTH, UNIT, GAP, MARGIN, HEAD = 1500, 38, 8, 12, 64  # pixels; UNIT is a row of Grafana's grid
DPI = 100
BACKGROUND, PANEL, EDGE, TEXT, DIM = "#111217", "#181b1f", "#2a2d33", "#d5d6da", "#8e9097"
COLORS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#8ab8ff", "#ffb357"]
NAMED = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "purple": "#b877d9",
         "blue": "#5794f2", "yellow": "#f2cc0c"}
SUFFIX = {"mps": " mps", "reqps": " req/s", "ops": " ops/s"}


class Source:
    """Where queries go, and what the dashboards' variables stand for."""

    def __init__(self, arguments):
        self.prometheus = arguments.prometheus.rstrip("/")
        self.token = os.environ.get("WEIR_OPS_TOKEN")
        self.end = time.time()
        self.seconds = arguments.minutes * 60
        self.rate = arguments.rate
        self.scheme = arguments.scheme
        self.replicas = self.labels("weir_build_info", "instance")
        self.instances = self.labels("weir_quota_messages_per_second", "instance_id")
        if not self.replicas:
            raise SystemExit(f"{self.prometheus} knows no weir_build_info: does it scrape weir?")

    def get(self, url, token=None):
        request = urllib.request.Request(url)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def ask(self, name, **parameters):
        url = f"{self.prometheus}/api/v1/{name}?{urllib.parse.urlencode(parameters)}"
        return self.get(url)["data"]

    def labels(self, selector, label):
        return self.ask(f"label/{label}/values", **{"match[]": selector})

    def fill(self, text):
        """A text with Grafana's variables filled in."""
        def several(values):
            escaped = [value.replace(".", "\\\\.") for value in values]
            return escaped[0] if len(escaped) == 1 else "(" + "|".join(escaped) + ")"
        for name, value in [
            ("$__rate_interval", self.rate),
            ("$__range", f"{self.seconds}s"),
            ("${__from}", str(int((self.end - self.seconds) * 1000))),
            ("${__to}", str(int(self.end * 1000))),
            ("${scheme}", self.scheme),
            ("${replica:raw}", self.replicas[0]),
            ("${instance:csv}", ",".join(self.instances)),
            ("$replica", several(self.replicas)),
            ("$instance", several(self.instances)),
        ]:
            text = text.replace(name, value)
        return text

    def series(self, target):
        """(legend, labels, times, values) of each series of a Prometheus query."""
        query = self.fill(target["expr"])
        if target.get("instant"):
            found = self.ask("query", query=query, time=self.end)["result"]
            samples = [(one["metric"], [one["value"]]) for one in found]
        else:
            step = max(1, self.seconds // 240)
            found = self.ask("query_range", query=query, start=self.end - self.seconds,
                             end=self.end, step=step)["result"]
            samples = [(one["metric"], one["values"]) for one in found]
        for labels, values in samples:
            times = [datetime.datetime.fromtimestamp(float(at), datetime.UTC) for at, _ in values]
            numbers = [float(value) for _, value in values]
            legend = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""),
                            target.get("legendFormat") or json.dumps(labels))
            yield legend, labels, times, numbers

    def rows(self, target):
        """The rows of a ledger query, by the names of their columns."""
        parameters = {one["key"]: self.fill(one["value"])
                      for one in target["url_options"]["params"]}
        url = f"{self.fill(target['url'])}?{urllib.parse.urlencode(parameters)}"
        columns = [(one["text"], one["selector"]) for one in target["columns"]]
        return [{text: row[selector] for text, selector in columns}
                for row in self.get(url, self.token)]


def scaled(value, base, words):
    at = 0
    while abs(value) >= base and at < len(words) - 1:
        value, at = value / base, at + 1
    text = f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return text + words[at]


def show(value, unit):
    """A value in its unit, as short as Grafana says it."""
    if not math.isfinite(value):
        return "-"
    if unit == "locale":
        return f"{value:,.0f}"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "bytes":
        return scaled(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"])
    if unit == "s":
        for length, word in [(86400, "days"), (3600, "h"), (60, "min")]:
            if abs(value) >= length:
                return f"{value / length:.3g} {word}"
        if value == 0:
            return "0 s"
        for length, word in [(1, "s"), (1e-3, "ms"), (1e-6, "us")]:
            if abs(value) >= length:
                return f"{value / length:.3g} {word}"
    return scaled(float(f"{value:.3g}"), 1000, ["", " K", " M", " G"]) + SUFFIX.get(unit, "")


def color_at(defaults, value):
    chosen = "blue"
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            chosen = step["color"]
    return NAMED.get(chosen, TEXT)


def apart(times, values, gap):
    """Points with a hole wherever two of them are over `gap` milliseconds apart."""
    points = []
    for at, value in zip(times, values):
        if gap and points and (at - points[-1][0]).total_seconds() * 1000 > gap:
            points.append((points[-1][0], math.nan))
        points.append((at, value))
    return [at for at, _ in points], [value for _, value in points]


class Sheet:
    """One dashboard on one figure, in pixels from the top left."""

    def __init__(self, board, source):
        self.board, self.source = board, source
        rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board["panels"])
        self.height = HEAD + rows * UNIT + MARGIN
        self.figure = plt.figure(figsize=(WIDTH / DPI, self.height / DPI), dpi=DPI,
                                 facecolor=BACKGROUND)
        self.text(MARGIN + 4, 20, board["title"], size=15, weight="bold")
        span = f"last {source.seconds // 60} minutes, UTC"
        self.text(MARGIN + 4, 46, f"{board['description']}  {span}.", size=9.5, color=DIM)

    def axes(self, x, y, w, h, **more):
        return self.figure.add_axes(
            (x / WIDTH, 1 - (y + h) / self.height, w / WIDTH, h / self.height), **more)

    def text(self, x, y, text, size=9.0, color=TEXT, **more):
        more.setdefault("va", "center")
        return self.figure.text(x / WIDTH, 1 - y / self.height, text, fontsize=size, color=color,
                                **more)

    def draw(self):
        for panel in self.board["panels"]:
            at = panel["gridPos"]
            column = (WIDTH - 2 * MARGIN + GAP) / 24
            x, y = MARGIN + at["x"] * column, HEAD + at["y"] * UNIT
            w, h = at["w"] * column - GAP, at["h"] * UNIT - GAP
            title = panel["title"].replace("$replica", self.source.replicas[0])
            if panel["type"] == "row":
                self.text(x + 4, y + h / 2 + 2, title, size=11, weight="bold")
                continue
            ground = self.axes(x, y, w, h)
            ground.set(xticks=[], yticks=[], facecolor=PANEL)
            ground.spines[:].set_color(EDGE)
            self.text(x + 10, y + 16, title, size=9.5, weight="bold")
            getattr(self, panel["type"])(panel, x, y + 30, w, h - 30)

    def found(self, panel):
        """(name, times, values) of everything a panel draws as lines."""
        for target in panel["targets"]:
            if "expr" in target:
                for legend, _, times, values in self.source.series(target):
                    yield legend, times, values
                continue
            value = [one["text"] for one in target["columns"] if one["type"] == "number"][0]
            by_instance = {}
            for row in self.source.rows(target):
                at = datetime.datetime.fromisoformat(row["Start"])
                by_instance.setdefault(row["Instance"], []).append((at, row[value]))
            for name, points in by_instance.items():
                yield name, [at for at, _ in points], [number for _, number in points]

    def timeseries(self, panel, x, y, w, h):
        defaults = panel["fieldConfig"]["defaults"]
        custom, unit = defaults["custom"], defaults["unit"]
        fixed = {one["matcher"]["options"]: NAMED[prop["value"]["fixedColor"]]
                 for one in panel["fieldConfig"]["overrides"] for prop in one["properties"]
                 if prop["id"] == "color"}
        lines = [line for line in self.found(panel) if line[1]]
        if not lines:
            said = defaults.get("noValue", "No data")
            self.text(x + w / 2, y + h / 2, said, color=DIM, ha="center")
            return
        names = self.legend([name for name, _, _ in lines], x + 10, y + h - 12, w - 20)
        axes = self.axes(x + 66, y + 4, w - 82, h - 34 - 16 * len(names))
        axes.set_facecolor(PANEL)
        axes.grid(color=EDGE, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.tick_params(colors=DIM, labelsize=8, length=0)
        colors = [fixed.get(name, COLORS[at % len(COLORS)]) for at, (name, *_) in enumerate(lines)]
        at = 0
        for row, entries in enumerate(names):
            for name, place in entries:
                self.text(place, y + h - 12 - 16 * (len(names) - 1 - row), "━ ", size=8,
                          color=colors[at])
                self.text(place + 16, y + h - 12 - 16 * (len(names) - 1 - row), name, size=8)
                at += 1
        end = datetime.datetime.fromtimestamp(self.source.end, datetime.UTC)
        start = end - datetime.timedelta(seconds=self.source.seconds)
        if custom["drawStyle"] == "bars":
            self.bars(axes, lines, colors)
        elif custom["stacking"]["mode"] == "normal":
            self.stack(axes, lines, colors)
            axes.set_xlim(start, end)
        else:
            for (_, times, values), color in zip(lines, colors):
                times, values = apart(times, values, custom.get("insertNulls"))
                axes.plot(times, values, color=color, linewidth=1.2)
                axes.fill_between(times, values, color=color, alpha=0.08, linewidth=0)
            axes.set_xlim(start, end)
        bottom, top = axes.get_ylim()
        bottom = min(bottom, 0) if "min" not in defaults else defaults["min"]
        is_flat = all(value == 0 for _, _, values in lines for value in values)
        axes.set_ylim(bottom, defaults.get("max", 1 if is_flat else top))
        limit = [step["value"] for step in defaults.get("thresholds", {}).get("steps", [])
                 if step["value"] is not None]
        if custom.get("thresholdsStyle") and limit and limit[0] <= axes.get_ylim()[1]:
            axes.axhline(limit[0], color=NAMED["red"], linewidth=0.9, linestyle="--")
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        if unit == "bytes":
            step = 2 ** math.ceil(math.log2(axes.get_ylim()[1] / 4))
            axes.yaxis.set_major_locator(matplotlib.ticker.MultipleLocator(step))
        axes.yaxis.set_major_formatter(lambda value, _: show(value, unit))
        if custom["drawStyle"] != "bars":
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, prune="both"))
            axes.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H:%M"))

    def legend(self, names, x, y, w):
        """Names in rows, each with its place; a fourth row has no room."""
        rows, at = [[]], x
        for name in names:
            name = name if len(name) <= 44 else name[:43] + "…"
            length = 26 + 6.7 * len(name)
            if rows[-1] and at + length > x + w:
                rows.append([])
                at = x
            rows[-1].append((name, at))
            at += length
        return rows[:3]

    def stack(self, axes, lines, colors):
        moments = sorted({at for _, times, _ in lines for at in times})
        below = [0.0] * len(moments)
        for (_, times, values), color in zip(lines, colors):
            known = dict(zip(times, values))
            above = [low + (value if math.isfinite(value := known.get(at, 0.0)) else 0.0)
                     for low, at in zip(below, moments)]
            axes.fill_between(moments, below, above, color=color, alpha=0.7, linewidth=0)
            below = above

    def bars(self, axes, lines, colors):
        moments = sorted({at for _, times, _ in lines for at in times})
        below = dict.fromkeys(moments, 0)
        for (_, times, values), color in zip(lines, colors):
            places = [moments.index(at) for at in times]
            axes.bar(places, values, bottom=[below[at] for at in times], color=color, alpha=0.8,
                     width=0.6)
            for at, value in zip(times, values):
                below[at] += value
        axes.set_xlim(-1, len(moments))
        axes.set_xticks(range(len(moments)), [f"{at:%d %b %H:%M}" for at in moments])
        axes.margins(y=0.1)

    def stat(self, panel, x, y, w, h):
        defaults = panel["fieldConfig"]["defaults"]
        options = panel["options"]
        target = panel["targets"][0]
        if "expr" in target:
            lines = list(self.source.series(target))
            value = lines[0][3][-1] if lines else math.nan
            if options["graphMode"] == "area" and lines:
                axes = self.axes(x + 1, y + h * 0.55, w - 2, h * 0.45 - 1)
                axes.set_axis_off()
                color = color_at(defaults, value)
                axes.fill_between(lines[0][2], lines[0][3], color=color, alpha=0.25, linewidth=0)
                axes.plot(lines[0][2], lines[0][3], color=color, linewidth=1)
                axes.set_ylim(bottom=0)
        else:
            name = options["reduceOptions"]["fields"].strip("/^$")
            value = sum(row[name] for row in self.source.rows(target))
        size = 25 if w > 200 else 20
        self.text(x + w / 2, y + h * 0.38, show(value, defaults["unit"]), size=size,
                  color=color_at(defaults, value), ha="center")

    def bargauge(self, panel, x, y, w, h):
        unit = panel["fieldConfig"]["defaults"]["unit"]
        lines = [(legend, values[-1]) for target in panel["targets"]
                 for legend, _, _, values in self.source.series(target)]
        lines.sort(key=lambda line: -line[1])
        axes = self.axes(x + 128, y + 8, w - 235, h - 18)
        axes.set_axis_off()
        most = max(value for _, value in lines) or 1
        axes.barh(range(len(lines)), [most] * len(lines), color="#22252b", height=0.55)
        axes.barh(range(len(lines)), [value for _, value in lines], color=NAMED["blue"],
                  height=0.55, alpha=0.85)
        axes.set(xlim=(0, most), ylim=(len(lines) - 0.4, -0.6))
        for at, (name, value) in enumerate(lines):
            axes.annotate(name, (0, at), xytext=(-8, 0), textcoords="offset points", fontsize=8.5,
                          color=TEXT, ha="right", va="center")
            axes.annotate(show(value, unit), (most, at), xytext=(8, 0), fontsize=9.5,
                          textcoords="offset points", color=NAMED["blue"], va="center")

    def table(self, panel, x, y, w, h):
        unit = panel["fieldConfig"]["defaults"]["unit"]
        if "expr" in panel["targets"][0]:
            columns, by_instance = ["Instance"], {}
            for target in panel["targets"]:
                columns.append(target["refId"])
                for _, labels, _, values in self.source.series(target):
                    row = by_instance.setdefault(labels["instance_id"], {})
                    row.update({"Instance": labels["instance_id"], target["refId"]: values[-1]})
            rows = list(by_instance.values())
        else:
            columns, by_instance = [], {}
            for target in panel["targets"]:
                columns += [one["text"] for one in target["columns"] if one["text"] not in columns]
                for row in self.source.rows(target):
                    by_instance.setdefault(row["Instance"], {}).update(row)
            rows = list(by_instance.values())
        rows.sort(key=lambda row: -row.get(panel["options"]["sortBy"][0]["displayName"], 0))
        places = [x + 14 + at * (w - 28) / len(columns) for at in range(len(columns))]
        for column, place in zip(columns, places):
            self.text(place, y + 10, column, size=8.5, color=NAMED["blue"])
        for line, row in enumerate(rows[: int((h - 24) / 24)]):
            for column, place in zip(columns, places):
                value = row.get(column, "")
                value = value if isinstance(value, str) else show(value, unit)
                self.text(place, y + 36 + 24 * line, value, size=9)

    def save(self, path):
        self.figure.savefig(path, dpi=DPI, facecolor=BACKGROUND)
        plt.close(self.figure)
        # A palette is a quarter of the bytes, and these few colours lose nothing.
        image = Image.open(path).convert("RGB")
        image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--minutes", type=int, default=15, help="how far back is drawn")
    parser.add_argument("--rate", default="1m", help="what a rate is taken over")
    parser.add_argument("--scheme", default="http", help="how the ops port is spoken to")
    parser.add_argument("--out", type=pathlib.Path, default=here, metavar="FOLDER")
    arguments = parser.parse_args()
    plt.rcParams["font.family"] = "DejaVu Sans"
    source = Source(arguments)
    for name in ["billing", "service"]:
        board = json.loads((here.parent / f"{name}.json").read_text())
        sheet = Sheet(board, source)
        sheet.draw()
        sheet.save(arguments.out / f"{name}.png")
        print(arguments.out / f"{name}.png")


if __name__ == "__main__":
    main()
