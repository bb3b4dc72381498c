"""Every example of python-diskcache's own documentation, where that is installed, with our classes."""

import doctest
import sys
import tempfile

import pytest

import terrace

DEBIAN = "/usr/lib/python3/dist-packages"
CLASSES = ("Cache", "FanoutCache", "Deque", "Index")


def documented():
    """The original's package, also for a Python that is not the system's."""
    sys.path.append(DEBIAN)
    try:
        return pytest.importorskip("diskcache")
    finally:
        sys.path.remove(DEBIAN)


class OurImports(doctest.DocTestParser):
    def parse(self, string, name="<string>"):
        return super().parse(string.replace("from diskcache import", "from terrace import"), name)


@pytest.mark.parametrize("name", CLASSES)
def test_examples__give_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    original = documented()
    ours = {one: getattr(terrace, one) for one in CLASSES}
    finder = doctest.DocTestFinder(parser=OurImports())
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    for example in finder.find(getattr(original, name), name, globs=ours):
        runner.run(example)
    assert runner.failures == 0 and runner.tries > 5
