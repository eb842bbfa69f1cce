import numpy as np

from kailin_ray.retrieval.search.exact import nearest
from tests.support import indexes as made


def test_the_nearest_are_those_of_the_whole_product() -> None:
    vectors, queries = made.unit(500).astype(np.float16), made.unit(7, seed=1)
    deleted = np.array([3, 100, 499])
    chunks = ((start, vectors[start : start + 64]) for start in range(0, 500, 64))
    scores, rows = nearest(chunks, queries, deleted, 10)
    product = queries @ vectors.astype(np.float32).T
    product[:, deleted] = -np.inf
    assert np.array_equal(rows, np.argsort(-product, axis=1)[:, :10])
    assert np.allclose(scores, np.sort(product, axis=1)[:, ::-1][:, :10], atol=1e-5)


def test_fewer_than_asked_leave_places_empty() -> None:
    _, rows = nearest([(0, made.unit(3).astype(np.float16))], made.unit(2, seed=1), np.array([1]), 5)
    assert [sorted(line) for line in rows.tolist()] == [[-1, -1, -1, 0, 2]] * 2
