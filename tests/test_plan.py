from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir

from kailin_ray.__main__ import conf_dir
from kailin_ray.config import Cluster, ConfigError, IngestConfig, check
from kailin_ray.plan import check_resources, engine_environment


@pytest.fixture
def local() -> Cluster:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return check(IngestConfig, compose("ingest", ["source.path=x", "out=o"])).cluster


def test_what_the_cluster_lacks_is_refused_with_the_arithmetic(local: Cluster) -> None:
    check_resources(local, {"CPU": 2.0})
    gpus = replace(local, num_engines=3, gpus_per_engine=2, gpus_per_encoder=0.5)
    check_resources(gpus, {"CPU": 1.0, "GPU": 7.0})
    with pytest.raises(ConfigError, match=r"3 engines x 2 GPUs \+ 1 encoders x 0.5 GPUs = 6.5 GPUs; the cluster has 6"):
        check_resources(gpus, {"CPU": 64.0, "GPU": 6.0})
    with pytest.raises(ConfigError, match=r"cluster.num_engines: 2 engines on CPUs leave none of the cluster's 2 CPUs"):
        check_resources(replace(local, num_engines=2), {"CPU": 2.0})


def test_engines_on_cpus_share_the_cores_and_engines_on_gpus_need_no_setting(local: Cluster) -> None:
    assert engine_environment(replace(local, threads_per_engine=3))["OMP_NUM_THREADS"] == "3"
    assert engine_environment(replace(local, gpus_per_engine=1)) == {}
