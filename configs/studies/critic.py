"""What the critic must be: frozen or trained, with which weights, features and mask.

    python -m crlm_jax.study --study configs/studies/critic.py --workdir runs/critic

Keys: `scale` (laptop), `seeds` (3), `folds` (none), `cohort` (phantom), `condition` (pre_dwi),
`weights` (those of the scale; ImageNet's are compared with random ones only where they are given).
"""

from configs.common import get_config
from configs.methods import METHODS
from configs.studies.common import study_arguments
from crlm_jax.config.schema import Config


def _concatenated(config: Config) -> None:
    config.loss.fusion = "concatenated"


def _random(config: Config) -> None:
    config.critic.weights = "random"


SYSTEMS = {
    "crlm_gan": lambda config: None,
    "adversarial": METHODS["adversarial"],
    "concatenated": _concatenated,
    "released": METHODS["released"],
    "random_weights": _random,
}


def get_study(arg: str | None = None) -> list[tuple[str, Config]]:
    """Returns the runs as (`experiment/system/seed`, config), the reference system first."""
    given = study_arguments(arg, condition="pre_dwi", weights="")
    runs = []
    for training in given.trainings:
        for system, change in SYSTEMS.items():
            config = get_config("critic", (given.condition,), f"scale={given.scale}")
            if given.weights:
                config.critic.weights = given.weights
            if system == "random_weights" and config.critic.weights == "random":
                continue  # the reference has them too
            change(config)
            runs.append(
                (f"{given.condition}/{system}/{training.name}", given.apply(config, training))
            )
    return runs
