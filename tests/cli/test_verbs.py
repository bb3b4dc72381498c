"""The command's verbs, as a person or a script calls them."""

import glob
import json
import os
import re
import sqlite3
import stat
import subprocess
import time
import unittest

from support import TERRACE, CommandTest


class Entries(CommandTest):
    def test_put_get__any_bytes_from_stdin_and_file(self):
        data = bytes(range(256)) * 1000
        self.ok("put", "a", "k", input=data)
        self.assertEqual(self.run_terrace("get", "a", "k").out, data)
        path = self.write("value", b"from a file\0")
        self.ok("put", "a", "k", path)
        self.assertEqual(self.run_terrace("get", "a", "k").out, b"from a file\0")
        self.ok("put", "a", "empty", input=b"")
        self.assertEqual(self.ok("get", "a", "empty"), "")

    def test_get__a_miss_is_1_and_writes_nothing(self):
        done = self.fails(1, "no live entry", "get", "a", "k")
        self.assertEqual(done.out, b"")
        self.ok("put", "a", "k", input=b"v")
        self.fails(1, "no live entry", "get", "a", "x")
        self.fails(1, "no live entry", "get", "b", "k")
        # asking for a cache does not make it
        self.assertEqual(self.ok("ls"), "a\n")

    def test_put__listing_and_variable(self):
        self.write("src/a.c", "1")
        self.ok("put", "a", "names", "--list", "src/*.c", input=b"v")
        self.ok("put", "a", "value", "--env", "LANGUAGE_OF_X", input=b"v", env={"LANGUAGE_OF_X": "de"})
        info = self.json("inspect", "a", "names")
        self.assertEqual(info["sources"], [{"kind": "listing", "path": self.path("src/*.c"), "changed": False}])
        self.assertIn("listing " + self.path("src/*.c"), self.ok("inspect", "a", "names"))
        self.write("src/a.h", "1")
        self.assertEqual(self.ok("get", "a", "names"), "v")
        self.write("src/b.c", "1")
        self.assertEqual(self.run_terrace("get", "a", "names").code, 1)
        self.assertIn("src/*.c lists other names (2, and not 1)", self.run_terrace("why", "a", "names").out.decode())
        self.assertEqual(self.ok("get", "a", "value", env={"LANGUAGE_OF_X": "de"}), "v")
        self.assertEqual(self.run_terrace("get", "a", "value", env={"LANGUAGE_OF_X": "en"}).code, 1)
        self.assertIn("the variable LANGUAGE_OF_X has another value",
                      self.run_terrace("why", "a", "value").out.decode())
        self.fails(2, "--list: the directory %s does not exist" % self.path("none"), "put", "a", "k", "--list", "none", input=b"v")
        self.fails(2, "names no variable", "put", "a", "k", "--env", "A=B", input=b"v")

    def test_put__ttl_tag_and_source(self):
        source = self.write("source", "1")
        self.ok("put", "a", "k", "--ttl", "1h30m", "--tag", "x", "--tag", "y", "--source", source,
                input=b"v")
        info = self.json("inspect", "a", "k")
        self.assertEqual(info["ttl_ms"], 5400000)
        self.assertTrue(5390000 < info["left_ms"] <= 5400000)
        self.assertEqual(info["tags"], ["x", "y"])
        self.assertEqual(info["sources"], [{"kind": "file", "path": source, "changed": False}])
        self.assertEqual(info["bytes"], 1)
        self.assertEqual(info["tier"], "l2")
        self.write("source", "22")
        self.fails(1, "no live entry", "get", "a", "k")
        why = self.json("why", "a", "k", code=1)
        self.assertEqual(why["reason"], "source changed")
        self.assertIn(source, why["detail"])

    def test_put__a_source_that_is_absent_must_stay_so(self):
        self.ok("put", "a", "k", "--source", "none/yet", input=b"v")
        self.assertEqual(self.json("inspect", "a", "k")["sources"],
                         [{"kind": "absent", "path": self.path("none/yet"), "changed": False}])
        self.assertEqual(self.ok("get", "a", "k"), "v")
        self.write("none/yet", "")
        self.fails(1, "no live entry", "get", "a", "k")
        self.assertEqual(self.json("why", "a", "k", code=1)["reason"], "source changed")

    def test_put__ttl_of_0_is_dead_at_once_and_forever_lives(self):
        self.ok("put", "a", "dead", "--ttl", "0", input=b"v")
        self.fails(1, "", "get", "a", "dead")
        self.assertEqual(self.json("why", "a", "dead", code=1)["reason"], "expired")
        self.ok("put", "a", "k", "--ttl=forever", input=b"v")
        self.assertIsNone(self.json("inspect", "a", "k")["left_ms"])

    def test_put__bad_values_lose_nothing(self):
        self.ok("put", "a", "k", input=b"old")
        self.fails(2, "90s", "put", "a", "k", "--ttl", "soon", input=b"new")
        os.symlink("nowhere", self.path("dangling"))
        self.fails(2, "a link to nothing", "put", "a", "k", "--source", "dangling", input=b"new")
        self.fails(2, "not a regular file", "put", "a", "k", "--source", ".", input=b"new")
        self.fails(2, "cannot read", "put", "a", "k", "missing")
        self.fails(2, "255", "put", "a", "k", "--tag", "t" * 256, input=b"new")
        self.assertEqual(self.ok("get", "a", "k"), "old")

    def test_keys__over_64_KiB_and_empty_are_refused(self):
        self.fails(2, "65536", "put", "a", "k" * 65537, input=b"v")
        self.fails(2, "65536", "get", "a", "")
        self.ok("put", "a", "k" * 65536, input=b"v")
        self.assertEqual(self.ok("get", "a", "k" * 65536), "v")

    def test_caches__bad_names_are_refused(self):
        for name, says in (("", "1 to 64"), ("n" * 65, "1 to 64"), ("a/b", "'/'"), (".files", "'.'")):
            self.fails(2, says, "put", name, "k", input=b"v")
            self.fails(2, says, "get", name, "k")
        self.ok("put", "n" * 64, "k", input=b"v")

    def test_rm__one_and_many(self):
        for key in "abc":
            self.ok("put", "a", key, input=b"v")
        self.ok("rm", "a", "a")
        self.fails(1, "has no entry", "rm", "a", "a")
        self.fails(1, "1 of 3", "rm", "a", "b", "c", "x")
        self.assertEqual(self.ok("ls", "a"), "")

    def test_ls__keys_by_prefix_glob_and_tag(self):
        for key, tag in (("tile:1", "red"), ("tile:2", "blue"), ("map:1", "red")):
            self.ok("put", "a", key, "--tag", tag, input=b"v")
        self.assertEqual(self.ok("ls", "a"), "tile:1\ntile:2\nmap:1\n")
        self.assertEqual(self.ok("ls", "a", "--prefix", "tile:"), "tile:1\ntile:2\n")
        self.assertEqual(self.ok("ls", "a", "--glob", "*:1"), "tile:1\nmap:1\n")
        self.assertEqual(self.ok("ls", "a", "--tag", "red"), "tile:1\nmap:1\n")
        self.assertEqual(self.json("ls", "a", "--tag", "red"), ["tile:1", "map:1"])
        self.assertEqual(self.json("ls"), ["a"])
        self.fails(2, "one of", "ls", "a", "--tag", "x", "--glob", "y")
        self.fails(2, "'['", "ls", "a", "--glob", "[a")
        self.fails(1, "no cache", "ls", "nowhere")

    def test_why__live_and_gone(self):
        self.ok("put", "a", "k", input=b"v")
        self.ok("get", "a", "k")
        self.ok("get", "a", "k")
        why = self.json("why", "a", "k")
        self.assertEqual(why["reason"], "live")
        self.assertEqual(why["entry"]["access_count"], 2)
        text = self.ok("why", "a", "k")
        self.assertIn("live", text)
        self.assertIn("served:   2 times", text)
        self.ok("rm", "a", "k")
        done = self.run_terrace("why", "a", "k")
        self.assertEqual(done.code, 1)
        self.assertIn("deleted", done.out.decode())
        self.assertEqual(self.json("why", "a", "x", code=1)["reason"], "never stored")
        self.assertEqual(self.json("why", "nowhere", "x", code=1)["reason"], "never stored")

    def test_bytes_that_are_no_text_are_told_in_json(self):
        key = b"\xff\x01"
        subprocess.run([TERRACE.encode(), b"--dir", self.dir.encode(), b"put", b"a", key],
                       input=b"v", check=True, env=self.env)
        self.assertEqual(self.json("ls", "a"), [{"hex": "ff01"}])


class Many(CommandTest):
    def fill(self):
        for key, tag in (("tile:1", "red"), ("tile:2", "blue"), ("map:1", "red")):
            self.ok("put", "a", key, "--tag", tag, input=b"v")

    def test_invalidate__by_each_and_prints_how_many(self):
        source = self.write("source", "1")
        for args, count in (
            (("--key", "tile:1"), 1),
            (("--key", "nothing"), 0),
            (("--glob", "*:1"), 2),
            (("--prefix", "tile:"), 2),
            (("--tag", "red"), 2),
            (("--source", source), 1),
            (("--all",), 4),
        ):
            self.fill()
            self.ok("put", "a", "s", "--source", source, input=b"v")
            self.assertEqual(self.ok("invalidate", "a", *args), "%d\n" % count, args)
        self.fill()
        self.assertEqual(self.json("invalidate", "a", "--all"), {"invalidated": 3})
        # of nothing is done, and prints 0
        self.assertEqual(self.ok("invalidate", "a", "--all"), "0\n")
        self.assertEqual(self.ok("invalidate", "nowhere", "--all"), "0\n")

    def test_invalidate__changed_sources(self):
        source = self.write("source", "1")
        self.ok("put", "a", "k", "--source", source, input=b"v")
        self.assertEqual(self.ok("invalidate", "a", "--changed"), "0\n")
        self.write("source", "22")
        self.assertEqual(self.ok("invalidate", "a", "--changed"), "1\n")

    def test_invalidate__wants_exactly_one_choice(self):
        self.fails(2, "one of", "invalidate", "a")
        self.fails(2, "one of", "invalidate", "a", "--all", "--tag", "x")
        self.fails(2, "'['", "invalidate", "a", "--glob", "[x")

    def test_clear__a_cache_a_tier_or_all(self):
        self.fill()
        self.ok("put", "b", "small", input=b"v")
        self.ok("put", "b", "large", input=os.urandom(200000))
        self.assertEqual(self.ok("clear", "a"), "3\n")
        self.assertEqual(self.ok("clear", "b", "--tier", "l3"), "1\n")
        self.assertEqual(self.ok("ls", "b"), "small\n")
        self.fill()
        self.assertEqual(self.json("clear", "--all"), {"cleared": 4})
        self.fails(2, "--all", "clear")
        self.fails(2, "not both", "clear", "a", "--all")
        self.fails(2, "l9", "clear", "a", "--tier", "l9")
        self.fails(1, "no cache", "clear", "nowhere")

    def test_cleanup__removes_the_dead(self):
        self.ok("put", "a", "dead", "--ttl", "0", input=b"v")
        self.ok("put", "a", "live", input=b"v")
        self.assertEqual(self.ok("cleanup"), "1\n")
        self.assertEqual(self.ok("cleanup", "a"), "0\n")
        self.assertEqual(self.ok("ls", "a"), "live\n")

    def test_stat__counts_over_processes(self):
        self.ok("put", "a", "k", input=b"v")
        self.ok("put", "a", "large", input=os.urandom(100000))
        self.ok("get", "a", "k")
        self.run_terrace("get", "a", "large")
        self.run_terrace("get", "a", "x")
        stats = self.json("stat")
        a = stats["caches"]["a"]
        self.assertEqual((a["gets"], a["hits_l2"], a["hits_l3"], a["misses"], a["puts"]), (3, 1, 1, 1, 2))
        self.assertAlmostEqual(a["hit_rate"], 2 / 3)
        self.assertEqual(a["tiers"]["l2"]["entries"], 1)
        self.assertEqual(a["tiers"]["l3"]["entries"], 1)
        self.assertGreaterEqual(a["tiers"]["l3"]["bytes"], 100000)
        self.assertEqual(a["latency"]["hit_l2"]["count"], 1)
        self.assertGreater(a["latency"]["hit_l2"]["p99_ns"], 0)
        self.assertEqual(stats["dir"], self.dir)
        table = self.ok("stat")
        self.assertRegex(table, r"(?m)^a +all +2 +1 +66\.7%")
        self.assertRegex(table, r"(?m)^ +l2 +1 +2 +33\.3% +1 ")
        self.assertTrue(all(len(line) <= 110 for line in table.split("\n")), table)
        self.fails_on_unknown = self.run_terrace("stat", "nowhere")
        self.assertEqual(self.fails_on_unknown.code, 1)

    def test_config__each_value_and_where_it_came_from(self):
        os.mkdir(self.dir, 0o700)
        self.write("store/terrace.ini", "[store]\ndisk_bytes = 3G\n\n[cache a]\nttl = 2h\n")
        settings = self.json("config", env={"TERRACE_MEMORY_BYTES": "5M"})
        store = settings["store"]
        self.assertEqual(store["disk_bytes"], {"value": "3G", "origin": self.dir + "/terrace.ini:2"})
        self.assertEqual(store["memory_bytes"], {"value": "5M", "origin": "environment TERRACE_MEMORY_BYTES"})
        self.assertEqual(store["wait"]["origin"], "default")
        self.assertEqual(settings["cache a"]["ttl"], {"value": "2h", "origin": self.dir + "/terrace.ini:5"})
        self.assertRegex(self.ok("config", "a"), r"(?m)^cache a +ttl +2h +.*terrace.ini:5$")
        self.fails(1, "neither", "config", "nowhere")

    def test_config__bad_files_and_variables_say_what_would_be_right(self):
        ini = self.write("bad.ini", "[store]\n\ndisk_byts = 3G\n")
        self.fails(2, "bad.ini:3: unknown key \"disk_byts\"", "--config", ini, "ls")
        self.write("bad.ini", "[cache x]\ndisk_bytes = 3 apples\n")
        self.fails(2, "bad.ini:2: \"3 apples\" is no value for disk_bytes", "--config", ini, "ls")
        self.fails(2, "missing.ini", "--config", self.path("missing.ini"), "ls")
        self.fails(2, "TERRACE_WAIT", "ls", env={"TERRACE_WAIT": "a while"})


class Verify(CommandTest):
    def large(self):
        self.ok("put", "a", "large", input=os.urandom(100000))
        return glob.glob(self.dir + "/v2/files/*/*")[0]

    def test_verify__a_whole_store_is_0(self):
        self.ok("put", "a", "small", input=b"v")
        self.large()
        self.assertRegex(self.ok("verify"), r"^2 entries, .*: 0 damaged, 0 .*, 0 orphan")
        report = self.json("verify")
        self.assertEqual((report["entries"], report["damaged"], report["faults"]), (2, 0, []))

    def test_verify__finds_1_and_repairs(self):
        path = self.large()
        with open(path, "r+b") as file:
            file.seek(5000)
            byte = file.read(1)
            file.seek(5000)
            file.write(bytes([byte[0] ^ 4]))
        self.write("store/v2/files/ab/stray", "x")
        report = self.json("verify", code=1)
        self.assertEqual((report["damaged"], report["orphans"], report["repaired"]), (1, 1, 0))
        self.assertEqual({fault["kind"] for fault in report["faults"]}, {"damaged", "orphan"})
        self.assertEqual(self.json("verify", "--repair", code=1)["repaired"], 2)
        self.assertEqual(self.json("verify")["damaged"], 0)
        self.assertFalse(os.path.exists(self.path("store/v2/files/ab/stray")))
        self.fails(1, "no live entry", "get", "a", "large")
        self.assertEqual(self.json("why", "a", "large", code=1)["reason"], "damaged")

    def test_verify__rows_without_files(self):
        os.unlink(self.large())
        report = self.json("verify", code=1)
        self.assertEqual(report["missing_files"], 1)
        self.assertIn("large", json.dumps(report["faults"]))
        self.json("verify", "--repair", code=1)
        self.json("verify")

    def test_get__damage_is_a_miss_and_told(self):
        path = self.large()
        os.truncate(path, 1000)
        self.fails(1, "no live entry", "get", "a", "large")
        self.assertEqual(self.json("stat")["caches"]["a"]["damaged"], 1)
        db = self.dir + "/v2/db-1"
        self.ok("put", "a", "small", input=b"some words")
        connection = sqlite3.connect(db)
        with connection:
            connection.execute("UPDATE entry SET value = CAST('other words' AS BLOB)")
        self.fails(1, "no live entry", "get", "a", "small")
        self.assertEqual(self.json("stat")["caches"]["a"]["damaged"], 2)
        connection.close()  # the last to do so empties the log, and knows nothing of pages' sums


class Calling(CommandTest):
    def test_usage__is_2_and_says_what_to_do(self):
        self.fails(2, "say what to do", dir=False)
        self.fails(2, "no verb \"frobnicate\"", "frobnicate")
        self.fails(2, "unknown option --frob", "get", "a", "k", "--frob")
        self.fails(2, "unknown option -x", "get", "-x", "a", "k")
        self.fails(2, "missing operand", "get", "a")
        self.fails(2, "one operand too many", "get", "a", "k", "x")
        self.fails(2, "needs a value", "put", "a", "k", "--ttl")
        self.fails(2, "takes no value", "ls", "--json=yes")
        self.fails(2, "unknown option --frob", "--frob", "ls")

    def test_help_and_version(self):
        self.assertIn("terrace [--dir DIR] VERB", self.ok("--help", dir=False))
        self.assertIn("terrace put [OPTION]... CACHE KEY [FILE]", self.ok("put", "--help"))
        self.assertIn("--source FILE", self.ok("help", "put"))
        self.assertRegex(self.ok("--version", dir=False), r"^terrace \d+\.\d+\.\d+\n$")
        self.fails(2, "no verb", "help", "frob")

    def test_operands_may_begin_with_dashes_behind_two(self):
        self.ok("put", "a", "--", "--key", input=b"v")
        self.assertEqual(self.ok("get", "a", "--", "--key"), "v")

    def test_dir__by_option_environment_and_default(self):
        self.ok("put", "a", "k", input=b"option")
        self.ok("put", "a", "k", input=b"environment", dir=False, env={"TERRACE_DIR": self.path("e")})
        self.ok("put", "a", "k", input=b"xdg", dir=False, env={"XDG_CACHE_HOME": self.path("x")})
        self.ok("put", "a", "k", input=b"home", dir=False)
        self.assertEqual(self.ok("get", "a", "k", env={"TERRACE_DIR": self.path("e")}), "option")
        self.assertEqual(self.ok("get", "a", "k", dir=False, env={"TERRACE_DIR": self.path("e")}),
                         "environment")
        for origin, args in (("option --dir", {"env": {"TERRACE_DIR": self.path("e")}}),
                             ("environment TERRACE_DIR",
                              {"dir": False, "env": {"TERRACE_DIR": self.path("e")}}),
                             ("environment XDG_CACHE_HOME",
                              {"dir": False, "env": {"XDG_CACHE_HOME": self.path("x")}}),
                             ("default", {"dir": False})):
            self.assertEqual(self.json("config", **args)["dir_origin"], origin)
            self.assertRegex(self.ok("config", **args), r"(?m)^store +dir +\S+ +%s$" % origin)
        self.assertTrue(os.path.isdir(self.path("x/terrace/v2")))
        self.assertTrue(os.path.isdir(self.path(".cache/terrace/v2")))
        self.assertEqual(stat.S_IMODE(os.stat(self.path(".cache/terrace")).st_mode), 0o700)

    def test_dir__that_must_not_be_used_is_3(self):
        os.symlink(self.work, self.path("link"))
        self.fails(3, "symbolic link", "--dir", self.path("link"), "ls", dir=False)
        os.mkdir(self.path("open"))
        os.chmod(self.path("open"), 0o777)
        self.fails(3, "others may write", "--dir", self.path("open"), "ls", dir=False)
        self.write("file", "")
        self.fails(3, "Not a directory", "--dir", self.path("file"), "ls", dir=False)

    def test_disabled__every_verb_works_and_keeps_nothing(self):
        env = {"TERRACE_DISABLED": "1"}
        self.ok("put", "a", "k", input=b"v", env=env)
        self.fails(1, "no live entry", "get", "a", "k", env=env)
        self.assertEqual(self.ok("ls", env=env), "")
        self.ok("stat", env=env)
        self.ok("verify", env=env)
        self.assertFalse(os.path.exists(self.dir))

    def test_output__that_cannot_be_written_is_a_failure(self):
        self.ok("put", "a", "k", input=b"v" * 100000)
        with open("/dev/full", "w") as full:
            done = subprocess.run([TERRACE, "--dir", self.dir, "get", "a", "k"], stdout=full,
                                  stderr=subprocess.PIPE, env=self.env)
            self.assertEqual(done.returncode, 3)
            done = subprocess.run([TERRACE, "--dir", self.dir, "stat"], stdout=full,
                                  stderr=subprocess.PIPE, env=self.env)
            self.assertEqual(done.returncode, 3)
            self.assertIn(b"cannot write", done.stderr)

    def test_names__of_any_bytes_are_served_by_every_verb(self):
        name, key, shown = os.fsencode("n") + b"\xff", b"k\xfe", {"hex": "6eff"}
        self.dir = os.path.join(os.fsencode(self.work), b"st\xfd")
        source = os.path.join(os.fsencode(self.work), b"so\xfc")
        with open(source, "wb") as file:
            file.write(b"1")
        self.ok("put", name, key, "--source", source, input=b"v")
        self.assertEqual(self.run_terrace("ls").out, name + b"\n")
        self.assertEqual(self.json("ls"), [shown])
        self.assertEqual(self.json("stat")["caches"]["hex:6eff"]["puts"], 1)
        self.assertIn("hex", self.json("stat")["dir"])
        self.assertIn("hex", self.json("config")["dir"])
        self.assertEqual(self.json("config", name)["hex:" + b"cache n\xff".hex()]["ttl"]["value"], "forever")
        self.assertEqual(self.json("inspect", name, key)["cache"], shown)
        os.unlink(source)
        self.run_terrace("get", name, key)
        why = self.json("why", name, key, code=1)
        self.assertEqual((why["cache"], why["reason"]), (shown, "source changed"))
        self.assertIn(b"so\xfc", bytes.fromhex(why["detail"]["hex"]))
        self.ok("put", name, key, input=b"v")
        self.assertEqual(self.json("clear", "--all")["cleared"], 1)

    def test_tags_and_sources__leave_nothing_behind(self):
        source = self.write("source", "1")
        self.ok("put", "a", "k", "--tag", "old", "--source", source, input=b"v")
        self.ok("put", "a", "k", "--tag", "new", input=b"v")
        database = sqlite3.connect(glob.glob(self.dir + "/v2/db-*[0-9]")[0])
        self.assertEqual(database.execute("SELECT count(*) FROM link").fetchone(), (1,))
        self.assertEqual(self.ok("invalidate", "a", "--tag", "old"), "0\n")
        self.ok("rm", "a", "k")
        self.assertEqual(database.execute("SELECT count(*) FROM link").fetchone(), (0,))
        database.close()

    def test_messages__are_one_line_whatever_the_key_holds(self):
        self.fails(1, 'no live entry "a?b"', "get", "a", "a\nb")
        self.fails(2, "unknown option --x?y", "get", "--x\ny", "a", "b")

    def test_log__for_people_on_standard_error(self):
        self.ok("put", "a", "large", input=os.urandom(100000))
        os.truncate(glob.glob(self.dir + "/v2/files/*/*")[0], 10)
        done = self.run_terrace("get", "a", "large", env={"TERRACE_LOG": "debug"})
        self.assertIn("terrace: warning: a: a damaged entry is removed", done.err)


if __name__ == "__main__":
    unittest.main(verbosity=1)
