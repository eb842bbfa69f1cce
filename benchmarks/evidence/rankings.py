"""Do lexical search and MeSH re-ranking find better evidence than dense search alone? Prints one JSON.

    python benchmarks/evidence/rankings.py --documents documents --pubmedqa pubmedqa.jsonl.gz [--cache embeddings] \
        [--mesh assets/mesh.tsv] [--encoder assets/all-minilm-l6-v2]

*own*: does a PubMedQA question find its own abstract among the documents' abstracts and PubMedQA's other 999? The
question is nearly the article's title, so PubMedQA's abstracts are without titles here. BM25 has two forms: the other
passages with their titles, as in dense search, or all passages without titles. The weight and the depth of the fusion
are chosen on one half of the questions and reported on the other half.

*own by mesh*: the same after re-ranking by the descriptors of the source. The source is the passage sought, so this is
circular, and an upper bound at best.

*contexts*: as in distillation, the source is left out. Do the 4 contexts contain what the long answer says? This is
measured by the cosine to its embedding, which favours dense search, and to its TF-IDF vector without the question's
words, which favours lexical search. Neither uses MeSH.

*rule*: the effect of re-ranking on the evaluation agent's rule, which scores contexts by the same similarity that they
are re-ranked by. The two candidates of an abstract are its question and the question of another abstract (the most
similar, or drawn at random); its own question is right. Or they are its question and its long answer; both are its own,
so only margins and abstentions are informative. Scores closer than the rule's TIE are abstentions; a tie or a missing
score counts half.

With --cache, only the documents with embeddings are passages; the JSON has both numbers.

Intervals are 95 %, by bootstrap over questions; *to dense* are paired differences.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lexical_cost import CANDIDATES, build, cost
from passages import DEPTH, Passages, nearest, read, texts_of
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

from kailin_ray.agents.evaluation import TIE
from kailin_ray.comparison import statistics
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.retrieval.search.fusion import mesh_rerank, reciprocal_rank_fusion
from kailin_ray.retrieval.search.lexical import LexicalIndex
from kailin_ray.versions import versions

TOP_K = 4
CUTS = (1, 4, 10, 100)
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)
DEPTHS = (20, 100, 1_000)

Rankings = list[list[int]]
"""(n) rankings of PMIDs, best first."""
Similar = Callable[[int, Sequence[int]], list[float | None]]
"""From the row of a source and PMIDs to their MeSH similarities to the source, None where missing."""


def main() -> None:
    """Run all measurements and print one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True, help="a folder made by ingest")
    parser.add_argument("--pubmedqa", type=Path, required=True, help="question, abstract, long_answer, mesh; gzipped")
    parser.add_argument(
        "--cache", type=Path, help="embeddings: N.npy with N.parquet beside each; other documents are left out"
    )
    parser.add_argument("--mesh", type=Path, default=Path("assets/mesh.tsv"))
    parser.add_argument("--encoder", default="assets/all-minilm-l6-v2")
    options = parser.parse_args()
    mesh = MeshHierarchy.load(options.mesh)
    data = read(options.documents, options.pubmedqa, mesh, options.encoder, options.cache)
    with tempfile.TemporaryDirectory() as name:
        untitled = data.table.set_column(1, "title", pa.array([""] * len(data.table)))
        built_indexes = {
            "title and text": build([data.table], Path(name, "a")),
            "text": build([untitled], Path(name, "b")),
        }
        indexes = {form: LexicalIndex(of_form.folder) for form, of_form in built_indexes.items()}
        questions = [row["question"] for row in data.rows]
        dense = nearest(data, data.questions, [[]] * len(questions))
        lexical = {form: pmids_of(index.search_many(questions, DEPTH)) for form, index in indexes.items()}
        similar = similarity(mesh, data)
        own, chosen = find_own(data, dense, lexical)
        weight, depth = chosen["title and text"]
        result = {
            "benchmark": "evidence",
            "documents": data.num_documents,
            "passages": len(data.table),
            "with_descriptors": int(pc.sum(pc.greater(pc.list_value_length(data.table["mesh"]), 0)).as_py()),
            "questions": len(questions),
            "own": own,
            "own_by_mesh": own_by_mesh(data, similar, {"dense": dense, "BM25": lexical["title and text"]}),
            "contexts": contexts(data, indexes["title and text"], similar, weight, depth),
            "rule": rule(data, similar),
            "cost": {form: cost(of_form, questions) for form, of_form in built_indexes.items()},
            "fusion": fusion_cost(dense, lexical["title and text"], similarity(mesh, data), data),
            "versions": versions(),
        }
    print(json.dumps(result))


# Searching


def pmids_of(found: Iterable[list[tuple[int, float]]]) -> Rankings:
    """Return the rankings without the scores."""
    return [[pmid for pmid, _ in hits] for hits in found]


def fused(one: Rankings, two: Rankings, weight: float, depth: int) -> Rankings:
    """Fuse the first ``depth`` of both rankings; the second ranking has the weight ``weight``."""
    pairs = zip(one, two, strict=True)
    return pmids_of(reciprocal_rank_fusion([a[:depth], b[:depth]], [1.0, weight]) for a, b in pairs)


def similarity(mesh: MeshHierarchy, data: Passages) -> Similar:
    """Return the rule's similarity (resnik, bma), with the information content of these passages' own headings."""
    flat = data.table["mesh"].combine_chunks()
    hierarchy = mesh.with_counts(Counter(flat.flatten().to_pylist()))
    numbers, offsets = hierarchy.find(flat.flatten()), flat.offsets.to_numpy() - flat.offsets[0].as_py()
    row_of = {pmid: row for row, pmid in enumerate(data.table["pmid"].to_pylist())}

    def sets(rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        values = [numbers[offsets[row] : offsets[row + 1]] for row in rows]
        return np.cumsum([0, *map(len, values)]), np.concatenate(values)

    def similar(source: int, pmids: Sequence[int]) -> list[float | None]:
        known = memo.setdefault(source, {})
        new = [pmid for pmid in pmids if pmid not in known]
        if new:
            pairs = sets([source] * len(new)), sets([row_of[pmid] for pmid in new])
            known.update(zip(new, hierarchy.score(*pairs, "resnik", "bma").to_pylist(), strict=True))
        return [known[pmid] for pmid in pmids]

    memo: dict[int, dict[int, float | None]] = {}
    return similar


def reranked(rankings: Rankings, sources: Sequence[int], similar: Similar, weight: float) -> Rankings:
    """Re-rank the first CANDIDATES of each ranking by their similarity to the source (a row); the rest follows."""
    results = []
    for ranking, source in zip(rankings, sources, strict=True):
        first = ranking[:CANDIDATES]
        moved = mesh_rerank(first, similar(source, first), weight) if weight else first
        results.append([*moved, *ranking[CANDIDATES:]])
    return results


# Figures


def interval(values: np.ndarray) -> list[float]:
    """Return the mean of values, without NaN, and its 95 % bootstrap interval."""
    return [round(value, 4) for value in statistics.interval(values[~np.isnan(values)]) or ()]


def measured(rankings: Rankings, data: Passages) -> dict[str, np.ndarray]:
    """Return, for each question, whether its own abstract is among the first, and the reciprocal of its rank."""
    pmids = data.table["pmid"].to_numpy()[data.gold].tolist()
    pairs = zip(rankings, pmids, strict=True)
    ranks = np.array([(r.index(p) + 1 if p in r[:DEPTH] else np.inf) for r, p in pairs])
    return {f"recall@{cut}": (ranks <= cut).astype(float) for cut in CUTS} | {"MRR": 1 / ranks}


def compared(values: dict[str, np.ndarray], base: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, Any]:
    """Return means with intervals, and paired differences to ``base``, over the questions ``chosen``."""
    return {name: interval(metric[chosen]) for name, metric in values.items()} | {
        "to dense": {name: interval(metric[chosen] - base[name][chosen]) for name, metric in values.items()}
    }


# The measurements


def find_own(data: Passages, dense: Rankings, lexical: dict[str, Rankings]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the table of *own*, and each BM25 form's best (weight, depth): by recall@4, then MRR, on one half."""
    n = len(dense)
    half = np.random.default_rng(3).permutation(n)
    tune, test = half[: n // 2], half[n // 2 :]
    base = measured(dense, data)
    table = {"dense": compared(base, base, np.arange(n))}
    tests = {"dense": compared(base, base, test)}
    grid, chosen = {}, {}
    for form, rankings in lexical.items():
        alone = measured(rankings, data)
        table[f"BM25, {form}"] = compared(alone, base, np.arange(n))
        tests[f"BM25, {form}"] = compared(alone, base, test)
        by_setting = {(w, d): measured(fused(dense, rankings, w, d), data) for w, d in product(WEIGHTS, DEPTHS)}
        best = max(
            by_setting, key=lambda key: (by_setting[key]["recall@4"][tune].mean(), by_setting[key]["MRR"][tune].mean())
        )
        chosen[form] = best
        table[f"fusion, {form}, weight 1, depth 100"] = compared(by_setting[1.0, 100], base, np.arange(n))
        for weight, depth in {best, (1.0, 100)}:
            tests[f"fusion, {form}, weight {weight}, depth {depth}"] = compared(by_setting[weight, depth], base, test)
        grid[form] = [
            {"weight": w, "depth": d} | {name: round(float(v[tune].mean()), 4) for name, v in values.items()}
            for (w, d), values in by_setting.items()
        ]
    return {"all": table, "tuning half": grid, "chosen": chosen, "other half": tests}, chosen


def own_by_mesh(data: Passages, similar: Similar, rankings: dict[str, Rankings]) -> dict[str, Any]:
    """Return the table of *own by mesh*."""
    base = measured(rankings["dense"], data)
    question_rows = np.arange(len(data.gold))
    return {
        f"{name}, MeSH weight {weight}": compared(
            measured(reranked(ranking, data.gold.tolist(), similar, weight), data), base, question_rows
        )
        for name, ranking in rankings.items()
        for weight in (0.0, *WEIGHTS)
    }


def contexts(data: Passages, index: LexicalIndex, similar: Similar, weight: float, depth: int) -> dict[str, Any]:
    """Return the table of *contexts*."""
    questions = [row["question"] for row in data.rows]
    own = data.table["pmid"].to_numpy()[data.gold].tolist()
    dense = nearest(data, data.questions, [[row] for row in data.gold])
    hits_by_question = pmids_of(index.search_many(questions, DEPTH + 1))
    bm25 = [[pmid for pmid in hits if pmid != source] for hits, source in zip(hits_by_question, own, strict=True)]
    bases = {
        "dense": dense,
        "BM25": bm25,
        f"fusion, weight {weight}, depth {depth}": fused(dense, bm25, weight, depth),
        "fusion, weight 1, depth 100": fused(dense, bm25, 1.0, 100),
    }
    says = answers_said(data)
    base = says(dense, similar)
    question_rows = np.arange(len(questions))
    return {
        f"{name}, MeSH weight {mesh_weight}": compared(
            says(reranked(ranking, data.gold.tolist(), similar, mesh_weight), similar), base, question_rows
        )
        for name, ranking in bases.items()
        for mesh_weight in (0.0, *WEIGHTS)
    }


def answers_said(data: Passages) -> Callable[[Rankings, Similar], dict[str, np.ndarray]]:
    """Return a function that measures how near each question's 4 contexts are to its long answer."""
    titles, texts = texts_of(data.table)
    tfidf = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    passages = tfidf.fit_transform(f"{title} {text}" for title, text in zip(titles, texts, strict=True))
    words = tfidf.build_tokenizer()
    answer_texts = []
    for row in data.rows:
        known = {word.lower() for word in words(row["question"])} | ENGLISH_STOP_WORDS
        answer_texts.append(" ".join(word for word in words(row["long_answer"].lower()) if word not in known))
    answers = tfidf.transform(answer_texts)
    row_of = {pmid: row for row, pmid in enumerate(data.table["pmid"].to_pylist())}

    def says(rankings: Rankings, similar: Similar) -> dict[str, np.ndarray]:
        # BM25 finds fewer than 4 passages, or none, for a question of few words.
        rows = [[row_of[pmid] for pmid in ranking[:TOP_K]] for ranking in rankings]
        by_word = [
            (passages[passage_rows] @ answers[i].T).sum() / len(passage_rows) if passage_rows else np.nan
            for i, passage_rows in enumerate(rows)
        ]
        by_vector = [
            (data.vectors[passage_rows] @ data.answers[i]).mean() if passage_rows else np.nan
            for i, passage_rows in enumerate(rows)
        ]
        alike = [similar(source, r[:TOP_K]) for source, r in zip(data.gold.tolist(), rankings, strict=True)]
        return {
            "answer, TF-IDF": np.array(by_word),
            "answer, embedding": np.array(by_vector),
            "MeSH to the source": np.array([mean(values) for values in alike]),
            "contexts without descriptors": np.array([values.count(None) / TOP_K for values in alike]),
        }

    return says


def mean(values: Sequence[float | None]) -> float:
    """Return the mean of the known values; NaN if all are None."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else np.nan


def rule(data: Passages, similar: Similar) -> dict[str, Any]:
    """Return the table of *rule*; contexts are found by dense search, without the abstracts concerned."""
    n = len(data.gold)
    alike = data.questions @ data.questions.T
    np.fill_diagonal(alike, -np.inf)
    drawn = (np.arange(n) + np.random.default_rng(4).integers(1, n, n)) % n
    others = {"near other question": alike.argmax(axis=1), "random other question": drawn}
    table = {}
    for kind, other in others.items():
        without = [[data.gold[i], data.gold[other[i]]] for i in range(n)]
        pair = nearest(data, data.questions, without), nearest(data, data.questions[other], without)
        table[kind] = margins(data, similar, pair)
    without = [[row] for row in data.gold]
    both = nearest(data, data.questions, without), nearest(data, data.answers, without)
    table["question and long answer"] = margins(data, similar, both)
    return table


def margins(data: Passages, similar: Similar, pair: tuple[Rankings, Rankings]) -> dict[str, Any]:
    """Return, for each weight of the re-ranking, how the rule separates the contexts of the two candidates."""
    table, sources = {}, data.gold.tolist()
    for weight in (0.0, *WEIGHTS):
        firsts = ([r[:TOP_K] for r in reranked(ranking, sources, similar, weight)] for ranking in pair)
        chosen = [list(zip(sources, ranking, strict=True)) for ranking in firsts]
        first_means, second_means = (
            np.array([mean(similar(source, ranking)) for source, ranking in side]) for side in chosen
        )
        margin = first_means - second_means
        abstains = np.isnan(margin) | (np.abs(margin) <= TIE)
        right = np.where(abstains, 0.5, margin > 0)
        shared = [len(set(a) & set(b)) / TOP_K for (_, a), (_, b) in zip(*chosen, strict=True)]
        table[f"MeSH weight {weight}"] = {
            "right": interval(right),
            "margin": interval(np.abs(margin)),
            "signed margin": interval(margin),
            "abstains": interval(abstains.astype(float)),
            "margin under 0.01": interval((np.nan_to_num(np.abs(margin)) < 0.01).astype(float)),
            "contexts shared": interval(np.array(shared)),
        }
    return table


def fusion_cost(one: Rankings, two: Rankings, similar: Similar, data: Passages) -> dict[str, float]:
    """Return the microseconds a query for fusing two rankings of CANDIDATES, and for re-ranking one by MeSH."""
    start = time.perf_counter()
    fused(one, two, 1.0, CANDIDATES)
    middle = time.perf_counter()
    reranked(one, data.gold.tolist(), similar, 1.0)
    end = time.perf_counter()
    return {
        "fusion_microseconds": round(1e6 * (middle - start) / len(one), 1),
        "mesh_microseconds": round(1e6 * (end - middle) / len(one), 1),
    }


if __name__ == "__main__":
    main()
