"""Trackers get what they should, and none of them can end a training."""

import json
import struct
from dataclasses import dataclass

import google_crc32c
import numpy as np
import pytest

from marin_sft.errors import ConfigError
from marin_sft.training.metrics.tensorboard_tracker import TensorboardTracker, masked_crc32c
from marin_sft.training.metrics.trackers import TensorboardConfig, Trackers, WandbConfig, check_trackers

HISTOGRAM = (np.array([1.0, 3.0]), np.array([0.0, 1.0, 2.0]))


def started(configs, output, states=None):
    return Trackers(configs, name="chat", config={"learning_rate": 0.1}, output_path=str(output), states=states or {})


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def wandb_records(data):
    """Of a .wandb file: LevelDB's log format, blocks of 32 KiB of chunks (checksum, length, type), after a header."""
    position, record = 7, b""
    while position + 7 <= len(data):
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if kind == 0:  # what is left of a block
            position += 32768 - position % 32768
            continue
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""
        left = 32768 - position % 32768
        position += left if left < 7 else 0


def offline_history(output):
    """The metrics of the only offline run below `output`, read from wandb's own log of records."""
    from wandb.proto import wandb_internal_pb2

    (path,) = output.glob("wandb/offline-run-*/run-*.wandb")
    rows, about = [], {}
    for data in wandb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
        elif record.WhichOneof("record_type") == "run":
            about = {"id": record.run.run_id, "name": record.run.display_name, "tags": list(record.run.tags)}
    return about, rows


def test_wandb_offline_keeps_all_and_a_resumed_run_is_the_same(no_network, tmp_path):
    config = WandbConfig(project="chats", tags=("sft",), mode="offline")
    first = started([config], tmp_path / "1")
    first.log(1, {"step": 1, "loss": 2.5, "mfu": None})
    first.log_histograms(1, {"weights/w": HISTOGRAM})
    first.log(2, {"step": 2, "loss": 1.5})
    states = json.loads(json.dumps(first.state()))
    first.close(failed=True)
    second = started([config], tmp_path / "2", states)
    second.log(3, {"step": 3, "loss": 1.25})
    second.close(failed=False)

    about, rows = offline_history(tmp_path / "1")
    assert about["name"] == "chat" and about["tags"] == ["sft"] and about["id"] == states["wandb"]["id"]
    assert [(row["_step"], row["loss"]) for row in rows] == [(1, 2.5), (2, 1.5)]
    assert "mfu" not in rows[0] and rows[0]["weights/w/values"] == [1, 3]
    again, rows = offline_history(tmp_path / "2")
    assert again["id"] == about["id"] and [(row["_step"], row["loss"]) for row in rows] == [(3, 1.25)]


def test_wandb_without_a_key_is_told_of_once_and_left_out(no_network, tmp_path, capsys):
    trackers = started([WandbConfig(project="chats", mode="online"), TensorboardConfig()], tmp_path)
    trackers.log(1, {"loss": 2.5})
    trackers.close(failed=False)
    told = capsys.readouterr().err
    assert told.count("warning: wandb gets nothing from here on") == 1
    assert scalars(tmp_path) == [(1, "loss", 2.5)]


@dataclass(frozen=True)
class Breaking:
    """Fails when it logs `at`; at 0, when it starts."""

    at: int
    kind: str = "breaking"

    def start(self, run):
        return self._checked(0)

    def log(self, step, figures):
        self._checked(step)

    def _checked(self, step):
        if step == self.at:
            raise ConnectionError("unreachable")
        return self


@pytest.mark.parametrize("at", [0, 2])
def test_one_that_breaks_is_told_of_once_and_the_others_go_on(tmp_path, capsys, at):
    trackers = started([Breaking(at), TensorboardConfig()], tmp_path)
    for step in (1, 2, 3):
        trackers.log(step, {"loss": float(step)})
    assert trackers.state() == {"tensorboard": {"directory": f"{tmp_path}/tensorboard"}}
    assert capsys.readouterr().err == (
        "warning: breaking gets nothing from here on: ConnectionError: unreachable; training goes on, and "
        "metrics.jsonl has all of it\n"
    )
    assert [step for step, *_ in scalars(tmp_path)] == [1, 2, 3]


def records(output):
    """The messages in each event file, checksums checked with Google's own library."""
    for path in sorted(output.glob("tensorboard/*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            checks = [struct.unpack("<I", data[8:12])[0], struct.unpack("<I", data[12 + length : 16 + length])[0]]
            message = data[12 : 12 + length]
            assert checks == [masked(data[:8]), masked(message)]
            yield message
            data = data[16 + length :]


def masked(data):
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def event_type():
    """`Event` as tensorflow/core/util/event.proto has it, as far as we write it."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = {"double": 1, "float": 2, "int64": 3, "string": 9, "message": 11}
    messages = {
        "Event": [("wall_time", 1, "double"), ("step", 2, "int64"), ("file_version", 3, "string"),
                  ("summary", 5, "Summary"), ("session_log", 7, "SessionLog")],
        "SessionLog": [("status", 1, "int64")],
        "Summary": [("value", 1, "*Value")],
        "Value": [("tag", 1, "string"), ("simple_value", 2, "float"), ("histo", 5, "Histogram")],
        "Histogram": [("min", 1, "double"), ("max", 2, "double"), ("num", 3, "double"), ("sum", 4, "double"),
                      ("sum_squares", 5, "double"), ("bucket_limit", 6, "*double"), ("bucket", 7, "*double")],
    }  # fmt: skip
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="t", syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            plain = kind.removeprefix("*")
            added = message.field.add(name=field, number=number, label=3 if kind[0] == "*" else 1)
            added.type = kinds.get(plain, 11)
            if plain not in kinds:
                added.type_name = f".t.{plain}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Event"))


def events(output):
    return [event_type().FromString(message) for message in records(output)]


def scalars(output):
    return [
        (event.step, value.tag, value.simple_value)
        for event in events(output)
        for value in event.summary.value
        if not value.HasField("histo")
    ]


def test_checksums_are_those_of_the_format():
    assert masked_crc32c(b"123456789") == masked(b"123456789")
    assert google_crc32c.value(b"123456789") == 0xE3069283  # RFC 3720


def test_event_files_hold_scalars_and_histograms(tmp_path):
    tracker = TensorboardTracker(str(tmp_path))
    tracker.log(300, {"loss": 2.5, "lr": 0.125})
    tracker.log_histograms(300, {"weights/w": HISTOGRAM})
    version, logged, histogram = events(tmp_path)
    assert version.file_version == "brain.Event:2" and version.wall_time > 0
    assert [(value.tag, value.simple_value) for value in logged.summary.value] == [("loss", 2.5), ("lr", 0.125)]
    (value,) = histogram.summary.value
    assert (value.tag, value.histo.min, value.histo.max, value.histo.num) == ("weights/w", 0, 2, 4)
    assert (value.histo.sum, value.histo.sum_squares) == (5.0, 7.0)
    assert list(value.histo.bucket_limit) == [1, 2] and list(value.histo.bucket) == [1, 3]


@pytest.mark.parametrize("output", ["{}", "memory://runs{}"])
def test_a_resumed_run_takes_its_files_along_and_voids_what_came_after(tmp_path, output):
    import fsspec

    first = TensorboardTracker(output.format(tmp_path / "1"))
    first.log(1, {"loss": 3.0})
    state = first.state()
    first.log(2, {"loss": 9.0})
    first.close(failed=True)
    second = TensorboardTracker(output.format(tmp_path / "2"), state)
    second.log(2, {"loss": 2.0})
    second.close(failed=False)
    filesystem, plain = fsspec.core.url_to_fs(output.format(tmp_path / "2"))
    filesystem.get(f"{plain}/tensorboard/", f"{tmp_path}/read/tensorboard/", recursive=True)
    assert scalars(tmp_path / "read") == [(1, "loss", 3.0), (2, "loss", 9.0), (2, "loss", 2.0)]
    starts = [event.step for event in events(tmp_path / "read") if event.session_log.status == 1]
    assert starts == [2]  # TensorBoard shows nothing of step 2 and later from before


def test_what_is_no_tracker_is_refused():
    with pytest.raises(ConfigError, match="WandbConfig.mode = 'dry': expected one of online, offline, disabled"):
        WandbConfig(mode="dry")
    with pytest.raises(ConfigError, match="got 'wandb', expected WandbConfig"):
        check_trackers(("wandb",))
    with pytest.raises(ConfigError, match="got tensorboard, tensorboard, expected at most one of each kind"):
        check_trackers((TensorboardConfig(), TensorboardConfig()))
