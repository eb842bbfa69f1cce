import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
import tantivy
from hypothesis import given, settings
from hypothesis import strategies as st

from kailin_ray.retrieval.search.lexical import MAX_CHARS, MAX_TERMS, LexicalIndex, build_lexical, question_terms

WORDS = ["heart", "kidney", "liver", "lung", "spleen"]
"""What no stemmer changes."""
STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these "
    "they this to was will with"
)


def passages(*rows: tuple[int, str | None, str | None]) -> pa.Table:
    schema = pa.schema([("pmid", pa.int64()), ("title", pa.string()), ("text", pa.string())])
    return pa.table(list(zip(*rows, strict=True)) or [[], [], []], schema=schema)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "lexical"
    tables = [passages((1, "Heart failure", "")), passages((2, "Heart, heart", "rate"), (3, "Kidney", "disease stage"))]
    build_lexical(iter(tables), folder)
    return folder


def found(folder: Path, question: str, k: int = 100) -> list[int]:
    return [pmid for pmid, _ in LexicalIndex(folder).search(question, k)]


def test_bm25_by_hand(made: Path) -> None:
    # Lengths 2, 3, 3: their mean is 8/3. heart is in 2 of 3 passages, failure in 1.
    heart, failure = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    short, long = 1.2 * (0.25 + 0.75 * 2 / (8 / 3)), 1.2 * (0.25 + 0.75 * 3 / (8 / 3))
    expected = [(1, (heart + failure) * 2.2 / (1 + short)), (2, heart * 2 * 2.2 / (2 + long))]
    hits = LexicalIndex(made).search("heart failure", 4)
    assert [pmid for pmid, _ in hits] == [1, 2]
    assert [score for _, score in hits] == pytest.approx([score for _, score in expected], rel=1e-5)
    assert expected[0][1] == pytest.approx(1.6161, abs=1e-4)  # 1.4508 · 2.2 / 1.975
    assert expected[1][1] == pytest.approx(0.6243, abs=1e-4)  # 0.4700 · 4.4 / 3.3125


@settings(max_examples=8)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), min_size=1, max_size=8),
    st.lists(st.sampled_from(WORDS), unique=True, min_size=1),
)
def test_bm25_against_its_formula(texts: list[list[str]], asked: list[str]) -> None:
    n, mean = len(texts), sum(map(len, texts)) / len(texts)
    expected = {}
    for pmid, text in enumerate(texts):
        score, counts = 0.0, Counter(text)
        for term in asked:
            holds = sum(term in other for other in texts)
            norm = 1.2 * (0.25 + 0.75 * len(text) / mean)
            score += math.log(1 + (n - holds + 0.5) / (holds + 0.5)) * 2.2 * counts[term] / (counts[term] + norm)
        if score:
            expected[pmid] = score
    with TemporaryDirectory() as folder:
        build_lexical([passages(*((pmid, None, " ".join(text)) for pmid, text in enumerate(texts)))], Path(folder))
        hits = LexicalIndex(Path(folder)).search(" ".join(asked), n)
    assert dict(hits) == pytest.approx(expected, rel=1e-4)
    assert hits == sorted(hits, key=lambda hit: (-hit[1], hit[0]))


def test_case_and_endings_do_not_matter(made: Path) -> None:
    index = LexicalIndex(made)
    assert index.search("FAILURES of hearts?", 4) == index.search("heart failure", 4)
    assert index.search("heart heart failure heart", 4) == index.search("heart failure", 4)


def test_a_question_is_analysed_as_the_texts_are(tmp_path: Path) -> None:
    text = (
        "Programmed cell-death, caspase-3: IL-6's naïve β2 co-transporters (p<0.05); été 肝臓 Na+/K+-ATPase " + "x" * 50
    )
    build_lexical([passages((1, None, text))], tmp_path)
    searcher = tantivy.Index.open(str(tmp_path)).searcher()
    terms = question_terms(text)
    assert {"program", "death", "il", "6", "naïv", "β2", "肝臓", "atpas"} <= set(terms)
    assert "x" * 50 not in terms
    assert [term for term in terms if searcher.doc_freq("text", term) != 1] == []


def test_equal_scores_come_by_pmid(tmp_path: Path) -> None:
    build_lexical([passages((9, "heart", None), (2, None, "heart"), (5, "heart", ""), (7, "lung", ""))], tmp_path)
    assert found(tmp_path, "heart") == [2, 5, 9]


@pytest.mark.parametrize("question", ["", " \n", "?!", "the of and", STOP_WORDS, "\0", "unheardof"])
def test_a_question_without_a_term_that_is_there_finds_nothing(made: Path, question: str) -> None:
    assert LexicalIndex(made).search(question, 4) == []


def test_how_many_are_asked_for(made: Path) -> None:
    index = LexicalIndex(made)
    assert [len(index.search("heart kidney", k)) for k in (-1, 0, 1, 2, 3, 10**9)] == [0, 0, 1, 2, 3, 3]
    assert index.search_many(["heart", "", "kidney"], 1) == [index.search("heart", 1), [], index.search("kidney", 1)]
    assert index.search_many([], 4) == []


@pytest.mark.parametrize(
    ("question", "pmids"),
    [
        ("title:heart OR *", [2, 1]),
        ("*", []),
        ("heart AND kidney", [3, 2, 1]),
        ("-heart", [2, 1]),
        ("NOT heart", [2, 1]),
        ("+kidney +heart", [3, 2, 1]),
        ('"heart rate', [2, 1]),
        ('"failure heart"', [1, 2]),
        ("pmid:3", []),
        ("pmid:[1 TO 3]", []),
        ("text:/hea.*/", []),
        ("heart~2 failure^100", [1, 2]),
        ("(heart", [2, 1]),
        ("heart\0kidney", [3, 2, 1]),
        ("kidney \ud800", [3]),
        ("IN [heart]", [2, 1]),
    ],
)
def test_a_question_is_words_and_no_query_language(made: Path, question: str, pmids: list[int]) -> None:
    assert found(made, question) == pmids


@given(st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=127)) | st.text('heartkidny:"()[]^~*?/+-\0 '))
def test_nothing_that_is_asked_acts_as_syntax(made: Path, question: str) -> None:
    index = LexicalIndex(made)
    words = "".join(letter if letter.isalnum() else " " for letter in question)
    assert index.search(question, 4) == index.search(words, 4)


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_nothing_that_is_asked_raises(made: Path, question: str) -> None:
    assert {pmid for pmid, _ in LexicalIndex(made).search(question + " kidney", 4)} >= {3}


def test_an_endless_question_is_cut(made: Path) -> None:
    words = [f"word{i}" for i in range(100_000)]
    assert question_terms(" ".join(words)) == words[:MAX_TERMS]
    assert found(made, " ".join(["heart", *words])) == [2, 1]
    assert found(made, " ".join([*words, "heart"])) == []
    assert found(made, "kidney " * 100_000) == [3]
    assert question_terms("the " * MAX_CHARS + "heart") == []
    assert question_terms("x" * 10**6) == []


def test_a_missing_title_or_text_is_empty(tmp_path: Path) -> None:
    build_lexical([passages((1, None, "heart"), (2, "heart", None), (3, None, None))], tmp_path)
    assert LexicalIndex(tmp_path).num_passages == 3
    assert found(tmp_path, "heart") == [1, 2]
    assert found(tmp_path, "None null") == []


def test_no_passages_make_an_index_that_finds_nothing(tmp_path: Path) -> None:
    build_lexical([passages()], tmp_path)
    assert LexicalIndex(tmp_path).num_passages == 0
    assert found(tmp_path, "heart") == []


def test_updates_replace_delete_and_add(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lexical"
    shutil.copytree(made, folder)
    before = LexicalIndex(folder)
    build_lexical([passages((1, "Lung", "function"), (4, "Heart", ""))], folder, deleted=[2, 99])
    after = LexicalIndex(folder)
    assert after.num_passages == 3
    assert found(folder, "heart") == [4]
    assert found(folder, "lung") == [1]
    assert found(folder, "kidney") == [3]
    # What was opened before stays as it was.
    assert [pmid for pmid, _ in before.search("heart", 4)] == [2, 1]
    build_lexical([passages((2, "Heart", "again"))], folder, deleted=[2])  # taken out before it is added
    assert found(folder, "heart") == [4, 2]
    build_lexical([], folder, deleted=range(10))
    assert LexicalIndex(folder).num_passages == 0
    assert found(folder, "heart kidney lung") == []


def test_what_was_deleted_does_not_return_and_nothing_breaks_on_it(tmp_path: Path) -> None:
    # tantivy counts terms of deleted passages until it merges: heart is then in more passages than there are.
    build_lexical([passages(*((pmid, "heart", "") for pmid in range(100)))], tmp_path)
    build_lexical([], tmp_path, deleted=range(99))
    assert found(tmp_path, "heart") == [99]


def test_an_update_that_fails_changes_nothing(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lexical"
    shutil.copytree(made, folder)

    def breaks() -> Iterator[pa.Table]:
        yield passages((5, "heart", ""))
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        build_lexical(breaks(), folder, deleted=[1])
    assert found(folder, "heart") == [2, 1]
    build_lexical([], folder)  # and another may follow
    assert found(folder, "heart") == [2, 1]


def test_two_writers_at_once_are_refused(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lexical"
    shutil.copytree(made, folder)
    writer = tantivy.Index.open(str(folder)).writer()
    with pytest.raises(ValueError, match=f"{folder}: .*[Ll]ock"):
        build_lexical([], folder)
    del writer


def test_a_folder_that_is_no_lexical_index_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    schema = tantivy.SchemaBuilder().add_text_field("body").build()
    tantivy.Index(schema, str(other))
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "none", tmp_path, other, tmp_path / "file"):
        with pytest.raises(ValueError, match=f"{path}: cannot be used as a lexical index"):
            LexicalIndex(path)
    for path in (other, tmp_path / "file"):
        with pytest.raises(ValueError, match=f"{path}: cannot be used as a lexical index"):
            build_lexical([], path)


@pytest.mark.parametrize("name", ["meta.json", ".term", ".idx", ".fieldnorm", ".fast", ".store"])
@pytest.mark.parametrize("how", ["cut", "empty", "gone", "noise"])
def test_a_damaged_index_is_refused(made: Path, tmp_path: Path, name: str, how: str) -> None:
    folder = tmp_path / "lexical"
    shutil.copytree(made, folder)
    for file in list(folder.glob(f"*{name}")):
        data = file.read_bytes()
        if how == "gone":
            file.unlink()
        else:
            file.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "noise": bytes(len(data))}[how])
    with pytest.raises(ValueError, match=f"^{folder}: cannot be used as a lexical index: [^\n]*$"):
        LexicalIndex(folder)


@pytest.mark.parametrize("name", [".term", ".idx", ".fieldnorm", ".fast", ".store"])
def test_a_changed_byte_never_raises_anything_else(made: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "lexical"
    shutil.copytree(made, folder)
    (file,) = folder.glob(f"*{name}")
    data = file.read_bytes()
    for place in range(0, len(data), max(1, len(data) // 20)):
        file.unlink()  # the one before is still mapped
        file.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            hits = LexicalIndex(folder).search("heart failure", 4)
        except ValueError as error:
            assert str(error).startswith(f"{folder}: ")
        else:
            assert len(hits) <= 4
