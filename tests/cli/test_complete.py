"""Completion: what the verb says, and what bash, zsh and fish make of it."""

import os
import re
import shutil
import subprocess
import unittest

from support import TERRACE, CommandTest

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "cli", "completion")


class CompleteTest(CommandTest):
    def offered(self, *words):
        out = self.ok("complete", "--", *words)
        return [line.split("\t")[0] for line in out.splitlines() if not line.startswith("\t")]

    def asked(self, *words):
        """What the shell is asked for."""
        return [line[1:] for line in self.ok("complete", "--", *words).splitlines() if line.startswith("\t")]

    def put(self, cache, *keys):
        for key in keys:
            self.ok("put", cache, key, input=b"v")

    def test_verbs(self):
        self.assertEqual(self.offered("cl"), ["clear", "cleanup"])
        self.assertEqual(self.offered("help", "cl"), ["clear", "cleanup"])
        self.assertIn("get", self.offered(""))
        self.assertEqual(self.offered("nothing", ""), [])

    def test_options_and_their_values(self):
        self.assertEqual(self.offered("put", "--t"), ["--ttl", "--tag"])
        self.assertEqual(self.offered("clear", "--tier", ""), ["l2", "l3"])
        self.assertEqual(self.offered("clear", "--tier=l"), ["--tier=l2", "--tier=l3"])
        self.assertEqual(self.offered("clear", "--tier", "=", "l3"), ["l3"])  # bash's three words
        self.assertEqual(self.asked("put", "--source", "x"), ["files"])
        self.assertEqual(self.asked("--dir", ""), ["dirs"])
        self.assertEqual(self.offered("put", "--ttl", ""), [])  # and not a cache
        self.assertEqual(self.offered("put", "--", "--t"), [])

    def test_caches_and_keys(self):
        self.put("reports", "week:1", "week 2", "day")
        self.put("other", "week:9")
        at = ("--dir", self.dir)
        self.assertEqual(sorted(self.offered(*at, "get", "")), ["other", "reports"])
        self.assertEqual(sorted(self.offered(*at, "get", "reports", "we")), ["week 2", "week:1"])
        self.assertEqual(self.offered(*at, "rm", "reports", "day", "d"), ["day"])
        self.assertEqual(self.offered(*at, "get", "reports", "day", ""), [])  # takes one
        self.assertEqual(self.offered(*at, "invalidate", "reports", "--key", "d"), ["day"])
        self.assertEqual(self.asked(*at, "put", "reports", "day", ""), ["files"])

    def test_a_key_that_would_break_lines_is_not_offered(self):
        self.put("c", "two\nlines", "a\ttab", "good")
        self.assertEqual(self.offered("--dir", self.dir, "get", "c", ""), ["good"])

    def test_the_command_of_run(self):
        self.assertEqual(self.asked("run", "--in", "a.c", "--", "gc"), ["command"])
        self.assertEqual(self.offered("run", "gcc", "--he"), [])  # gcc's, not ours

    def test_asking_makes_no_store(self):
        for words in (("get", ""), ("get", "c", "")):
            self.assertEqual(self.offered("--dir", self.path("none"), *words), [])
        self.assertFalse(os.path.exists(self.path("none")))

    # --- in the shells ---------------------------------------------------------------------------

    def shell(self, name, *args, input=b""):
        if not shutil.which(name):
            self.skipTest("there is no " + name)
        env = {**self.env, "TERRACE_DIR": self.dir, "TERM": "xterm"}
        env["PATH"] = os.path.dirname(TERRACE) + ":" + env["PATH"]
        done = subprocess.run([name, *args], input=input, capture_output=True, env=env, cwd=self.work, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.decode()

    def bash(self, words):
        """COMPREPLY for these words, split as bash splits them."""
        split = [part for word in words for part in re.findall(r"[:=]|[^:=]+|^$", word)]
        script = """
            source "$0"/terrace.bash
            compopt() { :; }
            COMP_WORDS=(terrace "$@") COMP_CWORD=$# COMP_LINE="terrace $*" COMP_POINT=${#COMP_LINE}
            _terrace
            printf '%s\\n' "${COMPREPLY[@]}"
        """
        return self.shell("bash", "-c", script, SCRIPTS, *split).split("\n")[:-1]

    def test_bash(self):
        self.put("reports", "week 2")
        self.write("some file", "")
        self.assertEqual(self.bash(["cl"]), ["clear", "cleanup"])
        self.assertEqual(self.bash(["get", "reports", "we"]), ["week\\ 2"])
        self.assertEqual(self.bash(["put", "reports", "x", "so"]), ["some file"])
        self.assertEqual(self.bash(["put", "--source=so"]), ["some file"])
        self.assertEqual(self.bash(["clear", "--tier=l2"]), ["l2"])

    def test_bash_replaces_what_follows_the_colon(self):
        if not os.path.exists("/usr/share/bash-completion/bash_completion"):
            self.skipTest("there is no bash-completion")
        self.put("c", "a:b:1", "a:b:2")
        script = """
            source /usr/share/bash-completion/bash_completion
            source "$0"/terrace.bash
            COMP_WORDS=(terrace get c a : b :) COMP_CWORD=6 COMP_LINE="terrace get c a:b:" COMP_POINT=18
            _terrace
            printf '%s\\n' "${COMPREPLY[@]}"
        """
        self.assertEqual(sorted(self.shell("bash", "-c", script, SCRIPTS).split()), ["1", "2"])

    def test_fish(self):
        self.put("reports", "week 2")
        self.write("some file", "")

        def completed(line):
            script = 'source "%s/terrace.fish"; complete -C "%s"' % (SCRIPTS, line)
            return [one.split("\t")[0] for one in self.shell("fish", "--no-config", "-c", script).splitlines()]

        self.assertEqual(completed("terrace cl"), ["clear", "cleanup"])
        self.assertEqual(completed("terrace get reports we"), ["week 2"])
        self.assertIn("some file", [one.replace("\\", "") for one in completed("terrace put reports x so")])

    def test_zsh(self):
        self.put("reports", "week:1")
        self.write("somefile", "")
        self.write(".zshrc", "fpath=(%s $fpath); autoload -Uz compinit; compinit -u -D; "
                   "unset zle_bracketed_paste; PROMPT='<ready>'" % SCRIPTS)
        # A terminal in which the word is completed, and then read back as $_. A
        # tab with more behind it in the queue is a tab.
        script = """
            zmodload zsh/zpty
            ZDOTDIR=$HOME zpty z zsh -d -i
            zpty -r -m z line '*<ready>*'
            zpty -n -w z "terrace $1"$'\\t'
            zpty -r -m z line "*$2*"
            zpty -w z ' 2>/dev/null >/dev/null; print -r -- "<""$_"">"; exit'
            while zpty -r z line; do print -rn -- "$line"; done
        """

        for line, word in (("cleanu", "cleanup"), ("get reports we", "week:1"), ("put reports x som", "somefile")):
            out = self.shell("zsh", "-f", "-c", script, "zsh", line, word)
            self.assertIn("<%s>" % word, out)


if __name__ == "__main__":
    unittest.main()
