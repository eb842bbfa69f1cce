from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir

from kailin_ray.__main__ import conf_dir
from kailin_ray.config import Cluster, ConfigError, IngestConfig, check
from kailin_ray.plan import Actors, check_resources, engine_environment

NODES = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}]


def test_what_fits_is_let_through() -> None:
    check_resources([], [{"CPU": 1.0}])
    check_resources([Actors("engines", 1, 1, 0)], [{"CPU": 2.0}])
    check_resources([Actors("engines", 3, 1, 1), Actors("retriever", 1, 0, 0.5)], NODES)


@pytest.mark.parametrize(
    ("actors", "fault"),
    [
        (
            [Actors("engines", 3, 1, 2), Actors("retriever", 1, 0, 0.5)],
            r"cluster: 3 engines x 2 \+ 1 retriever x 0.5 = 6.5 GPUs; the cluster has 6",
        ),
        ([Actors("engines", 16, 1, 0)], "16 engines x 1 = 16 CPUs, and one more to read and write with; .* has 16"),
        ([Actors("engines", 1, 1, 5)], "one of the engines needs 5 GPUs on one node; the largest has 4"),
    ],
)
def test_what_the_cluster_lacks_is_refused_with_the_arithmetic(actors: list[Actors], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        check_resources(actors, NODES)


def test_engines_on_cpus_share_the_cores_and_engines_on_gpus_need_no_setting() -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        local: Cluster = check(IngestConfig, compose("ingest", ["source.path=x", "out=o"])).cluster
    assert engine_environment(replace(local, threads_per_engine=3))["OMP_NUM_THREADS"] == "3"
    assert engine_environment(replace(local, gpus_per_engine=1)) == {}
