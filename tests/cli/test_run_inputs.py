"""terrace run: what its results are made from, and that nothing else is given back."""

import os
import shutil
import stat
import subprocess
import unittest

from support import TERRACE, RunTest

NOBODY = 65534


class RunInputs(RunTest):
    def changes(self, name, script, *options):
        """Its content is an input, and a result of the old one is not given back."""
        self.write(name, "1")
        self.assertEqual(self.run_sh(script, *options).out, b"1")
        before = self.runs()
        self.assertEqual(self.run_sh(script, *options).out, b"1")
        self.assertEqual(self.runs(), before, "a hit")
        self.write(name, "2")
        self.assertEqual(self.run_sh(script, *options).out, b"2")

    def test_in__a_name_that_is_a_pattern_too(self):
        self.changes("pages/[id].tsx", "cat 'pages/[id].tsx'", "--in", "pages/[id].tsx")
        self.changes("[all]/x.ts", "cat '[all]/x.ts'", "--in", "[all]/*.ts")
        self.changes("why?", "cat 'why?'", "--in", self.path("why?"))

    def test_in__that_is_no_file_is_told_and_kept_for_a_minute(self):
        self.write("src/a.c", "1")
        done = self.run_sh("cat src/a.c", "--in", "scr/*.c", "--in", "src/a.c")
        self.assertIn("warning: no file is what an --in says", done.err)
        (key,) = self.json("ls", "run")
        self.assertEqual(self.json("inspect", "run", key)["ttl_ms"], 60000)

    def as_nobody(self, *args):
        """Who is not root may not list everything."""
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        return subprocess.run([TERRACE, "--dir", self.path("open/store"), "run", *args], cwd=self.work,
                              env=self.env, capture_output=True, timeout=60, **user)

    def test_in__a_directory_that_may_not_be_listed_is_not_empty(self):
        os.chmod(self.work, 0o755)
        os.mkdir(self.path("open"))
        os.chmod(self.path("open"), 0o777)
        self.write("d/f", "1")
        os.chmod(self.path("d"), 0o311)
        for text in ("1", "2"):
            with open(self.path("d/f"), "w") as file:
                file.write(text)
            done = self.as_nobody("--in", "d/*", "--", "cat", "d/f")
            self.assertEqual((done.returncode, done.stdout.decode()), (0, text))
            self.assertIn(b"cannot list the inputs d/*: Permission denied", done.stderr)
        os.chmod(self.path("d"), 0o755)

    def not_kept(self, meanwhile, script, *options):
        """What is done while the command runs, and undone later, leaves nothing behind."""
        waiting = self.start_waiting(*options, script="read x < fifo; " + script)
        self.wait_for_runs(self.runs() + 1)
        meanwhile()
        self.go_on()
        return waiting.communicate(timeout=60)[0]

    def test_in__a_file_that_comes_while_the_command_runs(self):
        self.write("d/a", "a")
        self.assertEqual(self.not_kept(lambda: self.write("d/b", "b"), "cat d/*", "--in", "d/*"), b"ab")
        os.unlink(self.path("d/b"))
        waiting = self.start_waiting("--in", "d/*", script="read x < fifo; cat d/*")
        self.wait_for_runs(2)
        self.go_on()
        self.assertEqual(waiting.communicate(timeout=60)[0], b"a")

    def test_in__that_is_as_before_when_the_command_ends(self):
        self.write("in", "1")
        script = "echo 2 > in; cat in; printf 1 > in"
        done = self.run_sh(script, "--in", "in", "--explain")
        self.assertIn("not kept: the input %s changed" % self.path("in"), done.err)
        self.run_sh(script, "--in", "in")
        self.assertEqual(self.runs(), 2)

    def test_program__that_changes_while_it_runs(self):
        # longer than what the shell reads at once
        script = "#!/bin/sh\n%s read x < fifo\n#" + 100000 * "-" + "\necho %s\n"
        program = self.write("program", script % (self.count, "1"))
        os.chmod(program, 0o755)
        os.mkfifo(self.path("fifo"))
        args = [TERRACE, "--dir", self.dir, "run", "--ttl", "1h", "--", program]
        outs = []
        for _ in range(2):
            waiting = subprocess.Popen(args, stdout=subprocess.PIPE, env=self.env, cwd=self.work)
            self.wait_for_runs(len(outs) + 1)
            if not outs:
                with open(program, "r+") as file:  # in place: the shell reads on in it
                    file.write(script % (self.count, "2"))
            self.go_on()
            outs.append(waiting.communicate(timeout=60)[0])
            self.write("program", script % (self.count, "1"))
        self.assertEqual(outs, [b"2\n", b"1\n"])

    def test_program__is_found_as_the_system_finds_it(self):
        usual = os.environ["PATH"]
        # what is empty in PATH is the working directory, be it the last or all there is
        for path in (usual + ":", ":" + usual, usual + "::/none"):
            for text in ("1", "2"):
                os.chmod(self.write("tool", "#!/bin/sh\necho %s\n" % text), 0o755)
                done = self.run_terrace("run", "--in", "none", "--", "tool", env={"PATH": path})
                self.assertEqual(done.out.decode(), text + "\n", path)
        for text in ("1", "2"):
            os.chmod(self.write("tool", "#!/bin/sh\necho %s\n" % text), 0o755)
            done = self.run_terrace("run", "--in", "none", "--", "tool", env={"PATH": ""})
            self.assertEqual(done.out.decode(), text + "\n")

    def test_depfile__an_input_of_tomorrow(self):
        self.write("h", "1")
        os.utime(self.path("h"), (1 << 33, 1 << 33))
        for _ in range(2):
            done = self.run_sh("echo 'x: h' > d; cat h", "--depfile", "d", "--explain")
        self.assertIn("hit", done.err)

    def test_out__behind_a_link_is_written_there(self):
        os.mkdir(self.path("real"))
        os.symlink("real/out", self.path("out"))
        for text in ("1", "2", "1"):
            self.write("in", text)
            self.run_sh("cat in > out", "--in", "in", "--out", "out")
            self.assertTrue(os.path.islink(self.path("out")))
            self.assertEqual(self.read("real/out"), text)
        self.assertEqual(self.runs(), 2)

    def test_out__that_the_command_did_not_write_is_not_its(self):
        self.write("out", "old")
        for expected in (1, 2):
            done = self.run_sh("true", "--in", "in", "--out", "out")
            self.assertIn("did not write the file out: it is as it was before", done.err)
            self.assertEqual(self.runs(), expected)
            self.write("out", "mine")
        self.assertEqual(self.read("out"), "mine")

    def test_out__may_be_what_an_in_matches(self):
        # found among the inputs, it is a state of its own
        for expected in (1, 2, 2):
            self.write("src/a", "a")
            done = self.run_sh("cat src/a > src/out", "--in", "src/*", "--out", "src/out")
            self.assertEqual((done.err, self.runs()), ("", expected))
        # and what is formatted in its place, and was before, is kept
        for text, expected in (("b", 3), ("B", 4), ("B", 4), ("b", 5)):
            self.write("text", text)
            self.run_sh("tr a-z A-Z < text > text2; cat text2 > text", "--in", "text", "--out", "text")
            self.assertEqual((self.read("text"), self.runs()), ("B", expected))

    def test_explain__files_below_the_base_are_no_marks(self):
        for name in ("program", "input"):
            self.write(name, "1")
        args = ("true", "--base", ".", "--in", "program", "--in", "input", "--explain")
        self.run_sh(*args)
        self.write("program", "2")
        self.assertEqual(self.run_sh(*args).err, "terrace: run: miss: %s changed\n" % self.path("program"))

    def never_kept(self, says, script, *options):
        for _ in range(2):
            before = self.runs()
            done = self.run_sh(script, *options)
            self.assertIn(says, done.err)
            self.assertEqual(self.runs(), before + 1, "it is run each time")

    def test_out__that_the_command_makes_a_link_is_not_kept(self):
        self.never_kept("made now a link", "echo v1 > lib.1; ln -sfn lib.1 now",
                        "--out", "lib.1", "--out", "now")
        self.assertTrue(os.path.islink(self.path("now")))

    def test_out__that_was_removed_is_not_kept(self):
        self.write("out", "old")
        for script in ("rm -f out", "echo new > out; rm out"):
            self.never_kept("the file out; its result is not kept", script, "--out", "out")
            self.write("out", "old")

    def test_out__a_pipe_in_its_place_is_written_to_and_stays(self):
        self.assertEqual(self.run_sh("echo v > out", "--out", "out").code, 0)
        os.unlink(self.path("out"))
        os.mkfifo(self.path("out"))
        reader = subprocess.Popen(["cat", self.path("out")], stdout=subprocess.PIPE)
        self.assertEqual(self.run_sh("echo v > out", "--out", "out").code, 0)
        self.assertEqual(reader.communicate(timeout=60)[0], b"v\n")
        self.assertTrue(stat.S_ISFIFO(os.lstat(self.path("out")).st_mode))

    def test_depfile__colons_without_a_blank(self):
        self.write("x:y", "")
        for n, rule in enumerate(("o:%s\n", "o:\\\n %s\n", "o: x:y %s\n", "o p:%s\n")):
            name = "h%d" % n
            self.write("rule%d" % n, rule % name)
            self.changes(name, "cat %s; cp rule%d d%d" % (name, n, n), "--depfile", "d%d" % n)

    def test_depfile__without_a_rule_is_not_kept(self):
        self.write("h", "1")
        self.never_kept("has no rule", "echo h > d", "--depfile", "d")


if __name__ == "__main__":
    unittest.main(verbosity=1)
