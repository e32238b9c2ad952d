"""Which ResNet stages carry the feature constraint: all 16 subsets of stages 1 to 4.

The empty subset is UNet++ without a critic, the reference of the tables; the paper leaves free how
many stages are constrained.

    python -m crlm_jax.study --study configs/studies/stages.py --workdir runs/stages
    python -m crlm_jax.study --study configs/studies/stages.py:scale=paper,cohort=cohort.csv …

Keys: `scale` (laptop), `seeds` (3), `folds` (none), `cohort` (phantom), `condition` (pre_dwi).
"""

from itertools import combinations

from configs.common import get_config
from configs.studies.common import study_arguments
from crlm_jax.config.schema import Config


def get_study(arg: str | None = None) -> list[tuple[str, Config]]:
    """Returns the runs as (`experiment/system/seed`, config), the reference system first."""
    given = study_arguments(arg, condition="pre_dwi")
    runs = []
    for training in given.trainings:
        for size in range(5):
            for stages in combinations((1, 2, 3, 4), size):
                config = get_config("stages", (given.condition,), f"scale={given.scale}")
                config.loss.stages = stages
                system = "unetpp" if not stages else "stages_" + "".join(map(str, stages))
                runs.append(
                    (f"{given.condition}/{system}/{training.name}", given.apply(config, training))
                )
    return runs
