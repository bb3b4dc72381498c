#!/usr/bin/env python3
"""Fetch the tree-sitter grammars that `terrace repomap` reads code with, and
build each as a shared library.

usage: grammars.py FOLDER [--packages] [NAME ...]

FOLDER/npm keeps what was downloaded, FOLDER/grammars gets NAME.so and NAME.scm.
What is there already is left alone, so that a second run needs no network.
With --packages, the packages that the tests and the benchmark look at are
fetched too.
"""

import base64
import concurrent.futures
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile

# Releases of ABI 14, which Debian 12's libtree-sitter 0.20.7 accepts. The sums
# are the registry's own (sha512).
GRAMMARS = {
    "tree-sitter-python@0.23.6": "yIM9z0oxKIxT7bAtPOhgoVl6gTXlmlIhue7liFT4oBPF/lha7Ha4dQBS82Av6hMMRZoVnFJI8M6mL+SwWoLD3A==",
    "tree-sitter-c@0.23.6": "0dxXKznVyUA0s6PjNolJNs2yF87O5aL538A/eR6njA5oqX3C3vH4vnx3QdOKwuUdpKEcFdHuiDpRKLLCA/tjvQ==",
    "tree-sitter-javascript@0.23.1": "/bnhbrTD9frUYHQTiYnPcxyHORIw157ERBa6dqzaKxvR/x3PC4Yzd+D1pZIMS6zNg2v3a8BZ0oK7jHqsQo9fWA==",
    "tree-sitter-go@0.23.4": "iQaHEs4yMa/hMo/ZCGqLfG61F0miinULU1fFh+GZreCRtKylFLtvn798ocCZjO2r/ungNZgAY1s1hPFyAwkc7w==",
    "tree-sitter-rust@0.23.3": "uLdZJ1K26EuJTBMJlz1ltTlg7nJyAYThfouXgigf5ixKOasOL5wNrRCpuWTsl6rDcKlZK9UX+annFLqP/kchwQ==",
    "tree-sitter-java@0.23.5": "Yju7oQ0Xx7GcUT01mUglPP+bYfvqjNCGdxqigTnew9nLGoII42PNVP3bHrYeMxswiCRM0yubWmN5qk+zsg0zMA==",
    "tree-sitter-cpp@0.23.4": "qR5qUDyhZ5jJ6V8/umiBxokRbe89bCGmcq/dk94wI4kN86qfdV8k0GHIUEKaqWgcu42wKal5E97LKpLeVW8sKw==",
    "tree-sitter-typescript@0.23.2": "e04JUUKxTT53/x3Uq1zIL45DoYKVfHH4CZqwgZhPg5qYROl5nQjV+85ruFzFGZxu+QeFVbRTPDRnqL9UbU4VeA==",
}

# Real repositories that the tests look at.
PACKAGES = {
    "commander@12.1.0": "Vw8qHK3bZM9y/P10u3Vib8o/DdkvA2OtPtZvD871QKjy74Wj1WSKFILMPRPSdUSx5RFK1arlJzEtA4PkFgnbuA==",
    "node-gyp@11.0.0": "zQS+9MTTeCMgY0F3cWPyJyRFAkVltQ1uXm+xXu/ES6KFgC6Czo1Seb9vQW2wNxSX2OrDTiqL0ojtkFxBQ0ypIw==",
    "tree-sitter-json@0.24.8": "Tc9ZZYwHyWZ3Tt1VEw7Pa2scu1YO7/d2BCBbKTx5hXwig3UfdQjsOPkPyLpDJOn/m1UBEWYAtSdGAwCSyagBqQ==",
}

# Enough files for the benchmark.
BENCH = {
    "lodash@4.17.21": "v2kDEe57lecTulaDIuNTPy3Ry4gLGJ6Z1O3vE1krgXZNrsQ+LFTGHVxVjcXPs17LhbZVGedAJv8XZ1tvj5FvSg==",
    "date-fns@2.30.0": "fnULvOpxnC5/Vg3NCiWelDsLiUc9bRwAPs/+LfTLNvetFCtCTN+yQz15C/fs4AwX1R9K5GLtLfn8QW+dWisaAw==",
    "rxjs@7.8.1": "AA3TVj+0A2iuIoQkWEK/tqFjBq2j+6PO6Y0zJcvzLAFhEFIO3HL0vls9hWLncZbAAbK0mar7oZ4V079I/qPMxg==",
    "core-js@3.36.0": "mt7+TUBbTFg5+GngsAxeKBTl5/VS0guFeJacYge9OmHb+m058UwwIm41SE9T4Den7ClatV57B6TYTuJ0CX1MAw==",
}

# name: package, folder of its sources, its tags queries (a folder of another package first)
LANGUAGES = {
    "python": ("tree-sitter-python", "src", ["tree-sitter-python"]),
    "c": ("tree-sitter-c", "src", ["tree-sitter-c"]),
    "javascript": ("tree-sitter-javascript", "src", ["tree-sitter-javascript"]),
    "go": ("tree-sitter-go", "src", ["tree-sitter-go"]),
    "rust": ("tree-sitter-rust", "src", ["tree-sitter-rust"]),
    "java": ("tree-sitter-java", "src", ["tree-sitter-java"]),
    "cpp": ("tree-sitter-cpp", "src", ["tree-sitter-cpp"]),
    # TypeScript's own manifest names JavaScript's query beside its own.
    "typescript": (
        "tree-sitter-typescript",
        "typescript/src",
        ["tree-sitter-typescript", "tree-sitter-javascript"],
    ),
    "tsx": (
        "tree-sitter-typescript",
        "tsx/src",
        ["tree-sitter-typescript", "tree-sitter-javascript"],
    ),
}


def checksum(path):
    with open(path, "rb") as file:
        return base64.b64encode(hashlib.sha512(file.read()).digest()).decode()


def fetch(spec, integrity, npm_dir):
    """The package, unpacked; downloaded once, and never used unless its sum is right."""
    name, version = spec.rsplit("@", 1)
    tarball = os.path.join(npm_dir, "%s-%s.tgz" % (name, version))
    if not os.path.exists(tarball):
        if not shutil.which("npm"):
            sys.exit("grammars.py: npm is needed to fetch %s; install it, or put %s there" % (spec, tarball))
        print("fetching", spec, flush=True)
        part = os.path.join(npm_dir, "part-" + name)
        shutil.rmtree(part, ignore_errors=True)
        os.makedirs(part)
        done = subprocess.run(
            ["npm", "pack", spec, "--silent", "--pack-destination", part],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )
        packed = os.listdir(part)
        if done.returncode or len(packed) != 1:
            sys.exit("grammars.py: cannot fetch %s: %s" % (spec, done.stderr.decode(errors="replace").strip()))
        os.replace(os.path.join(part, packed[0]), tarball)
        os.rmdir(part)
    if checksum(tarball) != integrity:
        sys.exit("grammars.py: %s is not what was pinned (sha512 differs); remove it and try again" % tarball)
    folder = tarball[: -len(".tgz")]
    if not os.path.isdir(folder):
        part = folder + ".part"
        shutil.rmtree(part, ignore_errors=True)
        with tarfile.open(tarball) as tar:
            tar.extractall(part)
        # Most have all below one folder "package".
        inner = os.path.join(part, os.listdir(part)[0])
        os.rename(inner, folder)
        os.rmdir(part)
    return folder


def build(name, folders, out_dir):
    package, source, queries = LANGUAGES[name]
    library = os.path.join(out_dir, name + ".so")
    query = os.path.join(out_dir, name + ".scm")
    stamp = " ".join(sorted(spec for spec in GRAMMARS if spec.rsplit("@", 1)[0] in [package] + queries))
    stamp_path = os.path.join(out_dir, name + ".stamp")
    if os.path.exists(library) and os.path.exists(query) and os.path.exists(stamp_path):
        with open(stamp_path) as file:
            if file.read() == stamp:
                return
    folder = os.path.join(folders[package], source)
    sources = [os.path.join(folder, "parser.c")]
    if os.path.exists(os.path.join(folder, "scanner.c")):
        sources.append(os.path.join(folder, "scanner.c"))
    print("building", name, flush=True)
    command = os.environ.get("CC", "cc").split()
    command += ["-shared", "-fPIC", "-O2", "-w", "-std=c11", "-I", folder, "-o", library + ".part"]
    subprocess.run(command + sources, check=True)
    text = ""
    for owner in queries:
        with open(os.path.join(folders[owner], "queries", "tags.scm"), encoding="utf-8") as file:
            text += file.read() + "\n"
    with open(query + ".part", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(query + ".part", query)
    os.replace(library + ".part", library)
    with open(stamp_path, "w") as file:
        file.write(stamp)


def main():
    packages = "--packages" in sys.argv
    words = [word for word in sys.argv[1:] if word != "--packages"]
    base, wanted = words[0], words[1:] or list(LANGUAGES)
    npm_dir, out_dir = os.path.join(base, "npm"), os.path.join(base, "grammars")
    os.makedirs(npm_dir, exist_ok=True)
    os.makedirs(out_dir, exist_ok=True)
    owners = {owner for name in wanted for owner in [LANGUAGES[name][0]] + LANGUAGES[name][2]}
    folders = {
        spec.rsplit("@", 1)[0]: fetch(spec, integrity, npm_dir)
        for spec, integrity in GRAMMARS.items()
        if spec.rsplit("@", 1)[0] in owners
    }
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda name: build(name, folders, out_dir), wanted))
    for spec, integrity in {**PACKAGES, **BENCH}.items() if packages else ():
        fetch(spec, integrity, npm_dir)


if __name__ == "__main__":
    main()
