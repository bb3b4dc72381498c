"""Values that are larger than memory: put and get stream, and get a part."""

import glob
import hashlib
import os
import signal
import subprocess
import time
import unittest

from support import TERRACE, CommandTest

BLOCK = 256 * 1024


def chunks(size):
    """Bytes that compress to about a third; each megabyte is another."""
    for at in range(0, size, 1 << 20):
        piece = hashlib.sha512(str(at).encode()).digest() + b"the same words again and again " * 4
        yield (piece * ((1 << 20) // len(piece) + 1))[: min(1 << 20, size - at)]


def finish(process):
    """Wait for it; its status, and the most memory that it had, in megabytes."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss / 1024


class Values(CommandTest):
    def command(self, *args):
        return [TERRACE, "--dir", self.dir, *args]

    def put(self, key, size):
        """Put a value of so many bytes; its digest, and what it took."""
        digest = hashlib.sha256()
        process = subprocess.Popen(self.command("put", "a", key), stdin=subprocess.PIPE, env=self.env)
        for piece in chunks(size):
            digest.update(piece)
            process.stdin.write(piece)
        process.stdin.close()
        code, megabytes = finish(process)
        self.assertEqual(code, 0)
        return digest.hexdigest(), megabytes

    def get(self, key):
        digest = hashlib.sha256()
        process = subprocess.Popen(self.command("get", "a", key), stdout=subprocess.PIPE, env=self.env)
        for piece in iter(lambda: process.stdout.read(1 << 20), b""):
            digest.update(piece)
        process.stdout.close()
        code, megabytes = finish(process)
        self.assertEqual(code, 0)
        return digest.hexdigest(), megabytes

    def test_put_get__300_MB_take_no_more_memory_than_1_MB(self):
        with open(TERRACE, "rb") as file:
            program = file.read()
        if b"__asan_init" in program or b"__tsan_init" in program:
            self.skipTest("a sanitizer keeps what was freed")
        size = 300 << 20
        written, small_put = self.put("small", 1 << 20)
        read, small_get = self.get("small")
        self.assertEqual(read, written)
        written, large_put = self.put("k", size)
        read, large_get = self.get("k")
        self.assertEqual(read, written)
        print(f"put {small_put:.1f} MB, then {large_put:.1f}; get {small_get:.1f} MB, then {large_get:.1f}")
        self.assertLess(large_put, small_put + 4)
        self.assertLess(large_get, small_get + 4)
        self.assertEqual(self.json("inspect", "a", "k")["bytes"], size)
        self.assertLess(self.json("inspect", "a", "k")["stored_bytes"], size / 2)

    def test_get__a_part(self):
        data = b"".join(chunks(3 * BLOCK + 1000))
        self.ok("put", "a", "k", self.write("value", data))
        self.ok("put", "a", "small", input=b"0123456789")
        for offset, length in ((0, 5), (BLOCK - 3, 7), (2 * BLOCK, BLOCK), (len(data) - 4, 100), (10, 0)):
            done = self.run_terrace("get", "a", "k", "--range", f"{offset}:{length}")
            self.assertEqual((done.code, done.out), (0, data[offset : offset + length]), (offset, length))
        self.assertEqual(self.run_terrace("get", "a", "k", "--range", "512K:").out, data[512 * 1024 :])
        self.assertEqual(self.ok("get", "a", "small", "--range", "3:4"), "3456")
        self.assertEqual(self.ok("get", "a", "small", "--range", ":2"), "01")
        self.assertEqual(self.ok("get", "a", "small", "--range", "99:2"), "")
        self.fails(1, "no live entry", "get", "a", "absent", "--range", "0:1")
        for bad in ("5", "", "a:1", "1:b", "-1:2", "1:2:3", "9" * 40 + ":1"):
            self.fails(2, "", "get", "a", "small", "--range", bad)

    def test_get__damage_half_way_is_status_1_and_no_wrong_byte(self):
        data = os.urandom(4 * BLOCK)
        for block, given in ((0, 0), (2, 2 * BLOCK)):
            self.ok("put", "a", "k", input=data)
            (path,) = glob.glob(self.dir + "/v2/files/*/*")
            with open(path, "r+b") as file:
                file.seek(block * BLOCK + 100)
                byte = file.read(1)[0]
                file.seek(block * BLOCK + 100)
                file.write(bytes([byte ^ 1]))
            # A part that lies elsewhere is good.
            self.assertEqual(self.run_terrace("get", "a", "k", "--range", "768K:10").out, data[3 * BLOCK :][:10])
            says = "damaged" if given else "no live entry"
            done = self.fails(1, says, "get", "a", "k")
            self.assertEqual(done.out, data[:given])
            self.fails(1, "no live entry", "get", "a", "k")
            self.assertEqual(self.json("why", "a", "k", code=1)["reason"], "damaged")

    def test_put__killed_half_way_leaves_what_was_there(self):
        self.ok("put", "a", "k", input=b"old")
        put = subprocess.Popen(self.command("put", "a", "k"), stdin=subprocess.PIPE, env=self.env)
        put.stdin.write(os.urandom(4 * BLOCK))
        put.stdin.flush()
        new = self.dir + "/v2/files/new/*"
        deadline = time.monotonic() + 60
        while not glob.glob(new) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(len(glob.glob(new)), 1)
        self.assertEqual(self.ok("get", "a", "k"), "old")
        self.assertEqual(len(glob.glob(new)), 1)  # it lives: nobody sweeps it
        put.send_signal(signal.SIGKILL)
        put.wait()
        put.stdin.close()
        self.assertEqual(self.ok("get", "a", "k"), "old")
        self.assertEqual(glob.glob(new), [])
        self.ok("verify")

    def test_put__overtaken_says_so(self):
        put = subprocess.Popen(
            self.command("put", "a", "k"), stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env
        )
        put.stdin.write(os.urandom(4 * BLOCK))
        put.stdin.flush()
        deadline = time.monotonic() + 60
        while not glob.glob(self.dir + "/v2/files/new/*") and time.monotonic() < deadline:
            time.sleep(0.01)
        self.ok("put", "a", "k", input=b"newer")
        put.stdin.close()
        self.assertEqual(put.wait(), 1)
        self.assertIn(b"not stored", put.stderr.read())
        put.stderr.close()
        self.assertEqual(self.ok("get", "a", "k"), "newer")

    def test_put__too_large_for_the_limit(self):
        env = {"TERRACE_DISK_BYTES": "2M"}
        self.ok("put", "a", "other", input=b"v", env=env)
        self.fails(3, "disk_bytes", "put", "a", "k", input=os.urandom(3 << 20), env=env)
        self.fails(1, "no live entry", "get", "a", "k")
        self.assertEqual(self.ok("get", "a", "other", env=env), "v")
        self.assertEqual(glob.glob(self.dir + "/v2/files/*/*"), [])

    def test_get__a_closed_output_is_a_failure(self):
        self.ok("put", "a", "k", input=os.urandom(4 * BLOCK))
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                self.command("get", "a", "k"), stdout=full, stderr=subprocess.PIPE, env=self.env, check=False
            )
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"standard output", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=1)
