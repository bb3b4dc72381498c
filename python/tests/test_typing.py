"""The annotations hold, and the stub says what the extension has."""

import os
import subprocess
import sys

import pytest

import terrace

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGE = os.path.dirname(os.path.abspath(terrace.__file__))


def run(*command):
    environment = {**os.environ, "MYPYPATH": os.path.dirname(PACKAGE), "MYPY_CACHE_DIR": os.devnull}
    done = subprocess.run(
        command, cwd=os.path.dirname(PACKAGE), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout.decode()


def mypy():
    """The command that runs mypy, of this Python or of the system's."""
    for python in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(python) and subprocess.run([python, "-c", "import mypy"], stderr=subprocess.DEVNULL).returncode == 0:
            return python
    pytest.skip("mypy is not installed")


def test_package__passes_mypy():
    run(mypy(), "-m", "mypy", "--config-file", ROOT + "/pyproject.toml", PACKAGE)


def test_stub__says_what_the_extension_has():
    extension = terrace._terrace
    stub = open(os.path.join(PACKAGE, "_terrace.pyi")).read()
    for name in dir(extension):
        if name.startswith("__"):
            continue
        one = getattr(extension, name)
        assert "class %s" % name in stub or "def %s(" % name in stub or "%s: str" % name in stub, name
        for method in vars(one) if isinstance(one, type) else ():
            if method in ("__doc__", "__module__", "__new__", "__dict__", "__weakref__") or method in dir(object):
                continue
            assert "def %s(" % method in stub or "    %s:" % method in stub, "%s.%s" % (name, method)
