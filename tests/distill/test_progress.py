"""Which rows were in an engine that died, and how the one that kills is found."""

import pytest

from kailin_ray.distill.progress import Progress, group_size, is_deadly


def test_a_row_that_comes_again_while_it_is_worked_on_was_in_an_engine_that_died() -> None:
    progress = Progress()
    assert progress.enter("a", [1, 2]) == {}
    progress.leave("a", [1])
    # Row 1 was done; its block was not written, so that it comes again: no suspect.
    assert progress.enter("a", [1, 2, 3]) == {2: 1}
    assert progress.state()["num_open"] == 2
    progress.enter_alone("a", [2])
    assert progress.enter("a", [2]) == {2: 2}
    progress.leave("a", [1, 2, 3])
    assert progress.enter("a", [2]) == {}  # it has ended well: what it was in did not die of it


def test_suspects_that_wait_for_their_turn_are_not_counted_again() -> None:
    progress = Progress()
    progress.enter("a", [1, 2, 3])
    assert progress.enter("a", [1, 2, 3]) == {1: 1, 2: 1, 3: 1}
    progress.enter_alone("a", [1])
    assert progress.enter("a", [1, 2, 3]) == {1: 2, 2: 1, 3: 1}


def test_no_row_is_begun_while_a_run_drains() -> None:
    progress = Progress()
    progress.enter("a", [1])
    progress.drain()
    assert progress.enter("a", [2]) is None
    assert progress.state()["num_open"] == 1
    assert progress.tell("a", {"seconds": 1.0})


@pytest.mark.parametrize("max_concurrent_rows", [1, 8, 48, 512])
def test_a_row_is_deadly_once_it_was_alone_and_not_at_its_first_death(max_concurrent_rows: int) -> None:
    deaths = next(number for number in range(10) if is_deadly(number, max_concurrent_rows))
    assert 2 <= deaths <= 4
    assert group_size(deaths - 1, max_concurrent_rows) == 1
    assert not is_deadly(1, max_concurrent_rows)
    sizes = [group_size(number, max_concurrent_rows) for number in range(1, deaths)]
    assert sizes == sorted(sizes, reverse=True)
