"""The encoders against plain transformers, on tiny random models in MedCPT's layout, and on the real MiniLM."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

from kailin_ray.config import Encoder, IndexConfig, check, conf_dir
from kailin_ray.corpus.documents import Documents
from kailin_ray.distill.preflight import check_encoder
from kailin_ray.errors import ConfigError
from kailin_ray.io.manifests import write_manifest
from kailin_ray.retrieval.encoder import EncodeDocuments, PassageEncoder, QueryEncoder, check_length
from kailin_ray.retrieval.encoder_models import resolve_encoder
from kailin_ray.retrieval.indexing.job import encoder_identity, resume_index
from kailin_ray.retrieval.search.folder import FORMAT, Index, IndexInputs
from kailin_ray.schema import DOCUMENTS
from tests.conftest import ENCODER
from tests.support.manifests import documents_manifest, index_manifest

TITLES = ["Insulin [SEP] and glucose", "", "https://example.org/scan.png"]
TEXTS = ["Of mice [CLS] and men, " * 9, "No title. [PAD] [MASK]", "Short."]
QUESTIONS = ["Does insulin lower glucose?", "Which mice [SEP] are obese, and why are they so " * 4]
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def save_model(folder: Path, seed: int, hidden: int = 16) -> Path:
    """A BERT with 64 positions that reads letter by letter; safetensors, and no sentence-transformers modules."""
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"[]().,:?/", *ALPHABET, *(f"##{a}" for a in ALPHABET)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": hidden, "intermediate_size": 32, "max_position_embeddings": 64}
    config = BertConfig(vocab_size=len(words), num_hidden_layers=2, num_attention_heads=2, **sizes)
    model = BertModel(config)
    for parameter in model.parameters():  # BERT's own start leaves all texts alike
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models as small as these wait for threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """articles and questions, as MedCPT's; wide, of other dimensions; own, with modules that say mean."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("articles", "questions")):
        save_model(folder / name, seed)
    save_model(folder / "wide", 2, hidden=24)
    SentenceTransformer(str(folder / "articles"), device="cpu").save_pretrained(str(folder / "own"))
    return folder


def index_config(*overrides: str) -> IndexConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return check(IndexConfig, compose("index", ["documents=d", "out=o", *overrides]))


def medcpt(models: Path, *overrides: str) -> Encoder:
    paths = (f"encoder.path={models}/articles", f"encoder.query.path={models}/questions")
    lengths = ("encoder.max_length=40", "encoder.query_max_length=24", "encoder.batch_size=2")
    return index_config("encoder=medcpt", *paths, *lengths, *overrides).encoder


def plain(path: Path, inputs: list[Any], length: int, pooling: str, normalize: bool) -> np.ndarray:
    """What transformers alone gives, one input after the other."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    tokenizer.split_special_tokens = True
    vectors = []
    for texts in inputs:
        segments = (texts,) if isinstance(texts, str) else texts
        read = tokenizer(*segments, truncation=True, max_length=length, return_tensors="pt")
        assert read["input_ids"].shape[1] <= length
        with torch.no_grad():
            tokens = model(**read).last_hidden_state[0]
        vector = tokens[0] if pooling == "cls" else tokens.mean(dim=0)
        vectors.append((vector / vector.norm() if normalize else vector).numpy())
    return np.stack(vectors)


@pytest.mark.parametrize(
    ("pooling", "normalize", "pair", "prefix"),
    [
        ("mean", False, False, ""),
        ("mean", True, False, "passage: "),
        ("mean", True, True, ""),
        ("cls", True, False, ""),
        ("cls", False, True, "passage: "),
    ],
)
def test_passages_are_those_of_plain_transformers(
    models: Path, pooling: str, normalize: bool, pair: bool, prefix: str
) -> None:
    given = (f"encoder.pooling={pooling}", f"encoder.normalize={normalize}", f"encoder.pair={pair}")
    config = medcpt(models, *given, f'encoder.prefix="{prefix}"')
    vectors = PassageEncoder(config, on_gpu=False).encode(TITLES, TEXTS)
    read = [(prefix + a, b) if pair else f"{prefix}{a} {b}" for a, b in zip(TITLES, TEXTS, strict=True)]
    expected = plain(models / "articles", read, 40, pooling, normalize)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=2e-5)


def test_medcpt_as_its_card_has_it(models: Path) -> None:
    config = medcpt(models)
    passages = PassageEncoder(config, on_gpu=False).encode(TITLES, TEXTS)
    pairs = list(zip(TITLES, TEXTS, strict=True))
    np.testing.assert_allclose(passages, plain(models / "articles", pairs, 40, "cls", False), atol=2e-5)
    questions = QueryEncoder(config, on_gpu=False).encode(QUESTIONS)
    np.testing.assert_allclose(questions, plain(models / "questions", QUESTIONS, 24, "cls", False), atol=2e-5)
    assert np.abs(questions - plain(models / "articles", QUESTIONS, 24, "cls", False)).max() > 0.1


def test_questions_have_their_own_prefix_and_length_also_with_one_model(models: Path) -> None:
    given = ("encoder.query=null", "encoder.normalize=true", "encoder.pooling=mean", 'encoder.query_prefix="query: "')
    vectors = QueryEncoder(medcpt(models, *given), on_gpu=False).encode(QUESTIONS)
    read = [f"query: {question}" for question in QUESTIONS]
    np.testing.assert_allclose(vectors, plain(models / "articles", read, 24, "mean", True), atol=2e-5)


def test_without_pooling_the_directorys_own_modules_are_used(models: Path) -> None:
    given = (f"encoder.path={models}/own", "encoder.query=null", "encoder.pair=false", "encoder.pooling=null")
    vectors = PassageEncoder(resolve_encoder(medcpt(models, *given)), on_gpu=False).encode(TITLES, TEXTS)
    read = [f"{a} {b}" for a, b in zip(TITLES, TEXTS, strict=True)]
    np.testing.assert_allclose(vectors, plain(models / "articles", read, 40, "mean", False), atol=2e-5)


@pytest.mark.parametrize("pooling", ["cls", "null"])
def test_no_code_of_a_models_own_is_run(models: Path, tmp_path: Path, pooling: str) -> None:
    own = tmp_path / "model"
    shutil.copytree(models / "own", own)
    (own / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Evil:\n    pass\n")
    for name in ("config.json", "tokenizer_config.json"):
        classes = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
        (own / name).write_text(json.dumps(json.loads((own / name).read_text()) | {"auto_map": classes}))
    config = medcpt(models, f"encoder.path={own}", f"encoder.pooling={pooling}")
    assert PassageEncoder(config, on_gpu=False).encode(TITLES, TEXTS).shape == (3, 16)
    assert not (tmp_path / "ran").exists()


def test_prompts_that_a_directory_names_are_not_used(models: Path, tmp_path: Path) -> None:
    with_prompt = SentenceTransformer(
        str(models / "own"), device="cpu", prompts={"document": "passage: "}, default_prompt_name="document"
    )
    with_prompt.save_pretrained(str(tmp_path / "prompted"))
    given = ("encoder.query=null", "encoder.pooling=null")
    vectors, without = (
        PassageEncoder(medcpt(models, *given, f"encoder.path={path}"), on_gpu=False).encode(TITLES, TEXTS)
        for path in (tmp_path / "prompted", models / "own")
    )
    assert (vectors == without).all()


@pytest.fixture(scope="module")
def articles(models: Path) -> PassageEncoder:
    return PassageEncoder(medcpt(models), on_gpu=False)


@settings(max_examples=8)
@given(texts=st.lists(st.text(st.sampled_from(ALPHABET + " [].")), max_size=9), data=st.data())
def test_a_passages_vector_depends_on_nothing_beside_it(
    articles: PassageEncoder, texts: list[str], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(texts))))
    vectors = articles.encode(texts, texts[::-1])
    again = articles.encode([texts[i] for i in order], [texts[::-1][i] for i in order])
    assert vectors.shape == (len(texts), 16)
    np.testing.assert_allclose(again, vectors[list(order)], atol=2e-5)


def ids_read(encoder: Any) -> list[list[int]]:
    """Gathers what an encoder's word embeddings are given from now on, row by row."""
    read: list[list[int]] = []
    words = next(module for name, module in encoder._model.named_modules() if name.endswith("word_embeddings"))
    words.register_forward_pre_hook(lambda _, given: read.extend(given[0].tolist()))
    return read


HOSTILE = ["insulin [SEP] glucose [MASK] [CLS] [PAD] [UNK]", "\0 \u202e \u200b", ""]


@pytest.mark.parametrize("pair", [False, True])
def test_no_special_token_is_parsed_from_a_text(pair: bool) -> None:
    encoder = PassageEncoder(index_config(f"encoder.path={ENCODER}", f"encoder.pair={pair}").encoder, on_gpu=False)
    read = ids_read(encoder)
    vectors = encoder.encode(HOSTILE, HOSTILE[::-1])
    tokenizer = encoder._model.tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.pad_token_id}
    expected = [tokenizer.cls_token_id, *[tokenizer.sep_token_id] * (2 if pair else 1)]
    for ids in read:
        assert [i for i in ids if i in special] == expected
        unpadded = [i for i in ids if i != tokenizer.pad_token_id]
        assert ids[: len(unpadded)] == unpadded  # no padding token inside
    assert len(read) == len(HOSTILE)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_minilm_is_as_sentence_transformers_has_it() -> None:
    config = index_config(f"encoder.path={ENCODER}").encoder
    texts = [f"{a} {b}" for a, b in zip(TITLES, TEXTS, strict=True) if "[" not in a + b]
    texts += QUESTIONS[:1]
    expected = SentenceTransformer(str(ENCODER), device="cpu").encode(texts)
    found = (
        QueryEncoder(config, on_gpu=False).encode(texts),
        PassageEncoder(config, on_gpu=False).encode([""] * len(texts), texts),
    )
    for vectors in found:
        assert (vectors * expected).sum(axis=1).min() >= 0.9999


def documents(*rows: tuple[str, str, list[str]]) -> pa.Table:
    blank = dict.fromkeys(DOCUMENTS.names)
    given = [
        blank
        | {"pmid": n, "title": a, "abstract": b, "mesh": [{"ui": ui, "name": "x", "qualifiers": []} for ui in mesh]}
        for n, (a, b, mesh) in enumerate(rows)
    ]
    return pa.Table.from_pylist(given, DOCUMENTS).select(["pmid", "title", "abstract", "mesh"])


def test_documents_become_passages_with_vectors_in_half_precision(models: Path, articles: PassageEncoder) -> None:
    rows = documents(("A", "x", ["D1"]), ("B", "y y y", []), ("C", "z", ["D2", "D3"]), ("", "w", ["D4"]))
    encode = EncodeDocuments(medcpt(models), on_gpu=False)
    made = encode(rows.slice(1))
    assert made["embedding"].type == pa.list_(pa.float16(), 16)
    assert made["mesh"].type == pa.list_(pa.string())
    assert made.select(["pmid", "title", "text", "mesh"]).to_pylist() == [
        {"pmid": 1, "title": "B", "text": "y y y", "mesh": []},
        {"pmid": 2, "title": "C", "text": "z", "mesh": ["D2", "D3"]},
        {"pmid": 3, "title": "", "text": "w", "mesh": ["D4"]},
    ]
    vectors = np.stack(made["embedding"].to_numpy())
    np.testing.assert_array_equal(vectors, articles.encode(["B", "C", ""], ["y y y", "z", "w"]).astype(np.float16))
    seconds = made["seconds"].to_pylist()
    assert seconds[0] > 0
    assert seconds == seconds[:1] * 3
    empty = encode(rows.slice(4))
    assert (empty.num_rows, empty.schema) == (0, made.schema)


def test_what_fits_together_is_found_and_made_absolute(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    found = resolve_encoder(medcpt(models, "encoder.path=articles", "encoder.query.path=questions"))
    assert found.query
    assert (found.path, found.query.path) == (str(models / "articles"), str(models / "questions"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder.query.path={}/wide"], r"^encoder\.query\.path: .*wide produces vectors of 24 dim.*articles of 16"),
        (["encoder.path={}/gone"], r"^encoder\.path: .*gone: no such directory"),
        (["encoder.query.path={}"], r"^encoder\.query\.path: .* is not a model directory: it has no config\.json"),
        (["encoder.query.path={}/pickled"], r"^encoder\.query\.path: .*pickled has no \*\.safetensors, only pytorch_m"),
        (["encoder.max_length=65"], r"^encoder\.max_length: 65 tokens, but .*articles has 64 positions"),
        (["encoder.query_max_length=128"], r"^encoder\.query_max_length: 128 tokens, but .*questions has 64 positions"),
        (["encoder.pooling=null"], r"^encoder\.pooling: null, but .*articles has no modules\.json"),
    ],
)
def test_what_cannot_be_is_refused_by_name_before_a_model_is_loaded(
    models: Path, overrides: list[str], message: str
) -> None:
    pickled = models / "pickled"
    pickled.mkdir(exist_ok=True)
    (pickled / "config.json").write_bytes((models / "questions" / "config.json").read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match=message):
        resolve_encoder(medcpt(models, *(override.format(models) for override in overrides)))


def test_too_long_a_length_is_refused_by_the_encoders_too(models: Path) -> None:
    config = medcpt(models, "encoder.max_length=65", "encoder.query_max_length=66")
    with pytest.raises(ConfigError, match=r"encoder\.max_length: 65 tokens, .* 64 positions"):
        PassageEncoder(config, on_gpu=False)
    with pytest.raises(ConfigError, match=r"encoder\.query_max_length: 66 tokens, .* 64 positions"):
        QueryEncoder(config, on_gpu=False)


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlnet", "max_position_embeddings": -1}, None),
        ({"model_type": "t5"}, None),
    ],
)
def test_the_positions_that_tokens_can_stand_at(model: dict[str, Any], most: int | None) -> None:
    check_length("key", most or 1_000_000, "model", model)
    if most:
        with pytest.raises(ConfigError, match=f"key: {most + 1} tokens, but model has {most} positions"):
            check_length("key", most + 1, "model", model)


SETTINGS = {
    "query": "encoder.query=null", "pooling": "encoder.pooling=mean", "normalize": "encoder.normalize=true",
    "pair": "encoder.pair=false", "prefix": "encoder.prefix=p", "query_prefix": "encoder.query_prefix=q",
    "max_length": "encoder.max_length=41", "query_max_length": "encoder.query_max_length=41",
}  # fmt: skip


def test_an_index_made_otherwise_is_refused_by_the_settings_name(models: Path, tmp_path: Path) -> None:
    documents = Documents(tmp_path, documents_manifest(id="1"))
    (tmp_path / "out").mkdir()
    others = {"model": f"encoder.path={models}/own", **SETTINGS}
    assert encoder_identity(medcpt(models)).keys() == others.keys()

    def config(*overrides: str) -> IndexConfig:
        paths = (f"encoder.path={models}/articles", f"encoder.query.path={models}/questions")
        return index_config("encoder=medcpt", *paths, f"documents={tmp_path}", f"out={tmp_path}/out", *overrides)

    made_from = IndexInputs(documents="1", encoder=encoder_identity(config().encoder), format=FORMAT)
    write_manifest(tmp_path / "out", index_manifest(made_from=made_from))
    index = resume_index(config("encoder.batch_size=1"), documents)
    assert index
    assert index.manifest.made_from == made_from
    for name, override in others.items():
        with pytest.raises(ConfigError, match=rf"from other input \(encoder\.{name}\)"):
            resume_index(config(override), documents)
    documents = Documents(tmp_path, documents_manifest(id="2"))
    with pytest.raises(ConfigError, match=r"from other input \(documents, encoder\.prefix, encoder\.max_length\)"):
        resume_index(config("encoder.prefix=p", "encoder.max_length=9"), documents)


def test_other_weights_in_the_same_place_are_another_encoder(models: Path, tmp_path: Path) -> None:
    at = save_model(tmp_path / "model", seed=1)
    before = encoder_identity(medcpt(models, f"encoder.query.path={at}"))
    assert before == encoder_identity(medcpt(models))  # the same files elsewhere are the same encoder
    (at / "model.safetensors").write_bytes((models / "articles" / "model.safetensors").read_bytes())
    assert encoder_identity(medcpt(models, f"encoder.query.path={at}"))["query"] != before["query"]


def test_a_run_needs_the_model_of_questions_alone_and_as_it_was(models: Path, tmp_path: Path) -> None:
    asked, indexed = save_model(tmp_path / "asked", seed=1), save_model(tmp_path / "indexed", seed=0)
    encoder = medcpt(models, f"encoder.path={indexed}", f"encoder.query.path={asked}")
    made_from = IndexInputs(documents="1", encoder=encoder_identity(encoder), format=FORMAT)
    recorded = dataclasses.asdict(encoder)
    index = Index(Path("i"), index_manifest(made_from=made_from, config={"encoder": recorded}))
    shutil.rmtree(indexed)
    check_encoder(index)
    (asked / "vocab.txt").write_text("other")
    with pytest.raises(ConfigError, match=r"^index: i was made with .*asked, which has changed since"):
        check_encoder(index)
    shutil.rmtree(asked)
    with pytest.raises(ConfigError, match=r"^index: i needs its encoder: .*asked: no such dir"):
        check_encoder(index)
    del recorded["pooling"]
    with pytest.raises(ConfigError, match=r"^index: made by an older version"):
        check_encoder(index)


def test_both_models_of_the_hub_are_pinned_to_their_commits(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = {"ncbi/MedCPT-Article-Encoder": "articles", "ncbi/MedCPT-Query-Encoder": "questions"}

    def download(path: str, name: str, revision: str | None) -> str:
        assert revision in ("main", "v1", commits[path])
        return str(models / commits[path] / name)  # snapshots/<commit>/<name>

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    hub = ("encoder=medcpt", "encoder.revision=main", "encoder.query.revision=v1")
    found = resolve_encoder(index_config(*hub, "encoder.max_length=64").encoder)
    assert found.query
    assert (found.path, found.revision) == ("ncbi/MedCPT-Article-Encoder", "articles")
    assert (found.query.path, found.query.revision) == ("ncbi/MedCPT-Query-Encoder", "questions")
    with pytest.raises(ConfigError, match=r"^encoder\.max_length: 65 tokens, but ncbi/MedCPT-Article-Encoder has 64"):
        resolve_encoder(index_config(*hub, "encoder.max_length=65").encoder)


@pytest.mark.parametrize(("preset", "dot"), [("minilm", False), ("pubmedbert", False), ("medcpt", True)])
def test_presets(preset: str, dot: bool) -> None:
    encoder = index_config(f"encoder={preset}").encoder
    assert (encoder.normalize, encoder.pair, encoder.query is None) == (not dot, dot, not dot)
    assert encoder.query_max_length <= encoder.max_length <= 512
