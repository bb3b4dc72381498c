"""What the tests of the command have in common."""

import json
import os
import shutil
import subprocess
import tempfile
import time
import unittest

TERRACE = os.environ["TERRACE_BIN"]


class CommandTest(unittest.TestCase):
    """Each test has a directory to work in and a store of its own."""

    def setUp(self):
        self.work = tempfile.mkdtemp(prefix="terrace-test-")
        self.dir = os.path.join(self.work, "store")
        self.env = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("TERRACE_") and not key.startswith("XDG_")
        }
        self.env["HOME"] = self.work
        self.env["LC_ALL"] = "C.UTF-8"

    def tearDown(self):
        shutil.rmtree(self.work, ignore_errors=True)

    def path(self, *names):
        return os.path.join(self.work, *names)

    def write(self, name, text):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        return path

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read().decode()

    def run_terrace(self, *args, input=b"", env=None, cwd=None, dir=True):
        """Run it; the result has .code, .out (bytes) and .err (text)."""
        where = ["--dir", self.dir] if dir else []
        done = subprocess.run(
            [TERRACE, *where, *args],
            input=input,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.env, **(env or {})},
            cwd=cwd or self.work,
            timeout=120,
        )
        done.code, done.out, done.err = done.returncode, done.stdout, done.stderr.decode(errors="surrogateescape")
        return done

    def ok(self, *args, **kwargs):
        done = self.run_terrace(*args, **kwargs)
        self.assertEqual((done.code, done.err), (0, ""), args)
        return done.out.decode()

    def json(self, *args, code=0, **kwargs):
        done = self.run_terrace(*args, "--json", **kwargs)
        self.assertEqual(done.code, code, (args, done.err))
        return json.loads(done.out)

    def fails(self, code, says, *args, **kwargs):
        """It ends with this status and one line on standard error that says so."""
        done = self.run_terrace(*args, **kwargs)
        self.assertEqual(done.code, code, (args, done.out, done.err))
        self.assertEqual(done.err.count("\n"), 1, done.err)
        self.assertTrue(done.err.startswith("terrace: "), done.err)
        self.assertIn(says, done.err)
        return done


class RunTest(CommandTest):
    """For terrace run: its commands say that they ran, by a line in a file that is no input."""

    def setUp(self):
        super().setUp()
        self.ran = self.path("ran")
        self.count = "echo x >> %s; " % self.ran

    def runs(self):
        try:
            with open(self.ran) as file:
                return len(file.readlines())
        except FileNotFoundError:
            return 0

    def run_sh(self, script, *options, **kwargs):
        return self.run_terrace("run", *options, "--", "sh", "-c", self.count + script, **kwargs)

    def start_waiting(self, *options, script="read x < fifo; echo result", **kwargs):
        """A command that waits until a fifo is written to."""
        if not os.path.exists(self.path("fifo")):
            os.mkfifo(self.path("fifo"))
        return subprocess.Popen(
            [TERRACE, "--dir", self.dir, "run", *options, "--", "sh", "-c", self.count + script],
            stdout=subprocess.PIPE, env=self.env, cwd=self.work, **kwargs)

    def go_on(self):
        with open(self.path("fifo"), "w") as fifo:
            fifo.write("go\n")

    def wait_for_runs(self, count):
        deadline = time.monotonic() + 30
        while self.runs() < count:
            self.assertLess(time.monotonic(), deadline, "the command did not start")
            time.sleep(0.005)
