"""A folder includes only what stands below it: see docs/ARCHITECTURE.md."""

import os
import re
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# folder: what its files may include of ours, besides their own folder
MAY_INCLUDE = {
    "cli": ["terrace", "systems", "cli"],
    "systems": ["terrace"],
    "examples": ["terrace", "systems"],
    "python": ["terrace"],
    "include/terrace": ["terrace"],
    "src/api": ["terrace", "core", "tiers", "codec", "util"],
    "src/core": ["terrace", "tiers", "codec", "util"],
    "src/tiers": ["terrace", "codec", "util"],
    "src/codec": ["terrace", "util"],
    "src/util": [],
}

# Within src/tiers, memory does not know sqlite, nor files either of them;
# sqlite keeps its large values in files.
TIERS = {"memory": ["memory"], "sqlite": ["sqlite", "files"], "files": ["files"], "": []}

# The one file of the core that names all tiers.
NAMES_ALL_TIERS = "src/core/tiers.c"

# The search of a hit in memory is compiled in place.
COMPILED_IN_PLACE = ("src/core/hit.h", "tiers/memory/find.h")

# Shared by all tiers, and part of their tables of functions.
COMMON_TIER_HEADERS = {"tier.h", "entry.h", "record.h", "status.h", "extra.h", "status.h"}


def files(folder):
    for base, _, names in os.walk(os.path.join(ROOT, folder)):
        for name in names:
            if name.endswith((".c", ".h")):
                yield os.path.relpath(os.path.join(base, name), ROOT)


def includes(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            match = re.match(r'\s*#\s*include\s+(?:"([^"]+)"|<(terrace/[^>]+)>)', line)
            if match:
                yield number, match.group(1) or match.group(2)


class Includes(unittest.TestCase):
    def test_every_folder_includes_only_what_stands_below_it(self):
        seen, wrong = 0, []
        for folder, allowed in MAY_INCLUDE.items():
            own = folder.split("/")[-1]
            for path in files(folder):
                for number, name in includes(path):
                    seen += 1
                    first = name.split("/")[0] if "/" in name else own
                    if first in ("builds", "slides", "repomap"):
                        first = "systems"
                    if first != own and first not in allowed:
                        wrong.append("%s:%d includes %s" % (path, number, name))
        self.assertEqual(wrong, [])
        self.assertGreater(seen, 100)

    def test_tiers_do_not_know_each_other(self):
        wrong = []
        for path in files("src/tiers"):
            parts = path.split("/")
            tier = parts[2] if len(parts) > 3 else ""
            for number, name in includes(path):
                target = name.split("/")
                if target[0] != "tiers":
                    continue
                known = target[1] in COMMON_TIER_HEADERS if len(target) == 2 else target[1] in TIERS[tier]
                if not known:
                    wrong.append("%s:%d includes %s" % (path, number, name))
        self.assertEqual(wrong, [])

    def test_one_file_of_the_core_names_the_tiers(self):
        wrong = []
        for folder in ("src/core", "src/api"):
            for path in files(folder):
                for number, name in includes(path):
                    if re.match(r"tiers/[^/]+/", name) and path != NAMES_ALL_TIERS \
                            and (path, name) != COMPILED_IN_PLACE:
                        wrong.append("%s:%d includes %s" % (path, number, name))
        self.assertEqual(wrong, [])


if __name__ == "__main__":
    unittest.main()
