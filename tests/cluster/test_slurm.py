"""What `cluster/slurm/submit.sh` refuses before Slurm allocates anything. The walk itself: `try_on_one_machine.sh`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MESH, ROOT

SUBMIT = ROOT / "cluster" / "slurm" / "submit.sh"


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """A folder with `sbatch`, which notes what it is given, and `sinfo` of a cluster with no GPUs."""
    (tmp_path / "bin").mkdir()
    for name, line in (("sbatch", f'printf "%s\\n" "$@" >{tmp_path}/submitted'), ("sinfo", "echo '(null)'")):
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    return tmp_path


def submitted(slurm: Path, *line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{slurm / 'bin'}:{os.environ['PATH']}"
    own = {"PATH": path, "KAILIN_RAY_VENV": sys.prefix} | environment
    return subprocess.run([SUBMIT, *line], env=os.environ | own, capture_output=True, text=True)


@pytest.mark.parametrize(
    "line, environment, named",
    [
        (["--nodes=2"], {}, "usage"),
        (["--", "distill"], {"PATH": "/usr/bin:/bin"}, "no sbatch here"),
        (["--", "distill"], {"KAILIN_RAY_VENV": "/nowhere"}, "no virtual environment at /nowhere"),
        (["--", "distill"], {"KAILIN_RAY_IMAGE": "/nowhere.sif"}, "no apptainer here"),
        (["--", "distill", "documents=/nowhere"], {}, "documents: cannot read /nowhere"),
        (["--", "distill", "model=chat", "model.path=/nowhere"], {}, "model.path: cannot read /nowhere"),
        (["--nodes=2", "--", "distill", "out=/tmp/run"], {}, "out: /tmp/run is no path that all nodes share"),
        (["--", "distill", "cluster=gpu"], {}, "no GPUs are asked of Slurm"),
        (["--gpus-per-node=8", "--", "distill", "cluster=gpu"], {}, "no partition of this cluster has any"),
        (["--", "distil", "out=a"], {}, "unknown command 'distil'"),
        (["--", "distill", "limmit=3"], {}, "limmit"),
    ],
)
def test_what_a_job_would_die_of_is_refused_by_name(
    slurm: Path, line: list[str], environment: dict[str, str], named: str
) -> None:
    if "PATH" in environment and shutil.which("sbatch", path=environment["PATH"]):
        pytest.skip("this machine has Slurm")
    if "apptainer" in named and shutil.which("apptainer"):
        pytest.skip("this machine has Apptainer")
    done = submitted(slurm, *line, **environment)
    assert done.returncode == 2, done
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (slurm / "submitted").exists()


def test_what_is_whole_is_submitted_as_it_was_given(slurm: Path) -> None:
    keys = [f"documents={slurm}", f"index={slurm}", f"mesh={MESH}", f"out={slurm}/run a", "limit=3"]
    done = submitted(slurm, "--nodes=1", "--time=1:00:00", "--", "distill", *keys)
    assert done.returncode == 0, done
    script = "cluster/slurm/kailin_ray.sbatch"
    assert (slurm / "submitted").read_text().splitlines() == ["--nodes=1", "--time=1:00:00", script, "distill", *keys]


def test_nodes_that_share_a_home_folder_do_not_share_compiled_kernels(tmp_path: Path) -> None:
    script = (ROOT / "cluster/slurm/kailin_ray.sbatch").read_text()
    (on_each_node,) = re.findall(r"^on_each_node='\n(.*?)'$", script, re.MULTILINE | re.DOTALL)
    ray = tmp_path / "ray"
    ray.write_text(f'#!/bin/sh\necho "$VLLM_CACHE_ROOT" >>{tmp_path}/folders\n')
    ray.chmod(0o755)
    base = {"PATH": os.environ["PATH"], "HOME": "/home/u", "SLURM_NODEID": "1", "RAY_ADDRESS": "head:1"}
    for node, more in (("n1", {}), ("n2", {}), ("n1", {"VLLM_CACHE_ROOT": "/v"})):
        environment = base | {"SLURMD_NODENAME": node} | more
        subprocess.run(["bash", "-euc", on_each_node, "node", ray], env=environment, check=True, timeout=60)
    found = (tmp_path / "folders").read_text().split()
    assert found == ["/home/u/.cache/vllm/n1", "/home/u/.cache/vllm/n2", "/v/n1"]
