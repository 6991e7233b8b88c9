"""The kernels that take the most time in the profile of the fastest setting of gpu_sft.py.

python benchmarks/best_profile.py FOLDER [--count 12]

FOLDER holds a profile for each setting, as `gpu_sft.py --profile FOLDER` writes them. Slower ones are removed.
"""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from pathlib import Path

from figures import tell, told


def best(folder: Path) -> Path | None:
    """The profile of the fastest setting. None if there is none."""
    speeds = {
        folder / line["setting"].replace("/", "-"): line["tokens_per_second"]
        for line in told()
        if line["what"].startswith("sft ") and "tokens_per_second" in line
    }
    return max((path for path in speeds if path.is_dir()), key=speeds.__getitem__, default=None)


def kernels(folder: Path) -> Counter[str]:
    """Nanoseconds by kernel, over all streams of all devices. On a CPU, by operation."""
    from jax.profiler import ProfileData

    found: Counter[str] = Counter()
    for path in folder.rglob("*.xplane.pb"):
        planes = list(ProfileData.from_file(str(path)).planes)
        devices = [plane for plane in planes if plane.name.startswith("/device:")]
        for plane in devices or planes:
            for line in plane.lines:
                if devices and not line.name.startswith("Stream"):
                    continue  # the same time again, by module and by operation
                for event in line.events:
                    found[event.name] += int(event.duration_ns)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=12)
    given = parser.parse_args()
    profile = best(given.folder)
    if profile is None:
        print(f"no profile in {given.folder}")
        return
    for other in given.folder.iterdir():
        if other != profile:
            shutil.rmtree(other)
    found = kernels(profile)
    total = sum(found.values())
    print(f"# profile of {profile.name}: {total / 1e6:.1f} ms in all")
    for name, nanoseconds in found.most_common(given.count):
        tell(f"kernel {name[:100]}", f"{nanoseconds / 1e6:.1f} ms, {nanoseconds / total:.1%}", ms=nanoseconds / 1e6)


if __name__ == "__main__":
    main()
