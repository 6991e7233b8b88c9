"""What machines cost by the hour: a table in a file of the user's, by the names that `resources=` uses.

currency = "USD"
spot = false

[device_hour]               # one GPU, TPU chip or CPU core
H100 = { on_demand = 11.06, spot = 2.25 }
v4 = 3.22
CPU = 0.03

[host_hour]                 # a whole machine, however little of it a step uses
A100-80G = 40.55
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from marin_sft.errors import UserError
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.resources import ACCELERATORS
from marin_sft.execution.tables import cost_text
from marin_sft.machines import OTHER_NAMES, TPUS, slice_of
from marin_sft.nearest import did_you_mean, nearest_text

PRICES = "MARIN_SFT_PRICES"
DEFAULT_FILE = "prices.toml"
ANY_GPU, CORE = "GPU", "CPU"
_KEYS = ("currency", "spot", "device_hour", "host_hour")


@dataclass(frozen=True)
class Machines:
    """What an attempt holds: `hosts` machines, with `devices` of the kind `device` on each.

    device: a GPU or a TPU generation by Ray's name, or `CORE`; `ANY_GPU` if any will do.
    """

    device: str
    devices: float
    hosts: int
    slices: int = 1
    slice_type: str | None = None

    def __str__(self) -> str:
        """`v4-8`, `2 x v4-8`, `8 H100`, `2 hosts of 8 H100`, `2 CPUs`."""
        if self.slice_type:
            return self.slice_type if self.slices == 1 else f"{self.slices} x {self.slice_type}"
        name = self.device if self.device != CORE or self.devices == 1 else "CPUs"
        each = f"{self.devices:g} {name}"
        return each if self.hosts == 1 else f"{self.hosts} hosts of {each}"


def machines_of(asked: Mapping[str, object]) -> Machines | None:
    """Of a request as `record.asked` writes it. None: it is not understood, as a newer version may have written it."""
    try:
        if asked["class"] == "TpuPodConfig":
            kind, slices = str(asked["tpu_type"]), int(str(asked["slice_count"]))
            found = slice_of(kind)
            if found is None:
                return None
            return Machines(kind.partition("-")[0], found.chips, found.hosts * slices, slices, kind)
        hosts = int(str(asked.get("hosts", 1)))
        if asked["class"] == "GpuConfig":
            return Machines(str(asked["accelerator_type"] or ANY_GPU), float(str(asked["gpu_count"])), hosts)
        return Machines(CORE, float(str(asked["cpus"])), hosts)
    except (KeyError, ValueError):
        return None


@dataclass(frozen=True)
class Prices:
    """Prices of an hour, by the names of devices. file: where they stand."""

    file: str
    currency: str = ""
    device_hour: Mapping[str, float] = field(default_factory=dict)
    host_hour: Mapping[str, float] = field(default_factory=dict)

    def cost(self, machines: Machines, seconds: float) -> float | None:
        """None: the table has no price for these machines."""
        hours = seconds / 3600 * machines.hosts
        if machines.device in self.host_hour:
            return hours * self.host_hour[machines.device]
        if machines.device in self.device_hour:
            return hours * machines.devices * self.device_hour[machines.device]
        return None

    def text(self, cost: float) -> str:
        """`12.40 USD`."""
        return f"{cost_text(cost)} {self.currency}".rstrip()


def prices_file(named: str | None) -> str | None:
    """The file that is named, else $MARIN_SFT_PRICES, else ./prices.toml if there is one.

    Raises:
        UserError: a file that is named does not exist.
    """
    path = named or os.environ.get(PRICES)
    if path is None:
        return DEFAULT_FILE if os.path.isfile(DEFAULT_FILE) else None
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        by = "--prices" if named else PRICES
        raise UserError(f"{by} {path}: no such file; docs/guides/costs.md shows what it holds")
    return path


def read_prices(named: str | None) -> Prices | None:
    """None if there is no file, see `prices_file`.

    Raises:
        UserError: a file that is named does not exist, or a file is not a table of prices.
    """
    path = prices_file(named)
    if path is None:
        return None
    import tomllib  # few launches have such a file

    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a table of prices in TOML: {error}") from None
    return _prices(path, table)


def _prices(path: str, table: JsonObject) -> Prices:
    for key in table:
        if key not in _KEYS:
            raise UserError(f"{path}: unknown {key!r}{nearest_text(key, _KEYS)}")
    currency, spot = table.get("currency", ""), table.get("spot", False)
    if not isinstance(currency, str):
        raise UserError(f'{path} currency: expected a name such as "USD", got {currency!r}')
    if not isinstance(spot, bool):
        raise UserError(f"{path} spot: expected true or false, got {spot!r}")
    by_device, by_host = (_column(path, name, table.get(name, {}), spot) for name in ("device_hour", "host_hour"))
    if twice := sorted(by_device.keys() & by_host.keys()):
        raise UserError(f"{path}: {twice[0]} has a price in device_hour and in host_hour; expected one of them")
    return Prices(path, currency, by_device, by_host)


def _column(path: str, name: str, entries: object, spot: bool) -> dict[str, float]:
    if not isinstance(entries, dict):
        raise UserError(f"{path} {name}: expected prices by the names of devices, got {entries!r}")
    found: dict[str, float] = {}
    for device, entry in entries.items():
        where = f"{path} {name}.{device}"
        price = entry
        if isinstance(entry, dict):
            wanted = "spot" if spot else "on_demand"
            if wanted not in entry or entry.keys() - {"spot", "on_demand"}:
                raise UserError(f"{where}: expected a price, or {{ on_demand = 2.0, spot = 1.0 }}, got {entry!r}")
            price = entry[wanted]
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < math.inf:
            raise UserError(f"{where}: expected a price of an hour, a number >= 0, got {price!r}")
        found[OTHER_NAMES.get(str(device), str(device))] = float(price)
    _check_names(path, name, found)
    return found


def _check_names(path: str, column: str, found: Mapping[str, float]) -> None:
    known = [CORE, ANY_GPU, *sorted(ACCELERATORS), *TPUS]
    for device in found:
        if device not in known:
            raise UserError(
                f"{path} {column}.{device}: no such device; expected {CORE}, a GPU by the name in "
                f"GpuConfig(accelerator_type=...), GPU for any, or a TPU such as v4{did_you_mean(device, known)}"
            )
