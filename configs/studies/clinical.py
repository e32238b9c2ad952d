"""The clinical recipe against the paper's, and what each of its parts brings.

Both recipes train the same network for the same number of updates of the same size, on the same
patients, and are tested on the same. `docs/results/protocol.md` has the protocol.

    python -m crlm_jax.study --study configs/studies/clinical.py --workdir runs/clinical

Keys: `scale` (laptop), `seeds` (5), `folds` (none), `cohort` (phantom), `condition`
(pre_dwi+pre_t2wi: trained on together, tested one by one), `steps` (448 updates: the laptop's 26
epochs of the phantom's slices with tumour), `threads` (2), `arms` (recipes: paper and clinical;
parts: both, and the clinical recipe without each of its parts; or some of these, joined by `+`).
"""

from collections.abc import Callable

from configs.common import get_config
from configs.studies.common import chosen, study_arguments, whole_number
from crlm_jax.config.schema import Config, ConfigError


def _keep(config: Config) -> None:
    """Leaves a recipe as it is."""


def _without_slices(config: Config) -> None:
    config.data.train_slices, config.train.foreground = "tumour", 0.0


def _without_context(config: Config) -> None:
    config.data.context = 0


def _without_batch_dice(config: Config) -> None:
    config.loss.dice = "image"


def _without_schedule(config: Config) -> None:
    config.optimizer.schedule, config.optimizer.warmup = "constant", 0.0


def _without_average(config: Config) -> None:
    config.train.ema = 0.0


def _without_choice(config: Config) -> None:
    config.train.select = "paper"


def _without_flips(config: Config) -> None:
    config.evaluation.mirror = False


def _without_size(config: Config) -> None:
    config.evaluation.min_lesion_mm3 = 0.0


def _without_liver(config: Config) -> None:
    config.evaluation.liver = "none"


# By name, the recipe and what is changed in it.
ARMS: dict[str, tuple[str, Callable[[Config], None]]] = {
    "paper": ("paper", _keep),
    "clinical": ("clinical", _keep),
    "without_slices": ("clinical", _without_slices),
    "without_context": ("clinical", _without_context),
    "without_batch_dice": ("clinical", _without_batch_dice),
    "without_schedule": ("clinical", _without_schedule),
    "without_average": ("clinical", _without_average),
    "without_choice": ("clinical", _without_choice),
    "without_flips": ("clinical", _without_flips),
    "without_size": ("clinical", _without_size),
    "without_liver": ("clinical", _without_liver),
}


def get_study(arg: str | None = None) -> list[tuple[str, Config]]:
    """Returns the runs as (`experiment/system/seed`, config): all arms of a seed, then the next."""
    given = study_arguments(
        arg, seeds="5", condition="pre_dwi+pre_t2wi", steps="448", threads="2", arms="recipes"
    )
    steps, threads = (whole_number(key, getattr(given, key)) for key in ("steps", "threads"))
    groups = {"all": list(ARMS), "parts": list(ARMS), "recipes": ["paper", "clinical"]}
    arms = chosen("arms", given.arms, groups)
    conditions = tuple(given.condition.split("+"))
    if not all(conditions):
        raise ConfigError(f"study argument condition={given.condition}: join conditions by one +")
    runs = []
    for training in given.trainings:
        for arm in arms:
            recipe, change = ARMS[arm]
            config = get_config("recipes", conditions, f"scale={given.scale},recipe={recipe}")
            change(config)
            config.train.steps, config.system.threads = steps, threads
            runs.append((f"recipes/{arm}/{training.name}", given.apply(config, training)))
    return runs
