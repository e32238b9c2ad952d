"""The plan: the step compiled for every topology and batch, and the largest batch that fits."""

from collections.abc import Callable, Sequence
from typing import Any

from crlm_jax.config.schema import Config
from crlm_jax.plan import cost as plan_cost
from crlm_jax.plan.compiling import PlanError, Target, estimate, find_target, in_subprocess
from crlm_jax.system.console import print_stderr


def largest_batch(
    memory: Callable[[int], int | None], limit: int, start: int, used: int | None
) -> int:
    """The largest n whose memory is within the limit, 0 for none.

    Memory is nearly a line over n, so that few have to be compiled.

    Args:
      memory: bytes of a batch of n slices a chip; None: refused, and so are all above it.
      limit: bytes of a chip.
      start: an n of which this is known already.
      used: its `memory`.
    """
    fitting, beyond = {0: 0}, 0
    n, found = start, used
    while True:
        if found is None or found > limit:
            beyond = n
        else:
            fitting[n] = found
        good = max(fitting)
        if beyond == good + 1:
            return good
        n = _promising(fitting, beyond, limit)
        found = memory(n)


def _promising(fitting: dict[int, int], beyond: int, limit: int) -> int:
    """Where the line through the last two that fit meets the limit, within what is not known yet.

    `beyond` is the smallest that did not fit, 0 as long as all did.
    """
    if len(fitting) == 1:
        return beyond // 2
    last, good = sorted(fitting)[-2:]
    slope = max((fitting[good] - fitting[last]) / (good - last), 1)
    guess = max(good + int((limit - fitting[good]) / slope), good + 1)
    if beyond and guess >= beyond:
        return (good + beyond) // 2
    return min(guess, 16 * good)


def chip_memory(config: Config, target: Target) -> Callable[[int], int | None]:
    """Builds the question for `largest_batch`: the bytes of a batch of n slices a chip."""

    def memory(n: int) -> int | None:
        found = in_subprocess(estimate, config, target.name, n * len(target.devices))
        if "refused" in found:
            print_stderr(f"{target.name}: {n} slices a chip: {found['refused']}")
            return None
        total = found["memory_bytes"]["total"]
        print_stderr(f"{target.name}: {n} slices a chip, {total / 2**30:.2f} GiB")
        return total

    return memory


def make_plan(
    config: Config, names: Sequence[str], slices: int, *, largest: bool, measured: bool
) -> list[dict[str, Any]]:
    """Compiles the step for every topology; returns a row for each scaling that is possible.

    A row is what `estimate` and `plan_cost.add_times` return.
    """
    targets = [find_target(name) for name in names]  # a wrong one shows before the first compile
    batch, first, rows = config.train.batch_size, targets[0], []
    if batch % len(first.devices):
        raise PlanError(
            f"train.batch_size = {batch} cannot be shared evenly by the {len(first.devices)} "
            f"chips of {first.name}, the first topology"
        )
    share = batch // len(first.devices)
    for target in targets:
        count = len(target.devices)
        scalings = {share * count: ["weak"]}
        if batch % count == 0:
            scalings.setdefault(batch, []).append("strong")
        for size, scaling in scalings.items():
            row = {"scaling": scaling, "topology": target.name, "batch": size, "chips": count}
            print_stderr(f"{target.name}: compiling the step of {size} slices")
            row |= in_subprocess(
                estimate, config, target.name, size, measured and target.chip is None
            )
            if "refused" not in row:
                row = plan_cost.add_times(row, target.chip, target.shape, config, slices)
            if largest and target.chip and "weak" in scaling:
                used = row.get("memory_bytes", {}).get("total")
                row["largest_batch_per_chip"] = largest_batch(
                    chip_memory(config, target), target.chip.hbm_bytes, share, used
                )
            rows.append(row)
    return rows
