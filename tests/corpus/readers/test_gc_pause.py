import gc

import pytest

from kailin_ray.corpus.readers.gc_pause import no_search


@pytest.mark.parametrize("searching", [True, False])
def test_the_search_is_as_it_was_afterwards_and_after_an_error(searching: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if searching else gc.disable)()
        with pytest.raises(ValueError, match="x"), no_search():
            assert not gc.isenabled()
            raise ValueError("x")
        assert gc.isenabled() == searching
    finally:
        (gc.enable if before else gc.disable)()
