"""The card of a published dataset: what it is, how it was made, what it holds."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

Record = dict[str, Any]


def card(
    manifest: dict[str, Any],
    counts: dict[str, dict[str, int]],
    samples: list[Record],
    checked: Sequence[str],
    leaks: Mapping[str, int],
) -> DatasetCard:
    """The README of the dataset folder; ``counts``: rows by config and split, ``samples``: rows of ``triples``.

    ``checked``: names of the benchmarks that what was generated was looked through for; ``leaks``: accepted rows that
    had something of them, by reason.
    """
    made = datetime.now(UTC).isoformat()
    data = DatasetCardData(
        language="en",
        license="other",
        license_name="nlm-data-terms",
        license_link="https://www.nlm.nih.gov/databases/download/terms_and_conditions.html",
        task_categories=["question-answering", "text-generation"],
        tags=["biology", "medical", "pubmed", "mesh", "synthetic"],
        pretty_name="PubMed question-context-answer triples",
        configs=[
            {
                "config_name": name,
                # By this and the folder's name, not by what is in the files, `datasets` finds what it prepared before.
                "description": f"made {made}",
                # `datasets` cannot load a config or split without rows.
                "data_files": [
                    {"split": split, "path": f"{name}/{split}-*.parquet"} for split, number in splits.items() if number
                ],
                **({"default": True} if name == "triples" else {}),
            }
            for name, splits in counts.items()
            if any(splits.values())
        ],
    )
    statuses = dict(manifest["num_by_status"])
    statuses["ok"] -= sum(leaks.values())
    statuses["rejected"] += sum(leaks.values())
    agents: dict[str, list[str]] = {}
    for agent, model in manifest["models"].items():
        with_adapter = f" with the adapter `{model['adapter']}`" if model["adapter"] else ""
        which = model["identity"].rpartition("@")[2][:16]
        agents.setdefault(f"`{model['name']}`{with_adapter} (`{which}`)", []).append(agent)
    models = "\n".join(f"- {model}: {', '.join(names)}" for model, names in agents.items())
    names = ", ".join(sorted({f"`{model['name']}`" for model in manifest["models"].values()}))
    reasons = "\n".join(
        f"| {reason} | {number:,} |" for reason, number in {**manifest["num_by_reason"], **leaks}.items()
    )
    configs = "\n".join(f"| `{name}` | {sum(splits.values()):,} | {_USES[name]} |" for name, splits in counts.items())
    shown = "\n\n".join(
        f"**PMID {row['pmid']}**, {row['title']}\n\n> **Q** {row['question']}\n>\n> **A** {row['answer']}"
        for row in samples
    )
    sources = [file["name"] for file in manifest["documents"]["files"]]
    preferred = ", ".join(f"{by} {number:,}" for by, number in manifest["evaluation"]["preferred_by"].items()) or "none"
    rule, retrieval = manifest["config"]["evaluation"], manifest["config"]["retrieval"]
    coverage = manifest["coverage"]["categories"]
    text = f"""---
{data.to_yaml()}
---

# PubMed question-context-answer triples

Distilled from {manifest["num_documents"]:,} PubMed abstracts with kailin_ray {manifest["versions"]["kailin_ray"]}, an
implementation of [m-KAILIN](https://arxiv.org/abs/2504.19565): two question agents propose a question for an abstract,
a retrieval agent finds contexts, an evaluation agent prefers the question whose contexts fit the abstract's place in
the MeSH hierarchy, an answer agent answers it. **The questions and answers were written by language
models ({names}) and were not checked by people; they are no medical advice.**

| config | rows | what for |
|---|---|---|
{configs}

```python
from datasets import load_dataset

load_dataset("path/to/this/folder", "sft")
```

## How it was made

- accepted {statuses["ok"]:,}, rejected {statuses["rejected"]:,}, failed {statuses["failed"]:,} abstracts; what was not
  accepted is in `rejected`, with its reason:

| reason | rows |
|---|---|
{reasons}

{models}
- preferred by: {preferred}; MeSH similarity: {rule["measure"]}, {rule["aggregate"]}
- contexts: {retrieval["top_k"]} a question
- of the {coverage["num_in_corpus"]} second-level MeSH branches of the corpus the accepted abstracts reach \
{coverage["num_reached"]}
- source files: {", ".join(f"`{name}`" for name in sources[:5])}{" and more" if len(sources) > 5 else ""}

{_before(manifest["documents"], checked)}

## Samples

{shown or "No row was accepted."}

## Source and licence

Abstracts and MeSH headings: courtesy of the U.S. National Library of Medicine, under its
[terms](https://www.nlm.nih.gov/databases/download/terms_and_conditions.html); NLM has not endorsed this dataset, and
it may not reflect the most current data available from NLM. Abstracts may be the copyright of their publishers.
"""
    return DatasetCard(text)


def _before(documents: dict[str, Any], checked: Sequence[str]) -> str:
    """What was left out before anything was generated, and of which benchmarks the data are free."""
    left_out = documents["num_left_out"] | documents.get("num_removed", {})
    rows = "\n".join(f"| {reason} | {number:,} |" for reason, number in left_out.items() if number)
    header = "| reason | citations |\n|---|---|"
    table = f"Left out of the source's {documents['num_citations']:,} citations beforehand:\n\n{header}\n{rows}"
    cleaned = _named(Path(path).name for path in documents.get("benchmarks", {}).values())
    how = "by PMID, 13 words in a row or a near-copy of a question"
    before = f"abstracts of {cleaned} were left out: {how}" if cleaned else "no abstract was left out for them"
    looked = _named(checked)
    after = f"were looked through for {looked}" if looked else "were not looked through"
    return f"{table}\n\nBenchmarks: {before}. Questions, contexts and answers {after}."


def _named(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


_USES = {
    "triples": "question, contexts and answer, with their sources",
    "sft": "supervised fine-tuning: `prompt`, `completion`",
    "preference": "DPO of the question agent: `prompt`, `chosen`, `rejected` (messages), margin, who preferred",
    "judge": "fine-tuning the judge: `prompt`, `completion` (messages); the MeSH rule's preference, as A or B",
    "pretrain": "continued pretraining: `text`",
    "rejected": "what was not accepted, and why",
    "removed": "documents that were left out before anything was generated, and why",
}
