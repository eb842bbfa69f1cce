"""The card of a published dataset: its origin, how it was made, and what it contains."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from kailin_ray.dataset.columns import meanings_of
from kailin_ray.dataset.folder import DatasetManifest
from kailin_ray.dataset.formats import schemas_of
from kailin_ray.dataset.rows import Record
from kailin_ray.dataset.run import RunManifest, UsedDocuments, UsedModel
from kailin_ray.dataset.variety import Variety, describe_variety
from kailin_ray.dataset.writers import file_pattern
from kailin_ray.io.markdown import code, escape_text
from kailin_ray.schema import FAILED, OK, REJECTED, Json

_CARD = """---
{data}
---

# PubMed question-context-answer triples

Distilled from {num_documents:,} PubMed abstracts with kailin_ray {version}, an
implementation of [m-KAILIN](https://arxiv.org/abs/2504.19565): two question agents propose a question for an abstract,
a retrieval agent finds contexts, an evaluation agent prefers the question whose contexts fit the abstract's place in
the MeSH hierarchy, an answer agent answers it. **The questions and answers were written by language
models ({models}) and were not checked by people; they are not medical advice.**

| config | rows | contents |
|---|---|---|
{configs}

```python
from datasets import load_dataset

load_dataset("path/to/this/folder", "sft")
```

Every config has the splits `train` and `test`, where they have rows. The test split has the held-out abstracts: one in
ten, by a hash of the PMID, so the same in all datasets of kailin_ray.
{trainers}
## Columns
{lacks}
{columns}
## How it was made

{how}

{variety}

{before}

## Samples

{samples}

## Source and licence

Abstracts and MeSH headings: courtesy of the U.S. National Library of Medicine, under its
[terms](https://www.nlm.nih.gov/databases/download/terms_and_conditions.html); NLM has not endorsed this dataset, and
it may not reflect the most current data available from NLM. Abstracts may be the copyright of their publishers.
"""


@dataclass(kw_only=True)
class Samples:
    """The rows that a card shows."""

    triples: list[Record] = field(default_factory=list)
    """Some rows of ``triples``, to read."""
    first: dict[str, Record] = field(default_factory=dict)
    """One row of each config, as it was written."""


def make_card(run: RunManifest, made: DatasetManifest, samples: Samples) -> DatasetCard:
    """Return the README of the dataset folder."""
    return DatasetCard(
        _CARD.format(
            data=_data(made).to_yaml(),
            num_documents=run.num_documents,
            version=run.versions["kailin_ray"],
            models=_format_names(sorted({model.name for model in run.models.values()})),
            configs=_configs(made),
            trainers=_TRAINERS.get(made.format, ""),
            lacks=_lacks(made.num_of_before),
            columns=_columns(made.format, samples.first),
            how=_how(run, made.leaks | made.left_out),
            variety=_variety(made.variety, run.config),
            before=_before(run.documents, made.benchmarks or ()),
            samples=_samples(samples.triples) or "No row was accepted.",
        )
    )


def _data(manifest: DatasetManifest) -> DatasetCardData:
    is_parquet = manifest.format == "parquet"
    with_rows = {name: splits for name, splits in manifest.rows.items() if any(splits.values())}
    default = "triples" if "triples" in with_rows else next(iter(with_rows), None)
    return DatasetCardData(
        language="en",
        license="other",
        license_name="nlm-data-terms",
        license_link="https://www.nlm.nih.gov/databases/download/terms_and_conditions.html",
        task_categories=["question-answering", "text-generation"],
        tags=["biology", "medical", "pubmed", "mesh", "synthetic"],
        pretty_name="PubMed question-context-answer triples",
        # Without the types, `datasets` guesses them from the first lines of a JSON file; a column may begin with nulls.
        dataset_info=None if is_parquet else [_features(manifest, name) for name in with_rows],
        configs=[
            {
                "config_name": name,
                # `datasets` finds its cached copy by this text and the folder's name, not by the files' content.
                "description": f"made {manifest.made}",
                # `datasets` cannot load a config or split without rows.
                "data_files": [
                    {"split": split, "path": file_pattern(name, split, is_parquet)}
                    for split, count in splits.items()
                    if count
                ],
                **({"default": True} if name == default else {}),
            }
            for name, splits in with_rows.items()
        ],
    )


def _features(manifest: DatasetManifest, name: str) -> dict[str, Any]:
    """Return the types of a config's columns as `datasets` reads them from a card."""
    from datasets import Features  # here, as it takes seconds to import

    schema = schemas_of(manifest.format, manifest.sft)[name]
    return {"config_name": name, "features": Features.from_arrow_schema(schema)._to_yaml_list()}


def _configs(made: DatasetManifest) -> str:
    uses = {name: use.format(text="messages" if made.sft == "messages" else "texts") for name, use in _USES.items()}
    rows = made.rows.items()
    return "\n".join(f"| `{name}` | {sum(splits.values()):,} | {uses[name]} |" for name, splits in rows)


def _lacks(num_of_before: int) -> str:
    """Say what rows of an earlier version lack."""
    if not num_of_before:
        return ""
    return f"""
The answers of {num_of_before:,} abstracts were recorded by an earlier version of kailin_ray. It always showed the
answer agent the source abstract, and it did not record where the titles of the other passages end: their `title` is
null, and their `text` begins with it.
"""


def _columns(name: str, first: Mapping[str, Record]) -> str:
    """Explain every column of each config, with an example from the first row."""
    tables = []
    for config, meanings in meanings_of(name).items():
        if config in first:
            rows = (
                f"| `{column}` | {meaning} | {code(_shorten(first[config][column]))} |"
                for column, meaning in meanings.items()
            )
            tables.append("\n".join([f"### `{config}`\n\n| column | meaning | example |\n|---|---|---|", *rows, ""]))
    return "\n".join(tables)


def _shorten(value: Any) -> str:
    """Return a value as one short text."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= EXAMPLE_CHARS else f"{text[:EXAMPLE_CHARS]} …"


def _how(run: RunManifest, leaks: Mapping[str, int]) -> str:
    """Describe the outcome of the abstracts, the models and the settings."""
    leaked = sum(leaks.values())
    accepted, rejected = run.num_by_status[OK] - leaked, run.num_by_status[REJECTED] + leaked
    reasons = "\n".join(f"| {reason} | {number:,} |" for reason, number in {**run.num_by_reason, **leaks}.items())
    preferred = ", ".join(f"{by} {number:,}" for by, number in run.evaluation["preferred_by"].items()) or "none"
    rule, retrieval, shown = run.config["evaluation"], run.config["retrieval"], run.config["answer"]["shown"]
    reached = run.coverage["categories"]
    sources = [file.name for file in run.documents.files]
    failed = run.num_by_status[FAILED]
    return f"""- accepted {accepted:,}, rejected {rejected:,}, failed {failed:,} abstracts; those that were not
  accepted are in `rejected`, each with a reason:

| reason | rows |
|---|---|
{reasons}

{_models(run.models)}
- preferred by: {preferred}; MeSH similarity: {rule["measure"]}, {rule["aggregate"]}
- contexts: {retrieval["top_k"]} per question; the answer agent was shown: {" and ".join(shown)} (a row's `contexts` say
  what it was shown)
- second-level MeSH branches: {reached["num_in_corpus"]} in the corpus, of which the accepted abstracts reach \
{reached["num_reached"]}
- source files: {_format_names(sources[:5])}{" and more" if len(sources) > 5 else ""}"""


def _variety(variety: Variety | None, config: Json) -> str:
    """Describe what is common among the rows of ``triples``."""
    if variety is None:
        return ""
    lines = [
        f"- {title}: " + (", ".join(f"{code(name)} {number:,}" for name, number in counts) or "none")
        for title, counts in describe_variety(variety, config).items()
    ]
    return "\n".join(
        ["Of the published triples (`none`: not a yes/no question; openings: the most common):", "", *lines]
    )


def _models(models: Mapping[str, UsedModel]) -> str:
    agents: dict[str, list[str]] = {}
    for agent, model in models.items():
        with_adapter = f" with the adapter {code(model.adapter)}" if model.adapter else ""
        short_id = model.identity.rpartition("@")[2][:16]
        agents.setdefault(f"{code(model.name)}{with_adapter} ({code(short_id)})", []).append(agent)
    return "\n".join(f"- {model}: {', '.join(names)}" for model, names in agents.items())


def _before(documents: UsedDocuments, checked: Sequence[str]) -> str:
    """Describe what was left out before anything was generated, and the checks for text of benchmarks."""
    left_out = documents.num_left_out | documents.num_removed
    rows = "\n".join(f"| {reason} | {number:,} |" for reason, number in left_out.items() if number)
    header = "| reason | citations |\n|---|---|"
    table = f"Of the source's {documents.num_citations:,} citations, these were left out first:\n\n{header}\n{rows}"
    cleaned = _format_names(Path(path).name for path in documents.benchmarks.values())
    how = "identified by PMID, by 13 words in a row or by a near-copy of a question"
    before = f"abstracts of {cleaned} were left out, {how}" if cleaned else "abstracts were not checked"
    names = _format_names(checked)
    after = f"were checked for text of {names}" if names else "were not checked"
    return f"{table}\n\nBenchmarks: {before}. Questions, contexts and answers {after}."


def _samples(samples: Iterable[Record]) -> str:
    return "\n\n".join(
        f"**PMID {row['pmid']}**, {escape_text(row['title'])}\n\n> **Q** {escape_text(row['question'])}\n>\n"
        f"> **A** {escape_text(row['answer'])}"
        for row in samples
    )


def _format_names(names: Iterable[str]) -> str:
    return ", ".join(map(code, names))


EXAMPLE_CHARS = 160

_TRAINER = """
The fields are those of LLaMA-Factory and axolotl. `dataset_info.json` describes the files for LLaMA-Factory
(`dataset_dir: path/to/this/folder`, `dataset: sft_train`). For axolotl:

```yaml
datasets:
  - path: path/to/this/folder/sft/train.jsonl
    ds_type: json
    {kind}
```
"""
_SHAREGPT = """type: chat_template
    field_messages: conversations
    message_property_mappings: {role: from, content: value}"""
_TRAINERS = {"sharegpt": _TRAINER.format(kind=_SHAREGPT), "alpaca": _TRAINER.format(kind="type: alpaca")}
_USES = {
    "triples": "question, contexts and answer, with their sources",
    "sft": "supervised fine-tuning: an answer from the passages and the question ({text})",
    "preference": "DPO of the question agent: the preferred and the other question for an abstract",
    "judge": "fine-tuning the judge: the MeSH rule's preference, as A or B",
    "pretrain": "continued pretraining: a text for each abstract",
    "rejected": "abstracts that were not accepted, and why",
    "removed": "documents that were left out before anything was generated, and why",
}
