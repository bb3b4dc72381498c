"""terrace repomap, as a program."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest

import pagerank
from support import CommandTest

GRAMMARS = os.environ.get("TERRACE_TEST_GRAMMARS", "")
PACKAGES = os.environ.get("TERRACE_TEST_PACKAGES", "")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

SHAPES_PY = '''"""Shapes."""
import math

UNIT = 1


class Shape:
    """What has an area."""

    def area_of_shape(self):
        raise NotImplementedError


class Circle(Shape):
    def __init__(self, radius):
        self.radius = radius

    def area_of_shape(
        self,
        scale=1,
    ):
        # comment
        return scale * math.pi * self.radius ** 2
'''
MAIN_PY = """from shapes import Circle


def print_areas(radii):
    for radius in radii:
        print(Circle(radius).area_of_shape())


def unused():
    return print_areas([1]) or print_areas([2])
"""
LIST_C = """#include "list.h"

static int
list_length(const struct list *list)
{
	return list->count;
}

struct list *list_new(void)
{
	return list_length(0) ? 0 : 0;
}
"""
LIST_H = """struct list {
	int count;
};
struct list *list_new(void);
typedef struct list list_t;
enum colour { RED };
"""
APP_JS = """const list = require('./list')

class Store {
  constructor (name) { this.name = name }
  save () { return list.append(this.name) }
}

const make = (name) => new Store(name)
function start () { make('x').save() }
module.exports = { start, stop: function () {} }
"""


class RepomapTest(CommandTest):
    def setUp(self):
        super().setUp()
        self.env["TERRACE_GRAMMARS"] = GRAMMARS
        self.repo = self.path("repo")
        os.mkdir(self.repo)

    def file(self, name, text):
        return self.write("repo/" + name, text)

    def sample(self):
        self.file("shapes.py", SHAPES_PY)
        self.file("main.py", MAIN_PY)
        self.file("src/list.c", LIST_C)
        self.file("src/list.h", LIST_H)
        self.file("web/app.js", APP_JS)
        self.file("README.md", "words\n")

    def map(self, *args, **kwargs):
        return self.json("repomap", kwargs.pop("repo", self.repo), *args, **kwargs)

    def counters(self, *args, **kwargs):
        return self.map(*args, **kwargs)["counters"]


class Tags(RepomapTest):
    def test_python(self):
        self.sample()
        tags = self.map()["tags"]
        self.assertEqual(
            [tag for tag in tags["shapes.py"] if tag[0] == "def"],
            [["def", "UNIT", 4], ["def", "Shape", 7], ["def", "area_of_shape", 10],
             ["def", "Circle", 14], ["def", "__init__", 15], ["def", "area_of_shape", 18]])
        self.assertEqual(
            tags["main.py"],
            [["def", "print_areas", 4], ["ref", "print", 6], ["ref", "Circle", 6],
             ["ref", "area_of_shape", 6], ["def", "unused", 9], ["ref", "print_areas", 10],
             ["ref", "print_areas", 10]])

    def test_a_file_without_references_gives_each_identifier(self):
        self.sample()
        tags = self.map()["tags"]
        self.assertEqual(
            [tag for tag in tags["src/list.c"] if tag[0] == "def"],
            [["def", "list_length", 4], ["def", "list_new", 9]])
        self.assertEqual(
            [tag[1:] for tag in tags["src/list.c"] if tag[0] == "ref"],
            [["list_length", 4], ["list", 4], ["list", 4], ["list", 6], ["count", 6],
             ["list", 9], ["list_new", 9], ["list_length", 11]])
        self.assertEqual(
            [tag for tag in tags["src/list.h"] if tag[0] == "def"],
            [["def", "list", 1], ["def", "list_new", 4], ["def", "list_t", 5], ["def", "colour", 6]])

    def test_javascript_and_its_predicates(self):
        self.sample()
        # require( is excluded by #not-match?, the constructor by #not-eq?
        self.assertEqual(
            self.map()["tags"]["web/app.js"],
            [["def", "Store", 3], ["def", "save", 5], ["ref", "append", 5], ["def", "make", 8],
             ["ref", "Store", 8], ["def", "start", 9], ["ref", "make", 9], ["ref", "save", 9],
             ["def", "stop", 10]])

    def test_other_languages(self):
        sources = {
            "a.go": ("package p\nfunc Hello() { World() }\n", ["Hello"]),
            "a.rs": ("struct S;\nimpl S { fn go(&self) { helper(1) } }\n", ["S", "go"]),
            "A.java": ("class A {\n void run() { stop(); }\n}\n", ["A", "run"]),
            "a.cpp": ("class K { void m(); };\nvoid K::m() { f(); }\n", ["K", "m", "m"]),
            "a.ts": ("interface I { m(): void }\nfunction f(x: I) { return new K() }\n", ["I", "m", "f"]),
            "a.tsx": ("function View() { return <b/> }\n", ["View"]),
        }
        if not all(os.path.exists(os.path.join(GRAMMARS, name + ".so"))
                   for name in ("go", "rust", "java", "cpp", "typescript", "tsx")):
            self.skipTest("not all grammars are built")
        for name, (text, _) in sources.items():
            self.file(name, text)
        tags = self.map()["tags"]
        for name, (_, wanted) in sources.items():
            self.assertEqual([tag[1] for tag in tags[name] if tag[0] == "def"], wanted, name)


class Ranks(RepomapTest):
    def check(self, repo, *contexts):
        files = None
        for chat, mention_files, mentions, tokens in contexts:
            args = [arg for name in chat for arg in ("--chat", name)]
            args += [arg for name in mention_files for arg in ("--mention-file", name)]
            args += [arg for word in mentions for arg in ("--mention", word)]
            if tokens:
                args += ["--tokens", str(tokens)]
            report = self.map(*args, repo=repo)
            files = files or self.listed(repo)
            self.assertEqual(report["counters"]["files"], len(files))
            ranks, _ = pagerank.ranks_of(report["tags"], files, chat, mention_files, mentions)
            self.assertEqual(sorted(report["ranks"]), sorted(ranks))
            for file, rank in ranks.items():
                self.assertAlmostEqual(report["ranks"][file], rank, delta=1e-6, msg=file)
            items = pagerank.items_of(report["tags"], files, chat, mention_files, mentions)
            self.check_map(repo, report, items, tokens or (1024 if chat else 8192))

    def listed(self, repo):
        found = []
        for base, folders, names in os.walk(repo):
            folders[:] = [name for name in folders if name != ".git"]
            found += [os.path.relpath(os.path.join(base, name), repo) for name in names
                      if not os.path.islink(os.path.join(base, name))]
        return found

    def check_map(self, repo, report, items, budget):
        """The map shows the first so many items, and no file besides theirs."""
        text = report["map"]
        self.assertEqual(report["tokens"], (len(text) + 3) // 4)
        self.assertLess(report["tokens"], budget * 1.15)
        shown = {}
        for block in text.split("\n\n"):
            lines = block.strip("\n").split("\n")
            shown[lines[0].rstrip(":")] = [line[1:] for line in lines[1:] if line.startswith("│")]
            self.assertTrue(all(line[0] in "│⋮" and len(line) <= 100 for line in lines[1:]), block)
        shown.pop("", None)
        wanted = set()
        for file, line in items:
            if set(shown) <= wanted and file[:100] not in shown:
                break
            self.assertIn(file[:100], shown)
            wanted.add(file[:100])
            if line is not None and set(shown) > wanted:
                with open(os.path.join(repo, file), errors="replace") as source:
                    own = source.read().split("\n")[line - 1]
                self.assertIn(own.rstrip("\r")[:99], shown[file[:100]])
        self.assertEqual(set(shown), wanted)

    def test_a_small_repository(self):
        self.sample()
        none = ([], [], [], 0)
        self.check(self.repo, none, ([], [], [], 60), (["main.py"], [], [], 0),
                   ([], ["src/list.h"], [], 0), ([], [], ["list_new", "web", "shapes"], 100),
                   (["main.py", "web/app.js"], ["shapes.py"], ["area_of_shape", "app"], 200))

    def test_popular_private_and_telling_names(self):
        for i in range(7):
            self.file("m%d.py" % i, "def popular_name():\n    _private()\n\n\ndef _private(): pass\n")
        self.file("one.py", "def lone(): pass\ndef élanVital(): élanVital()\ndef longer_name(): pass\n")
        self.file("two.py", "popular_name(); lone(); lone(); longer_name(); élanVital(); _private()\n")
        self.check(self.repo, ([], [], [], 0), (["two.py"], [], ["lone"], 0), ([], [], ["_private"], 50))

    def test_this_project(self):
        names = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], stdout=subprocess.PIPE).stdout
        names = [name for name in names.decode().split("\0") if name]
        if not names:
            self.skipTest("this is no checkout")
        for name in names:
            if os.path.isfile(os.path.join(ROOT, name)):
                with open(os.path.join(ROOT, name), "rb") as file:
                    self.file(name, file.read())
        self.check(self.repo, ([], [], [], 0), (["cli/main.c"], ["src/core/put.c"], ["terrace_get"], 2000))

    def test_packages(self):
        for name in ("commander-12.1.0", "node-gyp-11.0.0", "tree-sitter-json-0.24.8"):
            folder = os.path.join(PACKAGES, name)
            if not PACKAGES or not os.path.isdir(folder):
                self.skipTest("no packages in %r: make repomap fetches them" % PACKAGES)
            repo = self.path(name)
            shutil.copytree(folder, repo)
            self.check(repo, ([], [], [], 0), ([], [], ["parse", "lib"], 500))

    def check_ctags(self, repo):
        if not shutil.which("ctags"):
            self.skipTest("no universal-ctags")
        found = subprocess.run(
            ["ctags", "-R", "-f", "-", "--output-format=json", "--languages=C,Python",
             "--kinds-C=f", "--kinds-Python=fm", "--map-C=+.h", "--map-C++=-.h", "."],
            cwd=repo, stdout=subprocess.PIPE, check=True).stdout.decode().split("\n")
        report = self.map(repo=repo)["tags"]
        count = 0
        for line in filter(None, found):
            tag = json.loads(line)
            file = os.path.normpath(tag["path"])
            if file not in report:
                continue
            count += 1
            names = {name for kind, name, _ in report[file] if kind == "def"}
            self.assertIn(tag["name"], names, file)
        return count

    def test_every_function_that_ctags_finds(self):
        names = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], stdout=subprocess.PIPE).stdout
        for name in filter(None, names.decode().split("\0")):
            if name.endswith((".c", ".h", ".py")) and os.path.isfile(os.path.join(ROOT, name)):
                with open(os.path.join(ROOT, name), "rb") as file:
                    self.file(name, file.read())
        count = self.check_ctags(self.repo) if os.listdir(self.repo) else 0
        for name in ("node-gyp-11.0.0", "tree-sitter-json-0.24.8"):
            if os.path.isdir(os.path.join(PACKAGES, name)):
                count += self.check_ctags(shutil.copytree(os.path.join(PACKAGES, name), self.path(name)))
        print("ctags: %d functions" % count)
        self.assertGreater(count, 500)


class Freshness(RepomapTest):
    def test_only_what_changed_is_parsed(self):
        self.sample()
        first = self.map()
        self.assertEqual(first["counters"]["files"], 6)
        self.assertEqual(first["counters"]["parsed"], 5)
        second = self.map()
        self.assertEqual(second["counters"]["parsed"], 0)
        self.assertEqual(sum(second["counters"]["from_l%d" % i] for i in (1, 2, 3)), 5)
        self.assertTrue(second["counters"]["map_cached"])
        self.assertEqual({**first, "counters": 0}, {**second, "counters": 0})
        self.file("main.py", MAIN_PY + "\ndef added(): pass\n")
        third = self.map()
        self.assertEqual(third["counters"]["parsed"], 1)
        self.assertIn(["def", "added", 12], third["tags"]["main.py"])
        self.assertIn("def added", third["map"])

    def test_new_deleted_and_renamed_files_are_seen(self):
        self.sample()
        for git in (False, True):
            if git:
                subprocess.run(["git", "init", "-q", self.repo], check=True)
                subprocess.run(["git", "-C", self.repo, "add", "."], check=True)
            self.map()
            self.file("new.py", "def fresh_and_new(): pass\n")
            report = self.map()
            self.assertEqual(report["counters"]["parsed"], 1)
            self.assertIn("fresh_and_new", report["map"])
            os.rename(self.path("repo/new.py"), self.path("repo/src/moved.py"))
            report = self.map()
            self.assertNotIn("new.py", report["tags"])
            self.assertIn("src/moved.py", report["tags"])
            self.assertIn("src/moved.py:", report["map"])
            os.unlink(self.path("repo/src/moved.py"))
            report = self.map()
            self.assertNotIn("moved", json.dumps(report))
            self.assertEqual(report["counters"]["parsed"], 0)
            os.unlink(self.path("repo/main.py"))
            self.assertNotIn("main.py", self.map()["tags"])
            self.file("main.py", MAIN_PY)
            self.assertIn("main.py", self.map()["tags"])

    def test_an_edit_within_the_grain_of_the_time_stamps_is_seen(self):
        self.file("a.py", "def one(): pass\n")
        for name in ("two", "six", "ten"):
            self.map()
            with open(self.path("repo/a.py"), "r+b") as file:  # same inode, same size
                file.write(b"def " + name.encode())
            before = os.stat(self.path("repo/a.py"))
            os.utime(self.path("repo/a.py"), ns=(before.st_atime_ns, 10**18))
            self.assertEqual(self.map()["tags"], {"a.py": [["def", name, 1], ["ref", name, 1]]})

    def test_what_is_not_source_does_not_matter(self):
        self.sample()
        self.map()
        self.file("README.md", "other words\n")
        self.assertTrue(self.counters()["map_cached"])

    def test_a_damaged_or_empty_cache_changes_nothing(self):
        self.sample()
        first = self.map()
        for cache in ("repomap.files", "repomap.tags", "repomap.maps", "repomap.trees"):
            self.ok("clear", cache)
            again = self.map()
            self.assertEqual({**first, "counters": 0}, {**again, "counters": 0}, cache)
            self.assertEqual(again["counters"]["parsed"], 0, cache)
        self.ok("clear", "--all")
        self.assertEqual(self.counters()["parsed"], 5)

    def test_invalidating_a_source_parses_that_file_again(self):
        self.sample()
        self.map()
        self.ok("invalidate", "repomap.tags", "--source", self.path("repo/main.py"))
        self.ok("clear", "repomap.files")
        self.assertEqual(self.counters()["parsed"], 1)


class Modes(RepomapTest):
    def test_manual_reuses_the_last_map_until_asked(self):
        self.sample()
        first = self.map("--refresh", "manual")
        self.file("main.py", "def entirely_new(): pass\n")
        os.unlink(self.path("repo/web/app.js"))
        again = self.map("--refresh", "manual")
        self.assertEqual(again["map"], first["map"])
        self.assertEqual(again["tags"], first["tags"])
        self.assertEqual(again["counters"]["parsed"], 0)
        asked = self.map("--refresh", "always")
        self.assertIn("entirely_new", asked["map"])
        self.assertEqual(self.map("--refresh", "manual")["map"], asked["map"])

    def test_always_recomputes(self):
        self.sample()
        self.map("--refresh", "always")
        report = self.map("--refresh", "always")
        self.assertFalse(report["counters"]["map_cached"])
        self.assertEqual(report["counters"]["parsed"], 0)

    def test_files_looks_at_files_and_auto_at_mentions_too(self):
        self.sample()
        plain = self.map("--refresh", "files")
        self.assertEqual(self.map("--refresh", "files", "--mention", "list_new")["ranks"], plain["ranks"])
        self.assertNotEqual(self.map("--mention", "list_new")["ranks"], plain["ranks"])
        self.file("main.py", "def entirely_new(): pass\n")
        self.assertIn("entirely_new", self.map("--refresh", "files")["map"])

    def test_the_environment_of_the_guide(self):
        self.sample()
        own = self.path("own store")
        env = {"REPO_MAP_CACHE_DIR": own, "REPO_MAP_CACHE_SIZE_MB": "20", "REPO_MAP_CACHE_L1_SIZE": "7"}
        self.json("repomap", self.repo, env=env, dir=False)
        self.assertEqual(self.json("repomap", self.repo, env=env, dir=False)["counters"]["parsed"], 0)
        self.assertTrue(os.path.isdir(own))
        env["REPO_MAP_CACHE_REFRESH_MODE"] = "manual"
        self.file("main.py", "def entirely_new(): pass\n")
        self.assertNotIn("entirely_new", self.json("repomap", self.repo, env=env, dir=False)["map"])
        self.assertIn("entirely_new",
                      self.json("repomap", self.repo, "--refresh", "files", env=env, dir=False)["map"])
        for name in ("REFRESH_MODE", "SIZE_MB", "L1_SIZE"):
            self.fails(2, "REPO_MAP_CACHE_" + name, "repomap", self.repo,
                       env={"REPO_MAP_CACHE_" + name: "sometimes"})

    def test_a_store_within_the_repository_is_no_part_of_it(self):
        self.sample()
        for _ in range(2):
            report = self.json("--dir", self.path("repo/.cache/maps"), "repomap", self.repo, dir=False)
            self.assertEqual(report["counters"]["files"], 6)
        self.assertTrue(report["counters"]["map_cached"])


class Same(RepomapTest):
    def test_the_same_bytes_from_everywhere(self):
        self.sample()
        for i in range(40):
            self.file("many/f%d.py" % i, "def function_number_%d():\n    function_number_%d()\n" % (i, i // 2))
        texts, reports = set(), set()

        def see(*args, **kwargs):
            texts.add(self.ok("repomap", self.repo, *args, **kwargs))
            report = self.map(*args, **kwargs)
            report.pop("counters")
            reports.add(json.dumps(report))

        see(env={"TERRACE_DISABLED": "1"})
        for threads in ("1", "2", "7"):
            see("--threads", threads, env={"TERRACE_DISABLED": "1"})
        see()
        see()
        for tiers in ("l1", "l1+l2", "l2", "l3", "l1+l2+l3"):
            env = {"TERRACE_CACHE_REPOMAP_%s_TIERS" % name: tiers
                   for name in ("FILES", "TAGS", "MAPS", "TREES")}
            self.ok("clear", "--all")
            see(env=env)
            see(env=env)
            see("--refresh", "always", env=env)
        self.assertEqual((len(texts), len(reports)), (1, 1))

    def test_many_contexts_in_one_call(self):
        self.sample()
        contexts = [{}, {"chat": ["main.py"]}, {"mentions": ["list_new"], "tokens": 50},
                    {"mention_files": ["src/list.c"], "tokens": 100}]
        batch = self.write("batch.json", json.dumps(contexts))
        for _ in range(2):
            maps = self.json("repomap", self.repo, "--batch", batch)["maps"]
            for context, made in zip(contexts, maps):
                args = [a for c in context.get("chat", []) for a in ("--chat", c)]
                args += [a for c in context.get("mentions", []) for a in ("--mention", c)]
                args += [a for c in context.get("mention_files", []) for a in ("--mention-file", c)]
                args += ["--tokens", str(context["tokens"])] if "tokens" in context else []
                alone = self.map(*args, env={"TERRACE_DISABLED": "1"})
                self.assertEqual(made, {name: alone[name] for name in ("ranks", "map", "tokens")})
        for wrong in ("{", "{}", "[1]", '[{"chat": "x"}]', '[{"tokens": -1}]'):
            self.fails(2, "--batch", "repomap", self.repo, "--batch", self.write("wrong.json", wrong))


class Render(RepomapTest):
    def test_lines_headers_gaps_and_cuts(self):
        self.file("a.py", "x = 1\n\n\nclass Outer(\n    object,\n):\n    y = 2\n    z = 3\n    w = 4\n\n"
                          "    def first(self):\n        pass\n    def second(self):\n        " + "p" * 200 + "()\n"
                          "    def third(self, " + "é" * 200 + "): pass\n# the end\n")
        text = self.ok("repomap", self.repo)
        self.assertEqual(
            text,
            "\na.py:\n│x = 1\n⋮\n│class Outer(\n│    object,\n│):\n⋮\n│    def first(self):\n│        pass\n"
            "│    def second(self):\n│        " + "p" * 91 + "\n│    def third(self, " + "é" * 79 + "\n⋮\n")

    def test_files_in_the_conversation_are_left_out(self):
        self.sample()
        text = self.map("--chat", "main.py")["map"]
        self.assertNotIn("main.py", text)
        self.assertIn("shapes.py:", text)
        here = self.map("--chat", "../repo/main.py", "--chat", "./main.py", cwd=self.repo)["map"]
        self.assertEqual(here, text)
        self.assertIn("--chat none.py", self.run_terrace("repomap", self.repo, "--chat", "none.py").err)

    def test_a_tokenizer(self):
        self.sample()
        report = self.map("--tokenizer", "wc -l")
        self.assertEqual(report["tokens"], report["map"].count("\n"))
        done = self.run_terrace("repomap", self.repo, "--tokenizer", "false")
        self.assertEqual((done.code, done.err.count("\n")), (0, 1))
        self.assertEqual(done.out.decode(), self.ok("repomap", self.repo))


class Listing(RepomapTest):
    RULES = {
        ".gitignore": "# rules\n*.log\n/build/\n!keep.log\ndeep/**/x.py\n**/gone\nfoo/*.py\n!foo/b.py\n"
                      "trailing.py \nwith\\ space.py\n\\!bang.py\n[ab].c\nonly_dir/\n",
        "sub/.gitignore": "*.py\n!yes.py\n/a.log\n",
    }
    NAMES = ["a.log", "keep.log", "build/a.py", "src/build/a.py", "deep/x.py", "deep/a/x.py", "deep/a/b/x.py",
             "gone/a.py", "q/gone/b.py", "foo/a.py", "foo/b.py", "foo/c/a.py", "trailing.py", "with space.py",
             "!bang.py", "a.c", "d.c", "sub/no.py", "sub/yes.py", "sub/keep.log", "sub/a.log", "sub/n/no.py",
             "only_dir/a.py", "x/only_dir", "plain.py"]

    def tree(self):
        for name, text in self.RULES.items():
            self.file(name, text)
        for name in self.NAMES:
            self.file(name, "def f(): pass\n" if name.endswith(".py") else "")

    def test_gitignore_without_git_is_as_with_git(self):
        self.tree()
        own = self.map()
        subprocess.run(["git", "init", "-q", self.repo], check=True)
        listed = subprocess.run(["git", "-C", self.repo, "ls-files", "-z", "-o", "--exclude-standard"],
                                stdout=subprocess.PIPE, check=True).stdout.decode().split("\0")
        git = self.map()
        self.assertEqual(own["counters"]["files"], len(listed) - 1)
        self.assertEqual(own["tags"].keys(), git["tags"].keys())
        self.assertEqual(sorted(own["tags"]), sorted(n for n in listed if n.endswith((".py", ".c"))))
        self.assertEqual(own["map"], git["map"])

    def test_a_tracked_file_counts_though_it_is_ignored(self):
        self.file(".gitignore", "*.py\n")
        self.file("a.py", "def f(): pass\n")
        subprocess.run(["git", "init", "-q", self.repo], check=True)
        self.assertEqual(self.map()["tags"], {})
        subprocess.run(["git", "-C", self.repo, "add", "-f", "a.py"], check=True)
        self.assertEqual(list(self.map()["tags"]), ["a.py"])


class BadInput(RepomapTest):
    def test_files_that_are_no_source_are_skipped_and_counted(self):
        self.sample()
        self.file("latin.py", "def café(): pass\n# \u00fc\n".encode("latin-1"))
        self.file("huge.py", "")
        os.truncate(self.path("repo/huge.py"), 50 << 20)
        self.file("line.js", b"x(" + b"1," * (5 << 20) + b"1)")
        self.file("long.js", b"function f(){x(" + b"1," * 500000 + b"1)}")
        self.file("binary.c", b"int f(void)\0;\n")
        self.file("empty.py", "")
        os.symlink("..", self.path("repo/src/loop"))
        os.symlink("nowhere", self.path("repo/dangling.py"))
        os.symlink("main.py", self.path("repo/link.py"))
        os.mkfifo(self.path("repo/pipe.py"))
        os.mkdir(self.path("repo/folder.py"))
        done = self.run_terrace("repomap", self.repo, "--json")
        self.assertEqual((done.code, done.err), (0, ""))
        report = json.loads(done.out)
        counters = report["counters"]
        self.assertEqual(
            {name: counters[name] for name in ("files", "parsed", "skipped", "too_large", "binary", "not_utf8")},
            {"files": 12, "parsed": 8, "skipped": 3, "too_large": 2, "binary": 1, "not_utf8": 1})
        self.assertIn(["def", "f", 1], report["tags"]["long.js"])
        self.assertEqual(report["tags"]["empty.py"], [])
        self.assertTrue(report["tags"]["latin.py"])
        again = self.map()
        self.assertEqual(again["counters"]["parsed"], 0)
        self.assertEqual({**again, "counters": 0}, {**report, "counters": 0})

    def test_a_file_that_the_parser_does_not_survive(self):
        # A node of more than 65,535 children: libtree-sitter 0.20.7 frees what it never had.
        self.sample()
        self.file("comments.js", "// c\n" * 70000 + "function f () {}\n")
        self.file("large.js", "function f () { g() }\n" * 20000)
        done = self.run_terrace("repomap", self.repo, "--json")
        self.assertEqual((done.code, done.err), (0, ""))
        report = json.loads(done.out)
        if report["counters"]["crashed"]:  # a later libtree-sitter survives it
            self.assertEqual((report["counters"]["crashed"], report["counters"]["skipped"]), (1, 1))
        self.assertEqual(len(report["tags"]["large.js"]), 40000)
        self.assertIn("main.py", report["tags"])
        again = self.map()
        self.assertEqual(again["counters"]["parsed"], 0)
        self.assertEqual({**again, "counters": 0}, {**report, "counters": 0})

    def test_unreadable_files(self):
        if os.geteuid() == 0:
            self.skipTest("root reads everything")
        self.sample()
        os.chmod(self.path("repo/main.py"), 0)
        self.assertEqual(self.counters()["unreadable"], 1)
        os.chmod(self.path("repo/main.py"), 0o644)
        self.assertIn("main.py", self.map()["tags"])

    def test_a_grammar_that_does_not_load(self):
        self.sample()
        folder = self.path("grammars")
        shutil.copytree(GRAMMARS, folder)
        with open(os.path.join(folder, "python.so"), "wb") as file:
            file.write(b"no library")
        env = {"TERRACE_GRAMMARS": folder}
        for _ in range(2):
            done = self.run_terrace("repomap", self.repo, "--json", env=env)
            self.assertEqual((done.code, done.err.count("\n")), (0, 1))
            self.assertIn("python", done.err)
            report = json.loads(done.out)
            self.assertEqual(report["counters"]["no_grammar"], 2)
            self.assertNotIn("main.py", report["tags"])
            self.assertIn("main.py\n", report["map"])
            self.assertIn("src/list.c", report["tags"])
        shutil.copy(os.path.join(GRAMMARS, "python.so"), folder)
        self.assertIn("main.py", self.map(env=env)["tags"])
        with open(os.path.join(folder, "c.scm"), "w") as file:
            file.write("(no_such_node) @name")
        self.assertIn("query of c", self.run_terrace("repomap", self.repo, env=env).err)
        done = self.run_terrace("repomap", self.repo, env={"TERRACE_GRAMMARS": self.path("none")})
        self.assertEqual((done.code, done.err.count("make repomap")), (0, 1))

    def test_a_budget_of_nothing_and_wrong_usage(self):
        self.sample()
        done = self.run_terrace("repomap", self.repo, "--tokens", "0")
        self.assertEqual((done.code, done.out, done.err.count("\n")), (0, b"", 1))
        report = self.map("--tokens", "0")
        self.assertEqual((report["map"], report["tokens"]), ("", 0))
        self.fails(2, "--tokens", "repomap", self.repo, "--tokens", "-5")
        self.fails(2, "--tokens", "repomap", self.repo, "--tokens", "many")
        self.fails(2, "--refresh", "repomap", self.repo, "--refresh", "never")
        self.fails(3, "no-such", "repomap", self.path("no-such"))
        self.fails(3, "a.py", "repomap", self.file("a.py", ""))
        self.fails(2, "one too many", "repomap", self.repo, "other")
        self.assertEqual(self.ok("repomap", self.write("empty/.gitignore", "*") and self.path("empty")), "")

    def test_files_that_change_while_they_are_read(self):
        self.sample()
        for i in range(300):
            self.file("many/f%d.py" % i, "def f%d(): pass\n" % i)
        children = [subprocess.Popen(
            [os.environ["TERRACE_BIN"], "--dir", self.dir, "repomap", self.repo, "--json"],
            env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
        for i in range(0, 300, 2):
            os.unlink(self.path("repo/many/f%d.py" % i))
        shutil.rmtree(self.path("repo/src"))
        for child in children:
            out, err = child.communicate(timeout=60)
            self.assertEqual((child.returncode, err), (0, b""))
            json.loads(out)
        self.assertEqual(len([n for n in self.map()["tags"] if n.startswith("many/")]), 150)

    def test_warming(self):
        self.sample()
        report = self.json("repomap", self.repo, "--warm")
        self.assertEqual((report["total"], report["done"], report["parsed"]), (5, 5, 5))
        self.assertEqual(self.counters()["parsed"], 0)

    def test_warming_that_is_interrupted_keeps_what_it_did(self):
        for i in range(1500):
            self.file("f%d.py" % i, "def f%d():\n" % i + "    call(1)\n" * 100)
        for attempt in range(20):
            store = self.path("store%d" % attempt)
            child = subprocess.Popen(
                [os.environ["TERRACE_BIN"], "--dir", store, "repomap", self.repo, "--warm", "--json",
                 "--threads", "1"], env=self.env, stdout=subprocess.PIPE)
            # as soon as something is stored, and while there is more to do
            while child.poll() is None and not os.path.exists(store):
                pass
            time.sleep(0.01 * attempt)  # later each time, until it comes in the middle
            child.send_signal(signal.SIGINT)
            report = json.loads(child.communicate(timeout=60)[0])
            self.assertEqual(child.returncode, 1 if report["cancelled"] else 0)
            if report["cancelled"] and report["parsed"]:
                break
        self.assertTrue(report["cancelled"], "twenty interrupts came too early or too late")
        self.assertLess(report["done"], 1500)
        rest = self.json("--dir", store, "repomap", self.repo, dir=False)["counters"]
        self.assertEqual(rest["parsed"], 1500 - report["parsed"])


if __name__ == "__main__":
    if not os.path.exists(os.path.join(GRAMMARS, "javascript.so")):
        print("SKIP: no grammars in %r: make repomap builds them" % GRAMMARS)
        sys.exit(77)
    unittest.main()
