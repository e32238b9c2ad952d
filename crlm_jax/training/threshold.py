"""The threshold of a run that chooses it: at the end of its training, on validation patients."""

from jax.sharding import Mesh

from crlm_jax.config.schema import Config
from crlm_jax.data.slices import Slices
from crlm_jax.measures.threshold import choose_threshold
from crlm_jax.method.segment import load_best
from crlm_jax.runs.folder import RunFolder
from crlm_jax.runs.results import Card
from crlm_jax.runs.threshold import ChosenThreshold, read_threshold, write_threshold
from crlm_jax.system import parallel
from crlm_jax.training.refit import Refit


def settle_threshold(
    config: Config, slices: Slices, folder: RunFolder, mesh: Mesh, refit: Refit | None
) -> ChosenThreshold | None:
    """Returns the threshold that a trained run chooses, and writes it; None: it does not choose.

    A threshold that was chosen before with the same checkpoint is kept. A refit, which has no
    validation patients, takes that of the run that it does again.

    Args:
      config: of the run.
      slices: of the cohort.
      folder: of the run, with its checkpoints.
      mesh: the devices of all processes.
      refit: the run that is done again.

    Raises:
      ConfigError: `threshold.json` is damaged.
    """
    if not config.evaluation.choose_threshold:
        return None
    kept = read_threshold(folder.threshold)
    trained = load_best(config, folder.checkpoints, mesh).on_own_devices()
    if kept is not None and kept.step == trained.step:
        return kept
    if refit is not None:
        chosen = ChosenThreshold(refit.threshold, trained.step, 0, {})
    else:
        chosen = choose_threshold(config, slices, trained.probability, trained.step)
    if parallel.is_main():
        write_threshold(folder.threshold, chosen)
    return chosen


def describe_threshold(chosen: ChosenThreshold | None, configured: float | None = None) -> Card:
    """Returns the card's line of a threshold that was chosen; none if none was.

    Args:
      chosen: by the run.
      configured: what it would have been else; None: not known.
    """
    if chosen is None:
        return []
    if not chosen.cases:
        return [("threshold", f"{chosen.threshold:g}, as the run that is done again chose it")]
    text = f"{chosen.threshold:g}, chosen on the {chosen.cases} validation cases"
    told = (chosen.threshold, configured) if configured != chosen.threshold else (configured,)
    scores = [
        f"{dsc:.3f} at {each:g}"
        for each in told
        if each is not None and (dsc := chosen.dsc.get(f"{each:g}")) is not None
    ]
    if scores:
        text += f": mean clinical DSC {', '.join(scores)}"
    return [("threshold", text)]
