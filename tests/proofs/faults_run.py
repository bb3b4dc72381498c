"""terrace run with its k-th allocation or system call failing: the command's
output, exit status and files are what they are without a cache.

STEP: try every STEP-th k only; which ones depends on SEED.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

KINDS = ["no memory", "EIO", "ENOSPC", "EMFILE", "EINTR", "short", "no kernel memory"]
TERRACE, SHIM = (os.path.abspath(path) for path in sys.argv[1:3])
STEP = int(os.environ.get("STEP", "1"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1, 1 << 48)
COMMAND = ["sh", "-c", "echo out; cat; echo err >&2; cat in.txt > out.txt; exit 3"]
# More than one read takes.
STDIN = b"0123456789abcde\n" * 5000


def run(folder, faults):
    env = {"PATH": os.environ["PATH"], "HOME": folder, "XDG_CONFIG_HOME": "/nonexistent"}
    if faults:
        env.update(LD_PRELOAD=SHIM, FAULT_REPORT=os.path.join(folder, "reached"), **faults)
    argv = [TERRACE, "run", "--dir", os.path.join(folder, "store"), "--in", "in.txt", "--out", "out.txt",
            "--stdin", "--cache-failures", "--"] + COMMAND
    return subprocess.run(argv, cwd=folder, env=env, input=STDIN, capture_output=True, timeout=60)


def wrong(folder, done):
    """What is not as it would be without a cache; None when all is."""
    stderr = b"".join(line for line in done.stderr.splitlines(True) if not line.startswith(b"terrace"))
    if done.returncode != 3:
        return "status %d: %s" % (done.returncode, done.stderr.decode(errors="replace"))
    if done.stdout != b"out\n" + STDIN or stderr != b"err\n":
        return "output %r, %r" % (done.stdout[:100], done.stderr)
    with open(os.path.join(folder, "out.txt"), "rb") as file:
        if file.read() != b"input\n":
            return "the file"
    return None


def main():
    print("faults_run: SEED=%d" % SEED, flush=True)
    start, runs, failures = time.time(), 0, 0
    folder = tempfile.mkdtemp(prefix="terrace-proof-")
    reached = os.path.join(folder, "reached")
    with open(os.path.join(folder, "in.txt"), "w") as file:
        file.write("input\n")
    for state in ("a new store", "a miss", "a hit"):
        for kind in range(len(KINDS)):
            for ever in (False, True):
                step = STEP if kind == 0 else max(1, STEP // 4)
                k, going = 1 + SEED % step, True
                while going:
                    if state != "a hit":
                        shutil.rmtree(os.path.join(folder, "store"), ignore_errors=True)
                    if state == "a miss":
                        subprocess.run([TERRACE, "put", "--dir", os.path.join(folder, "store"), "run", "x"],
                                       input=b"x", check=True)
                    if state == "a hit":
                        run(folder, None)
                    for name in ("out.txt", "reached"):
                        if os.path.exists(os.path.join(folder, name)):
                            os.remove(os.path.join(folder, name))
                    faults = {"FAULT_KIND": str(kind), "FAULT_AT": str(k)}
                    if ever:
                        faults["FAULT_EVER"] = "1"
                    try:
                        what = wrong(folder, run(folder, faults))
                    except (OSError, subprocess.TimeoutExpired) as error:
                        what = str(error)
                    runs += 1
                    if what:
                        failures += 1
                        print("faults_run: %s: %s %s, k = %d: %s" % (
                            state, KINDS[kind], "for ever" if ever else "once", k, what), file=sys.stderr)
                    going = os.path.exists(reached)
                    k += step
    shutil.rmtree(folder)
    print("faults_run: %d runs with a fault in them (every %d), %.1f s: %s" % (
        runs, STEP, time.time() - start, "FAILED" if failures else "the command's result is its own"))
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())
