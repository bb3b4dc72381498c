"""terrace slides, as the command that people run: tiles, views, hostile input, the server."""

import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import unittest
import urllib.error
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cli"))
from support import TERRACE, CommandTest  # noqa: E402

REFERENCE = os.environ["SLIDES_REFERENCE"]
# A sanitizer maps terabytes, and finds leaks as a debugger would: not under another one.
SANITIZED = bool(os.environ.get("SLIDES_SANITIZED"))
PARTS = os.environ.get("SLIDES_PARTS", "").split()  # what this build has
DATA = os.environ.get("TERRACE_SLIDES_DATA", "")
HERE = os.path.dirname(os.path.abspath(__file__))


def reference(*args):
    return subprocess.run([REFERENCE, *map(str, args)], check=True, stdout=subprocess.PIPE).stdout


def data_of(path):
    with open(path, "rb") as file:
        return file.read()


def levels_of(width, height, tile):
    """The pyramid that halves until one tile is left, the smallest level first."""
    count = 1
    while max(math.ceil(width / 2 ** (count - 1)), math.ceil(height / 2 ** (count - 1))) > tile:
        count += 1
    levels = []
    for level in range(count):
        down = 2 ** (count - 1 - level)
        levels.append({"level": level, "downsample": down,
                       "cols": math.ceil(width / down / tile), "rows": math.ceil(height / down / tile)})
    return levels


class SlidesTest(CommandTest):
    def setUp(self):
        super().setUp()
        self.servers = []

    def tearDown(self):
        for server in self.servers:
            if server.poll() is None:
                server.terminate()
                server.wait(20)
            server.stdout.close()
        super().tearDown()

    def slide(self, name, width=1000, height=700, tile=256, seed=1, **changes):
        """A slide folder of tiles of which each is different; returns its path."""
        folder = self.path(name + ".fastpath")
        levels = levels_of(width, height, tile)
        for level in levels:
            for col in range(level["cols"]):
                for row in range(level["rows"]):
                    at = os.path.join(folder, "tiles_files", str(level["level"]))
                    os.makedirs(at, exist_ok=True)
                    size = [min(tile, math.ceil(edge / level["downsample"]) - place * tile)
                            for edge, place in ((width, col), (height, row))]
                    number = seed * 1000 + level["level"] * 100 + col * 10 + row
                    with open(os.path.join(at, f"{col}_{row}.jpg"), "wb") as file:
                        file.write(reference("--make", *size, 1 if number % 5 == 0 else 3, number))
        metadata = {"version": "1.0", "source_file": "x.svs", "source_mpp": 0.5, "target_mpp": 0.5,
                    "target_magnification": 20, "tile_size": tile, "dimensions": [width, height],
                    "levels": levels, "background_color": [255, 255, 255], "tile_format": "dzsave"}
        metadata.update(changes)
        with open(os.path.join(folder, "metadata.json"), "w") as file:
            json.dump(metadata, file)
        return folder

    def tiles(self, folder):
        with open(os.path.join(folder, "metadata.json")) as file:
            for level in json.load(file)["levels"]:
                for row in range(level["rows"]):
                    for col in range(level["cols"]):
                        yield level["level"], col, row

    def pack(self, folder, to):
        """The packed form of a slide folder."""
        shutil.copytree(folder, to, ignore=shutil.ignore_patterns("tiles_files"))
        os.mkdir(os.path.join(to, "tiles"))
        with open(os.path.join(folder, "metadata.json")) as file:
            levels = json.load(file)["levels"]
        for level in levels:
            number, index, pack = level["level"], b"", b""
            for row in range(level["rows"]):
                for col in range(level["cols"]):
                    path = os.path.join(folder, "tiles_files", str(number), f"{col}_{row}.jpg")
                    data = data_of(path) if os.path.exists(path) else b""
                    index += struct.pack("<QI", len(pack), len(data))
                    pack += data
            head = b"FPLIDX1\0" + struct.pack("<IHH", 1, level["cols"], level["rows"])
            with open(os.path.join(to, "tiles", f"level_{number}.idx"), "wb") as file:
                file.write(head + index)
            with open(os.path.join(to, "tiles", f"level_{number}.pack"), "wb") as file:
                file.write(pack)
        return to

    def did(self, *args):
        done = self.run_terrace(*args)
        self.assertEqual(done.code, 0, done.err)
        return done

    def tile(self, slide, level, col, row, form="--jpeg"):
        return self.run_terrace("slides", "tile", slide, str(level), str(col), str(row), form)

    def fails(self, status, *args, says=None):
        done = self.run_terrace("slides", *args)
        self.assertEqual(done.code, status, done.err)
        self.assertRegex(done.err, r"\Aterrace: [^\n]+\n\Z")
        if says:
            self.assertIn(says, done.err)
        self.assertEqual(done.out, b"")
        return done

    # --- a server in the background ------------------------------------------------------------

    def serve(self, folder, *options, prefix=()):
        server = subprocess.Popen(
            [*prefix, TERRACE, "--dir", self.dir, "slides", "serve", folder, "--port", "0", "--json",
             *options], stdout=subprocess.PIPE, env=self.env, cwd=self.work)
        self.servers.append(server)
        ready = json.loads(server.stdout.readline())
        self.pid = ready["pid"]
        return ready["url"]

    def stop(self):
        server = self.servers[-1]
        os.kill(self.pid, signal.SIGTERM)
        self.assertEqual(server.wait(30), 0)

    def get(self, url, headers=None, method="GET"):
        request = urllib.request.Request(url, headers=headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def preloaded(self, url):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            preload = json.loads(self.get(url + "stats")[2])["preload"]
            if not preload["running"]:
                return preload
            time.sleep(0.05)
        self.fail("preloading did not end")


class Tiles(SlidesTest):
    def test_tile__is_what_libjpeg_decodes(self):
        folder = self.slide("one")
        packed = self.pack(folder, self.path("two.fastpath"))
        for level, col, row in self.tiles(folder):
            path = os.path.join(folder, "tiles_files", str(level), f"{col}_{row}.jpg")
            expected = hashlib.sha256(reference(path)).hexdigest()
            for slide in (folder, packed):
                jpeg, rgb = self.tile(slide, level, col, row), self.tile(slide, level, col, row, "--rgb")
                self.assertEqual((jpeg.code, rgb.code), (0, 0), jpeg.err + rgb.err)
                self.assertEqual(jpeg.out, data_of(path))
                self.assertEqual(hashlib.sha256(rgb.out).hexdigest(), expected, (level, col, row))

    @unittest.skipUnless(os.path.isdir(DATA), "TERRACE_SLIDES_DATA names no folder of real slides")
    def test_tile__of_real_slides(self):
        seen = 0
        for name in sorted(os.listdir(DATA)):
            folder = os.path.join(DATA, name)
            if not name.endswith(".fastpath"):
                continue
            for level, col, row in self.tiles(folder):
                path = os.path.join(folder, "tiles_files", str(level), f"{col}_{row}.jpg")
                self.assertEqual(self.tile(folder, level, col, row, "--rgb").out, reference(path))
                seen += 1
        print(f"{seen} tiles of real slides", file=sys.stderr)

    def test_dzi__is_read_with_its_overlap(self):
        self.write("deep_files/1/0_0.jpg", reference("--make", 300, 201, 3, 7))
        self.write("deep_files/0/0_0.jpg", reference("--make", 150, 101, 3, 8))
        dzi = self.write("deep.dzi", '<?xml version="1.0"?><Image xmlns="http://schemas.microsoft.com'
                         '/deepzoom/2008" Format="jpg" Overlap="1" TileSize="299"><Size Width="300" '
                         'Height="201"/></Image>')
        info = json.loads(self.did("slides", "info", dzi, "--json").out)
        self.assertEqual(info["format"], "dzi")
        self.assertEqual([level["downsample"] for level in info["levels"]], [2, 1])
        self.assertEqual(self.tile(dzi, 1, 0, 0, "--rgb").out, reference(self.path("deep_files/1/0_0.jpg")))
        self.fails(1, "tile", dzi, "1", "1", "0", "--jpeg", says="there is no 1/1_0.jpg")
        self.write("deep.dzi", "<!DOCTYPE x [<!ENTITY a 'aaa'>]><Image>&a;</Image>")
        self.fails(1, "info", dzi)

    def test_info__says_what_the_metadata_does(self):
        folder = self.slide("one")
        info = json.loads(self.did("slides", "info", folder, "--json").out)
        self.assertEqual(info["name"], "one")
        self.assertEqual(info["dimensions"], [1000, 700])
        self.assertEqual(info["tile_size"], 256)
        self.assertEqual(info["levels"], levels_of(1000, 700, 256))
        self.assertEqual(info["tiles"], 1 + 4 + 12)
        self.assertIn(b"1000 x 700", self.did("slides", "info", folder).out)

    def test_what_is_absent_or_wrong__has_its_status(self):
        folder = self.slide("one")
        self.fails(1, "tile", folder, "9", "0", "0", "--rgb", says="no tile 9/0_0")
        self.fails(1, "tile", folder, "2", "4", "0", "--jpeg", says="no tile")
        self.fails(1, "info", self.path("nowhere.fastpath"), says="nowhere.fastpath")
        self.fails(2, "tile", folder, "0", "0", "0", says="--jpeg or --rgb")
        self.fails(2, "tile", folder, "0", "0", "0", "--rgb", "--jpeg")
        self.fails(2, "tile", folder, "x", "0", "0", "--rgb")
        self.fails(2, "tile", folder, "0", "0", "--rgb")
        self.fails(2, "view", folder)
        self.fails(2, "view", folder, "--viewport", "0,0,0,10,1,0,0")
        self.fails(2, "view", folder, "--viewport", "0,0,10,10,nan,0,0")
        self.fails(2, "view", folder, "--viewport", "0,0,10,10,1,0")
        self.fails(2, "nothing", folder, says="add, info, tile")
        os.remove(os.path.join(folder, "tiles_files", "0", "0_0.jpg"))
        self.fails(1, "tile", folder, "0", "0", "0", "--jpeg", says="0/0_0.jpg")

    def test_budget__is_read_from_the_environment(self):
        folder = self.slide("one")
        ok = self.run_terrace("slides", "tile", folder, "0", "0", "0", "--rgb",
                              env={"FASTPATH_L1_CACHE_MB": "1", "FASTPATH_L2_CACHE_MB": "0"})
        self.assertEqual(ok.code, 0, ok.err)
        bad = self.run_terrace("slides", "tile", folder, "0", "0", "0", "--rgb",
                               env={"FASTPATH_L2_CACHE_MB": "much"})
        self.assertEqual(bad.code, 2)
        self.assertIn("FASTPATH_L2_CACHE_MB", bad.err)

    def test_store_that_cannot_be_used__is_a_warning(self):
        folder = self.slide("one")
        self.write("store", "a file in its place")
        done = self.tile(folder, 0, 0, 0, "--rgb")
        self.assertEqual(done.code, 0)
        self.assertEqual(done.out, reference(os.path.join(folder, "tiles_files/0/0_0.jpg")))
        self.assertIn("warning", done.err)


class Views(SlidesTest):
    """The rules again, worked out by intersecting every tile's square with the view."""

    def expected(self, levels, tile, view):
        x, y, width, height, scale, vx, vy = view

        def hit(level, box):
            span = tile * level["downsample"]
            return [[level["level"], col, row]
                    for row in range(level["rows"]) for col in range(level["cols"])
                    if col * span < box[2] and (col + 1) * span > box[0]
                    and row * span < box[3] and (row + 1) * span > box[1]]

        order = sorted(levels, key=lambda level: -level["downsample"])
        good = [level for level in order if level["downsample"] <= 1 / scale]
        level = good[0] if good else order[-1]
        at = order.index(level)
        seen = (x, y, x + width, y + height)
        visible = hit(level, seen)
        one = tile * level["downsample"]
        wide = (seen[0] - one - (3 * one if vx < -50 else 0), seen[1] - one - (3 * one if vy < -50 else 0),
                seen[2] + one + (3 * one if vx > 50 else 0), seen[3] + one + (3 * one if vy > 50 else 0))
        ahead = [place for place in hit(level, wide) if place not in visible][:32]
        if at > 0:
            ahead += hit(order[at - 1], seen)[:256]
        if at + 1 < len(order):
            middle = (x + width * 3 / 8, y + height * 3 / 8, x + width * 5 / 8, y + height * 5 / 8)
            ahead += hit(order[at + 1], middle)[:256]
        return {"level": level["level"], "visible": visible[:256], "prefetched": ahead}

    def check(self, folder, levels, tile, view):
        text = ",".join(repr(number) for number in view)
        plan = json.loads(self.did("slides", "view", folder, "--viewport", text, "--json").out)
        self.assertEqual(plan, self.expected(levels, tile, view), text)

    def metadata_only(self, width, height, tile):
        levels = levels_of(width, height, tile)
        random.Random(1).shuffle(levels)
        folder = self.path("big.fastpath")
        os.makedirs(folder, exist_ok=True)
        self.write("big.fastpath/metadata.json", json.dumps(
            {"tile_size": tile, "dimensions": [width, height], "levels": levels}))
        return folder, levels

    def test_view__on_tables(self):
        folder, levels = self.metadata_only(20000, 12000, 512)
        for view in [
                (0, 0, 1024, 1024, 1.0, 0, 0), (0, 0, 1024, 1024, 1.0, 51, 0),
                (5000, 5000, 1024, 1024, 1.0, -51, 51), (5000, 5000, 1024, 1024, 1.0, 50, -50),
                (0, 0, 20000, 12000, 1.0, 0, 0), (0, 0, 20000, 12000, 0.05, 0, 0),
                (0, 0, 20000, 12000, 0.001, 0, 0), (512, 512, 512, 512, 4.0, 0, 0),
                (-4000, -4000, 3000, 3000, 1.0, 0, 0), (19990, 11990, 5000, 5000, 0.5, 900, 900),
                (100.5, 200.25, 800.125, 600.5, 0.3, 0, -400), (1e12, 1e12, 10, 10, 1.0, 0, 0),
                (0, 0, 1e15, 1e15, 1.0, 0, 0)]:
            with self.subTest(view=view):
                self.check(folder, levels, 512, view)

    def test_view__at_random(self):
        seed = int(os.environ.get("TEST_SEED", random.randrange(10 ** 6)))
        print(f"TEST_SEED={seed}", file=sys.stderr)
        dice = random.Random(seed)
        folder, levels = self.metadata_only(30000, 9000, 256)
        for _ in range(60):
            width = 10 ** dice.uniform(2, 4.5)
            self.check(folder, levels, 256, (
                round(dice.uniform(-5000, 31000), 3), round(dice.uniform(-5000, 10000), 3),
                round(width, 3), round(width * dice.uniform(0.3, 1), 3),
                round(2 ** dice.uniform(-9, 3), 6), round(dice.uniform(-120, 120), 2),
                round(dice.uniform(-120, 120), 2)))


class Hostile(SlidesTest):
    def bad_tile(self, data, says):
        folder = self.slide("bad", width=500, height=200)
        with open(os.path.join(folder, "tiles_files/1/0_0.jpg"), "wb") as file:
            file.write(data)
        for form in ("--rgb", "--jpeg"):
            done = subprocess.run(
                ["sh", "-c", '%sexec "$@"' % ("" if SANITIZED else "ulimit -v 4000000; "), "sh", TERRACE, "--dir", self.dir, "slides",
                 "tile", folder, "1", "0", "0", form], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**self.env, "FASTPATH_L1_CACHE_MB": "64", "FASTPATH_L2_CACHE_MB": "64"},
                timeout=60, check=False)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertEqual(done.stdout, b"")
            self.assertRegex(done.stderr.decode(), r"\Aterrace: [^\n]*%s[^\n]*\n\Z" % says)
        # It fails alone.
        self.assertEqual(self.tile(folder, 1, 1, 0).code, 0)

    def test_jpeg__of_65500_by_65500_pixels(self):
        data = bytearray(reference("--make", 8, 8, 3, 2))
        at = data.index(b"\xff\xc0")
        data[at + 5:at + 9] = struct.pack(">HH", 65500, 65500)
        self.bad_tile(bytes(data), "65500 x 65500")

    def test_jpeg__of_thousands_of_scans(self):
        data = reference("--make", 256, 200, 3, 3)
        at = data.rindex(b"\xff\xda")
        scan = data[at:-2]
        self.bad_tile(data[:-2] + scan * 3000 + b"\xff\xd9", "scans")

    def test_jpeg__cut_off_anywhere(self):
        data = reference("--make", 256, 200, 3, 2)
        for size in (len(data) - 2, len(data) - 300, len(data) // 2, 200, 20, 3):
            with self.subTest(size=size):
                shutil.rmtree(self.path("bad.fastpath"), ignore_errors=True)
                self.bad_tile(data[:size], "JPEG")

    def test_jpeg__that_is_none(self):
        for data in (b"", b"\0" * 5000, b"GIF89a" + b"x" * 100, b"\xff\xd8\xff\xd9"):
            with self.subTest(data=data[:8]):
                shutil.rmtree(self.path("bad.fastpath"), ignore_errors=True)
                self.bad_tile(data, "JPEG")

    def test_jpeg__of_four_components_or_larger_than_a_tile(self):
        self.bad_tile(reference("--make", 64, 64, 4, 2), "4 components")
        shutil.rmtree(self.path("bad.fastpath"))
        self.bad_tile(reference("--make", 300, 64, 3, 2), "300 x 64")

    def test_metadata__that_would_do_harm(self):
        good = {"level": 0, "downsample": 1, "cols": 2, "rows": 1}

        def level(**changes):
            return {"levels": [{**good, **changes}]}

        cases = [
            {"levels": []}, {"levels": None}, {"levels": "x"}, {"levels": [5]}, {"levels": [good] * 65},
            {"levels": [good, good]}, {"levels": [good, {**good, "level": 1}]},
            level(level=-1), level(level=64), level(level=0.5), level(level="0"), level(level=None),
            level(cols=0), level(cols=-2), level(cols=65536), level(cols=60000), level(rows=10 ** 30),
            level(rows=0), level(downsample=0), level(downsample=-1), level(downsample=1e300),
            level(downsample="1"), {"tile_size": 0}, {"tile_size": -256}, {"tile_size": 10 ** 9},
            {"dimensions": [0, 200]}, {"dimensions": [500]}, {"dimensions": [-1, 5]},
            {"dimensions": [2 ** 40, 5]}, {"dimensions": "500x200"}, {"background_color": [0, 0, 999]}]
        for number, changes in enumerate(cases):
            with self.subTest(changes=changes):
                folder = self.slide(f"m{number}", width=500, height=200, **changes)
                self.fails(1, "info", folder, says=f"m{number}.fastpath")
        folder = self.slide("text", width=500, height=200)
        for text in ("", "{", "[]", "null", '{"a": 1, "a": 2}', "\0" * 100, "[" * 100000, "x" * 2000000):
            with self.subTest(text=text[:10]):
                self.write("text.fastpath/metadata.json", text)
                self.fails(1, "info", folder)

    def test_paths__that_leave_the_folder(self):
        outside = self.write("secret.jpg", reference("--make", 64, 64, 3, 2))
        folder = self.slide("out", width=500, height=200)
        tile = os.path.join(folder, "tiles_files/1/0_0.jpg")
        for link in (outside, "../../../secret.jpg"):
            os.remove(tile)
            os.symlink(link, tile)
            done = self.run_terrace("slides", "tile", folder, "1", "0", "0", "--jpeg")
            self.assertNotEqual(done.code, 0)
            self.assertIn("leads out of the slide's folder", done.err)
            self.assertEqual(done.out, b"")
        os.remove(tile)
        os.mkfifo(tile)
        self.fails(1, "tile", folder, "1", "0", "0", "--jpeg", says="not a regular file")

    def test_pack__whose_index_lies(self):
        packed = self.pack(self.slide("one", width=500, height=200), self.path("p.fastpath"))
        path = os.path.join(packed, "tiles/level_1.idx")
        good = data_of(path)

        def with_row(offset, size):
            return good[:16] + struct.pack("<QI", offset, size) + good[28:]

        for data in (with_row(2 ** 63, 10), with_row(0, 2 ** 32 - 1), with_row(10 ** 6, 10)):
            with open(path, "wb") as file:
                file.write(data)
            self.fails(1, "tile", packed, "1", "0", "0", "--jpeg", says="out of the pack")
            self.assertEqual(self.tile(packed, 1, 1, 0).code, 0)
        with open(path, "wb") as file:
            file.write(with_row(0, 0))
        self.fails(1, "tile", packed, "1", "0", "0", "--jpeg", says="missing")
        for data in (good[:-1], good + b"x", b"FPLIDX2\0" + good[8:], good[:8] + b"\2" + good[9:],
                     good[:12] + b"\1" + good[13:], b""):
            with open(path, "wb") as file:
                file.write(data)
            self.fails(1, "info", packed, says="level_1.idx")


@unittest.skipUnless("vips" in PARTS, "built without libvips")
class Add(SlidesTest):
    def picture(self, name="scan.ppm", width=1300, height=900):
        dice = random.Random(5)
        rows = b"".join(bytes(dice.randrange(256) if x % 64 == 0 else (x + y) % 256
                              for x in range(width * 3)) for y in range(height))
        return self.write(name, b"P6\n%d %d\n255\n" % (width, height) + rows)

    def test_add__makes_a_folder_that_opens(self):
        done = self.did("slides", "add", self.picture(), "--json")
        info = json.loads(done.out)
        folder = self.path("scan.fastpath")
        self.assertEqual(os.path.realpath(info["path"]), os.path.realpath(folder))
        self.assertEqual(info["dimensions"], [1300, 900])
        self.assertEqual(info["levels"], levels_of(1300, 900, 512))
        self.assertEqual(done.err, "")
        os.rename(folder, self.path("former.fastpath"))
        done = self.did("slides", "add", self.picture())
        self.assertEqual(done.out.decode().strip(), os.path.realpath(folder))
        self.assertRegex(done.err, r"\A(tiles: \d+ %\n)+\Z")  # lines, and no bar, in a pipe
        self.assertTrue(done.err.endswith("tiles: 100 %\n"))
        for level, col, row in self.tiles(folder):
            self.assertEqual(self.tile(folder, level, col, row, "--rgb").code, 0)
        self.assertTrue(os.path.exists(os.path.join(folder, "thumbnail.jpg")))
        self.fails(1, "add", self.path("scan.ppm"), says="already")

    def test_add__of_what_is_no_image_leaves_nothing(self):
        self.write("no.ppm", "nothing")
        self.fails(1, "add", self.path("no.ppm"))
        self.assertEqual([name for name in os.listdir(self.work) if "fastpath" in name or name[0] == "."], [])
        self.fails(1, "add", self.path("absent.ppm"))


class Preload(SlidesTest):
    def test_preload__reports_and_ends(self):
        for name in "abc":
            self.slide(name, width=500, height=300, seed=ord(name))
        status = json.loads(self.did("slides", "preload", self.work, "--json").out)
        self.assertEqual((status["slides"], status["slides_done"]), (3, 3))
        self.assertEqual((status["tiles"], status["tiles_done"]), (15, 15))
        status = json.loads(self.did("slides", "preload", self.work, "--json", "--level", "0").out)
        self.assertEqual(status["tiles"], 3)
        with open(self.path("b.fastpath/tiles_files/0/0_0.jpg"), "wb") as file:
            file.write(b"damage")
        done = self.run_terrace("slides", "preload", self.work, "--json", "--current", "b")
        self.assertEqual(done.code, 1)
        status = json.loads(done.out)
        self.assertEqual((status["tiles_done"], status["tiles_failed"]), (14, 1))
        self.assertEqual(self.run_terrace("slides", "preload", self.path("none")).code, 1)

    @unittest.skipUnless("openslide" in PARTS and "vips" in PARTS, "built without OpenSlide or libvips")
    def test_preload__of_a_scanners_file_goes_on_after_a_restart(self):
        image = Add.picture(self, "flat.ppm")
        self.scanner_file(image)
        folder = self.path("scans")
        first = json.loads(self.did("slides", "preload", folder, "--json").out)
        self.assertEqual((first["tiles"], first["tiles_done"]), (9, 9))
        again = json.loads(self.did("slides", "preload", folder, "--json").out)
        self.assertEqual((again["tiles_skipped"], again["tiles_done"]), (9, 0))
        done = self.tile(os.path.join(folder, "flat.tif"), 2, 0, 0, "--rgb")
        self.assertEqual((done.code, len(done.out)), (0, 512 * 512 * 3))
        # Near the picture it was cut from: the file and the tile are both JPEG.
        rows = data_of(image).split(b"255\n", 1)[1]
        error = sum(abs(done.out[3 * (y * 512 + x) + 1] - rows[3 * (y * 1300 + x) + 1])
                    for x in range(0, 512, 16) for y in range(0, 512, 16)) / 1024
        self.assertLess(error, 12)

    @unittest.skipUnless("openslide" in PARTS and "serve" in PARTS, "built without OpenSlide or libmicrohttpd")
    def test_scanners_file__damaged_in_a_part_serves_the_rest(self):
        self.scanner_file(Add.picture(self, "flat.ppm"))
        path = self.path("scans/flat.tif")
        data = bytearray(data_of(path))
        data[40000:60000] = bytes(20000)
        with open(path, "wb") as file:
            file.write(data)
        url = self.serve(self.path("scans"), "--no-preload")
        places = [(col, row) for row in range(2) for col in range(3)]
        codes = [self.get(f"{url}slides/flat.tif/tiles/2/{col}_{row}.jpg")[0] for col, row in places * 2]
        self.assertEqual(codes[:6], codes[6:])
        self.assertIn(200, codes)
        self.assertIn(500, codes)
        self.stop()

    def scanner_file(self, image):
        vips = shutil.which("vips")
        if not vips:
            self.skipTest("the command vips, which makes a tiled TIFF, is missing")
        os.mkdir(self.path("scans"))
        subprocess.run([vips, "tiffsave", image, self.path("scans/flat.tif"), "--tile", "--pyramid",
                        "--compression", "jpeg", "--Q", "95", "--tile-width", "256", "--tile-height",
                        "256"], check=True, stderr=subprocess.DEVNULL)


@unittest.skipUnless("serve" in PARTS, "built without libmicrohttpd")
class Serve(SlidesTest):
    def test_serve__gives_tiles_as_they_are_stored(self):
        folder = self.slide("one")
        url = self.serve(self.work)
        slides = json.loads(self.get(url + "slides")[2])["slides"]
        self.assertEqual([slide["id"] for slide in slides], ["one.fastpath"])
        self.assertEqual(self.preloaded(url)["tiles_done"], 17)
        for level, col, row in self.tiles(folder):
            at = f"{url}slides/one.fastpath/tiles/{level}/{col}_{row}.jpg"
            path = os.path.join(folder, "tiles_files", str(level), f"{col}_{row}.jpg")
            status, headers, body = self.get(at)
            self.assertEqual((status, headers["Content-Type"]), (200, "image/jpeg"))
            self.assertEqual(headers["X-Terrace-From"], "memory")
            self.assertEqual(body, data_of(path))
            status, headers, body = self.get(at, {"Accept": "image/x-portable-pixmap"})
            self.assertEqual(body.split(b"255\n", 1)[1], reference(path))
        self.assertEqual(self.get(at, {"Accept": "text/html"})[0], 406)
        self.assertEqual(self.get(url + "slides/one.fastpath/tiles/0/1_0.jpg")[0], 404)
        self.assertEqual(self.get(url + "slides/two.fastpath/tiles/0/0_0.jpg")[0], 404)
        self.stop()

    def test_serve__lets_nobody_else_in(self):
        self.slide("one", width=300, height=200)
        self.write("secret", "secret")
        url = self.serve(self.path("one.fastpath"))
        self.assertEqual(self.get(url, {"Host": "example.com"})[0], 403)
        self.assertEqual(self.get(url, {"Host": url.split("/")[2].replace("127.0.0.1", "localhost")})[0], 200)
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            self.assertEqual(self.get(url + "slides", method=method)[0], 405)
        for path in ("slides/../secret", "slides/..%2fsecret", "slides/%2e%2e/tiles/0/0_0.jpg",
                     "slides/one.fastpath/tiles/0/..%2f..%2f..%2fsecret", "slides/one.fastpath/metadata.json",
                     "slides//tiles/0/0_0.jpg", "slides/" + "x" * 5000):
            status, headers, body = self.get(url + path)
            self.assertIn(status, (404, 414), path)
            self.assertNotIn(b"secret\n", body)
        status, headers, _ = self.get(url + "slides")
        self.assertIn("default-src 'none'", headers["Content-Security-Policy"])
        self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
        self.assertNotIn("Access-Control-Allow-Origin", headers)
        self.stop()

    def test_serve__says_how_it_goes(self):
        self.slide("one", width=500, height=300)
        url = self.serve(self.work)
        self.preloaded(url)
        self.get(url + "slides/one.fastpath/tiles/0/0_0.jpg")
        with urllib.request.urlopen(url + "events", timeout=20) as events:
            self.assertEqual(events.headers["Content-Type"], "text/event-stream")
            line = events.readline()
        self.assertTrue(line.startswith(b"data: "))
        stats = json.loads(line[6:])
        self.assertIn(["one.fastpath", 0, 0, 0, "memory"], stats["recent"])
        self.assertEqual(stats["preload"]["slides_done"], 1)
        self.stop()

    def test_serve__shows_and_looks(self):
        self.slide("a", width=2000, height=1500)
        self.slide("b", width=500, height=300)
        with open(self.slide("broken") + "/metadata.json", "w") as file:
            file.write("{")
        url = self.serve(self.work, "--no-preload")
        shown = json.loads(self.get(url + "slides/a/show")[2])
        view = "look?viewport=0,0,800,600,1,0,0&generation="
        self.assertEqual(self.get(url + view + str(shown["generation"]))[0], 200)
        self.assertEqual(self.get(url + "slides/broken/show")[0], 500)
        self.assertEqual(self.get(url + view + str(shown["generation"]))[0], 200)  # still shown
        self.get(url + "slides/b/show")
        self.assertEqual(self.get(url + view + str(shown["generation"]))[0], 410)
        self.assertEqual(self.get(url + "look?viewport=1,2&generation=1")[0], 400)
        self.stop()

    def test_serve__a_changed_slide_is_read_again(self):
        folder = self.slide("one", width=300, height=200, seed=1)
        url = self.serve(self.work)
        at = url + "slides/one.fastpath/tiles/0/0_0.jpg"
        before = self.get(at)[2]
        shutil.rmtree(folder)
        self.slide("one", width=300, height=200, seed=2)
        now = data_of(os.path.join(folder, "tiles_files/0/0_0.jpg"))
        self.assertNotEqual(before, now)
        time.sleep(0.3)  # how long a look at a slide's files holds
        self.assertEqual(self.get(at)[2], now)
        self.stop()

    def test_serve__many_at_once_get_what_is_theirs(self):
        folders = [self.slide(name, seed=ord(name)) for name in "ab"]
        url = self.serve(self.work, "--rate", "200")
        wrong = []

        def ask(seed):
            dice = random.Random(seed)
            for _ in range(60):
                folder = dice.choice(folders)
                level, col, row = dice.choice(list(self.tiles(folder)))
                name = os.path.basename(folder)
                got = self.get(f"{url}slides/{name}/tiles/{level}/{col}_{row}.jpg")[2]
                path = os.path.join(folder, "tiles_files", str(level), f"{col}_{row}.jpg")
                if got != data_of(path):
                    wrong.append((name, level, col, row))

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.stop()

    def test_port_that_is_taken__is_said(self):
        self.slide("one", width=300, height=200)
        url = self.serve(self.work)
        port = url.split(":")[2].strip("/")
        done = self.run_terrace("slides", "serve", self.work, "--port", port)
        self.assertEqual(done.code, 3)
        self.assertIn("--port 0", done.err)
        self.stop()

    def test_switching_back__reads_nothing(self):
        strace = shutil.which("strace")
        if not strace or SANITIZED:
            self.skipTest("strace is missing, or a sanitizer would be in its way")
        folders = {name: self.slide(name, seed=ord(name)) for name in "ab"}
        log = self.path("strace.log")
        try:
            url = self.serve(self.work, "--no-preload", prefix=(
                strace, "-f", "-y", "-s", "400", "-o", log, "-e",
                "trace=openat,openat2,open,read,pread64,readv,preadv,mmap,recvfrom"))
        except json.JSONDecodeError:
            self.skipTest("strace cannot trace here")

        def see(name, mark):
            self.get(url + "begin-" + mark)
            self.get(f"{url}slides/{name}.fastpath/show")
            for form in ("image/jpeg", "image/x-portable-pixmap"):
                for level, col, row in self.tiles(folders[name]):
                    self.assertEqual(self.get(f"{url}slides/{name}.fastpath/tiles/{level}/{col}_{row}.jpg",
                                              {"Accept": form})[0], 200)
            self.get(url + "end-" + mark)

        for name, mark in (("a", "first"), ("b", "other"), ("a", "second")):
            see(name, mark)
        self.stop()
        lines = data_of(log).decode(errors="replace").splitlines()
        # What the store's keeper writes down every few seconds, whatever is asked for.
        kept = re.compile(r'/v2/(stats|processes)>|"(stats|processes)"')

        def reads(mark):
            begin = next(i for i, line in enumerate(lines) if "GET /begin-" + mark in line)
            end = next(i for i, line in enumerate(lines) if "GET /end-" + mark in line)
            store, found = os.path.realpath(self.dir), []
            for line in lines[begin:end]:
                call = re.sub(r"recvfrom\(.*", "", line)
                if kept.search(call):
                    continue
                if any(path in call for path in folders.values()) or store in call or \
                        re.search(r'openat2?\([^,]*, "tiles', call):
                    found.append(line)
            return found

        print(f"reads of the first A: {len(reads('first'))}, of the second: {len(reads('second'))}",
              file=sys.stderr)
        self.assertGreater(len(reads("first")), 17)
        self.assertEqual(reads("second"), [])

    @unittest.skipUnless("page" in PARTS, "built without the page, which npm fetches: make slides")
    def test_page__in_a_browser(self):
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
        if not chromium:
            self.skipTest("chromium is missing")
        if not os.path.isdir(os.path.join(HERE, "../../systems/slides/page/node_modules/playwright-core")):
            self.skipTest("playwright-core is missing: make slides")
        if DATA:
            where = DATA
        else:
            where = self.work
            for name, size in (("a", (1800, 1300)), ("b", (1300, 1500)), ("c", (1500, 900))):
                self.slide(name, *size, tile=256, seed=ord(name))
        url = self.serve(where)
        done = subprocess.run(
            ["node", os.path.join(HERE, "browser.mjs"), url, os.environ.get("SLIDES_SCREENSHOT", ""), chromium],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200, check=False,
            env={**self.env, "HOME": self.work})
        print(done.stdout.decode(), file=sys.stderr)
        self.assertEqual(done.returncode, 0)
        self.stop()


if __name__ == "__main__":
    unittest.main()
