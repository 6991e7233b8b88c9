"""N trivial tasks with redun, its SQLite database next to the outputs; runs in `.peers`.

redun_engine.py PREFIX STEPS wide|chain REPORT
"""

import time

BEGUN = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from redun import File, Scheduler, task  # noqa: E402
from redun.config import Config  # noqa: E402

IMPORTED = time.perf_counter()


@task(namespace="bench", version="1")
def trivial(path: str, number: int, upstream: File | None = None) -> File:
    file = File(path)
    file.write(str(number))
    return file


@task(namespace="bench", version="1")
def pipeline(prefix: str, count: int, shape: str) -> list[File]:
    files: list[File] = []
    for i in range(count):
        upstream = files[-1] if files and shape == "chain" else None
        files.append(trivial(f"{prefix}/s{i}/number.txt", i, upstream))
    return files


def main() -> None:
    prefix, count, shape, report = sys.argv[1:]
    Path(prefix).mkdir(parents=True, exist_ok=True)
    scheduler = Scheduler(config=Config({"backend": {"db_uri": f"sqlite:///{prefix}/redun.db"}}))
    scheduler.load()
    scheduler.run(pipeline(prefix, int(count), shape))
    seconds = {"imports": IMPORTED - BEGUN, "work": time.perf_counter() - IMPORTED}
    Path(report).write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
