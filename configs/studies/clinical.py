"""The clinical recipe against the paper's, and what each of its parts brings.

Both recipes train the same network for the same number of updates of the same size, on the same
patients, and are tested on the same. `docs/results/protocol.md` has the protocol.

    python -m crlm_jax.study --study configs/studies/clinical.py --workdir runs/clinical

Keys: `scale` (laptop), `seeds` (5), `folds` (none), `cohort` (phantom), `condition`
(pre_dwi+pre_t2wi: trained on together, tested one by one), `steps` (448 updates: about the
laptop's 26 epochs of slices with tumour, which are 477 here), `threads` (2), `arms` (recipes: paper
and clinical; parts: both, the paper's with what the clinical one removes from the masks, and the
clinical one without each of its parts; or some of these, joined by `+`).
"""

from configs.common import get_config
from configs.studies.common import chosen, study_arguments, whole_number
from crlm_jax.config.schema import Config, ConfigError

# What each part of the clinical recipe sets; without the part, the paper's recipe says it.
PARTS = {
    "slices": ("data.train_slices", "train.foreground", "train.tumour_first"),
    "context": ("data.context",),
    "schedule": ("optimizer.schedule", "optimizer.warmup"),
    "average": ("train.ema",),
    "choice": ("train.select",),
    "flips": ("evaluation.mirror",),
    "size": ("evaluation.min_lesion_mm3",),
    "liver": ("evaluation.liver",),
}
RECIPES = ("paper", "clinical")
REMOVAL = "paper_removal"  # the paper's recipe with what the clinical one removes afterwards
ARMS = (*RECIPES, REMOVAL, *(f"without_{part}" for part in PARTS))


def _arm(name: str, scale: str, conditions: tuple[str, ...]) -> Config:
    """Returns the config of a recipe, or of one with some of the other's parts."""

    def recipe(own: str) -> Config:
        return get_config("recipes", conditions, f"scale={scale},recipe={own}")

    if name in RECIPES:
        return recipe(name)
    if name == REMOVAL:
        config, other, parts = recipe("paper"), recipe("clinical"), ("size", "liver")
    else:
        config, other, parts = recipe("clinical"), recipe("paper"), (name.removeprefix("without_"),)
    for group, own in (field.split(".") for part in parts for field in PARTS[part]):
        setattr(getattr(config, group), own, getattr(getattr(other, group), own))
    return config


def get_study(arg: str | None = None) -> list[tuple[str, Config]]:
    """Returns the runs as (`experiment/system/seed`, config): all arms of a seed, then the next."""
    given = study_arguments(
        arg, seeds="5", condition="pre_dwi+pre_t2wi", steps="448", threads="2", arms="recipes"
    )
    steps, threads = (whole_number(key, getattr(given, key)) for key in ("steps", "threads"))
    groups = {"all": list(ARMS), "parts": list(ARMS), "recipes": list(RECIPES)}
    arms = chosen("arms", given.arms, groups)
    conditions = tuple(given.condition.split("+"))
    if not all(conditions):
        raise ConfigError(f"study argument condition={given.condition}: join conditions by one +")
    runs = []
    for training in given.trainings:
        for arm in arms:
            config = _arm(arm, given.scale, conditions)
            config.train.steps, config.system.threads = steps, threads
            runs.append((f"recipes/{arm}/{training.name}", given.apply(config, training)))
    return runs
