"""terrace run: any command once per state of its inputs."""

import os
import shutil
import signal
import stat
import subprocess
import threading
import time
import unittest

from support import TERRACE, RunTest


class Run(RunTest):
    def test_hit__gives_back_output_errors_and_status(self):
        script = "printf 'one\\0'; echo two >&2; printf three"
        first = self.run_sh(script)
        again = self.run_sh(script)
        self.assertEqual(self.runs(), 1)
        self.assertEqual((first.code, first.out, first.err), (0, b"one\0three", "two\n"))
        self.assertEqual((again.code, again.out, again.err), (0, b"one\0three", "two\n"))

    def test_hit__chunks_come_in_order_of_arrival(self):
        chunks = [(name, i) for i in (1, 2, 3) for name in ("out", "err")]
        for chunk in chunks:  # a pipe for each: one that is opened again may still have its last writer
            os.mkfifo(self.path("%s%d" % chunk))
        # The next chunk comes when the last one was seen.
        script = "cd %s; for i in 1 2 3; do echo out $i; read x < out$i; echo err $i >&2; read x < err$i; done" % self.work
        for computed in (True, False):
            process = subprocess.Popen([TERRACE, "--dir", self.dir, "run", "--", "sh", "-c", self.count + script],
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.env)
            for name, i in chunks:
                self.assertEqual(process.stdout.readline(), b"%s %d\n" % (name.encode(), i))
                if computed:
                    with open(self.path("%s%d" % (name, i)), "w") as fifo:
                        fifo.write("go\n")
            self.assertEqual(process.communicate(timeout=60)[0], b"")
        self.assertEqual(self.runs(), 1)

    def test_failure__is_the_commands_and_not_kept(self):
        for expected in (1, 2):
            self.assertEqual(self.run_sh("exit 3").code, 3)
            self.assertEqual(self.runs(), expected)
        for expected in (3, 3):
            done = self.run_sh("echo no >&2; exit 7", "--cache-failures")
            self.assertEqual((done.code, done.err), (7, "no\n"))
            self.assertEqual(self.runs(), expected)

    def test_in__content_counts_and_not_the_time(self):
        self.write("src/a.c", "1")
        self.write("src/sub/b.c", "2")
        self.write("src/c.h", "3")
        args = ("cat src/a.c src/sub/b.c", "--in", "src/**/*.c")
        self.assertEqual(self.run_sh(*args).out, b"12")
        os.utime(self.path("src/a.c"), (1, 1))
        self.assertEqual(self.run_sh(*args).out, b"12")
        self.assertEqual(self.runs(), 1)
        self.write("src/a.c", "x")
        self.assertEqual(self.run_sh(*args).out, b"x2")
        self.assertEqual(self.runs(), 2)
        self.write("src/c.h", "not an input")
        self.run_sh(*args)
        self.assertEqual(self.runs(), 2)
        self.write("src/sub/new.c", "a new one")
        self.run_sh(*args)
        self.assertEqual(self.runs(), 3)
        os.unlink(self.path("src/sub/new.c"))
        # back to a state that was seen
        self.write("src/a.c", "1")
        self.assertEqual(self.run_sh(*args).out, b"12")
        self.assertEqual(self.runs(), 3)

    def test_in__an_absent_file_is_a_state_too(self):
        args = ("cat maybe 2>/dev/null || echo none", "--in", "maybe")
        self.assertEqual(self.run_sh(*args).out, b"none\n")
        self.assertEqual(self.run_sh(*args).out, b"none\n")
        self.assertEqual(self.runs(), 1)
        self.write("maybe", "there")
        self.assertEqual(self.run_sh(*args).out, b"there")
        self.assertEqual(self.runs(), 2)

    def test_list__names_count_and_content_does_not(self):
        self.write("src/a.c", "1")
        args = ("ls src", "--list", "src/**/*.c", "--explain")
        self.assertEqual(self.run_sh(*args).out, b"a.c\n")
        self.write("src/a.c", "other")
        self.write("src/a.h", "no name that counts")
        self.assertIn("hit", self.run_sh(*args).err)
        self.assertEqual(self.runs(), 1)
        self.write("src/sub/b.c", "")
        self.assertIn("the listing of %s changed" % self.path("src/**/*.c"), self.run_sh(*args).err)
        self.assertEqual(self.runs(), 2)
        os.unlink(self.path("src/sub/b.c"))
        self.assertIn("hit", self.run_sh(*args).err)  # a state that was seen
        self.assertEqual(self.runs(), 2)
        # one that changes while the command runs is nobody's
        done = self.run_sh("touch src/c.c", "--list", "src", "--explain")
        self.assertIn("changed while the command ran", done.err)
        # a directory may come to be
        args = ("ls new 2>/dev/null || echo none", "--list", "new", "--explain")
        self.assertEqual(self.run_sh(*args).out, b"none\n")
        self.write("new/x", "")
        self.assertEqual(self.run_sh(*args).out, b"x\n")

    def test_key__command_directory_environment_and_program(self):
        os.mkdir(self.path("other"))
        program = self.write("prog", "#!/bin/sh\n%s echo 1\n" % self.count)
        os.chmod(program, 0o755)

        def call(*args, **kwargs):
            before = self.runs()
            self.run_terrace("run", "--ttl", "1h", *args, **kwargs)
            return self.runs() - before

        self.assertEqual(call("--", program), 1)
        self.assertEqual(call("--", program), 0)
        self.assertEqual(call("--", program, "arg"), 1)
        self.assertEqual(call("--", program, cwd=self.path("other")), 1)
        self.assertEqual(call("--env", "X", "--", program, env={"X": "1"}), 1)
        self.assertEqual(call("--env", "X", "--", program, env={"X": "1", "Y": "2"}), 0)
        self.assertEqual(call("--env", "X", "--", program, env={"X": ""}), 1)
        self.assertEqual(call("--env", "X", "--", program), 1)  # unset is not empty
        self.write("prog", "#!/bin/sh\n%s echo 2\n" % self.count)
        self.assertEqual(call("--", program), 1)

    def test_base__two_checkouts_share(self):
        for checkout in ("one", "two"):
            self.write(checkout + "/src/a.c", "same")
        args = ("run", "--base", ".", "--in", "src/a.c", "--out", "a.o", "--", "sh", "-c",
                self.count + "cat src/a.c > a.o")
        self.ok(*args, cwd=self.path("one"))
        self.ok(*args, cwd=self.path("two"))
        self.assertEqual(self.runs(), 1)
        self.assertEqual(self.read("two/a.o"), "same")
        # without a base the directory is part of the key
        args = ("run", "--in", "src/a.c", "--", "sh", "-c", self.count + "true")
        self.ok(*args, cwd=self.path("one"))
        self.ok(*args, cwd=self.path("two"))
        self.assertEqual(self.runs(), 3)

    def test_out__files_come_back_with_their_modes(self):
        args = ("mkdir -p d; echo made > d/out; chmod 755 d/out; : > empty", "--in", "in",
                "--out", "d/out", "--out", "empty")
        self.write("in", "1")
        self.run_sh(*args)
        os.unlink(self.path("d/out"))
        os.rmdir(self.path("d"))
        self.write("empty", "no longer")
        self.run_sh(*args)
        self.assertEqual(self.runs(), 1)
        self.assertEqual(self.read("d/out"), "made\n")
        self.assertEqual(stat.S_IMODE(os.stat(self.path("d/out")).st_mode), 0o755)
        self.assertEqual(self.read("empty"), "")
        self.assertEqual(sorted(os.listdir(self.path("d"))), ["out"])

    def test_out__that_was_not_written_is_told_and_not_kept(self):
        for expected in (1, 2):
            done = self.run_sh("true", "--out", "missing")
            self.assertEqual(done.code, 0)
            self.assertIn("missing", done.err)
            self.assertEqual(self.runs(), expected)

    def test_out__that_cannot_be_brought_back_runs_the_command(self):
        args = ("echo made > out 2>/dev/null; true", "--in", "in", "--out", "out")
        self.run_sh(*args)
        os.unlink(self.path("out"))
        os.mkdir(self.path("out"))
        self.write("out/full", "")
        done = self.run_sh(*args)
        self.assertEqual(done.code, 0)
        self.assertIn("cannot bring back", done.err)
        self.assertEqual(self.runs(), 2)

    def deps(self, header="a.h"):
        return ("printf 'a.o: a.c \\\\\\n " + header + "\\n' > a.d; cat a.c " + header + " > a.o",
                "--in", "a.c", "--depfile", "a.d", "--out", "a.o")

    def test_depfile__what_was_discovered_is_checked_on_every_hit(self):
        self.write("a.c", "c")
        self.write("a.h", "h")
        self.run_sh(*self.deps())
        os.unlink(self.path("a.o"))
        os.unlink(self.path("a.d"))
        self.run_sh(*self.deps())
        self.assertEqual(self.runs(), 1)
        self.assertEqual(self.read("a.o"), "ch")
        self.assertIn("a.h", self.read("a.d"))
        self.write("a.h", "H")
        self.run_sh(*self.deps())
        self.assertEqual((self.runs(), self.read("a.o")), (2, "cH"))
        # back and forth: each state once
        for header, content in (("h", "ch"), ("H", "cH"), ("h", "ch")):
            self.write("a.h", header)
            self.run_sh(*self.deps())
            self.assertEqual((self.runs(), self.read("a.o")), (2, content))
        os.unlink(self.path("a.h"))
        self.assertNotEqual(self.run_sh(*self.deps()).code, 0)

    def test_depfile__dots_behind_a_link_go_where_the_link_does(self):
        self.write("far/deep/file", "")
        self.write("a.c", "c")
        self.write("a.h", "of nobody")
        os.symlink("far/deep", self.path("link"))
        for text in ("h", "h", "H"):
            self.write("far/a.h", text)
            self.run_sh(*self.deps("link/../a.h"))
            self.assertEqual(self.read("a.o"), "c" + text)
        self.assertEqual(self.runs(), 2)
        for text in ("1", "1", "2"):
            self.write("far/a.h", text)
            done = self.run_sh("cat link/../a.h", "--in", "link/../a.h")
            self.assertEqual(done.out.decode(), text)
        self.assertEqual(self.runs(), 4)

    def test_depfile__names_with_spaces_and_dollars(self):
        self.write("a b$c#d", "1")
        script = r"printf 'x: a\\ b$$c\\#d\n' > deps; cat 'a b$c#d'"
        for text in ("1", "1", "2"):
            self.write("a b$c#d", text)
            self.assertEqual(self.run_sh(script, "--depfile", "deps").out.decode(), text)
        self.assertEqual(self.runs(), 2)

    def test_depfile__that_was_not_written_is_told_and_not_kept(self):
        for expected in (1, 2):
            done = self.run_sh("true", "--depfile", "missing")
            self.assertIn("did not write the depfile missing", done.err)
            self.assertEqual(self.runs(), expected)

    def test_depfile__that_cannot_be_read_to_its_end_is_told_and_not_kept(self):
        """Half a list of inputs would be a result that never grows old."""
        self.write("h", "1")
        for script, why in ((r"printf 'x: h\0 i\n' > d", "is no text"),
                            ("mkdir d", "cannot read the depfile"),
                            ("printf 'x: h %05000d\n' 0 > d", "a name of over"),
                            ("printf 'x: h %04090d\n' 0 > d", "a name of over")):
            before = self.runs()
            for again in (1, 2):
                done = self.run_sh("rm -rf d; " + script, "--depfile", "d")
                self.assertIn(why, done.err)
                self.assertEqual((done.code, self.runs()), (0, before + again))

    def test_input_that_changes_while_the_command_runs_is_not_kept(self):
        self.write("in", "1")
        done = self.run_sh("cat in; echo 2 > in", "--in", "in", "--explain")
        self.assertIn("changed while the command ran", done.err)
        self.write("in", "1")
        self.run_sh("cat in; echo 2 > in", "--in", "in")
        self.assertEqual(self.runs(), 2)
        # a discovered one, too
        self.write("h", "1")
        script = "echo 'x: h' > d; cat h; echo 2 > h"
        done = self.run_sh(script, "--depfile", "d", "--explain")
        self.assertIn("changed while the command ran", done.err)
        self.assertEqual(self.runs(), 3)

    def test_stdin__is_an_input_or_empty(self):
        self.assertEqual(self.run_sh("cat", "--stdin", input=b"one").out, b"one")
        self.assertEqual(self.run_sh("cat", "--stdin", input=b"one").out, b"one")
        self.assertEqual(self.runs(), 1)
        self.assertEqual(self.run_sh("cat", "--stdin", input=b"two").out, b"two")
        self.assertEqual(self.runs(), 2)
        self.assertEqual(self.run_sh("cat", input=b"never read").out, b"")

    def test_stdin__that_cannot_be_held_reaches_the_command(self):
        given = bytes(range(256)) * 2000
        for limit in ("-f 100", "-n 4"):
            script = 'ulimit %s && exec "$0" --dir "$1" run --stdin -- cat' % limit
            done = subprocess.run(["sh", "-c", script, TERRACE, self.dir], input=given,
                                  capture_output=True, timeout=60)
            self.assertEqual((done.returncode, done.stdout), (0, given), done.stderr)

    def test_ttl__60s_without_inputs_forever_with_them(self):
        self.run_sh("echo none")
        self.run_sh("echo input", "--in", "x")
        self.run_sh("echo stdin", "--stdin")
        self.run_sh("echo given", "--ttl", "2h")
        ttls = {}
        for key in self.json("ls", "run"):
            ttls[key.split("; echo ")[1].split("@")[0]] = self.json("inspect", "run", key)["ttl_ms"]
        self.assertEqual(ttls, {"none": 60000, "input": None, "stdin": None, "given": 7200000})
        self.run_sh("echo zero", "--ttl", "0")
        self.run_sh("echo zero", "--ttl", "0")
        self.assertEqual(self.runs(), 6)

    def test_cache__by_name(self):
        self.run_sh("true", "--cache", "mine")
        self.assertIn("mine", self.json("ls"))
        self.fails(2, "'/'", "run", "--cache", "a/b", "--", "true")
        self.run_sh("true", "--cache", "n" * 57)
        self.fails(2, "at most 57 bytes", "run", "--cache", "n" * 58, "--", "true")
        self.assertNotIn("n" * 58, self.json("ls"))

    def test_keys__can_be_read_and_invalidated(self):
        self.run_sh("echo 1")
        self.assertEqual(len(self.json("ls", "run", "--prefix", "sh -c ")), 1)
        self.assertEqual(self.ok("invalidate", "run", "--glob", "sh *"), "1\n")
        self.run_sh("echo 1")
        self.assertEqual(self.runs(), 2)

    def test_explain__says_why(self):
        self.write("in", "1")
        args = ("cat in", "--in", "in", "--env", "X", "--explain")
        self.assertIn("has not been run before", self.run_sh(*args).err)
        self.assertIn("hit, from l2", self.run_sh(*args).err)
        self.write("in", "2")
        self.assertIn("miss: %s changed" % self.path("in"), self.run_sh(*args).err)
        self.assertIn("miss: the variable X changed", self.run_sh(*args, env={"X": "1"}).err)
        os.unlink(self.path("in"))
        self.assertIn("miss: %s is gone" % self.path("in"), self.run_sh(*args, env={"X": "1"}).err)

    def test_explain__names_the_program_and_the_input(self):
        program = self.path("program")
        self.write("program", "#!/bin/sh\ncat\n")
        os.chmod(program, 0o755)
        args = ("run", "--stdin", "--explain", "--", program)
        self.run_terrace(*args, input=b"1")
        self.assertIn("miss: the standard input changed", self.run_terrace(*args, input=b"2").err)
        self.write("program", "#!/bin/sh\ncat; echo\n")
        self.assertIn("miss: the program %s changed" % program, self.run_terrace(*args, input=b"2").err)

    def test_program__that_cannot_be_read_is_told_by_its_times(self):
        if os.geteuid() == 0:
            self.skipTest("root reads everything")
        program = self.path("program")
        shutil.copy("/bin/true", program)
        os.chmod(program, 0o111)
        self.assertEqual(self.run_terrace("run", "--", program).code, 0)
        os.chmod(program, 0o755)
        shutil.copy("/bin/false", program)
        os.chmod(program, 0o111)
        self.assertEqual(self.run_terrace("run", "--", program).code, 1)

    def test_command__that_cannot_be_started_is_125(self):
        self.fails(125, "cannot start /nonexistent", "run", "--", "/nonexistent")
        self.fails(125, "cannot start no-such-command-here", "run", "--", "no-such-command-here")
        self.write("noexec", "")
        self.fails(125, "Permission denied", "run", "--", self.path("noexec"))

    def test_usage(self):
        self.fails(2, "missing operand", "run")
        self.fails(2, "--ttl", "run", "--ttl", "x", "--", "true")
        self.fails(2, "unknown option --frob", "run", "--frob", "--", "true")
        self.fails(2, "--env takes the name", "run", "--env", "CFLAGS=-O2", "--", "true")
        self.fails(2, "--env takes the name", "run", "--env", "", "--", "true")
        # options of the command are the command's
        self.assertEqual(self.ok("run", "echo", "--json", "--in"), "--json --in\n")

    def test_store_that_cannot_be_used_warns_once_and_runs(self):
        self.write("file", "")
        done = self.run_terrace("--dir", self.path("file"), "run", "--", "sh", "-c", "echo ran; exit 4",
                                dir=False)
        self.assertEqual((done.code, done.out), (4, b"ran\n"))
        self.assertEqual(done.err.count("warning"), 1, done.err)
        self.assertIn("running uncached", done.err)
        done = self.run_sh("echo ran", env={"TERRACE_DISABLED": "1"})
        self.assertEqual((done.code, done.out, done.err), (0, b"ran\n", ""))

    def test_large_output_streams_and_comes_back(self):
        script = "head -c 5000000 /dev/urandom | tee copy"
        first = self.run_sh(script)
        self.assertEqual(len(first.out), 5000000)
        self.assertEqual(self.run_sh(script).out, first.out)
        self.assertEqual(self.runs(), 1)

    def test_output_streams_while_the_command_runs(self):
        os.mkfifo(self.path("fifo"))
        process = subprocess.Popen(
            [TERRACE, "--dir", self.dir, "run", "--", "sh", "-c", "echo first; read x < fifo; echo second"],
            stdout=subprocess.PIPE, env=self.env, cwd=self.work)
        self.assertEqual(process.stdout.readline(), b"first\n")  # before it has ended
        with open(self.path("fifo"), "w") as fifo:
            fifo.write("go\n")
        self.assertEqual(process.communicate(timeout=60)[0], b"second\n")
        self.assertEqual(process.returncode, 0)

    def test_program__is_not_a_directory_of_its_name(self):
        os.makedirs(self.path("first/tool"))
        env = {"PATH": self.path("first") + ":" + self.path("second") + ":" + os.environ["PATH"]}
        for words in ("one", "two"):
            os.chmod(self.write("second/tool", "#!/bin/sh\necho %s\n" % words), 0o755)
            done = self.run_terrace("run", "--in", "none", "--", "tool", env=env)
            self.assertEqual(done.out.decode(), words + "\n")

    def test_base__absolute_inputs_and_depfile_are_shared_by_checkouts(self):
        for checkout in ("one", "two"):
            self.write(checkout + "/a.c", "same")
            os.mkdir(self.path(checkout, "out"))
            done = self.run_sh("cat a.c; echo 'a.o: a.c' > out/a.d", "--base", self.path(checkout),
                               "--in", self.path(checkout, "*.c"),
                               "--depfile", self.path(checkout, "out/a.d"),
                               cwd=self.path(checkout))
            self.assertEqual((done.code, done.out), (0, b"same"))
        self.assertEqual(self.runs(), 1)

    def test_depfile__backslashes_before_a_space(self):
        names = ("back\\ slash", "end\\", "in\\side", "colon:", "tw\\\\ o")
        for name in names:
            self.write(name, "1")
        self.write("deps", r"out: back\\\ slash in\side \
            colon\: tw\\\\\ o end\\ deps" + "\n")
        run = ("--depfile", "d", "--", "sh", "-c", self.count + "cp deps d")
        for changed in names:
            self.run_terrace("run", *run)
            before = self.runs()
            self.run_terrace("run", *run)
            self.assertEqual(self.runs(), before, "it was not kept")
            self.write(changed, "2")
            self.run_terrace("run", *run)
            self.assertEqual(self.runs(), before + 1, changed)

    def test_output__that_cannot_be_written_is_a_failure(self):
        command = [TERRACE, "--dir", self.dir, "run", "--", "sh", "-c"]

        def run_full(script):
            with open("/dev/full", "wb") as full:
                return subprocess.run(
                    [*command, script], stdout=full, stderr=subprocess.PIPE, env=self.env, timeout=30
                )

        for script, code in (("echo miss", 125), ("echo miss; exit 3", 3)):
            done = run_full(script)
            self.assertEqual(done.returncode, code)
            self.assertIn(b"cannot write to standard output: No space left on device", done.stderr)
        self.ok("run", "--", "sh", "-c", "echo hit")
        done = run_full("echo hit")
        self.assertEqual(done.returncode, 125)
        self.assertIn(b"cannot write to standard output", done.stderr)
        # a command without an end is told, as it would be without us
        self.assertNotEqual(run_full("yes").returncode, 0)
        # and so where nobody is killed by a reader that goes away
        shell = "trap '' PIPE; " + " ".join(command) + " yes | head -n 1"
        done = subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, env=self.env, timeout=30)
        self.assertEqual(done.stdout, b"y\n")

    def test_two_at_once_compute_once(self):
        first = self.start_waiting()
        self.wait_for_runs(1)
        others = [self.start_waiting() for _ in range(3)]
        time.sleep(0.2)  # the others must not start theirs
        self.assertEqual(self.runs(), 1)
        with open(self.path("fifo"), "w") as fifo:
            fifo.write("go\n")
        for process in [first, *others]:
            self.assertEqual(process.communicate(timeout=60)[0], b"result\n")
            self.assertEqual(process.returncode, 0)
        self.assertEqual(self.runs(), 1)

    def test_a_killed_owner_is_replaced(self):
        owner = self.start_waiting()
        self.wait_for_runs(1)
        waiter = self.start_waiting()
        time.sleep(0.1)
        self.assertEqual(self.runs(), 1)
        owner.kill()
        owner.wait()
        owner.stdout.close()
        self.wait_for_runs(2)  # the one who waited has taken over
        with open(self.path("fifo"), "w") as fifo:
            fifo.write("go\n")
        self.assertEqual(waiter.communicate(timeout=60)[0], b"result\n")

    def test_signals_reach_the_command(self):
        process = subprocess.Popen(
            [TERRACE, "--dir", self.dir, "run", "--", "sh", "-c",
             "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done"],
            stdout=subprocess.PIPE, env=self.env, cwd=self.work)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.communicate(timeout=60)[0], b"caught\n")
        self.assertEqual(process.returncode, 5)

    def test_a_command_that_is_killed_is_128_and_not_kept(self):
        for expected in (1, 2):
            self.assertEqual(self.run_sh("kill -9 $$", "--cache-failures").code, 137)
            self.assertEqual(self.runs(), expected)

    def test_what_is_left_running_does_not_hold_us(self):
        done = self.run_sh("(sleep 30; echo late) & echo now", "--explain")
        self.assertEqual(done.out, b"now\n")
        self.assertIn("not kept", done.err)


if __name__ == "__main__":
    unittest.main(verbosity=1)
