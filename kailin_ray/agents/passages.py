"""Passages: abstracts as agents are shown them. What an answer agent was shown is recorded and published as these.

Sample: ``{"pmid": 2, "title": "Azide as a fixative.", "text": "Tissues kept …", "score": 0.71, "is_source": False}``.
A retrieved passage was shown as ``join_passage`` joins it. The passage without a score is the source abstract; it was
not retrieved, and it is shown first, as ``prompts.abstract_text`` shows it to every agent.
"""

from kailin_ray.schema import Row

MARK = "…"
"""Stands where a passage was cut."""


def cut_passage(title: str, text: str, max_words: int | None) -> tuple[str, str]:
    """Return title and text of a retrieved passage as agents are shown them: ``max_words`` of both together.

    White space becomes one blank. A mark stands at the end of what was cut.
    """
    titles, texts = title.split(), text.split()
    if max_words is None or len(titles) + len(texts) <= max_words:
        return " ".join(titles), " ".join(texts)
    if len(titles) > max_words:
        return " ".join([*titles[:max_words], MARK]), ""
    return " ".join(titles), " ".join([*texts[: max_words - len(titles)], MARK])


def join_passage(title: str | None, text: str) -> str:
    """Return a retrieved passage as one text, exactly as agents are shown it."""
    return " ".join(part for part in (title, text) if part)


def source_passage(document: Row) -> Row:
    """Return the source abstract of a row as a passage."""
    return _passage(document["pmid"], document["title"], document["abstract"], None, True)


def context_passage(context: Row, source: int) -> Row:
    """Return a context of a candidate (``schema.CANDIDATE``) as a passage; ``source`` is the PMID of the row.

    Earlier versions did not record where a context's title ends: its title is then None, and its text has both.
    """
    title, text = context.get("title"), context["text"]
    if title is not None:
        text = text[len(title) :].removeprefix(" ")
    return _passage(context["pmid"], title, text, context["score"], context["pmid"] == source)


def _passage(pmid: int, title: str | None, text: str, score: float | None, is_source: bool) -> Row:
    return {"pmid": pmid, "title": title, "text": text, "score": score, "is_source": is_source}
