"""Measure how well near-copies of benchmark questions and near-duplicate abstracts are found, by planting them.

    python benchmarks/evidence/decontamination.py --benchmarks shared/eval/*.gz shared/eval/*.csv pubmedqa.jsonl.gz \
        --shards pubmed20n0014.xml.gz pubmed21n1298.xml.gz

Real questions are edited in known ways and put into real abstracts, or stand alone like a title. Real abstracts are
edited word by word. Negatives are the unchanged abstracts, and a benchmark's questions searched for in the other
benchmarks and in the other half of their own benchmark. Prints Markdown tables, then one line of JSON with the false
positives and the misses.
"""

import argparse
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kailin_ray.corpus.overlap import near_duplicates as duplicates
from kailin_ray.corpus.overlap.benchmark_files import Item, read_items
from kailin_ray.corpus.overlap.benchmarks import OVERLAP, Benchmarks, Match
from kailin_ray.corpus.overlap.near_questions import EXACT_WORDS, LEAST_WORDS, SHORT
from kailin_ray.corpus.overlap.ngrams import word_list
from kailin_ray.corpus.readers.pubmed_xml import read_citations

RANDOM = np.random.default_rng(0)
Edit = Callable[[list[str]], list[str]]
NONE, FEW, MANY = "not looked for", f"{EXACT_WORDS} to {SHORT - 1}", f"{SHORT} and more"


def documents(shards: list[Path]) -> pa.Table:
    """Return PMIDs (sorted, unique), titles and abstracts of all citations that have an abstract."""
    texts = {
        citation.pmid: (citation.title or "", citation.abstract)
        for shard in shards
        for citation in read_citations(shard, Counter())
        if citation.abstract
    }
    pmids = sorted(texts)
    return pa.table(
        {"pmid": pmids, "title": [texts[pmid][0] for pmid in pmids], "abstract": [texts[pmid][1] for pmid in pmids]}
    )


def wilson(hits: int, of: int) -> str:
    """Return a share with its 95 % interval, in percent."""
    if not of:
        return "-"
    share, z = hits / of, 1.96
    middle, width = share + z * z / (2 * of), z * (share * (1 - share) / of + z * z / (4 * of * of)) ** 0.5
    low, high = ((middle + sign * width) / (1 + z * z / of) for sign in (-1, 1))
    return f"{100 * share:.2f} ({100 * max(low, 0):.2f}-{100 * min(high, 1):.2f})"


def drawn(words: list[str]) -> str:
    """Return a random word."""
    return words[int(RANDOM.integers(len(words)))]


def edits(other_words: list[str]) -> dict[str, Edit]:
    """Return ways to change a text's words; new words are drawn from real abstracts."""

    def places(words: list[str], share: float) -> set[int]:
        return set(RANDOM.choice(len(words), max(1, round(len(words) * share)), replace=False).tolist())

    def replace(share: float) -> Edit:
        def edit(words: list[str]) -> list[str]:
            at = places(words, share)
            return [drawn(other_words) if i in at else word for i, word in enumerate(words)]

        return edit

    def drop(words: list[str]) -> list[str]:
        at = places(words, 0.2)
        return [word for i, word in enumerate(words) if i not in at]

    def insert(words: list[str]) -> list[str]:
        at = places(words, 0.2)
        return [new for i, word in enumerate(words) for new in ([drawn(other_words)] * (i in at) + [word])]

    def swap(words: list[str]) -> list[str]:
        commas = [i + 1 for i, word in enumerate(words[:-1]) if word.endswith((",", ".", ";"))]
        cut = commas[len(commas) // 2] if commas else len(words) // 2
        return words[cut:] + words[:cut]

    def unicode(words: list[str]) -> list[str]:
        text = " ".join(words).upper().replace("-", "\u2010").replace("'", "\u2019").replace("FI", "\ufb01")
        return re.sub(r"[,.;:?]", "", text).replace(" ", "\u00a0").split(" ")

    return {
        "exact": lambda words: words,
        "case, punctuation, Unicode": unicode,
        "1 in 10 words replaced": replace(0.1),
        "2 in 10 words dropped": drop,
        "2 in 10 words inserted": insert,
        "clauses swapped": swap,
    }


def inside(text: str, abstract: str) -> str:
    """Insert ``text`` as a sentence into an abstract."""
    sentences = re.split(r"(?<=[.]) ", abstract)
    at = int(RANDOM.integers(len(sentences) + 1))
    return " ".join([*sentences[:at], text, *sentences[at:]])


def sizes(found: Benchmarks) -> list[str]:
    """Return the size class of each question, by its number of informative words."""
    informative = np.diff(found.questions.question_rows)
    named = np.where(informative < SHORT, FEW, MANY)
    return np.where((informative < EXACT_WORDS) | (found.questions.lengths < LEAST_WORDS), NONE, named).tolist()


def planted(
    found: Benchmarks, items: list[Item], kinds: list[str], table: pa.Table
) -> tuple[list[list[Any]], list[Any]]:
    """Return recall by edit, place and size (``kinds``) of the question, and examples of missed questions."""
    abstracts = table["abstract"].to_pylist()
    ways = edits([word for text in abstracts[:2_000] for word in text.split() if word.isalpha()])
    rows: list[list[Any]] = []
    missed: list[Any] = []
    for name, edit in ways.items():
        changed = [" ".join(edit(item.question.split())) for item in items]
        hosts = [abstracts[i] for i in RANDOM.integers(len(abstracts), size=len(items))]
        for place, texts in (("alone", changed), ("inside", list(map(inside, changed, hosts)))):
            hits = [match is not None for match in found.find(texts)]
            for kind in (NONE, FEW, MANY):
                kind_hits = [hit for hit, question_kind in zip(hits, kinds, strict=True) if question_kind == kind]
                rows.append([name, place, kind, len(kind_hits), sum(kind_hits), wilson(sum(kind_hits), len(kind_hits))])
            misses = [(items[i].question, changed[i]) for i, hit in enumerate(hits) if not hit and kinds[i] == MANY]
            missed += [[name, place, *pair] for pair in misses[:4]]
    return rows, missed


def precision(recall: list[list[Any]], false: int, clean: int) -> list[list[Any]]:
    """Return, by edit, the planted share of what is flagged among planted and ``clean`` untouched abstracts."""
    rows = []
    for edit in dict.fromkeys(row[0] for row in recall):
        edit_rows = [row for row in recall if row[:2] == [edit, "inside"]]
        number, hits = sum(row[3] for row in edit_rows), sum(row[4] for row in edit_rows)
        rows.append([edit, number, hits, wilson(hits, number), clean, false, wilson(hits, hits + false)])
    return rows


def copied(found: Benchmarks, items: list[Item]) -> list[list[Any]]:
    """Return how many abstracts that are a benchmark's contexts are found, by the share of words replaced."""
    texts = [text for item in items if item.pmids and len(text := max(item.texts, key=len).split()) >= 100]
    pool = [word for words in texts for word in words if word.isalpha()]
    rows: list[list[Any]] = []
    for name in ("0 %", "2 %", "5 %", "10 %", "20 %", "30 %"):
        matches = found.find([" ".join(_changed(" ".join(words), name, pool)) for words in texts])
        reasons = Counter(match.reason for match in matches if match)
        hits = sum(reasons.values())
        rows.append([name, len(texts), reasons[OVERLAP], hits, wilson(hits, len(texts))])
    return rows


def shown(texts: list[str], matches: list[Match | None]) -> list[list[Any]]:
    """Return the matches, each with the beginning of its text."""
    return [
        [match.reason, match.file, match.item, match.score, match.text, text[:200]]
        for text, match in zip(texts, matches, strict=True)
        if match
    ]


def negatives(paths: list[Path], table: pa.Table, found: Benchmarks) -> tuple[list[list[Any]], dict[str, Any]]:
    """Return what is flagged among texts that copy nothing."""
    whole = [
        f"{title}\n{text}" for title, text in zip(*(table[n].to_pylist() for n in ("title", "abstract")), strict=True)
    ]
    sets = {"abstracts with titles": (whole, found.find(whole))}
    titles = [title for title in table["title"].to_pylist() if title]
    sets["titles"] = (titles, found.find(titles))
    for path in paths:
        questions = [item for item in read_items(path) if item.question]
        if not questions:
            continue
        texts = [item.question for item in questions]
        others = Benchmarks.load([other for other in paths if other != path])
        sets[f"questions of {path.name} in the other files"] = (texts, others.find(texts))
        with tempfile.TemporaryDirectory() as folder:
            half = Path(folder, "half.json")
            half.write_text(json.dumps([{"question": item.question, "texts": item.texts} for item in questions[::2]]))
            sets[f"half of {path.name} in its other half"] = (texts[1::2], Benchmarks.load([half]).find(texts[1::2]))
    rows, flagged = [], {}
    for name, (texts, matches) in sets.items():
        flagged[name] = shown(texts, matches)
        rows.append([name, len(texts), len(flagged[name]), wilson(len(flagged[name]), len(texts))])
    return rows, flagged


def near_duplicates(table: pa.Table, sample: int) -> tuple[list[list[Any]], list[list[Any]]]:
    """Return recall by edit with the true Jaccard similarity, and all pairs among the real abstracts."""
    texts = table["abstract"].filter(pc.greater(pc.utf8_length(table["abstract"]), 400)).to_pylist()
    chosen = [texts[i] for i in RANDOM.choice(len(texts), sample, replace=False)]
    pool = [word for text in texts[:2_000] for word in text.split() if word.isalpha()]
    rows = []
    for name in ("case and punctuation", "2 %", "5 %", "10 %", "20 %", "a sentence dropped", "two sentences swapped"):
        changed = [" ".join(_changed(text, name, pool)) for text in chosen]
        pmids = np.arange(2 * sample)
        sketches = duplicates.sketch(pa.array([*chosen, *changed]))
        pairs = duplicates.candidate_pairs(*duplicates.in_range(pmids, sketches.buckets, 0, 1))
        pairs = pairs[pairs[:, 1] == pairs[:, 0] + sample]
        kept, _ = duplicates.verify(pairs, pmids, sketches.buckets, sketches.signatures, 0.8)
        similarities = np.array([jaccard(*pair) for pair in zip(chosen, changed, strict=True)])
        is_candidate, is_found = np.isin(pmids[:sample], pairs[:, 0]), np.isin(pmids[:sample], kept[:, 0])
        alike = similarities >= 0.8
        rows.append(
            [name, f"{np.median(similarities):.2f}", int(alike.sum()),
             wilson(int(is_candidate[alike].sum()), int(alike.sum())),
             wilson(int(is_found[alike].sum()), int(alike.sum())), int((is_found & ~alike).sum()), int(is_found.sum()),
             f"{similarities[is_found & ~alike].min():.2f}" if (is_found & ~alike).any() else "-"]
        )  # fmt: skip
    pmids = table["pmid"].to_numpy()
    sketches = duplicates.sketch(table["abstract"])
    pairs = duplicates.candidate_pairs(*duplicates.in_range(pmids, sketches.buckets, 0, 1))
    pairs, estimates = duplicates.verify(pairs, pmids, sketches.buckets, sketches.signatures, 0.5)
    abstracts = dict(zip(pmids.tolist(), table["abstract"].to_pylist(), strict=True))
    real = [
        [
            *pair,
            round(score, 3),
            round(jaccard(abstracts[pair[0]], abstracts[pair[1]]), 3),
            abstracts[pair[0]][:120],
            abstracts[pair[1]][:120],
        ]
        for pair, score in zip(pairs.tolist(), estimates.tolist(), strict=True)
    ]
    return rows, real


def _changed(text: str, name: str, pool: list[str]) -> list[str]:
    words = text.split()
    if name.endswith("%"):
        share = int(name.split()[0]) / 100
        return [drawn(pool) if RANDOM.random() < share else word for word in words]
    if name.startswith("case"):
        return [word.upper().strip(".,;()") for word in words]
    sentences = re.split(r"(?<=[.]) ", text)
    at = int(RANDOM.integers(len(sentences)))
    if name.endswith("swapped"):
        return [*sentences[at:], *sentences[:at]]
    return sentences[:at] + sentences[at + 1 :]


def jaccard(one: str, two: str) -> float:
    """Return the true similarity of two texts' sets of shingles."""
    k = duplicates.SHINGLE_WORDS
    first, second = (
        {tuple(words[i : i + k]) for i in range(len(words) - k + 1)} for words in (word_list(one), word_list(two))
    )
    return len(first & second) / len(first | second) if first | second else float(word_list(one) == word_list(two))


def timed(table: pa.Table, found: Benchmarks) -> list[list[Any]]:
    """Return this process's CPU seconds with everything compiled. All of it runs in one thread, so on one core."""
    texts = pc.binary_join_element_wise(table["title"], table["abstract"], "\n")
    rows: list[list[Any]] = []
    for name, work in (("find", lambda: found.find(texts)), ("sketch", lambda: duplicates.sketch(table["abstract"]))):
        start = time.process_time()
        work()
        seconds = time.process_time() - start
        rows.append([name, len(table), f"{seconds:.2f}", f"{len(table) / seconds:,.0f}"])
    return rows


def markdown(title: str, header: str, rows: list[list[Any]]) -> str:
    """Return a table with its heading."""
    names = header.split(" | ")
    lines = [f"\n## {title}\n", f"| {header} |", "|---" * len(names) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def main() -> None:
    """Print the tables, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", nargs="+", type=Path, required=True)
    parser.add_argument("--shards", nargs="+", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=2_000, help="how many are planted, of each kind")
    parser.add_argument("--abstracts", type=int, default=1_000, help="how many are edited, of each kind")
    args = parser.parse_args()
    table = documents(args.shards)
    start = time.perf_counter()
    benchmarks = Benchmarks.load(args.benchmarks)
    print(f"{len(table)} abstracts; {len(benchmarks.question_items)} questions, {len(benchmarks.grams)} 13-grams, "
          f"{len(benchmarks.pmids)} PMIDs in {time.perf_counter() - start:.1f} s")  # fmt: skip
    items = [item for path in args.benchmarks for item in read_items(path)]
    chosen = RANDOM.permutation(len(benchmarks.question_items))[: args.questions]
    kinds = sizes(benchmarks)
    recall, missed = planted(
        benchmarks, [items[benchmarks.question_items[i]] for i in chosen], [kinds[i] for i in chosen], table
    )
    false, flagged = negatives(args.benchmarks, table, benchmarks)
    near, real = near_duplicates(table, args.abstracts)
    print(markdown("Planted questions", "edit | place | informative words | planted | found | recall, %", recall))
    print(markdown("All questions, inside of abstracts", "edit | planted | found | recall, % | clean | flagged | "
                   "precision, %", precision(recall, false[0][2], false[0][1])))  # fmt: skip
    print(
        markdown(
            "Copied contexts", "words replaced | number | by 13-grams | found | recall, %", copied(benchmarks, items)
        )
    )
    print(markdown("Negatives", "texts | number | flagged | %", false))
    print(markdown("Planted near-duplicates", "edit | median Jaccard | at least 0.8 | candidates, % | found, % | "
                   "found below 0.8 | found in all | lowest of these", near))  # fmt: skip
    print(markdown("Real pairs, from 0.5", "PMID | PMID | estimated | true", [row[:4] for row in real]))
    print(markdown("Speed", "step | texts | CPU seconds | a second", timed(table, benchmarks)))
    print(json.dumps({"recall": recall, "missed": missed, "negatives": false, "flagged": flagged, "near": near,
                      "real": real}))  # fmt: skip


if __name__ == "__main__":
    main()
