"""What an attempt ran with and how it ended: its .record.json, which is written when it ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from marin_sft.errors import DamagedFile
from marin_sft.execution.claims import attempt_path
from marin_sft.execution.commits import Consumed
from marin_sft.execution.contents import FilesOfFields
from marin_sft.execution.documents import JsonObject, read_document
from marin_sft.execution.identity import Payload
from marin_sft.execution.store import Store
from marin_sft.execution.work import Work


@dataclass(frozen=True)
class AttemptRecord:
    """What `worker` wrote, as far as something reads it. An older version may have left out what has a default.

    seconds: that the body took. exit: "ok", or the error.
    config: with inputs as paths. contents: the local files that it used, see `contents`.
    """

    payload: Payload
    seconds: float
    exit: str
    name: str = ""
    function: str = ""
    config: object = None
    inputs: tuple[Consumed, ...] = ()
    contents: FilesOfFields = field(default_factory=dict)
    resources: JsonObject | None = None
    start: str = ""
    end: str = ""
    work: Work = field(default_factory=Work)
    environment: dict[str, object] = field(default_factory=dict)
    launch: JsonObject = field(default_factory=dict)

    @property
    def ended_well(self) -> bool:
        return self.exit == "ok"

    @property
    def uses(self) -> tuple[str, ...]:
        """The directories of its inputs."""
        return tuple(used.directory for used in self.inputs)

    @property
    def run(self) -> str | None:
        """The launch that made the attempt."""
        run = self.launch.get("run")
        return str(run) if run else None


def read_record(store: Store, directory: str, attempt: int) -> AttemptRecord | None:
    """None if the attempt has not ended, or was lost.

    Raises:
        DamagedFile: it cannot be read.
    """
    path = f"{attempt_path(store, directory, attempt)}/.record.json"
    advice = "remove it; earlier attempts of the step may have one"
    return read_document(store, path, AttemptRecord, advice, lambda record: math.isfinite(record.seconds))


def sound_record(store: Store, directory: str, attempt: int) -> AttemptRecord | None:
    """As `read_record`; None for a damaged one, too."""
    try:
        return read_record(store, directory, attempt)
    except DamagedFile:
        return None
