"""The rows of a plan: every topology with its batches, and the largest batch that fits.

Weak scaling keeps the batch of a chip, that of the configuration on the first topology. Strong
scaling keeps the configuration's batch, on topologies whose chips can share it evenly.
"""

from collections.abc import Callable, Sequence

from crlm_jax.config.schema import Config
from crlm_jax.errors import UserError
from crlm_jax.plan.compiling import estimate, in_subprocess
from crlm_jax.plan.cost import estimate_times
from crlm_jax.plan.kept import reported
from crlm_jax.plan.rows import PlanRow, Refusal
from crlm_jax.plan.targets import Target, find_target
from crlm_jax.system.console import print_stderr


def largest_batch(
    memory: Callable[[int], int | None], limit: int, start: int, used: int | None
) -> int:
    """Returns the largest n whose memory is within the limit; 0 if there is none.

    Memory is nearly linear in n, so that few steps have to be compiled.

    Args:
      memory: bytes of a batch of n slices a chip; None: refused, as is every larger batch.
      limit: bytes of a chip.
      start: an n whose memory is known already.
      used: the memory of `start`.
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
    """Returns the n to try next: where the line through the two largest that fit meets the limit.

    Args:
      fitting: memory by n.
      beyond: the smallest n that did not fit; 0: none so far.
      limit: bytes.
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
    """Builds the `memory` of `largest_batch`: compiles a batch of n slices a chip."""

    def memory(n: int) -> int | None:
        found = reported(config, target.name, n * len(target.devices))
        if isinstance(found, Refusal):
            print_stderr(f"{target.name}: {n} slices a chip: {found.reason}")
            return None
        total = found.memory_bytes.total
        print_stderr(f"{target.name}: {n} slices a chip, {total / 2**30:.2f} GiB")
        return total

    return memory


def make_plan(
    config: Config, names: Sequence[str], slices: int, *, largest: bool, measured: bool
) -> list[PlanRow]:
    """Compiles the step for every topology; returns a row for each scaling that is possible.

    Args:
      config: of the training.
      names: of topologies.
      slices: in a pass of the training.
      largest: also search the largest batch of each topology.
      measured: also run the step, if the topology is the CPU.

    Raises:
      UserError: a topology cannot be used, or the first one cannot share the batch evenly.
    """
    targets = [find_target(name) for name in names]  # finds a wrong one before the first compile
    batch, first, rows = config.train.batch_size, targets[0], []
    if batch % len(first.devices):
        raise UserError(
            f"train.batch_size = {batch} cannot be shared evenly by the {len(first.devices)} "
            f"chips of {first.name}, the first topology"
        )
    share = batch // len(first.devices)
    for target in targets:
        count = len(target.devices)
        scalings: dict[int, tuple[str, ...]] = {share * count: ("weak",)}
        if batch % count == 0:
            scalings[batch] = (*scalings.get(batch, ()), "strong")
        for size, scaling in scalings.items():
            print_stderr(f"{target.name}: compiling the step of {size} slices")
            chip, times, most = target.chip, None, None
            if chip:
                report = reported(config, target.name, size)
            else:
                report = in_subprocess(estimate, config, target.name, size, measured)
            if chip and not isinstance(report, Refusal):
                times = estimate_times(report, chip, target.shape, config, slices)
            if chip and largest and "weak" in scaling:
                used = None if isinstance(report, Refusal) else report.memory_bytes.total
                memory = chip_memory(config, target)
                most = largest_batch(memory, chip.hbm_bytes, share, used)
            rows.append(PlanRow(scaling, target.name, size, count, report, times, most))
    return rows
