"""Tensors of remote files are those of the same files here, and no more of a file is read than is asked for."""

import json

import fsspec
import ml_dtypes
import numpy as np
import pytest
from fsspec.config import conf
from safetensors.numpy import save, save_file

from marin_sft.errors import TrainingError
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import model_directory, stored_tensors
from marin_sft.training.models.adapted_weights import Merged
from marin_sft.training.models.model_check import limits_of
from marin_sft.training.models.model_directory import WEIGHTS, ModelDirectory, write_tensors
from marin_sft.training.models.peft_directory import Adapter
from tests.counted_files import counted_files
from tests.gcs_server import Fault, GcsServer

TYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.int16, np.int8, np.uint8, bool]
TYPES += [np.uint16, np.uint32, np.uint64]


@pytest.fixture
def files():
    with counted_files() as files:
        yield files


def of_all_types() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tensors = {np.dtype(type).name: rng.integers(0, 2, (3, 5)).astype(type) for type in TYPES}
    return {**tensors, "empty": np.zeros((0, 3), np.float32)}


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool(np.array_equal(one, other))


def test_remote_tensors_are_those_of_local_files(files, tmp_path):
    tensors = of_all_types()
    write_tensors(str(tmp_path), tensors, max_shard_bytes=200)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert_same(tensors, ModelDirectory(tmp_path), ModelDirectory(files.put("model", tmp_path)))
    scalar = {"scalar": np.array(7.0, np.float32)}
    save_file(scalar, tmp_path / WEIGHTS)
    assert_same(scalar, ModelDirectory(tmp_path), ModelDirectory(files.put("model", tmp_path)))


def assert_same(tensors: dict[str, np.ndarray], *models: ModelDirectory) -> None:
    local, remote = (model.tensors() for model in models)
    assert local.shapes() == remote.shapes() == {name: tensor.shape for name, tensor in tensors.items()}
    for read in (dict(local), dict(remote), dict(local.read()), dict(remote.read())):
        assert read.keys() == tensors.keys() and all(same(read[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("limit", [8, 100, 2**20])
def test_each_byte_is_read_once_however_reads_are_cut(files, tmp_path, monkeypatch, limit):
    for name in ("_BLOCK", "_REQUEST"):
        monkeypatch.setattr(stored_tensors, name, limit)
    tensors = {f"t{i}": np.arange(40, dtype=np.float32) + i for i in range(5)}
    write_tensors(str(tmp_path), tensors)
    model = ModelDirectory(files.put("model", tmp_path))
    found = dict(model.tensors().read())
    assert all(same(found[name], tensors[name]) for name in tensors)
    assert files.read == {f"/model/{WEIGHTS}": (tmp_path / WEIGHTS).stat().st_size}

    files.clear()
    stored = model.tensors()
    header = files.read.total()
    assert "t3" in stored and "t9" not in stored and [*stored] == [*tensors]
    assert files.read.total() == header < 600
    assert dict(stored.read(["t3", "t1"])).keys() == {"t1", "t3"}
    assert same(stored["t4"], tensors["t4"])
    assert files.read.total() == header + 3 * 160


@pytest.mark.parametrize("limit", [8, 100, 2**20])
def test_only_the_rows_that_are_needed_are_read(files, tmp_path, monkeypatch, limit):
    for name in ("_BLOCK", "_REQUEST"):
        monkeypatch.setattr(stored_tensors, name, limit)
    tensors = {
        "a": np.arange(24, dtype=np.float32).reshape(6, 4),
        "b": np.arange(12).reshape(6, 2).astype(ml_dtypes.bfloat16),
        "c": np.array([7.0], np.float32),
        "d": np.arange(5, dtype=np.float16),
    }
    write_tensors(str(tmp_path), tensors)
    rows = {"a": slice(4, 6), "b": slice(0, 3), "c": None, "d": slice(2, 2)}
    expected = {name: tensor if rows[name] is None else tensor[rows[name]] for name, tensor in tensors.items()}
    remote = ModelDirectory(files.put("model", tmp_path)).tensors()
    header = files.read.total()
    for stored in (remote, ModelDirectory(tmp_path).tensors()):
        found = dict(stored.read(rows=rows.get))
        assert found.keys() == tensors.keys() and all(same(found[name], expected[name]) for name in tensors)
    assert files.read.total() - header == sum(part.nbytes for part in expected.values())


def test_names_and_shapes_of_a_merged_model_cost_no_tensor(files, tmp_path):
    write_tensors(str(tmp_path), {"a": np.ones(9, np.float32), "b": np.ones(4, np.float32)})
    stored = ModelDirectory(files.put("model", tmp_path)).tensors()
    files.clear()
    merged = Merged(stored, Adapter(LoraConfig(r=1, alpha=1), {}), ["a"])
    assert merged.shapes() == {"a": (9,)} and "a" in merged and "b" not in merged
    assert not files.read


def test_the_config_of_a_large_model_costs_its_config(files, tmp_path):
    """And its tokenizer the tokenizer; each once, however often it is asked for."""
    config = {"model_type": "llama", "vocab_size": 47, "hidden_size": 32, "intermediate_size": 64}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"w": np.zeros(12_500_000, np.float32)}, tmp_path / WEIGHTS)
    model = ModelDirectory(files.put("model", tmp_path))
    assert limits_of(model).max_seq_len == 32 and model.weight_files() == [WEIGHTS]
    assert model.config is model.config and model.json("config.json") and model.json("generation_config.json") is None
    assert files.read == {"/model/config.json": (tmp_path / "config.json").stat().st_size}


def test_a_tokenizer_is_fetched_once_and_each_caller_has_their_own(files, base_model):
    model = ModelDirectory(files.put("model", base_model))
    first, second = model.tokenizer("{{ 'mine' }}"), model.tokenizer()
    assert first.chat_template == "{{ 'mine' }}" != second.chat_template
    assert second.encode("w1 w2 w39") == first.encode("w1 w2 w39") == model.tokenizer().encode("w1 w2 w39")
    assert files.read["/model/tokenizer.json"] == files.sizes("/model/tokenizer.json")["/model/tokenizer.json"]
    assert f"/model/{WEIGHTS}" not in files.read


def content(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


GOOD = save({"w": np.ones(4, np.float32)})
FIELD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED = {
    "nothing": b"",
    "three bytes": GOOD[:3],
    "half a header": GOOD[:40],
    "half the tensors": GOOD[:-1],
    "more than the tensors": GOOD + b"\0",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "no JSON": content(b"\xff{"),
    "no object": content([]),
    "no entries": content({"w": 3}),
    "no offsets": content({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "offsets that are none": content({"w": {**FIELD, "data_offsets": ["a", "b"]}}, bytes(8)),
    "another size": content({"w": {**FIELD, "shape": [3]}}, bytes(8)),
    "another type": content({"w": {**FIELD, "dtype": "F64"}}, bytes(8)),
    "an unknown type": content({"w": {**FIELD, "dtype": "X9"}}, bytes(8)),
    "a hole": content({"w": FIELD, "x": {**FIELD, "data_offsets": [12, 20]}}, bytes(20)),
    "tensors over each other": content({"w": FIELD, "x": {**FIELD, "data_offsets": [4, 12]}}, bytes(12)),
    "a negative size": content({"w": {**FIELD, "shape": [-1, -2]}}, bytes(8)),
    "text for a size": content({"w": {**FIELD, "shape": "ab"}}, bytes(8)),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("place", ["local", "remote"])
def test_a_damaged_file_is_named_wherever_it_lies(files, tmp_path, damage, place):
    (tmp_path / WEIGHTS).write_bytes(DAMAGED[damage])
    path = str(tmp_path) if place == "local" else files.put("model", tmp_path)
    expected = rf"{path}/{WEIGHTS} \({len(DAMAGED[damage])} bytes\): expected safetensors: .*download it again"
    with pytest.raises(TrainingError, match=expected):
        ModelDirectory(path).tensors()


def test_a_file_that_is_cut_while_it_is_read_is_named(files, tmp_path):
    write_tensors(str(tmp_path), {"w": np.ones(100, np.float32)})
    stored = ModelDirectory(files.put("model", tmp_path)).tensors()
    fsspec.filesystem("memory").pipe(f"/model/{WEIGHTS}", (tmp_path / WEIGHTS).read_bytes()[:-8])
    with pytest.raises(TrainingError, match=rf"model/{WEIGHTS} .*got 392 of 400 bytes"):
        stored["w"]


def test_one_of_many_requests_at_once_that_fails_is_not_taken_for_bytes(tmp_path, monkeypatch):
    """Where requests run concurrently, fsspec gives back what was raised among the bytes, whatever it is told."""
    import gcsfs

    monkeypatch.setattr(stored_tensors, "_REQUEST", 64)
    tensors = {"a": np.arange(100, dtype=np.float32), "b": np.ones(3, ml_dtypes.bfloat16)}
    write_tensors(str(tmp_path), tensors)
    with GcsServer() as server:
        server.create_bucket("bucket")
        server.put("bucket", f"model/{WEIGHTS}", (tmp_path / WEIGHTS).read_bytes())
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.setitem(conf, "gcs", {"token": "anon"})
        gcsfs.GCSFileSystem.clear_instance_cache()
        stored = ModelDirectory("gs://bucket/model").tensors()
        assert all(same(tensor, tensors[name]) for name, tensor in stored.read())
        with server.failing(Fault.UNAUTHORIZED, lambda request: request.method == "GET") as hit:
            with pytest.raises(gcsfs.retry.HttpError, match="who are you"):
                stored["a"]
            assert hit
        gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_no_model_directory_is_told_as_before(files, tmp_path, remote):
    def at(name: str) -> str:
        return files.put(name, tmp_path / name) if remote else str(tmp_path / name)

    with pytest.raises(TrainingError, match="no model directory at .*; for a hub id, add a download step"):
        ModelDirectory("memory://org/model" if remote else "org/model")
    for name, content in (("empty", {"notes.txt": ""}), ("other", {"config.json": "{}", "pytorch_model.bin": ""})):
        (tmp_path / name).mkdir()
        for file, text in content.items():
            (tmp_path / name / file).write_text(text)
    with pytest.raises(TrainingError, match=r"no config.json in .*empty"):
        _ = ModelDirectory(at("empty")).config
    with pytest.raises(TrainingError, match=r"no model.safetensors in .*it has pytorch_model.bin.*convert other"):
        ModelDirectory(at("other")).tensors()
    write_tensors(str(tmp_path / "other"), {"a": np.zeros(4, np.float32), "b": np.zeros(4, np.float32)}, 16)
    assert ModelDirectory(at("other")).tensors().keys() == {"a", "b"}
    write_tensors(str(tmp_path / "other"), {"c": np.zeros(4, np.float32)})
    assert (tmp_path / "other" / model_directory.INDEX).exists()
    assert ModelDirectory(at("other")).tensors().keys() == {"c"}
