"""What chooses the checkpoint of a run: a DSC of the validation patients, under its own name."""

from crlm_jax.config.schema import Config

# By `train.select`, the name in the training log and in the checkpoints. Runs of 0.1.0 have the
# first.
METRICS = {"paper": "validation_dsc", "clinical": "validation_dsc_clinical"}
LABELS = {
    "validation_dsc": "their slices with tumour, pooled",
    "validation_dsc_clinical": "their whole volumes, at their own resolution",
}


def metric_name(config: Config) -> str:
    """Returns the name of the measure that chooses the checkpoint."""
    return METRICS[config.train.select]
