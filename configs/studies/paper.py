"""The paper's tables: six methods under five single conditions and two cross-sequence experiments.

    python -m crlm_jax.study --study configs/studies/paper.py:experiments=cross --workdir runs/paper
    python -m crlm_jax.study --workdir runs/paper \\
        --study configs/studies/paper.py:scale=paper,cohort=mri.csv,ct_cohort=ct.csv

Xia et al., Cancer Imaging 26:10 (2025). CRLM-GAN is what the others are compared with. Keys:
`scale` (laptop), `seeds` (3), `folds` (none), `cohort` (phantom), `ct_cohort` (that of `cohort`),
`experiments` (all; or `single`, `cross`, or names such as `pre_dwi+cross_pre`), `methods` (all six;
or names such as `crlm_gan+unet`), and `vit` (path of R50+ViT-B_16.npz, or `random`).
"""

from configs import cross_post, cross_pre, ct, post_dwi, post_t2wi, pre_dwi, pre_t2wi
from configs.studies.common import chosen, study_arguments
from crlm_jax.config.schema import Config

SINGLE = {"pre_dwi": pre_dwi, "post_dwi": post_dwi, "pre_t2wi": pre_t2wi, "post_t2wi": post_t2wi,
          "ct": ct}  # fmt: skip
CROSS = {"cross_pre": cross_pre, "cross_post": cross_post}
METHODS = ("crlm_gan", "unetpp", "unet", "nnunet", "transunet", "segan")


def get_study(arg: str | None = None) -> list[tuple[str, Config]]:
    """Returns the runs as (`experiment/system/seed`, config), the reference system first."""
    given = study_arguments(arg, experiments="all", methods="all", ct_cohort="", vit="")
    groups = {"all": [*SINGLE, *CROSS], "single": [*SINGLE], "cross": [*CROSS]}
    experiments = chosen("experiments", given.experiments, groups)
    methods = chosen("methods", given.methods, {"all": METHODS})
    runs = []
    for training in given.trainings:
        for experiment in experiments:
            for method in methods:
                build = (SINGLE | CROSS)[experiment].get_config
                config = given.apply(build(f"scale={given.scale},method={method}"), training)
                if experiment == "ct" and given.ct_cohort:
                    config.data.cohort = given.ct_cohort
                if method == "transunet" and given.vit:
                    config.transunet.weights = given.vit
                runs.append((f"{experiment}/{method}/{training.name}", config))
    return runs
