"""
Draw the cost curves: a panel for each operation, time over entries, both
logarithmic, as SVG.

usage: plot.py CURVES.tsv PICTURE.svg
"""

import csv
import html
import math
import sys

COLOURS = {"terrace": "#c2410c", "raw SQLite": "#1d4ed8", "python-diskcache": "#15803d"}
OTHER = "#6b7280"
COLUMNS = 3
WIDTH, HEIGHT = 300, 230                         # of a panel's plot
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 40        # around it
HEAD = 58                                        # over all of them
UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns"))


def read(path):
    """{operation: {name: [(entries, ns), ...]}}, in the file's order"""
    panels = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            panels.setdefault(row["operation"], {}).setdefault(row["name"], []).append(
                (int(row["entries"]), float(row["p50_ns"])))
    return panels


def time_text(ns):
    for unit, name in UNITS:
        if ns >= unit:
            return "%g %s" % (ns / unit, name)
    return "%g ns" % ns


def power_text(exponent):
    digits = "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(exponent))
    return "10" + digits


def text(x, y, content, anchor="middle", size=11, colour="#374151", more=""):
    return '<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d" fill="%s"%s>%s</text>' % (
        x, y, anchor, size, colour, more, html.escape(content))


def line(x1, y1, x2, y2, colour, width=1.0):
    return '<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%g"/>' % (
        x1, y1, x2, y2, colour, width)


def decades(values):
    return math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))


class Panel:
    def __init__(self, left, top, names):
        points = [point for curve in names.values() for point in curve]
        self.left, self.top = left, top
        self.x_from, self.x_to = decades([x for x, _ in points])
        self.y_from, self.y_to = decades([y for _, y in points])
        self.x_to = max(self.x_to, self.x_from + 1)
        self.y_to = max(self.y_to, self.y_from + 2)  # what is flat shall look flat

    def x(self, entries):
        return self.left + WIDTH * (math.log10(entries) - self.x_from) / (self.x_to - self.x_from)

    def y(self, ns):
        return self.top + HEIGHT * (self.y_to - math.log10(ns)) / (self.y_to - self.y_from)

    def grid(self, title):
        yield '<rect x="%d" y="%d" width="%d" height="%d" fill="#ffffff" stroke="#d1d5db"/>' % (
            self.left, self.top, WIDTH, HEIGHT)
        yield text(self.left + WIDTH / 2, self.top - 10, title, size=13, colour="#111827",
                   more=' font-weight="bold"')
        for exponent in range(self.x_from, self.x_to + 1):
            x = self.x(10 ** exponent)
            yield line(x, self.top, x, self.top + HEIGHT, "#e5e7eb")
            yield text(x, self.top + HEIGHT + 16, power_text(exponent))
        for exponent in range(self.y_from, self.y_to + 1):
            y = self.y(10.0 ** exponent)
            yield line(self.left, y, self.left + WIDTH, y, "#e5e7eb")
            yield text(self.left - 6, y + 4, time_text(10.0 ** exponent), anchor="end")
        yield text(self.left + WIDTH / 2, self.top + HEIGHT + 33, "entries", size=11)

    def curve(self, name, points):
        colour = COLOURS.get(name, OTHER)
        places = [(self.x(entries), self.y(ns)) for entries, ns in sorted(points)]
        yield '<polyline fill="none" stroke="%s" stroke-width="2" points="%s"/>' % (
            colour, " ".join("%.1f,%.1f" % place for place in places))
        for (x, y), (entries, ns) in zip(places, sorted(points)):
            yield '<circle cx="%.1f" cy="%.1f" r="3.2" fill="%s"><title>%s</title></circle>' % (
                x, y, colour, html.escape("%s, %d entries: %s" % (name, entries, time_text(ns))))


def draw(panels):
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width = columns * (LEFT + WIDTH + RIGHT) + 10
    height = HEAD + rows * (TOP + HEIGHT + BOTTOM) + 10
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    yield ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" '
           'font-family="DejaVu Sans, Helvetica, Arial, sans-serif">' % (width, height, width, height))
    yield '<rect width="%d" height="%d" fill="#fafaf9"/>' % (width, height)
    yield text(LEFT, 24, "What an operation costs as a store grows: median time", anchor="start",
               size=15, colour="#111827", more=' font-weight="bold"')
    x = LEFT
    for name in names:
        colour = COLOURS.get(name, OTHER)
        yield line(x, 41, x + 24, 41, colour, 2.5)
        yield text(x + 30, 45, name, anchor="start", size=12)
        x += 60 + 8 * len(name)
    for at, (operation, curves) in enumerate(panels.items()):
        panel = Panel(at % columns * (LEFT + WIDTH + RIGHT) + LEFT,
                      HEAD + at // columns * (TOP + HEIGHT + BOTTOM) + TOP, curves)
        yield from panel.grid(operation)
        for name, points in sorted(curves.items(), key=lambda item: item[0] == "terrace"):
            yield from panel.curve(name, points)
    yield "</svg>"


def main():
    panels = read(sys.argv[1])
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write("\n".join(draw(panels)) + "\n")


main()
