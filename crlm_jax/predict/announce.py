"""What a command does with a segmenter before it predicts with it."""

from crlm_jax.predict.segmenter import ScanSegmenter, use_compile_cache
from crlm_jax.system.console import print_stderr


def announce(segmenter: ScanSegmenter, run: str = "the run", results: str = "masks") -> None:
    """Tells the user what is to be known of a segmenter, and lets XLA keep its programs.

    Args:
      segmenter: from `load`.
      run: what it is called.
      results: what it makes.
    """
    if segmenter.engine.name == "XLA":
        use_compile_cache()
    if segmenter.engine.note:
        print_stderr(f"note: {segmenter.engine.note}")
    if segmenter.marks:
        print_stderr(
            f"warning: PHANTOM: {run} was trained on digital images; its {results} are no finding"
        )
