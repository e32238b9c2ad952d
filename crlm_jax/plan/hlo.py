"""Reads the text of a compiled program (HLO): its collectives and the TPU compiler's cycles.

The text is that of `jax.stages.Compiled.as_text()`: computations, each a list of operations

    %name = f32[8,16]{1,0} all-reduce(%operand), replica_groups={{0,1}}, …, backend_config={…}

The computation marked ENTRY runs; the others are bodies of its loops, branches, calls and fusions.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
# A word in lower case before a bracket is the opcode: a shape's layout, such as {1,0:T(8,128)}, has
# upper-case letters there.
_OPERATION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_LAID_OUT = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]+)\]\{(\d+)")
_CALLED = re.compile(
    r"(calls|to_apply|body|condition|true_computation|false_computation|"
    r"branch_computations|called_computations)=(\{[^}]*\}|%?[\w.-]+)"
)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all",
)  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """A line of a computation."""

    name: str
    shape: str  # of the result, as text
    opcode: str
    rest: str  # operands and attributes

    @property
    def operands(self) -> list[str]:
        """The names of what it takes."""
        return re.findall(r"%([\w.-]+)", self.rest.partition(")")[0])

    @property
    def trips(self) -> int:
        """How often a loop runs, as far as the compiler knows; at least once."""
        found = _TRIPS.search(self.rest)
        return int(found[1]) if found else 1

    def called(self, *names: str) -> list[str]:
        """Returns the computations that it calls, under these attributes or, without names, any."""
        return [
            name
            for attribute, value in _CALLED.findall(self.rest)
            if not names or attribute in names
            for name in re.findall(r"[\w.-]+", value)
        ]


@dataclass(frozen=True)
class Collective:
    """An exchange between devices."""

    kind: str  # of `COLLECTIVES`
    shape: str  # of its result on a device, without layout
    size: int  # bytes of the result on a device
    group: int  # devices that take part
    times: int  # runs in a step

    @property
    def sent(self) -> float:
        """Bytes that a device sends in one run, by a ring algorithm."""
        others = (self.group - 1) / self.group
        return (
            self.size
            * {
                "all-reduce": 2 * others,
                "all-gather": others,
                "all-to-all": others,
                "reduce-scatter": self.group - 1,  # the result is one share of the operand
                "collective-permute": 1,
            }[self.kind]
        )


class Program:
    """A compiled program.

    Args:
      text: of the whole module.
      devices: that it is compiled for; a collective without a group runs on all of them.

    Raises:
      ValueError: the text has no ENTRY computation.
    """

    def __init__(self, text: str, devices: int = 1):
        self.devices = devices
        self.computations, self.entry = _split(text)

    def _walk(self, computation: str, times: int = 1) -> Iterator[tuple[Operation, int]]:
        """Yields the operations that run in a computation, and how often; fusions are opened."""
        for operation in self.computations.get(computation, ()):
            yield operation, times
            if operation.opcode in COLLECTIVES or operation.opcode == "reduce":
                continue  # calls nothing but the sum of two numbers
            inner = times * (operation.trips if operation.opcode == "while" else 1)
            for name in operation.called():
                yield from self._walk(name, inner)

    def collectives(self) -> list[Collective]:
        """Returns all exchanges of a step; an asynchronous one counts once, when it is done."""
        found = []
        groups: dict[str, int] = {}
        for operation, times in self._walk(self.entry):
            kind = operation.opcode.removesuffix("-start").removesuffix("-done")
            if kind not in COLLECTIVES:
                continue
            if operation.opcode.endswith("-start"):
                groups[kind] = _group(operation.rest, self.devices)  # -done names no group
                continue
            group = _group(operation.rest, groups.get(kind, self.devices))
            shape = ", ".join(
                f"{dtype}[{sizes}]" for dtype, sizes in _ARRAY.findall(operation.shape)
            )
            found.append(Collective(kind, shape, array_bytes(operation.shape), group, times))
        return found

    def narrow(self, elements: int, lanes: int = 128) -> dict[str, int]:
        """Returns the large arrays of ENTRY that leave lanes empty, by shape, and their number.

        A TPU computes on `lanes` numbers of the axis that its layout names first. An array with
        fewer there takes as much time and memory as a full one.

        Args:
          elements: arrays with fewer are not looked at.
          lanes: of the chip.
        """
        found: dict[str, int] = {}
        for operation in self.computations[self.entry]:
            for dtype, sizes, axis in _LAID_OUT.findall(operation.shape):
                lengths = [int(n) for n in sizes.split(",")]
                if math.prod(lengths) >= elements and lengths[int(axis)] < lanes:
                    shape = f"{dtype}[{sizes}]"
                    found[shape] = found.get(shape, 0) + 1
        return found

    def cycles(self, computation: str = "") -> int:
        """Sums the compiler's `estimated_cycles` over the operations that run one by one.

        An operation with an estimate, usually a fusion, counts with it and is not opened. A loop
        counts its body and condition for each run that the compiler knows of (at least one), a
        conditional its longest branch, a call the computation that it calls. Other operations have
        no estimate and count nothing: collectives, and copies that run beside the computation.
        """
        total = 0
        for operation in self.computations.get(computation or self.entry, ()):
            inside = [self.cycles(name) for name in operation.called()]
            estimate = _CYCLES.search(operation.rest)
            if operation.opcode == "while":
                total += operation.trips * sum(inside)
            elif operation.opcode == "conditional":
                total += max(inside, default=0)
            elif estimate:
                total += int(estimate[1])
            elif operation.opcode in ("call", "async-start"):
                total += sum(inside)
        return total


def _split(text: str) -> tuple[dict[str, list[Operation]], str]:
    """Returns the operations of each computation, and the name of ENTRY."""
    computations: dict[str, list[Operation]] = {}
    entry, current = "", []
    for line in text.splitlines():
        if not line.startswith(" "):
            header = _HEADER.match(line)
            if header:
                current = computations.setdefault(header[2], [])
                entry = header[2] if header[1] else entry
        elif operation := _OPERATION.match(line):
            current.append(Operation(*operation.groups()))
    if not entry:
        raise ValueError("no compiled program: the text has no ENTRY computation")
    return computations, entry


def array_shape(shape: str) -> tuple[int, ...]:
    """Returns the lengths of the first array in the text of a shape."""
    found = _ARRAY.search(shape)
    return tuple(int(n) for n in found[2].split(",") if n) if found else ()


def array_bytes(shape: str) -> int:
    """Bytes of all arrays in the text of a shape, without padding."""
    total = 0
    for dtype, sizes in _ARRAY.findall(shape):
        digits = re.search(r"\d+", dtype)
        bits = int(digits[0]) if digits else 8  # without digits: pred
        total += math.ceil(bits * math.prod(int(n) for n in sizes.split(",") if n) / 8)
    return total


def _group(rest: str, default: int) -> int:
    """Returns the devices of a group; HLO writes `replica_groups` in three ways."""
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    return default
