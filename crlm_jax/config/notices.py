"""What a reader must know before any number: phantom data, random weights."""

from crlm_jax.config.schema import Config


def is_phantom(config: Config) -> bool:
    """Whether the images are digital, not those of patients."""
    return config.data.cohort == "phantom"


def warnings(config: Config) -> list[str]:
    """Returns the sentences that stand before any number of a run."""
    notes = []
    if is_phantom(config):
        notes.append(
            f"PHANTOM: digital images (version {config.phantom.version} of the phantom), not "
            "patients; no number here holds for patients."
        )
    resnet = config.loss.stages and config.critic.name == "resnet50"
    if resnet and config.critic.weights == "random":
        notes.append("RANDOM CRITIC: the ResNet-50 has random weights, not ImageNet's.")
    if config.segmenter.name == "transunet" and config.transunet.weights == "random":
        notes.append(
            "RANDOM TRANSFORMER: TransUNet starts from random weights, not ImageNet-21k's."
        )
    return notes


def marks(config: Config) -> list[str]:
    """Returns the words that stand on every picture of a run."""
    return ["phantom"] if is_phantom(config) else []


def within_livers(there: int, images: int, what: str) -> str:
    """Says how many images are restricted to the liver masks of the cohort's column `liver`.

    Args:
      there: images that have such a mask.
      images: all of them.
      what: one of them is called, such as "scan".
    """
    if not there:
        return f"not restricted to the liver: no {what} has a mask of it (column liver)"
    left = images - there
    rest = f"; {left} {'is' if left == 1 else 'are'} not" * bool(left)
    return f"restricted to the liver masks of the column liver: {there} of {images} {what}s{rest}"


def scale_of(config: Config) -> str:
    """Says at which scale, and by which recipe, a run was trained."""
    recipe = f", {config.recipe} recipe" * (config.recipe != "paper")
    return f"{config.scale} scale{recipe}"
