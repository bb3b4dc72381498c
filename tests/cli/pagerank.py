"""The ranking of a repository map a second time: from the tags alone, with every
edge written down, for the tests to compare with."""

import collections
import math
import os


def edges_of(tags, chat=(), mentions=()):
    """(referencing file, defining file, identifier): weight"""
    definers, references = collections.defaultdict(set), collections.defaultdict(collections.Counter)
    for file, items in tags.items():
        for kind, name, _ in items:
            if kind == "def":
                definers[name].add(file)
            else:
                references[name][file] += 1
    edges = {}
    for name, files in definers.items():
        if name not in references:
            for file in files:
                edges[file, file, name] = 0.1
            continue
        weight = 1.0
        snake = "_" in name and any(c.isalpha() for c in name)
        kebab = "-" in name and any(c.isalpha() for c in name)
        camel = any(c.isupper() for c in name) and any(c.islower() for c in name)
        if name in mentions:
            weight *= 10
        if (snake or kebab or camel) and len(name) >= 8:
            weight *= 10
        if name.startswith("_"):
            weight *= 0.1
        if len(files) > 5:
            weight *= 0.1
        for referencer, count in references[name].items():
            for definer in files:
                by_chat = 50 if referencer in chat else 1
                edges[referencer, definer, name] = weight * by_chat * math.sqrt(count)
    return edges


def personalisation(files, nodes, chat=(), mention_files=(), mentions=()):
    wanted = {}
    for file in files:
        value = 100 / len(files) if file in chat or file in mention_files else 0.0
        base = os.path.basename(file)
        if set(mentions) & {*file.split("/"), base, os.path.splitext(base)[0]}:
            value += 100 / len(files)
        if file in nodes:
            wanted[file] = value
    total = sum(wanted.values())
    if not total:
        return {file: 1 / len(nodes) for file in nodes}
    return {file: wanted[file] / total for file in nodes}


def ranks_of(tags, files, chat=(), mention_files=(), mentions=()):
    """Ranks of files, and what each definition (file, identifier) gets of them."""
    edges = edges_of(tags, chat, mentions)
    nodes = sorted({file for edge in edges for file in edge[:2]})
    if not nodes:
        return {}, {}
    person = personalisation(files, nodes, chat, mention_files, mentions)
    out = collections.Counter()
    for (source, _, _), weight in edges.items():
        out[source] += weight
    ranks = {file: 1 / len(nodes) for file in nodes}
    for _ in range(100):
        dangling = sum(ranks[file] for file in nodes if not out[file])
        after = {file: (0.85 * dangling + 0.15) * person[file] for file in nodes}
        for (source, target, _), weight in edges.items():
            after[target] += 0.85 * ranks[source] * weight / out[source]
        error = sum(abs(after[file] - ranks[file]) for file in nodes)
        ranks = after
        if error < len(nodes) * 1e-6:
            break
    shares = collections.Counter()
    for (source, target, name), weight in edges.items():
        shares[target, name] += ranks[source] * weight / out[source]
    return ranks, dict(shares)


def items_of(tags, files, chat=(), mention_files=(), mentions=()):
    """What a map shows, the most important first: (file, line), or (file, None)."""
    ranks, shares = ranks_of(tags, files, chat, mention_files, mentions)
    order = sorted(((round(share, 10), file, name) for (file, name), share in shares.items()), reverse=True)
    items, seen = [], set()
    for _, file, name in order:
        if file in chat:
            continue
        lines = sorted(line for kind, other, line in tags[file] if kind == "def" and other == name)
        items += [(file, line) for line in lines]
        seen.add(file)
    left = [file for file in files if file not in seen and file not in chat]
    ranked = sorted(((round(ranks[file], 10), file) for file in left if file in ranks), reverse=True)
    items += [(file, None) for _, file in ranked]
    items += [(file, None) for file in sorted(left) if file not in ranks]
    return items
