"""terrace top, in a real terminal: tmux."""

import os
import shlex
import shutil
import subprocess
import time
import unittest

from support import TERRACE, CommandTest

HAS_TOP = "\n  top " in subprocess.run([TERRACE, "help"], capture_output=True, text=True).stdout


@unittest.skipUnless(shutil.which("tmux"), "there is no tmux")
@unittest.skipUnless(HAS_TOP, "built without ncurses")
class TopTest(CommandTest):
    def setUp(self):
        super().setUp()
        self.socket = self.path("tmux")

    def tearDown(self):
        self.tmux("kill-server", check=False)
        super().tearDown()

    def tmux(self, *args, check=True):
        env = {**self.env, "TERM": "xterm"}
        done = subprocess.run(["tmux", "-S", self.socket, "-f", "/dev/null", *args], capture_output=True, text=True,
                              env=env, timeout=30)
        if check:
            self.assertEqual(done.returncode, 0, (args, done.stderr))
        return done.stdout

    def start(self, columns=80, rows=24):
        command = [TERRACE, "--dir", self.dir, "top", "--interval", "100ms"]
        # What it leaves behind is seen, and how it ended.
        line = shlex.join(command) + '; echo "ended $?"; sleep 60'
        self.tmux("new-session", "-d", "-x", str(columns), "-y", str(rows), line)

    def until(self, what):
        """The screen, once `what` holds of it."""
        deadline = time.monotonic() + 20
        while True:
            screen = self.tmux("capture-pane", "-p")
            if what(screen):
                return screen
            self.assertLess(time.monotonic(), deadline, screen)
            time.sleep(0.02)

    def keys(self, *keys):
        self.tmux("send-keys", *keys)

    def line_of(self, screen, word):
        return next((line for line in screen.splitlines() if line.lstrip().startswith(word)), "")

    def test_what_others_do_is_seen(self):
        self.ok("put", "reports", "week", input=b"x" * 5000)
        self.start()
        self.until(lambda s: "No cache" not in s and self.line_of(s, "reports"))
        self.keys("r")  # ever, not per second
        self.until(lambda s: " HITS " in s)
        for _ in range(3):
            self.ok("get", "reports", "week")
        self.run_terrace("get", "reports", "none")
        self.until(lambda s: self.line_of(s, "reports").split()[1:4] == ["3", "1", "75.0%"] and
                   self.line_of(s, "l2 rows").split()[2:3] == ["3"])
        self.ok("put", "pictures", "one", input=b"x")
        self.until(lambda s: self.line_of(s, "pictures"))  # a cache that came later

    def test_keys(self):
        for key in "abc":
            self.ok("put", "few", key, input=b"x" * 20000)
        self.ok("put", "zoo", "k", input=b"x")
        for _ in range(2):
            self.ok("get", "zoo", "k")
        self.start()

        def order(screen):
            return [line.split()[0] for line in screen.splitlines()[5:] if line[:3] in ("few", "zoo")]

        self.keys("r")
        self.until(lambda s: "sort: hits" in s and order(s) == ["zoo", "few"])
        self.keys("s", "s")
        self.until(lambda s: "sort: size" in s and order(s) == ["few", "zoo"])
        self.until(lambda s: "l2 rows" in s)
        self.keys("t")
        self.until(lambda s: "l2 rows" not in s)
        self.keys("Down")
        self.until(lambda s: order(s) == ["zoo"])
        self.keys("+")
        self.until(lambda s: "every 200 ms" in s)
        self.keys("q")
        self.until(lambda s: "ended 0" in s and "terrace top" not in s)

    def test_it_fits_80_columns_and_follows_the_size(self):
        self.ok("put", "a cache whose name is longer than its column", "k", input=b"x")
        self.start()
        screen = self.until(lambda s: "a cache whose na " in s and "q quit" in s)  # the last line too
        self.assertIn("EVIC/s", self.line_of(screen, "CACHE"))
        self.tmux("resize-window", "-x", "100", "-y", "10")
        self.until(lambda s: "a cache whose name is longer than " in s and "q quit" in s)
        self.tmux("resize-window", "-x", "20", "-y", "3")  # and survives what is too small
        self.keys("C-c")
        self.until(lambda s: "ended 0" in s)

    def test_without_a_terminal(self):
        self.fails(2, "needs a terminal", "top")
        self.fails(2, "--interval 0", "top", "--interval", "0")


if __name__ == "__main__":
    unittest.main()
