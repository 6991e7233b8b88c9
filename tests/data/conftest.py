import gzip
import hashlib
import json
from pathlib import Path

import pytest

from marin_sft.data.tokenizer import load_tokenizer
from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer

WORDS = "the quick brown fox jumps over a lazy dog while seven wise owls count stars in silence".split()


def chat_rows(count: int, longest: int = 12) -> list[dict]:
    """Dialogues of one to three exchanges, all different, of known lengths."""
    rows = []
    for i in range(count):
        messages = [{"role": "system", "content": "Be brief."}] if i % 4 == 0 else []
        for turn in range(1 + i % 3):
            words = [WORDS[(i * 7 + turn + k) % len(WORDS)] for k in range(1 + (i * 5 + turn) % longest)]
            messages += [
                {"role": "user", "content": f"Question {i}: {' '.join(words)}?"},
                {"role": "assistant", "content": f"{' '.join(reversed(words))}, said {i}."},
            ]
        rows.append({"messages": messages})
    return rows


def write_jsonl(path: Path, rows: list) -> str:
    """Rows as JSON lines; a string is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    return str(path)


def tree_hash(directory: str | Path) -> str:
    """Of the names and bytes of all files below `directory`."""
    digest = hashlib.sha256()
    for path in sorted(Path(directory).rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(directory)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Helpers:
    chat_rows = staticmethod(chat_rows)
    write_jsonl = staticmethod(write_jsonl)
    tree_hash = staticmethod(tree_hash)


@pytest.fixture(scope="session")
def helpers():
    return Helpers


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizer")
    rows = write_jsonl(root / "rows.jsonl", chat_rows(200))
    train_tokenizer(TrainTokenizerConfig((rows,), vocab_size=400, output_path=str(root / "out")))
    return str(root / "out")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path):
    return load_tokenizer(tokenizer_path)


@pytest.fixture
def gcs(monkeypatch):
    """A server with an empty bucket, which fsspec uses."""
    import gcsfs

    from tests.gcs_server import GcsServer

    with GcsServer() as server:
        server.create_bucket("bucket")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield server
        gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture
def gcs_bucket(gcs):
    return "gs://bucket"
