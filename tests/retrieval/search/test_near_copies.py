from pathlib import Path

import numpy as np

from kailin_ray.retrieval.search.near_copies import near_copies
from kailin_ray.retrieval.search.store import Store
from tests.support import indexes as made

WORDS = [f"word{number}" for number in range(40)]


def copies(tmp_path: Path, texts: list[str], vectors: np.ndarray, rows: list[list[int]]) -> list[list[bool]]:
    shard = made.shard(tmp_path / "s", list(range(len(texts))), vectors, texts)
    return near_copies(Store([shard], made.DIMENSION), np.array(rows), 0.8).tolist()


def test_a_later_one_with_nearly_the_same_words_goes(tmp_path: Path) -> None:
    same = np.repeat(made.unit(1), 4, axis=0)
    texts = [
        " ".join(WORDS),
        " ".join([*WORDS[:-1], "another"]),  # 35 of 37 shingles
        " ".join(WORDS[::-1]),  # the same words, no shingle of the same
        " ".join([*WORDS[:20], "new", *WORDS[20:]]),  # 32 of 41
    ]
    assert copies(tmp_path, texts, same, [[0, 1, 2, 3]]) == [[False, True, False, False]]


def test_words_are_compared_only_where_vectors_are_alike(tmp_path: Path) -> None:
    far = np.eye(made.DIMENSION, dtype=np.float32)[:2]
    assert copies(tmp_path, [" ".join(WORDS)] * 2, far, [[0, 1]]) == [[False, False]]


def test_what_repeats_a_copy_alone_stays_and_no_row_is_no_copy(tmp_path: Path) -> None:
    same = np.repeat(made.unit(1), 3, axis=0)
    texts = [" ".join(WORDS[:20]), " ".join(WORDS[1:22]), " ".join(WORDS[4:25])]
    # 15 of 18; 14 of 20 with the copy, 12 of 22 with the first.
    found = copies(tmp_path, texts, same, [[0, 1, 2, -1], [1, 2, -1, -1], [-1, -1, 0, 0]])
    assert found == [[False, True, False, False], [False, False, False, False], [False, False, False, True]]


def test_lengths_of_vectors_do_not_matter(tmp_path: Path) -> None:
    longer = np.stack([made.unit(1)[0], 7 * made.unit(1)[0]])
    assert copies(tmp_path, [" ".join(WORDS)] * 2, longer, [[0, 1]]) == [[False, True]]
