"""terrace run: its caller has what he would have without a cache."""

import os
import signal
import subprocess
import unittest

from support import TERRACE, RunTest


class RunCaller(RunTest):
    def test_stdin__is_empty_without_a_store_too(self):
        self.write("file", "")
        for env, where in (({"TERRACE_DISABLED": "1"}, self.dir), ({}, self.path("file"))):
            for options, out in (((), b""), (("--stdin",), b"rest")):
                done = self.run_terrace("--dir", where, "run", *options, "--", "cat", input=b"rest",
                                        env=env, dir=False)
                self.assertEqual((done.code, done.out), (0, out), (where, options))

    def test_streams__that_are_closed_are_not_in_the_commands_way(self):
        for closed in ("<&-", "<&- >&-", "<&- 2>&-", "<&- >&- 2>&-", ">&- 2>&-"):
            script = 'cat > in; echo "$?" > status'
            subprocess.run(["sh", "-c", '"$@" ' + closed, "sh", TERRACE, "--dir", self.path("store"), "run",
                            "--out", "status", "--", "sh", "-c", script + "; : '%s'" % closed],
                           cwd=self.work, env=self.env, stdin=subprocess.DEVNULL, timeout=60)
            self.assertEqual(self.read("status"), "0\n", closed)

    def test_what_is_left_running_and_writes_does_not_hold_us(self):
        done = self.run_sh("(trap '' PIPE; while sleep 0.02; do echo more || exit; done) & echo now")
        self.assertEqual((done.code, done.out[:4]), (0, b"now\n"))
        self.assertIn("left something running", done.err)

    def test_interrupt__ends_us_as_it_ended_the_command(self):
        waiting = self.start_waiting(start_new_session=True)
        self.wait_for_runs(1)
        os.killpg(waiting.pid, signal.SIGINT)
        waiting.communicate(timeout=60)
        self.assertEqual(waiting.returncode, -signal.SIGINT)
        # one that has an answer to it is what it answers
        waiting = self.start_waiting(script="trap 'exit 7' INT; read x < fifo", start_new_session=True)
        self.wait_for_runs(2)
        os.killpg(waiting.pid, signal.SIGINT)
        waiting.communicate(timeout=60)
        self.assertEqual(waiting.returncode, 7)

    def test_command_that_runs_itself_does_not_wait_for_itself(self):
        script = self.write("script", "#!/bin/sh\n[ -n \"$INNER\" ] && { echo inner; exit; }\n"
                            "INNER=1 %s --dir %s run --in in -- ./script\necho outer\n" % (TERRACE, self.dir))
        os.chmod(script, 0o755)
        for _ in range(2):
            self.assertEqual(self.run_terrace("run", "--in", "in", "--", "./script").out, b"inner\nouter\n")

    def test_who_waits_long_is_told_for_what(self):
        owner = self.start_waiting()
        self.wait_for_runs(1)
        waiter = self.start_waiting(stderr=subprocess.PIPE)
        self.assertIn(b"waiting for a process that runs this command", waiter.stderr.readline())
        self.go_on()
        outs = owner.communicate(timeout=60)[0], waiter.communicate(timeout=60)[0]
        self.assertEqual((outs, self.runs()), ((b"result\n", b"result\n"), 1))

    def test_large_files_and_output_take_little_memory(self):
        big = 192 << 20
        script = "head -c %d /dev/zero > big; head -c 1000000 /dev/zero" % big
        for _ in range(2):
            process = subprocess.Popen(
                [TERRACE, "--dir", self.dir, "run", "--in", "in", "--out", "big", "--", "sh", "-c",
                 self.count + script], stdout=subprocess.PIPE, env=self.env, cwd=self.work)
            self.assertEqual(len(process.stdout.read()), 1000000)
            process.stdout.close()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.assertEqual(process.returncode, 0)
            self.assertEqual(os.path.getsize(self.path("big")), big)
            self.assertLess(usage.ru_maxrss, (big >> 10) // 2)
            os.unlink(self.path("big"))
        self.assertEqual(self.runs(), 1)

    def test_failure__is_kept_for_who_asks(self):
        args = ("cat in; exit 3", "--in", "in", "--out", "o")
        self.write("in", "1")
        for expected in (1, 1):
            done = self.run_sh(*args, "--cache-failures")
            self.assertEqual((done.code, done.out, done.err), (3, b"1", ""))
            self.assertEqual(self.runs(), expected)
        self.assertEqual(self.run_sh(*args).code, 3)
        self.assertEqual(self.runs(), 2)
        # with inputs that it names itself, too
        args = ("echo 'x: in' > d; cat in; exit 4", "--depfile", "d", "--cache-failures")
        for expected in (3, 3):
            self.assertEqual(self.run_sh(*args).code, 4)
            self.assertEqual(self.runs(), expected)
        self.assertEqual(self.run_sh(*args[:-1]).code, 4)
        self.assertEqual(self.runs(), 4)
        self.write("in", "2")
        self.assertEqual(self.run_sh(*args).out, b"2")

    def test_failure__has_the_files_that_it_wrote(self):
        args = ("echo log > log; exit 3", "--in", "in", "--out", "log", "--out", "result", "--cache-failures")
        self.run_sh(*args)
        os.unlink(self.path("log"))
        self.write("result", "older")
        self.assertEqual(self.run_sh(*args).code, 3)
        self.assertEqual((self.runs(), self.read("log"), self.read("result")), (1, "log\n", "older"))

    def test_ttl__of_the_cache_is_the_operators(self):
        env = {"TERRACE_CACHE_RUN_TTL": "5s"}
        self.run_sh("echo none", env=env)
        self.run_sh("echo input", "--in", "x", env=env)
        self.run_sh("echo given", "--ttl", "2h", env=env)
        self.run_sh("echo longer", env={"TERRACE_CACHE_RUN_TTL": "5h"})
        ttls = {}
        for key in self.json("ls", "run"):
            ttls[key.split("; echo ")[1].split("@")[0]] = self.json("inspect", "run", key)["ttl_ms"]
        self.assertEqual(ttls, {"none": 5000, "input": 5000, "given": 7200000, "longer": 60000})

    def test_ttl__who_wants_a_young_result_has_no_older_one(self):
        self.run_sh("echo", "--ttl", "1d")
        self.run_sh("echo", "--ttl", "1h")
        self.assertEqual(self.runs(), 1)
        self.run_sh("echo", "--ttl", "0")
        self.assertEqual(self.runs(), 2)
        self.run_sh("echo", "--ttl", "0")
        self.assertEqual(self.runs(), 3)


if __name__ == "__main__":
    unittest.main(verbosity=1)
