"""What is installed works for a program from outside the tree, as C and as C++."""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

BUILD = os.environ["TERRACE_BUILD"]

PROGRAM = """
#include <terrace/terrace.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	terrace *store;
	terrace_cache *cache;
	terrace_value *value;
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.ttl_ms = 3600 * 1000;
	if (argc < 2 || terrace_open(argv[1], NULL, &store) != TERRACE_OK ||
	    terrace_cache_open(store, "reports", &policy, &cache) != TERRACE_OK) {
		fprintf(stderr, "%s\\n", terrace_error_message());
		return 1;
	}
	if (terrace_get(cache, TERRACE_KEY("week"), &value) != TERRACE_OK) {
		terrace_put(cache, TERRACE_KEY("week"), terrace_str("47"), NULL);
		printf("computed\\n");
	} else {
		printf("%.*s from %s\\n", (int)terrace_size(value), (const char *)terrace_data(value),
		       terrace_tier_name(terrace_value_tier(value)));
		terrace_release(value);
	}
	terrace_cache_close(cache);
	terrace_close(store);
	return 0;
}
"""

STRICT = ["-Wall", "-Wextra", "-Wshadow", "-Wpedantic", "-Werror"]


def run(*command, **kwargs):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)
    if done.returncode != 0:
        raise AssertionError("%s: %s" % (" ".join(command), done.stdout.decode()))
    return done.stdout.decode()


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="terrace-install-")
        run("meson", "install", "-C", BUILD, "--destdir", cls.root, "--no-rebuild")
        found = glob.glob(cls.root + "/**/pkgconfig/terrace.pc", recursive=True)
        cls.libdir = os.path.dirname(os.path.dirname(found[0]))
        cls.env = {**os.environ, "PKG_CONFIG_PATH": os.path.dirname(found[0]),
                   "PKG_CONFIG_SYSROOT_DIR": cls.root, "LD_LIBRARY_PATH": cls.libdir}

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.root)

    def flags(self, *args):
        # The system's own libraries are not below the scratch prefix.
        return [flag for flag in run("pkg-config", *args, "terrace", env=self.env).split()
                if not re.match(r"-[IL]%s/usr/(include|lib)" % re.escape(self.root), flag)
                or "terrace" in flag or os.path.isdir(flag[2:])]

    def try_program(self, compiler, name, link):
        source, binary = os.path.join(self.root, name), os.path.join(self.root, "program")
        store = tempfile.mkdtemp(prefix="store-", dir=self.root)
        with open(source, "w") as file:
            file.write(PROGRAM)
        run(*compiler, *STRICT, "-o", binary, source, *self.flags("--cflags"), *link, env=self.env)
        self.assertEqual(run(binary, store, env=self.env), "computed\n")
        self.assertEqual(run(binary, store, env=self.env), "47 from l2\n")

    def test_program__as_c_shared(self):
        self.try_program(["cc", "-std=c11"], "program.c", self.flags("--libs"))

    def test_program__as_cpp_shared(self):
        self.try_program(["c++", "-std=c++11"], "program.cc", self.flags("--libs"))

    def test_program__as_c_static(self):
        libs = [flag for flag in self.flags("--static", "--libs") if flag != "-lterrace"]
        self.try_program(["cc", "-std=c11"], "program.c", [self.libdir + "/libterrace.a", *libs])

    def test_headers__each_compiles_alone(self):
        for header in sorted(glob.glob(self.root + "/**/include/terrace/*.h", recursive=True)):
            for compiler in (["cc", "-std=c11", "-xc"], ["c++", "-std=c++11", "-xc++"]):
                run(*compiler, *STRICT, "-fsyntax-only", "-include", header, "/dev/null",
                    *self.flags("--cflags"), env=self.env)

    def test_symbols__only_public_ones_show(self):
        shared = run("nm", "-D", "--defined-only", self.libdir + "/libterrace.so")
        static = run("nm", "-g", "--defined-only", self.libdir + "/libterrace.a")
        for text in (shared, static):
            names = {line.split()[-1] for line in text.splitlines() if len(line.split()) == 3}
            names = {name for name in names if not name.startswith(("__asan", "__odr_asan", "__tsan"))}
            self.assertIn("terrace_open", names)
            self.assertEqual({name for name in names if not re.match(r"terrace_[a-z]", name)}, set())

    def test_command_and_man_page_are_there(self):
        command = glob.glob(self.root + "/**/bin/terrace", recursive=True)[0]
        self.assertRegex(run(command, "--version", env=self.env), r"^terrace \d")
        self.assertTrue(glob.glob(self.root + "/**/man1/terrace.1*", recursive=True))

    def assert_runs(self, verb, *operands, status, says):
        if not glob.glob(self.root + "/**/terrace/terrace-" + verb, recursive=True):
            self.skipTest("built without " + verb)
        command = glob.glob(self.root + "/**/bin/terrace", recursive=True)[0]
        done = subprocess.run([command, verb, *operands], env=self.env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertIn(says, done.stderr)

    def test_slides__are_found_from_the_command(self):
        self.assert_runs("slides", "info", "/absent", status=1, says=b"/absent")

    def test_repomap__is_found_from_the_command(self):
        self.assert_runs("repomap", "/absent", status=3, says=b"cannot open the directory /absent")

    def test_top__is_found_from_the_command(self):
        self.assert_runs("top", status=2, says=b"it needs a terminal")


if __name__ == "__main__":
    unittest.main()
