"""What the checks of questions and answers say of text that people wrote, and of text that is wrong.

    python human_text.py pubmedqa.jsonl[.gz] > human_text.json

Each line of the file has PubMedQA's question, abstract, long_answer and final_decision (and pmid). The question is the
article's title, so it stands in for the title. PubMedQA: Jin et al. 2019, doi:10.18653/v1/D19-1259, MIT licence.
"""

import argparse
import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

from kailin_ray.agents import answer, question
from kailin_ray.agents.copies import EXAMPLE_WORDS, find_example_text, measure_copied_share
from kailin_ray.agents.decisions import contradicts
from kailin_ray.agents.numbers import find_unseen_numbers
from kailin_ray.agents.prompts import EXAMPLES
from kailin_ray.corpus.overlap.ngrams import word_list
from kailin_ray.dataset.repeats import normalize_question

Row = dict[str, Any]
OPPOSITE = {"yes": "no", "no": "yes"}


def read(path: Path) -> list[Row]:
    """Read JSON lines, gzipped or not."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.splitlines()]


def document(row: Row) -> Row:
    """Return a row's title and abstract."""
    return {"title": row["question"], "abstract": row["abstract"]}


def passage(row: Row, is_source: bool) -> Row:
    """Return a row's title and abstract as a passage that was shown."""
    return {"title": row["question"], "text": row["abstract"], "is_source": is_source}


def count_rejected(rows: list[Row]) -> dict[str, Any]:
    """Count human questions and answers that are rejected, by check and kind."""
    kinds: dict[str, Counter[str]] = {"question": Counter(), "answer": Counter()}
    for number, row in enumerate(rows):
        source, said = document(row), row["long_answer"]
        other = rows[number - 1]
        kinds["question"][question.problem(row["question"], "stop", source) or ""] += 1
        problems = [
            answer.problem(said, "stop", row["question"]),
            answer.find_copy(said, [passage(row, is_source=True), passage(other, is_source=False)]),
            "answer_contradicts_decision" if contradicts(said, row["question"], row["final_decision"]) else None,
        ]
        kinds["answer"].update({problem for problem in problems if problem})
        kinds["answer"]["any"] += any(problems)
    rejected = {kind: number for kind, number in kinds["question"].items() if kind}
    return {
        "questions": {"any": sum(rejected.values()), **rejected},
        "answers": {"any": kinds["answer"].pop("any"), **kinds["answer"]},
        "known_as_yes_no": sum(question.is_yes_no(row["question"]) for row in rows),
    }


def measure_contradictions(rows: list[Row]) -> dict[str, Any]:
    """Put "Yes." or "No." before human answers: with their own decision, and with the opposite one."""
    own, opposite, maybe = Counter[bool](), Counter[bool](), Counter[bool]()
    for row in rows:
        decision = row["final_decision"]
        for word in ("yes", "no"):
            said = f"{word.capitalize()}. {row['long_answer']}"
            found = contradicts(said, row["question"], decision)
            (maybe if decision == "maybe" else own if decision == word else opposite)[found] += 1
    return {
        name: {"answers": counter.total(), "rejected": counter[True]}
        for name, counter in (("own", own), ("opposite", opposite), ("maybe", maybe))
    }


def measure_copies(rows: list[Row]) -> dict[str, Any]:
    """Count runs of the worked examples' words in human text, and what examples find in other abstracts' place."""
    sources = [(row["question"], row["abstract"]) for row in rows]
    sentences = [sentence for row in rows for sentence in re.split(r"(?<=[.!?])\s+", row["abstract"])]
    shares = [
        measure_copied_share(row["long_answer"], " ".join(source)) for row, source in zip(rows, sources, strict=True)
    ]
    copied = [
        bool(find_example_text(text, source))
        for example in EXAMPLES
        for text in (*example.questions.values(), example.answer)
        for source in sources
    ]
    return {
        "example_words": EXAMPLE_WORDS,
        "sentences": len(sentences),
        "sentences_with_example_words": sum(bool(find_example_text(sentence, ())) for sentence in sentences),
        "examples_as_output": {"texts": len(copied), "rejected": sum(copied)},
        "most_copied_of_own_abstract": round(max(shares), 3),
        "answers_by_copied_share": {
            str(limit): sum(share >= limit for share in shares) for limit in (0.5, 0.6, 0.7, 0.8, 0.9)
        },
    }


def measure_numbers(rows: list[Row]) -> dict[str, Any]:
    """Count unseen numbers of human answers, and how often a number with another last digit is found."""
    generator, unseen = random.Random(0), Counter[int]()
    changed, found = 0, 0
    with_numbers = 0
    for row in rows:
        said, passages = row["long_answer"], [row["question"], row["abstract"]]
        numbers = find_unseen_numbers(said, passages)
        unseen[len(numbers)] += 1
        written = find_unseen_numbers(said, [])
        with_numbers += bool(written)
        if written and not numbers:
            number = generator.choice(written)
            digit = str((int(number[-1]) + generator.randint(1, 9)) % 10)
            pattern = rf"(?<![\w.]){re.escape(number)}(?!\w)"
            wrong = re.sub(pattern, number[:-1] + digit, said, count=1)
            if wrong != said:
                changed += 1
                found += bool(find_unseen_numbers(wrong, passages))
    return {
        "answers_with_numbers": with_numbers,
        "answers_by_unseen_numbers": {str(number): unseen[number] for number in sorted(unseen)},
        "changed": {"answers": changed, "found": found},
    }


def measure_repeats(rows: list[Row], threshold: float = 0.9) -> dict[str, Any]:
    """Compare ways to cut questions into parts: which reworded ones are alike, and which other ones."""
    generator = random.Random(0)
    questions = [row["question"] for row in rows]
    words = [word for each in questions for word in each.rstrip("?").split() if len(word) > 5]
    reworded = [(each, other) for each in questions for other in reword(each) if other != each]
    other = [(each, other) for each in questions for other in change(each, words, generator) if other != each]
    return {
        name: {
            kind: {"pairs": len(pairs), "alike": sum(jaccard(cut(one), cut(two)) >= threshold for one, two in pairs)}
            for kind, pairs in (("reworded", reworded), ("other", other))
        }
        for name, cut in CUTS.items()
    }


def reword(text: str) -> list[str]:
    """Return ways to ask the same."""
    tense = re.sub(r"^Is ", "Was ", re.sub(r"^Does ", "Do ", re.sub(r"^Are ", "Were ", text)))
    article = text.replace(" of ", " of the ", 1) if " of " in text else text.replace(" in ", " in the ", 1)
    return [text.upper(), article, tense, re.sub(r"\bthe ", "", text, count=1), text.replace("-", " ")]


def change(text: str, words: list[str], generator: random.Random) -> list[str]:
    """Return other questions: the last or any long word replaced, and two long words swapped."""
    parts = text.rstrip("?").split()
    places = [place for place, word in enumerate(parts) if len(word) > 5]
    chosen = {places[-1], generator.choice(places)} if places else set()
    changed = [[*parts[:place], generator.choice(words), *parts[place + 1 :]] for place in sorted(chosen)]
    if len(places) > 1 and parts[places[0]] != parts[places[-1]]:
        swapped = list(parts)
        swapped[places[0]], swapped[places[-1]] = parts[places[-1]], parts[places[0]]
        changed.append(swapped)
    return [" ".join(each) + "?" for each in changed]


def jaccard(one: set[Any], two: set[Any]) -> float:
    """Return the share of common elements."""
    return len(one & two) / max(1, len(one | two))


def _pairs(words: list[str]) -> set[Any]:
    return {tuple(words[place : place + 2]) for place in range(len(words) - 1)}


def _letters(text: str) -> set[Any]:
    plain = " ".join(word_list(text))
    return {plain[place : place + 5] for place in range(len(plain) - 4)}


CUTS = {
    "five letters": _letters,
    "two words": lambda text: _pairs(word_list(text)),
    "content words": lambda text: set(normalize_question(text).split()),
    "two content words": lambda text: _pairs(normalize_question(text).split()),
}
"""The last is what ``publish`` uses."""


def main() -> None:
    """Print all counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pubmedqa", type=Path)
    rows = read(parser.parse_args().pubmedqa)
    result = {
        "items": len(rows),
        "rejected": count_rejected(rows),
        "contradictions": measure_contradictions(rows),
        "copies": measure_copies(rows),
        "numbers": measure_numbers(rows),
        "repeats": measure_repeats(rows),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
