"""Bad input through the command line: one line that names it, non-zero exit, nothing half-written.

In this process; one that starts an engine that cannot, and one that looks at its environment, in their own.
"""

import gzip
import shutil
from pathlib import Path

import pytest

from kailin_ray.cli import main
from kailin_ray.config import ReportConfig
from tests.conftest import ENCODER, MESH, MODEL, Command
from tests.support.model_configs import config_only
from tests.support.weights import safetensors


def refused(kailin: Command, folder: Path, *arguments: object, names: tuple[str, ...], code: int = 2) -> None:
    before = sorted(folder.rglob("*"))
    done = kailin(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("kailin_ray: ")]
    assert len(said) == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for name in names:
        assert name in said[0]
    left = [path for path in sorted(folder.rglob("*")) if path not in before and path.suffix != ".log"]
    assert left == []


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["distil"], ["unknown command 'distil'", "allowed: fetch, download, ingest, select, index"]),
        (["fetch", "assets=[mush]"], ["unknown 'mush'", "allowed: mesh"]),
        (["ingest", "source.path={at}/none.xml", "out={at}/o"], ["source.path", "none.xml", "does not exist"]),
        (["ingest", "source.path={at}/empty", "out={at}/o"], ["source.path", "empty", "no .xml or .xml.gz"]),
        (["ingest", "source.path={at}/*.zip", "out={at}/o"], ["source.path", "matches no file"]),
        (
            ["select", "corpus={at}", "out={at}/o", "sample.stratify_by=title"],
            ["sample.stratify_by", "'title'", "'letters'"],
        ),
        (["ingest", "out={at}/o"], ["source.path", "missing"]),
        (["ingest", "source.path={at}", "out={at}/o", "sauce=1"], ["sauce"]),
        (["index", "documents={at}/none", "out={at}/o"], ["documents", "none", "not a directory"]),
        (["index", "documents={at}/empty", "out={at}/o"], ["documents", "empty", "manifest.json"]),
        (["publish", "run={at}/empty", "out={at}/o"], ["run", "empty", "manifest.json"]),
        (["report", "run={at}/none"], ["run", "none", "not a directory"]),
        (["compare", "old={at}/none", "new={at}", "out={at}/o"], ["old", "none", "not a directory"]),
    ],
)
def test_wrong_keys_values_and_paths(
    kailin_here: Command, tmp_path: Path, arguments: list[str], names: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    given = [argument.format(at=tmp_path) for argument in arguments]
    refused(kailin_here, tmp_path, *given, names=tuple(names))
    done = kailin_here(*given)
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (
            gzip.compress(b"<PubmedArticleSet>" + b"<PubmedArticle/>" * 5_000 + b"</PubmedArticleSet>", mtime=0)[:-20],
            "ended",
        ),
        (b"<rss><channel/></rss>", "not PubMed XML: its root element is <rss>"),
    ],
)
def test_files_that_cannot_be_read(kailin_here: Command, tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "pubmed1.xml.gz"
    path.write_bytes(content)
    refused(kailin_here, tmp_path, "ingest", f"source.path={path}", f"out={tmp_path}/o", names=(str(path), fault))


def test_a_damaged_file_among_whole_ones(kailin: Command, tmp_path: Path, small_shard: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "whole.xml.gz").write_bytes(small_shard.read_bytes())
    (tmp_path / "in" / "cut.xml.gz").write_bytes(small_shard.read_bytes()[:-1_000])
    done = kailin("ingest", f"source.path={tmp_path}/in", f"out={tmp_path}/documents")
    assert done.returncode == 1
    assert "cut.xml.gz" in done.stderr
    assert "500 citations" in done.stdout
    again = kailin("ingest", f"source.path={tmp_path}/in", f"out={tmp_path}/documents", "tolerate_damaged=true")
    # It is tried again, as it may have been mended.
    assert (again.returncode, "500 citations" in again.stdout, "cut.xml.gz" in again.stderr) == (0, True, True)
    (tmp_path / "in" / "cut.xml.gz").write_bytes(small_shard.read_bytes())
    mended = kailin("ingest", f"source.path={tmp_path}/in", f"out={tmp_path}/documents")
    assert (mended.returncode, "1,000 citations" in mended.stdout, mended.stderr.count("damaged")) == (0, True, 0)
    assert "update 2: 0 new, 0 revised, 0 retracted, 0 deleted" in mended.stdout


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (["retrieval.top_k=0"], ["retrieval.top_k", "greater than or equal to 1", "0"]),
        (["retrieval.top_k=many"], ["retrieval.top_k", "many"]),
        (["evaluation.measure=cosine"], ["evaluation.measure", "'resnik'", "cosine"]),
        (["model=nonesuch"], ["model/nonesuch", "smollm2"]),
        (["model.path=no/such/model/anywhere"], ["model.path", "no/such/model/anywhere", "no such directory"]),
        (["model.path={documents}"], ["model.path", "config.json"]),
        (["temperature=1"], ["temperature"]),
        (["+model.engine.max_modle_len=512"], ["model.engine.max_modle_len", "max_model_len"]),
        (["+model.answer.engine.max_modle_len=512"], ["model.answer.engine.max_modle_len", "max_model_len"]),
        (["model.engine.max_model_len=100000"], ["max_model_len 100,000 is longer than the 8,192 tokens"]),
        (["retrieval.top_k=40"], ["the answer agent's prompt", "13,800 (contexts)", "longer than the 3,072"]),
        (["+model.engine.data_parallel_size=2"], ["model.engine.data_parallel_size", "cluster.num_engines"]),
        (["model.answer.path=no/such/model/anywhere"], ["model.answer.path", "no such directory"]),
        (["model.answer.adapter={documents}"], ["model.answer.adapter", "no adapter_config.json"]),
        (["+model.answer.sampling.seed=1"], ["model.answer.sampling.seed", "Unexpected"]),
        (["mesh={documents}/none.tsv"], ["mesh", "none.tsv"]),
        (["mesh={documents}/manifest.json"], ["mesh", "manifest.json", "not MeSH: neither"]),
        (["evaluation.method=coin"], ["evaluation.method", "'rule', 'judge' or 'rule_then_judge'", "coin"]),
        (["evaluation.judge.mode=threewise"], ["evaluation.judge.mode", "'pairwise' or 'pointwise'", "threewise"]),
        (["documents={index}"], ["documents", "holds index, not documents"]),
        (["index={documents}"], ["index", "holds documents, not index"]),
        (["retrieval.lexical_weight=0.5"], ["retrieval.lexical_weight", "no lexical index", "lexical=true"]),
    ],
)
def test_wrong_distillations(
    kailin_here: Command, tmp_path: Path, documents: Path, index: Path, changes: list[str], names: list[str]
) -> None:
    changed = [change.format(documents=documents, index=index) for change in changes]
    keys = {change.partition("=")[0] for change in changed}
    kept = [one for one in right_keys(documents, index, tmp_path) if one.partition("=")[0] not in keys]
    if "model" in keys:
        kept = [argument for argument in kept if not argument.startswith("model.")]
    refused(kailin_here, tmp_path, "distill", *kept, *changed, names=tuple(names))


def right_keys(documents: Path, index: Path, folder: Path) -> list[str]:
    """Of a distillation that nothing is wrong with."""
    return [f"documents={documents}", f"index={index}", f"mesh={MESH}", f"out={folder}/run", f"model.path={MODEL}"]


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("model.path=nobody/nothing", ["model.path", "nobody/nothing", "hub"]),
        (
            "cluster.num_engines=40",
            ["40 x 1 (general+biomedical+answer) + 1 x 1 (to read and write) = 41 CPUs", "the cluster has"],
        ),
        ("cluster.device=gpu", ["takes 1 GPU of one machine", "the largest has 0"]),
    ],
)
def test_what_the_hub_or_the_cluster_lacks(
    kailin: Command, tmp_path: Path, documents: Path, index: Path, key: str, names: list[str]
) -> None:
    kept = [one for one in right_keys(documents, index, tmp_path) if one.partition("=")[0] != key.partition("=")[0]]
    refused(kailin, tmp_path, "distill", *kept, key, names=tuple(names))


NODES = "cluster.nodes={{count: 1, cpus: 16, memory_gib: 64, gpus: {gpus}, gpu_memory_gib: {gib}}}"


@pytest.mark.parametrize(
    ("gpus", "gib", "changes", "names"),
    [
        (1, 24, ["model.path={at}/llama-3-70b"], ["70.6 B parameters are 131.4 GiB of weights", "24 x 0.92 = 22.1"]),
        (
            2, 80,
            ["model.path={at}/llama-3-8b", "model.biomedical.path={at}/mistral-7b", "model.answer.path={at}/llama-3-8b",
             "+model.answer.engine.max_num_seqs=8", "cluster.stage_placement=together"],
            ["3 stages side by side need 1 x 1 (general) + 1 x 1 (biomedical) + 1 x 1 (answer) = 3 GPUs", "has 2"],
        ),
        (1, 80, ["model.path={at}/llama-3-8b", "retrieval.top_k=40"], ["13,800 (contexts)", "longer than the 8,192"]),
        (1, 80, ["model.path={at}/llama-3-8b", "cluster.nodes.gpu=1"], ["nodes.gpu"]),
        (
            1, 80, ["model.path={at}/llama-3-8b", "cluster.gpus_per_encoder=0.1"],
            ["1 x 1 (general+biomedical+answer) + 1 x 0.1 (retriever) = 1.1 GPUs; the cluster has 1; an engine takes "
             "whole GPUs, cluster.gpus_per_encoder=0 encodes questions on CPUs"],
        ),
        (
            1, 80, ["model.path={at}/llama-3-8b", "cluster.gpus_per_encoder=1.5"],
            ["cluster.gpus_per_encoder: allowed: 0, a share of one GPU from 0.0001 to 1, or a whole number (was 1.5)"],
        ),
    ],
)  # fmt: skip
def test_plans_that_cannot_run(
    kailin_here: Command, tmp_path: Path, gpus: int, gib: int, changes: list[str], names: list[str]
) -> None:
    for model in ("llama-3-8b", "llama-3-70b", "mistral-7b"):
        config_only(tmp_path, model)
    given = [
        "model=chat",
        "cluster=gpu",
        NODES.format(gpus=gpus, gib=gib),
        *(one.format(at=tmp_path) for one in changes),
    ]
    refused(kailin_here, tmp_path, "plan", *given, names=tuple(names))


def test_a_plan_is_shown_and_nothing_starts(kailin: Command, tmp_path: Path) -> None:
    path = config_only(tmp_path, "llama-3-8b")
    done = kailin("plan", "model=chat", f"model.path={path}", "cluster=gpu", NODES.format(gpus=8, gib=80))
    assert (done.returncode, done.stderr) == (0, "")
    assert "8 x 1" in done.stdout
    assert "90% of 56.6 GiB / 233.5 MiB (1,868 tokens, answer) = 223" in done.stdout
    here = kailin("plan")
    assert here.returncode == 0
    assert "1 x 1" in here.stdout


@pytest.mark.parametrize("file", ["tokenizer.json", "chat_template.jinja"])
def test_a_plan_of_a_model_without_tokenizer_or_template_is_refused(
    kailin_here: Command, tmp_path: Path, file: str
) -> None:
    path = Path(config_only(tmp_path, "llama-3-8b"))
    (path / file).unlink()
    done = kailin_here("plan", "model=chat", f"model.path={path}", "cluster=gpu", NODES.format(gpus=8, gib=80))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"kailin_ray: model.path: {path}: its tokenizer ")
    assert done.stderr.count("\n") == 1


ONLY_SINGLE_TURNS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ raise_exception('one turn only') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("agent", ["general", "biomedical", "judge", "answer"])
def test_each_agent_s_model_is_probed_with_that_agent_s_turns(
    kailin_here: Command, tmp_path: Path, documents: Path, index: Path, agent: str
) -> None:
    """The examples in a prompt are turns of an assistant, which some templates do not take."""
    path = Path(config_only(tmp_path, "llama-3-8b"))
    (path / "chat_template.jinja").unlink()
    (path / "chat_template.jinja").write_text(ONLY_SINGLE_TURNS)
    (path / "model.safetensors").write_bytes(safetensors())
    given = [*right_keys(documents, index, tmp_path), "evaluation.method=judge", f"model.{agent}.path={path}"]
    names = (f"model.{agent}.path: {path}: its chat template cannot be used: one turn only",)
    refused(kailin_here, tmp_path, "distill", *given, names=names)
    if agent == "answer":
        return  # whose prompt for the decision has its answer as a turn
    keys = ("evaluation.method=judge", f"model.{agent}.path={path}", f"model.{agent}.examples=false", "cluster=gpu")
    done = kailin_here("plan", f"model.path={MODEL}", *keys, NODES.format(gpus=8, gib=80))
    assert done.returncode == 0, done.stderr  # without examples, the same template is fine


def test_a_hub_revision_is_pinned_to_its_commit(kailin_subprocess: Command, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--owner--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    Path(config_only(cached / "snapshots", "llama-3-8b")).rename(cached / "snapshots" / commit)
    given = ("plan", "model=chat", "model.path=owner/name", "cluster=gpu", NODES.format(gpus=8, gib=80))
    done = kailin_subprocess(*given, HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"owner/name@{commit}: 8.03 B parameters" in done.stdout


def test_documents_without_mesh_headings(kailin_here: Command, tmp_path: Path, index: Path) -> None:
    bare = (
        "<PubmedArticle><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>T</ArticleTitle><Abstract><AbstractText>"
    )
    bare += "A.</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle>"
    (tmp_path / "bare.xml").write_text(f"<PubmedArticleSet>{bare}</PubmedArticleSet>")
    done = kailin_here("ingest", f"source.path={tmp_path}/bare.xml", f"out={tmp_path}/documents")
    assert done.returncode == 0, done.stderr
    arguments = (f"documents={tmp_path}/documents", f"index={index}", f"mesh={MESH}", f"out={tmp_path}/run")
    refused(kailin_here, tmp_path, "distill", *arguments, names=("documents", "no document with MeSH headings"))


def test_an_out_folder_that_holds_something_else_is_left_alone(
    kailin_here: Command, tmp_path: Path, documents: Path, small_shard: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for arguments in (
        ("ingest", f"source.path={small_shard}", f"out={tmp_path}/mine"),
        ("index", f"documents={documents}", f"out={tmp_path}/mine", f"encoder.path={ENCODER}"),
    ):
        refused(kailin_here, tmp_path, *arguments, names=("out", "mine"))
    refused(
        kailin_here,
        tmp_path,
        "ingest",
        f"source.path={small_shard}",
        f"out={documents}",
        names=("out", "made by `select`"),
    )


def test_no_traceback_reaches_a_person(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(config: ReportConfig) -> int:
        raise KeyError("a fault of the program\x1b[2J")

    monkeypatch.setitem(main.COMMANDS, "report", (ReportConfig, fail))
    assert main.run_command(["report", "run=x"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("kailin_ray: unexpected KeyError: 'a fault of the program\\x1b[2J'; all of it: /")
    assert shown.err.count("\n") == 1 and "Traceback" not in shown.out + shown.err
    log = Path(shown.err.strip().rpartition(" ")[2])
    assert "Traceback" in log.read_text()
    log.unlink()


def test_help_teaches_and_the_configuration_can_be_seen(kailin_here: Command) -> None:
    overview = kailin_here("--help")
    assert overview.returncode == 0
    for command in ("fetch", "download", "ingest", "select", "index", "distill", "plan", "publish", "report"):
        assert command in overview.stdout
        shown = kailin_here(command, "--help")
        assert shown.returncode == 0
        assert f"kailin-ray {command}" in shown.stdout
    composed = kailin_here("distill", "--cfg", "job", "retrieval=brief")
    assert "max_context_words: 32" in composed.stdout


def test_an_engine_that_cannot_start_is_said_in_one_line_that_names_the_log(
    kailin_subprocess: Command, tmp_path: Path, documents: Path, index: Path
) -> None:
    done = kailin_subprocess(
        "distill", f"documents={documents}", f"index={index}", f"mesh={MESH}", f"out={tmp_path}/run", "limit=2",
        "+model.engine.kv_cache_dtype=nonesuch",
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "nonesuch" in done.stderr.splitlines()[-1]
    assert f"{tmp_path}/run/logs/driver.log" in done.stderr.splitlines()[-1]


def test_a_damaged_index_is_refused_by_the_file(
    kailin_here: Command, tmp_path: Path, documents: Path, index: Path
) -> None:
    damaged = tmp_path / "index"
    shutil.copytree(index, damaged)
    arguments = (f"documents={documents}", f"index={damaged}", f"mesh={MESH}", f"out={tmp_path}/run", "limit=1")
    vectors = damaged / "shards/00000/vectors.f16"
    whole = vectors.read_bytes()
    for damage, names in ((whole[:-2], ("vectors.f16", "bytes, not", "damaged")), (None, ("vectors.f16", "missing"))):
        vectors.unlink()
        if damage:
            vectors.write_bytes(damage)
        refused(kailin_here, tmp_path, "distill", *arguments, names=names)
        vectors.write_bytes(whole)
