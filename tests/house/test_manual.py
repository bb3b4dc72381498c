"""Every verb has a page in the manual, and the page says its options, no more and no fewer."""

import os
import re
import subprocess
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TERRACE = os.environ["TERRACE_BIN"]
OPTIONAL = {"repomap", "top"}  # what a build may leave out
EVERYWHERE = {"dir", "config", "json", "help", "version"}


def help_of(*verb):
    return subprocess.run([TERRACE, "help", *verb], capture_output=True, text=True, check=True).stdout


def verbs():
    return re.findall(r"^  ([a-z]+)", help_of().split("\n\n")[1], re.M)


def page(name):
    with open(os.path.join(ROOT, "man", name + ".1")) as file:
        return file.read()


class ManualTest(unittest.TestCase):
    def test_options(self):
        for verb in verbs():
            text = help_of(verb).split("Everywhere:")[0]
            options = set(re.findall(r"^  --([a-z0-9-]+)", text, re.M))
            # "Fl -name" is --name; "| -rgb" goes on with the same macro.
            said = set(re.findall(r"(?:Fl|\|) -([a-z][a-z0-9-]*)", page("terrace-" + verb)))
            self.assertEqual(said - EVERYWHERE, options, verb)

    def test_the_overview_names_every_verb(self):
        named = re.findall(r"^\.It Xr terrace-([a-z]+) 1", page("terrace"), re.M)
        self.assertEqual(set(named) | OPTIONAL, set(verbs()) | OPTIONAL)

    def test_pages_are_installed(self):
        with open(os.path.join(ROOT, "man", "meson.build")) as file:
            installed = re.findall(r"'(terrace[a-z-]*)\.1'", file.read())
        wanted = {"terrace-" + verb for verb in set(verbs()) | OPTIONAL}
        self.assertEqual(set(installed), wanted | {"terrace"})


if __name__ == "__main__":
    unittest.main()
