"""What the feature constraint adds to one and the same training: trunks, each forked into arms.

A trunk is a UNet++ that is trained without the constraint. Its arms go on from its checkpoint, each
with a loss of its own and with the same slices in the same order. So arms of a trunk differ by
their loss alone, and the unit is the trunk. The experiment `scratch` has whole trainings, with the
loss of an arm from the first step on; its runs are paired by seed.

    python -m crlm_jax.study --workdir runs/forks --study configs/studies/forks.py:\\
cohort=cohort_liver.csv,weights=resnet50_stages_1_2.safetensors

`docs/results/protocol.md` has the protocol. The last weights are tested, averaged over the updates;
nothing is chosen on validation patients.

Keys: `cohort` (phantom), `condition` (ct; several, such as `pre_dwi+pre_t2wi`, are trained on
together and evaluated one by one), `weights` (random), `seeds` (5 trunks), `folds` (none; with 5,
every fold of every seed has a trunk, forked within its fold, and the folds of a seed together are
one unit), `label` (none; `dwi` names the experiments dwi_trunk, dwi_forks and dwi_scratch), `trunk`
(600 updates), `steps` (200 updates of an arm), `size` (128 pixels), `threads` (2), `arms`
(constraint: unetpp, stages_12, stages_1, stages_2, random_12, scaled_12, released_12; or some,
joined by `+`; bfloat16, with the loss of unetpp, is for `train.precision`), `scratch`
(unetpp+stages_12; arms, and the comparators unet, nnunet, transunet and segan; none: no such runs),
`scaled` (100: `loss.feature_weight` of the random weights
under which their gradient at the start has ImageNet's norm).
"""

from collections.abc import Callable

from configs.common import get_config
from configs.methods import METHODS
from configs.studies.common import Training, chosen, study_arguments, whole_number
from crlm_jax.config.schema import Config, ConfigError


def _stages(*stages: int) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config.loss.stages = stages

    return change


def _random(config: Config) -> None:
    config.loss.stages, config.critic.weights = (1, 2), "random"


def _released(config: Config) -> None:
    METHODS["released"](config)
    config.loss.stages = (1, 2)


def _bfloat16(config: Config) -> None:
    config.loss.stages, config.train.precision = (), "bfloat16"


ARMS = {
    "unetpp": _stages(),
    "stages_12": _stages(1, 2),
    "stages_1": _stages(1),
    "stages_2": _stages(2),
    "random_12": _random,
    "scaled_12": _random,  # with the key `scaled`
    "released_12": _released,
    "bfloat16": _bfloat16,  # of the segmenter, without the constraint
}
# Other networks cannot go on from a trunk: they are trained from scratch alone.
COMPARATORS = ("unet", "nnunet", "transunet", "segan")


def get_study(arg: str | None = None) -> list[tuple[str, Config]]:
    """Returns the runs as (`experiment/system/seed`, config): trunk by trunk, then from scratch."""
    given = study_arguments(
        arg, seeds="5", condition="ct", label="", weights="random", trunk="600", steps="200",
        size="128", threads="2", arms="constraint", scratch="unetpp+stages_12", scaled="100",
    )  # fmt: skip
    numbers = {
        key: whole_number(key, getattr(given, key))
        for key in ("trunk", "steps", "size", "threads", "scaled")
    }
    groups = {
        "all": list(ARMS),
        "constraint": [arm for arm in ARMS if arm != "bfloat16"],
        "none": [],
    }
    arms = chosen("arms", given.arms, groups)
    scratch = chosen("scratch", given.scratch, groups | {"all": [*ARMS, *COMPARATORS]})

    conditions = tuple(given.condition.split("+"))
    if not all(conditions):
        raise ConfigError(f"study argument condition={given.condition}: join conditions by one +")
    if given.label and not given.label.replace("_", "").isalnum():
        raise ConfigError(f"study argument label={given.label}: letters, digits and _ alone")
    trunks, forked, whole = (
        f"{given.label}_{name}" if given.label else name for name in ("trunk", "forks", "scratch")
    )

    def build(arm: str, training: Training, *, steps: int) -> Config:
        if arm in COMPARATORS:
            config = get_config(forked, conditions, f"scale={given.scale},method={arm}")
        else:
            config = get_config(forked, conditions, f"scale={given.scale}")
            config.critic.weights, config.method = given.weights, f"fork: {arm}"
            ARMS[arm](config)
        if arm == "scaled_12":
            config.loss.feature_weight = float(numbers["scaled"])
        config.data.image_size = numbers["size"]
        config.train.steps, config.train.checkpoint_every = steps, steps  # one checkpoint, the last
        config.train.ema, config.system.threads = 0.98, numbers["threads"]
        return given.apply(config, training)

    runs, steps = [], numbers["trunk"] + numbers["steps"]
    for training in given.trainings:
        trunk = f"{trunks}/unetpp/{training.name}"
        runs.append((trunk, build("unetpp", training, steps=numbers["trunk"])))
        for arm in arms:
            config = build(arm, training, steps=steps)
            config.train.init = trunk
            runs.append((f"{forked}/{arm}/{training.name}", config))
    for training in given.trainings:
        for arm in scratch:
            config = build(arm, training, steps=steps)
            runs.append((f"{whole}/{arm}/{training.name}", config))
    return runs
