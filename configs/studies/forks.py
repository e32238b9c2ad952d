"""What the feature constraint adds to one and the same training: trunks, each forked into arms.

A trunk is a UNet++ that is trained without the constraint. Its arms go on from its checkpoint, each
with a loss of its own and with the same slices in the same order. So arms of a trunk differ by
their loss alone, and the unit is the trunk. The experiment `scratch` has whole trainings, with the
loss of an arm from the first step on; its runs are paired by seed.

    python -m crlm_jax.study --workdir runs/forks --study configs/studies/forks.py:\\
cohort=cohort_liver.csv,weights=resnet50_stages_1_2.safetensors

`docs/results/protocol.md` has the protocol. The last weights are tested, averaged over the updates;
nothing is chosen on validation patients.

Keys: `cohort` (phantom), `condition` (ct), `weights` (random), `seeds` (5 trunks), `trunk` (600
updates), `steps` (200 updates of an arm), `size` (128 pixels), `threads` (2), `arms` (all of
unetpp, stages_12, stages_1, stages_2, random_12, scaled_12, released_12; or some, joined by `+`),
`scratch` (unetpp+stages_12; none: no such runs), `scaled` (100: `loss.feature_weight` of the random
weights under which their gradient at the start has ImageNet's norm).
"""

from collections.abc import Callable

from configs.common import get_config
from configs.methods import METHODS
from configs.studies.common import chosen, study_arguments, whole_number
from crlm_jax.config.schema import Config


def _stages(*stages: int) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config.loss.stages = stages

    return change


def _random(config: Config) -> None:
    config.loss.stages, config.critic.weights = (1, 2), "random"


def _released(config: Config) -> None:
    METHODS["released"](config)
    config.loss.stages = (1, 2)


ARMS = {
    "unetpp": _stages(),
    "stages_12": _stages(1, 2),
    "stages_1": _stages(1),
    "stages_2": _stages(2),
    "random_12": _random,
    "scaled_12": _random,  # with the key `scaled`
    "released_12": _released,
}


def get_study(arg: str | None = None) -> list[tuple[str, Config]]:
    """Returns the runs as (`experiment/system/seed`, config): trunk by trunk, then from scratch."""
    given = study_arguments(
        arg, seeds="5", condition="ct", weights="random", trunk="600", steps="200", size="128",
        threads="2", arms="all", scratch="unetpp+stages_12", scaled="100",
    )  # fmt: skip
    numbers = {
        key: whole_number(key, getattr(given, key))
        for key in ("trunk", "steps", "size", "threads", "scaled")
    }
    groups = {"all": list(ARMS), "none": []}
    arms, scratch = (chosen(key, getattr(given, key), groups) for key in ("arms", "scratch"))

    def build(arm: str, seed: int, *, steps: int) -> Config:
        config = get_config("forks", (given.condition,), f"scale={given.scale}")
        config.critic.weights = given.weights
        ARMS[arm](config)
        if arm == "scaled_12":
            config.loss.feature_weight = float(numbers["scaled"])
        config.method, config.data.image_size = f"fork: {arm}", numbers["size"]
        config.train.steps, config.train.checkpoint_every = steps, steps  # one checkpoint, the last
        config.train.ema, config.system.threads = 0.98, numbers["threads"]
        return given.apply(config, seed)

    runs, whole = [], numbers["trunk"] + numbers["steps"]
    for seed in range(given.seeds):
        trunk = f"trunk/unetpp/seed{seed}"
        runs.append((trunk, build("unetpp", seed, steps=numbers["trunk"])))
        for arm in arms:
            config = build(arm, seed, steps=whole)
            config.train.init = trunk
            runs.append((f"forks/{arm}/seed{seed}", config))
    for seed in range(given.seeds):
        for arm in scratch:
            runs.append((f"scratch/{arm}/seed{seed}", build(arm, seed, steps=whole)))
    return runs
