"""What a reader must know before any number: phantom data, random weights."""

from crlm_jax.config.schema import Config


def warnings(config: Config) -> list[str]:
    """What a reader must know before any number: phantom data, random critic weights."""
    notes = []
    if config.data.cohort == "phantom":
        notes.append("PHANTOM: digital images, not patients; no number here holds for patients.")
    resnet = config.loss.stages and config.critic.name == "resnet50"
    if resnet and config.critic.weights == "random":
        notes.append("RANDOM CRITIC: the ResNet-50 has random weights, not ImageNet's.")
    if config.segmenter.name == "transunet" and config.transunet.weights == "random":
        notes.append(
            "RANDOM TRANSFORMER: TransUNet starts from random weights, not ImageNet-21k's."
        )
    return notes


def marks(config: Config) -> list[str]:
    """What must stand on every picture of a run."""
    return ["phantom"] if config.data.cohort == "phantom" else []
