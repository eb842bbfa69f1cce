"""Which MeSH measure separates an abstract's own contexts from another's? Prints a table, and one JSON line last.

    python benchmarks/evidence/mesh_measures.py --pubmedqa pubmedqa.jsonl.gz [--mesh assets/mesh.tsv] [--negatives 5]

Each PubMedQA abstract has 4 contexts retrieved for its own question, and 4 retrieved for another abstract's question
(all-MiniLM-L6-v2, from all abstracts except these two). A measure is right if it scores the abstract's own contexts
higher; a tie, or a missing score on either side, counts half. The other question is drawn at random (several times), or
is the most similar of all questions (*near*). Information content comes from these abstracts' headings (*corpus*), from
the documents of another corpus (*other*, with --documents), or from the hierarchy alone (*intrinsic*). Baselines are
the Jaccard similarity of the sets of descriptors, and the TF-IDF cosine of the texts. Intervals are 95 %, by bootstrap
over abstracts. The last column is the paired difference to the best MeSH score, over both kinds of other question.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pubmedqa
from sklearn.feature_extraction.text import TfidfVectorizer

from kailin_ray.io.files import read_json
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.similarity import AGGREGATES, MEASURES
from kailin_ray.versions import versions

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(n,) sources and (n,) contexts, as numbers of abstracts → (n,) scores, NaN where missing."""


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pubmedqa", type=Path, required=True, help="JSON lines with question, abstract, mesh (names)")
    parser.add_argument("--mesh", type=Path, default=Path("assets/mesh.tsv"))
    parser.add_argument("--encoder", default="assets/all-minilm-l6-v2")
    parser.add_argument("--documents", type=Path, help="a folder made by ingest, for the information content *other*")
    parser.add_argument("--negatives", type=int, default=5, help="random other questions of each abstract")
    options = parser.parse_args()
    mesh = MeshHierarchy.load(options.mesh)
    data = pubmedqa.read(options.pubmedqa, mesh, options.encoder)
    counts = {"corpus": Counter(ui for uis in data.descriptors for ui in uis), "intrinsic": Counter()}
    if options.documents:
        headings = read_json(options.documents / "descriptors.json")
        counts["other"] = Counter({ui: heading["documents"] for ui, heading in headings.items()})
    scores = scorers(mesh, counts, data)
    others = {"random": pubmedqa.random_others(data, options.negatives), "near": pubmedqa.near_others(data)}
    hits = {name: margins(data, pairs, scores) for name, pairs in others.items()}
    of_abstract = {name: {kind: right(kind_margins[name]) for kind, kind_margins in hits.items()} for name in scores}
    overall = {name: np.mean(list(kinds.values()), axis=0) for name, kinds in of_abstract.items()}
    best = max((name for name in scores if "," in name), key=lambda name: overall[name].mean())
    table = {
        name: {kind: pubmedqa.interval(values) for kind, values in kinds.items()}
        | {"difference": pubmedqa.interval(overall[name] - overall[best])}
        for name, kinds in of_abstract.items()
    }
    print(f"{len(data.rows):,} abstracts; {len(data.unknown)} MeSH names unknown, as {data.unknown[:5]}\n")
    print(f"| score | random other question | near other question | to {best} |\n|---|---|---|---|")
    for name, row in table.items():
        print(f"| {name} | {' | '.join(f'{mean:.3f} ({low:.3f} to {high:.3f})' for mean, low, high in row.values())} |")
    confident = {kind: by_margin(kind_margins[best]) for kind, kind_margins in hits.items()}
    print(f"\n| least margin of {best} | " + " | ".join(f"{kind}: kept | right" for kind in hits) + " |")
    print("|---|---|---|---|---|")
    for rows_of in zip(*confident.values(), strict=True):
        cells = (f"{row['kept']:.2f} | {row['right']:.3f}" for row in rows_of)
        print(f"| {rows_of[0]['least']} | {' | '.join(cells)} |")
    missing = {kind: round(float(np.isnan(kind_margins[best]).mean()), 4) for kind, kind_margins in hits.items()}
    print(f"\nMeSH scores missing: {missing}")
    print(
        json.dumps(
            {
                "benchmark": "mesh_measures",
                "abstracts": len(data.rows),
                "table": table,
                "by_margin": confident,
                "versions": versions(),
            }
        )
    )


def scorers(mesh: MeshHierarchy, counts: dict[str, Counter[str]], data: pubmedqa.PubMedQA) -> dict[str, Score]:
    """Return every score by its name in the table. ``counts``: by UI, for each kind of information content."""
    sets, texts = data.descriptors, [row["abstract"] for row in data.rows]
    by_name: dict[str, Score] = {}
    for content, of_content in counts.items():
        hierarchy = mesh.with_counts(of_content)
        for measure in MEASURES:
            for aggregate in AGGREGATES:
                if measure != "kailin" or of_content:  # without counts, kailin has no information content
                    by_name[f"{measure}, {aggregate}, {content}"] = mesh_score(hierarchy, sets, measure, aggregate)
    tfidf = TfidfVectorizer(stop_words="english", sublinear_tf=True).fit_transform(texts)
    placed = [set(mesh.select_placed(uis).tolist()) for uis in sets]

    def jaccard(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        pairs = ((placed[a], placed[b]) for a, b in zip(one, two, strict=True))
        return np.array([len(a & b) / len(a | b) if a and b else np.nan for a, b in pairs])

    def cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        return np.asarray(tfidf[one].multiply(tfidf[two]).sum(axis=1)).ravel()

    return by_name | {"Jaccard of descriptors": jaccard, "TF-IDF cosine of texts": cosine}


def mesh_score(mesh: MeshHierarchy, sets: list[list[str]], measure: str, aggregate: str) -> Score:
    """Return the score of one measure and aggregate."""
    offsets = np.cumsum([0, *map(len, sets)])
    numbers = mesh.find([ui for uis in sets for ui in uis])

    def rows(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = [numbers[offsets[i] : offsets[i + 1]] for i in chosen]
        return np.cumsum([0, *map(len, values)]), np.concatenate(values)

    return lambda sources, contexts: mesh.score(rows(sources), rows(contexts), measure, aggregate).to_numpy(
        zero_copy_only=False
    )


def margins(data: pubmedqa.PubMedQA, pairs: np.ndarray, scores: dict[str, Score]) -> dict[str, np.ndarray]:
    """Return (abstracts, negatives): how much higher an abstract's own contexts score; NaN without a score."""
    own, other = (pubmedqa.contexts(data, pairs[:, side], pairs) for side in (0, 1))
    sources = np.repeat(pairs[:, 0], pubmedqa.TOP_K)
    by_name = {}
    for name, score in scores.items():
        of_sides = (score(sources, side.ravel()).reshape(-1, pubmedqa.TOP_K) for side in (own, other))
        own_means, other_means = (np.nanmean(values, axis=1) for values in of_sides)
        by_name[name] = np.round(own_means - other_means, 9).reshape(len(data.rows), -1)
    return by_name


def right(margin: np.ndarray) -> np.ndarray:
    """Return (abstracts,) the share of right preferences; a tie or a missing preference counts half."""
    return np.asarray(((np.sign(np.nan_to_num(margin)) + 1) / 2).mean(axis=1))


def by_margin(margin: np.ndarray) -> list[dict[str, float]]:
    """Return, for several least margins, the share of pairs that remain, and how often their preference is right."""
    rows = []
    for least in (0.0, 0.01, 0.02, 0.05, 0.1):
        kept = margin[np.abs(margin) >= max(least, 1e-9)]
        rows.append(
            {"least": least, "kept": round(kept.size / margin.size, 3), "right": round(float((kept > 0).mean()), 3)}
        )
    return rows


if __name__ == "__main__":
    main()
