"""
Hold the last benchmark's figures against the targets, a line each: the median
of the rounds, each of which is compared with itself.

usage: check.py RESULT.tsv TARGETS.tsv

Exit status: 0 when all hold, 1 when one falls short or was not measured.
"""

import csv
import operator
import re
import statistics
import sys

BOUNDS = {">=": operator.ge, "<=": operator.le, "<": operator.lt, ">": operator.gt}


def figures(path):
    """{"group/name/operation/bytes/threads": row}; a row stands once for each peer."""
    with open(path, newline="") as file:
        return {"/".join(row[field] for field in ("group", "name", "operation", "value_bytes", "threads")): row
                for row in csv.DictReader(file, delimiter="\t")}


def targets(path):
    with open(path, newline="") as file:
        yield from csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t")


def measured(rows, target):
    """The figure, the quotient or the difference; None where a row is missing."""
    base = target["base"].removeprefix("minus ")
    names = [target["ours"]] + ([] if base == "-" else [base])
    if any(name not in rows for name in names):
        return None
    rounds = list(zip(*([float(figure) for figure in rows[name][target["figure"] + "_rounds"].split()]
                        for name in names)))
    if base == "-":
        return statistics.median(ours for ours, in rounds)
    if base != target["base"]:
        return statistics.median(ours - theirs for ours, theirs in rounds)
    if not all(theirs for _, theirs in rounds):
        return None
    return statistics.median(ours / theirs for ours, theirs in rounds)


def main():
    rows = figures(sys.argv[1])
    short = 0
    for target in targets(sys.argv[2]):
        sign, bound = re.fullmatch(r"([<>]=?)(.*)", target["bound"]).groups()
        value = measured(rows, target)
        if value is None:
            verdict, shown = "not measured", "-"
        else:
            verdict = "ok" if BOUNDS[sign](value, float(bound)) else "SHORT"
            shown = "%.4g" % value
        short += verdict != "ok"
        print("%-12s  %10s  %s%-10s  %s" % (verdict, shown, sign, bound, target["what"]))
    print("%d short of their targets or not measured" % short)
    sys.exit(1 if short else 0)


main()
