"""The Kubernetes manifests, as `kubectl apply -k` renders them: against the schemas, and for what they mean."""

import copy
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import list2cmdline
from typing import Any

import jsonschema
import pytest
import yaml
from hydra import compose, initialize_config_dir

from kailin_ray.cli.main import read_config
from kailin_ray.config import DistillConfig, check, conf_dir
from kailin_ray.errors import ConfigError
from kailin_ray.planning.plan import make_plan
from kailin_ray.planning.pools import Node
from tests.conftest import MODEL, ROOT
from tests.support.kubernetes_manifests import KUBERNETES, Manifest, closed, crd, rendered, validate
from tests.support.model_configs import config_only

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl, which renders the manifests")

GPUS = {"cpu-trial": 0, "one-gpu": 1, "eight-gpus": 8, "many-nodes": 64, "interactive": 1}
FOLDERS = ["base", "storage", "monitoring", *(f"overlays/{name}" for name in GPUS)]
OVERLAYS = pytest.mark.parametrize("overlay", GPUS)
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
OBJECT_STORE_SHARE, OBJECT_STORE_MOST = 0.3, 200e9
"""Of a container's memory, what Ray takes for its object store unless told; with less in /dev/shm it goes to disk."""


def gib(quantity: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(\w+)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit] / UNITS["Gi"]


def ray_manifest(overlay: str) -> Manifest:
    (manifest,) = (one for one in rendered(KUBERNETES / "overlays" / overlay) if one["kind"].startswith("Ray"))
    return manifest


def cluster_of(manifest: Manifest) -> Manifest:
    return manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"]["rayClusterSpec"]


def ray_pods(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """The pods with a part of the Ray cluster, by their group."""
    cluster = cluster_of(manifest)
    yield "head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


def pods(manifest: Manifest) -> list[Manifest]:
    """All pods, the submitter's too."""
    submitter = [manifest["spec"]["submitterPodTemplate"]["spec"]] if manifest["kind"] == "RayJob" else []
    return [*(pod for _, pod in ray_pods(manifest)), *submitter]


def gpus(pod: Manifest) -> int:
    (container,) = pod["containers"]
    return int(container["resources"]["limits"].get("nvidia.com/gpu", 0))


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_applied_is_what_the_schemas_allow(folder: str) -> None:
    manifests = rendered(KUBERNETES / folder)
    assert manifests
    for manifest in manifests:
        validate(manifest)
        assert manifest["metadata"]["namespace"] == "kailin-ray"


def test_each_overlay_is_tested() -> None:
    assert {path.name for path in (KUBERNETES / "overlays").iterdir()} == set(GPUS)


def misspelt(where: Manifest, name: str, other: str) -> None:
    where[other] = where.pop(name)


BREAKS: dict[str, Callable[[Manifest], Any]] = {
    "an unknown field of the job": lambda m: misspelt(m["spec"], "backoffLimit", "backofLimit"),
    "an unknown field of the cluster": lambda m: misspelt(cluster_of(m), "authOptions", "authOption"),
    "an unknown field of a group": lambda m: misspelt(
        cluster_of(m)["workerGroupSpecs"][0], "maxReplicas", "maxReplica"
    ),
    "an unknown field of a pod": lambda m: misspelt(pods(m)[1], "tolerations", "toleration"),
    "an unknown field of a container": lambda m: misspelt(pods(m)[1]["containers"][0], "volumeMounts", "mounts"),
    "an unknown field of the submitter": lambda m: misspelt(pods(m)[-1], "restartPolicy", "restart"),
    "a mode that is none": lambda m: cluster_of(m)["authOptions"].update(mode="tokens"),
    "a number where a text belongs": lambda m: cluster_of(m)["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    "a text where a number belongs": lambda m: cluster_of(m)["workerGroupSpecs"][0].update(replicas="1"),
    "no head": lambda m: cluster_of(m).pop("headGroupSpec"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_manifest_is_refused(how: str) -> None:
    manifest = ray_manifest("one-gpu")
    validate(manifest)
    broken = copy.deepcopy(manifest)
    BREAKS[how](broken)
    with pytest.raises(jsonschema.ValidationError):
        validate(broken)


def test_a_broken_claim_is_refused() -> None:
    claim, _ = rendered(KUBERNETES / "storage")
    misspelt(claim["spec"], "accessModes", "accessMode")
    with pytest.raises(jsonschema.ValidationError):
        validate(claim)


def test_kuberay_s_own_definitions_are_asked_where_they_are_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small one of their form here; the real ones, of 1.2 MB, in a folder that KUBERAY_CRDS names."""
    spec = {"type": "object", "properties": {"entrypoint": {"type": "string"}}}
    properties = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    schema = {"type": "object", "properties": properties | {"spec": spec}}
    definition = {"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}}
    (tmp_path / "ray.io_rayjobs.yaml").write_text(yaml.safe_dump(definition))
    small = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "a"}, "spec": {"entrypoint": "ls"}}
    crd(tmp_path, "RayJob").validate(small)
    monkeypatch.setenv("KUBERAY_CRDS", str(tmp_path))
    with pytest.raises(jsonschema.ValidationError, match="rayClusterSpec"):
        validate(ray_manifest("one-gpu"))
    assert closed({"type": "object", "properties": {"properties": {"type": "object", "properties": {}}}}) == {
        "type": "object", "additionalProperties": False,
        "properties": {"properties": {"type": "object", "properties": {}, "additionalProperties": False}},
    }  # fmt: skip


@OVERLAYS
def test_an_overlay_has_the_gpus_of_its_name(overlay: str) -> None:
    manifest = ray_manifest(overlay)
    groups = cluster_of(manifest)["workerGroupSpecs"]
    assert sum(group["replicas"] * gpus(group["template"]["spec"]) for group in groups) == GPUS[overlay]
    for group in groups:
        # The plan counts the machines at the start: what is not there then is not used.
        assert 0 <= group["minReplicas"] <= group["replicas"] == group["maxReplicas"]
        tolerated = [one["key"] for one in group["template"]["spec"].get("tolerations", [])]
        assert ("nvidia.com/gpu" in tolerated) == (GPUS[overlay] > 0)
    head = cluster_of(manifest)["headGroupSpec"]
    assert gpus(head["template"]["spec"]) == 0
    assert head["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}


@OVERLAYS
def test_every_ray_pod_has_the_shared_folders_and_room_for_ray_s_objects(overlay: str) -> None:
    for name, pod in ray_pods(ray_manifest(overlay)):
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounted["/data"]["persistentVolumeClaim"]["claimName"] == "kailin-ray-data", name
        assert mounted["/models"]["persistentVolumeClaim"]["claimName"] == "kailin-ray-models", name
        assert {"name": "HF_HOME", "value": "/models"} in container["env"], name
        assert mounted["/dev/shm"]["emptyDir"]["medium"] == "Memory", name
        shared, memory = (
            gib(mounted["/dev/shm"]["emptyDir"]["sizeLimit"]),
            gib(container["resources"]["limits"]["memory"]),
        )
        assert min(OBJECT_STORE_SHARE * memory, OBJECT_STORE_MOST / UNITS["Gi"]) <= shared < memory, name
    claims = {claim["metadata"]["name"]: claim["spec"] for claim in rendered(KUBERNETES / "storage")}
    assert set(claims) == {"kailin-ray-data", "kailin-ray-models"}
    assert all(spec["accessModes"] == ["ReadWriteMany"] for spec in claims.values())


@OVERLAYS
def test_pods_keep_the_restricted_standard(overlay: str) -> None:
    """Kubernetes' strictest pod security standard; the service account's token only where the autoscaler needs it."""
    manifest = ray_manifest(overlay)
    for pod in pods(manifest):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"] == container["resources"]["limits"]
            mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            emptied = {volume["name"] for volume in pod["volumes"] if volume.get("emptyDir") == {}}
            assert {mounted["/tmp"], mounted["/home/kailin"]} == emptied == {"tmp", "home"}
            tag = container["image"].partition(":")[2]
            assert tag not in ("", "latest")
            assert tag.endswith("-gpu" if GPUS[overlay] else "-cpu")
    head, *others = pods(manifest)
    assert "automountServiceAccountToken" not in head
    assert all(pod["automountServiceAccountToken"] is False for pod in others)
    autoscaler = cluster_of(manifest)["autoscalerOptions"]
    assert autoscaler["securityContext"] == head["containers"][0]["securityContext"]
    assert {mount["mountPath"] for mount in autoscaler["volumeMounts"]} == {"/tmp", "/home/kailin"}
    assert autoscaler["resources"]["limits"] == autoscaler["resources"]["requests"]


@OVERLAYS
def test_only_the_cluster_s_own_pods_and_the_operator_reach_a_pod(overlay: str) -> None:
    (policy,) = (one for one in rendered(KUBERNETES / "overlays" / overlay) if one["kind"] == "NetworkPolicy")
    manifest, spec = ray_manifest(overlay), policy["spec"]
    ours = spec["podSelector"]["matchLabels"]
    cluster = cluster_of(manifest)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    templates = [group["template"] for group in groups]
    if manifest["kind"] == "RayJob":
        templates.append(manifest["spec"]["submitterPodTemplate"])
    assert all(template["metadata"]["labels"] == ours for template in templates)
    assert spec["policyTypes"] == ["Ingress"]
    (rule,) = spec["ingress"]
    own, operator = rule["from"]
    assert own == {"podSelector": {"matchLabels": ours}}  # of this namespace
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}


def test_prometheus_reaches_the_metrics_and_no_other_port() -> None:
    monitor, policy = sorted(rendered(KUBERNETES / "monitoring"), key=lambda one: one["kind"] == "NetworkPolicy")
    assert policy["spec"]["podSelector"] == monitor["spec"]["selector"]
    (rule,) = policy["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [
        endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]
    ]


@OVERLAYS
def test_the_token_comes_from_the_secret_and_nothing_secret_is_written_out(overlay: str) -> None:
    manifest = ray_manifest(overlay)
    # KubeRay then sets RAY_AUTH_MODE and RAY_AUTH_TOKEN in all containers: the autoscaler's and the submitter's, too.
    assert cluster_of(manifest)["authOptions"] == {"mode": "token", "secretName": "kailin-ray-token"}
    assert not re.search(r"RAY_AUTH|HF_TOKEN|AWS_SECRET|password", yaml.safe_dump(manifest), re.IGNORECASE)


@OVERLAYS
def test_workers_drain_before_they_are_killed(overlay: str) -> None:
    _, *workers = ray_pods(ray_manifest(overlay))
    assert len(workers) == (2 if overlay == "many-nodes" else 1)
    for _, pod in workers:
        (container,) = pod["containers"]
        environment = {one["name"]: one["value"] for one in container["env"]}
        assert 0 < float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < pod["terminationGracePeriodSeconds"]


def test_the_spot_group_is_the_other_s_copy_on_spot_machines() -> None:
    kept, spot = cluster_of(ray_manifest("many-nodes"))["workerGroupSpecs"]
    kept_pod, spot_pod = kept["template"]["spec"], spot["template"]["spec"]
    terms = spot_pod.pop("affinity")["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert len(terms["nodeSelectorTerms"]) == 4
    assert spot_pod.pop("tolerations")[: len(kept_pod["tolerations"])] == kept_pod.pop("tolerations")
    assert kept_pod == spot_pod


def test_the_interactive_cluster_is_the_job_s() -> None:
    job, interactive = cluster_of(ray_manifest("one-gpu")), cluster_of(ray_manifest("interactive"))
    assert interactive["workerGroupSpecs"][0].pop("minReplicas") == 1  # it stays while nothing runs
    job["workerGroupSpecs"][0].pop("minReplicas")
    assert interactive == job


def test_ray_is_the_locks_version() -> None:
    version = cluster_of(ray_manifest("one-gpu"))["rayVersion"]
    for lock in ("cpu", "gpu"):
        assert f"\nray=={version} " in (ROOT / "requirements" / f"{lock}.lock").read_text()


def commands(entrypoint: str) -> list[list[str]]:
    """The commands that the head's shell runs: the submitter's shell splits the text, `ray job submit` joins it."""
    words = shlex.split(list2cmdline(shlex.split(entrypoint)))
    if words[:2] == ["bash", "-c"]:
        (script,) = words[2:]
        return [shlex.split(command) for command in script.split(" && ")]
    assert not set(";&|`$()<>") & set("".join(words)), "KubeRay's submitter would take these for itself"
    return [words]


def check_commands(entrypoint: str) -> list[str]:
    """Check them as the command line would; return what each runs."""
    ran = []
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        for python, module, package, name, *keys in commands(entrypoint):
            assert (python, module, package) == ("python", "-m", "kailin_ray")
            read_config(name, keys)
            paths = [value for key in keys for _, _, value in [key.partition("=")] if "/" in value]
            assert all(path.startswith("/data/") for path in paths), "the head has no other folder for good"
            ran.append(name)
    return ran


@pytest.mark.parametrize("overlay", [name for name in GPUS if name != "interactive"])
def test_the_job_s_command_is_one_of_ours(overlay: str) -> None:
    spec = ray_manifest(overlay)["spec"]
    ran = check_commands(spec["entrypoint"])
    assert ran[-1] == "distill"
    assert ("cluster=gpu" in spec["entrypoint"]) == (GPUS[overlay] > 0)
    patience = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert all(isinstance(value, str) for value in patience.values())
    assert int(patience["RAY_JOB_STOP_WAIT_TIME_S"]) > 120  # grace_seconds
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True


def machines(overlay: str) -> list[Node]:
    """What Ray is told of the overlay's pods."""
    manifest = ray_manifest(overlay)
    (_, head), *_ = ray_pods(manifest)
    nodes = [Node(cpus=0, memory_gib=gib(head["containers"][0]["resources"]["limits"]["memory"]))]
    for group in cluster_of(manifest)["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        held = {"cpus": int(limits["cpu"]), "memory_gib": gib(limits["memory"])}
        graphics = {"gpus": int(limits.get("nvidia.com/gpu", 0)), "gpu_memory_gib": 80}
        nodes += [Node(**held, **graphics, identity=f"{group['groupName']}-{i}") for i in range(group["replicas"])]
    return nodes


@pytest.mark.parametrize(
    ("overlay", "engines", "size"),
    [("cpu-trial", 1, 0), ("one-gpu", 1, 1), ("eight-gpus", 2, 4), ("many-nodes", 16, 4)],
)
def test_the_plan_uses_every_gpu_and_no_head(overlay: str, engines: int, size: int, tmp_path: Path) -> None:
    """As sizes go, with the one-GPU preset's model in all, whose config is at hand without the hub."""
    *_, (_, _, _, _, *keys) = commands(ray_manifest(overlay)["spec"]["entrypoint"])
    path = config_only(tmp_path, "qwen3.8-27b-fp8") if size else MODEL
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config = check(DistillConfig, compose("distill", [*keys, f"model.path={path}"]))
    (phase,) = make_plan(config, machines(overlay)).phases
    (pool,) = phase
    assert (pool.replicas, pool.demand.gpus) == (engines, size)
    assert pool.replicas * pool.demand.gpus == GPUS[overlay]
    assert None not in pool.machines


def test_a_wrong_key_in_a_manifest_is_found() -> None:
    entrypoint = ray_manifest("one-gpu")["spec"]["entrypoint"]
    with pytest.raises(ConfigError, match="limit"):
        check_commands(f"{entrypoint} limit=-1")
    with pytest.raises(Exception, match="modell"):
        check_commands(entrypoint.replace("model=", "modell="))
    with pytest.raises(AssertionError, match="submitter"):
        commands(f"{entrypoint} && ls")
