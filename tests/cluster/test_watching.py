"""Our metrics beside Ray's, scraped from a real run, and the dashboard that asks for them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from kailin_ray.distill.metrics import ENGINE, IN_FLIGHT, RUN
from tests.cluster.conftest import Head, end, free_port, until
from tests.conftest import MESH, ROOT

DASHBOARD = json.loads((ROOT / "cluster" / "grafana" / "kailin_ray.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
LIMIT = 60
OURS = {f"ray_kailin_ray_{name}_total" for name in ENGINE} | {f"ray_kailin_ray_{name}" for name in {**IN_FLIGHT, **RUN}}
HISTOGRAM = "ray_kailin_ray_search_seconds_bucket"

Sample = tuple[dict[str, str], float]


def names_in(query: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", query))


def test_the_dashboard_asks_for_all_of_our_metrics_and_for_nothing_that_nobody_exports() -> None:
    asked = set().union(*map(names_in, QUERIES))
    ours = {name for name in asked if name.startswith("ray_kailin_ray_")}
    assert ours == OURS | {HISTOGRAM}
    assert {name.rsplit("_", 2)[0] for name in asked - ours} <= {
        "ray_node_gpus", "ray_node_gram", "ray_node", "ray_node_mem", "ray_vllm_num_requests", "ray_vllm_num",
    }  # fmt: skip
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.fixture(scope="module")
def run(head: Head, documents: Path, index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A run on the cluster; its engine waits for the file ``go`` when it has answered most calls."""
    out = tmp_path_factory.mktemp("watched") / "watched-run"
    paths = [f"documents={documents}", f"index={index}", f"mesh={MESH}", f"out={out}", f"limit={LIMIT}"]
    sizes = ["cluster.block_rows=4", "cluster.max_concurrent_rows=4", "retrieval=brief", "evaluation.method=rule"]
    go = out.with_name("go")
    hold = {"HOLD_AFTER": "100", "HOLD_UNTIL": str(go)}  # of two or three calls an abstract
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.distil_with_a_fake_engine", *paths, *sizes],
        cwd=ROOT, env=os.environ | head.environment | {"RAY_ADDRESS": head.address} | hold,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    yield process, go
    if process.poll() is None:
        end(process)


@pytest.fixture(scope="module")
def prometheus(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """The address of a Prometheus that scrapes the cluster; None where there is no such program."""
    program = shutil.which("prometheus")
    if program is None:
        yield None
        return
    folder = tmp_path_factory.mktemp("prometheus")
    ours = (ROOT / "cluster" / "prometheus.yml").read_text()
    changed = ours.replace("/tmp/ray/", f"{head.folder}/").replace("15s", "1s")
    assert changed.count(str(head.folder)) == 1
    (folder / "prometheus.yml").write_text(changed)
    port = free_port()
    where = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    process = subprocess.Popen(
        [program, *where, f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield f"http://127.0.0.1:{port}"
    end(process)


def scraped(head: Head) -> dict[str, list[Sample]]:
    """What the machines' endpoints say now, by name."""
    discovery = head.folder / "prom_metrics_service_discovery.json"
    found: dict[str, list[Sample]] = {}
    targets = json.loads(discovery.read_text())[0]["targets"] if discovery.exists() else []
    for target in targets:
        try:
            text = requests.get(f"http://{target}/metrics", timeout=10).text
        except requests.ConnectionError:  # it is listed before it listens
            continue
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(found: dict[str, list[Sample]], name: str, **labels: str) -> float:
    samples = found.get(f"ray_kailin_ray_{name}", [])
    return sum(number for own, number in samples if labels.items() <= own.items())


def test_a_run_is_watched_while_it_works(head: Head, run: Any, prometheus: str | None) -> None:
    process, go = run

    def third_done_by_a_ready_engine() -> dict[str, list[Sample]] | None:
        assert process.poll() is None, process.communicate()[0]
        found = scraped(head)
        late = value(found, "documents", state="done") >= LIMIT // 3 and value(found, "rows_total") >= LIMIT // 3
        return found if late and value(found, "engines", state="ready") == 1 else None

    found = until(third_done_by_a_ready_engine, 180)
    assert value(found, "documents", run="watched-run", state="total") == LIMIT
    assert value(found, "documents", run="watched-run", state="done") < LIMIT
    assert value(found, "engines", state="wanted") == 1
    rows = value(found, "rows_total")
    assert 0 < rows <= LIMIT
    assert value(found, "not_accepted_total") <= rows
    assert 0 < value(found, "tokens_total", kind="completion") < value(found, "tokens_total", kind="prompt")
    busy, all_of_it = value(found, "engine_seconds_total", state="busy"), value(found, "engine_seconds_total")
    assert 0 < busy < all_of_it
    assert value(found, "search_seconds_count") > 0
    if prometheus is None:
        go.touch()
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
        pytest.skip("no `prometheus` on this machine: the dashboard's queries were not asked")
    waiting = set(QUERIES)
    # No vLLM, no GPU, and with one retriever that lives nothing is asked again.
    maybe_none = {f"ray_kailin_ray_{name}" for name in ("searches_retried_total", "not_accepted_total", "seconds_left")}

    def all_answered() -> bool:
        """A rate needs two scrapes, so each is asked until it was answered once."""
        waiting.difference_update([query for query in waiting if answered(prometheus, query)])
        return {name for query in waiting for name in names_in(query) if "kailin" in name} <= maybe_none

    assert until(all_answered, 60)
    go.touch()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out


def answered(prometheus: str, query: str) -> list[Any]:
    asked = query.replace("$run", ".*").replace("$stage", ".*").replace("$__rate_interval", "20s")
    told = requests.get(f"{prometheus}/api/v1/query", params={"query": asked, "time": str(time.time())}, timeout=30)
    answer = told.json()
    assert answer["status"] == "success", answer
    return list(answer["data"]["result"])
