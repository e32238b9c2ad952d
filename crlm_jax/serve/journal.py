"""What the node says: a line an event on stderr, without anything that a header says of a patient.

A line names a series by its UID and a job by its hashed name. Descriptions are never shown, since
some sites type names into them.
"""

import datetime
import logging
import warnings

import pydicom

from crlm_jax.system.console import print_stderr


def say(text: str) -> None:
    """Writes a line with the time (UTC); a line break in the text becomes a blank."""
    now = datetime.datetime.now(datetime.UTC)
    print_stderr(f"{now:%Y-%m-%dT%H:%M:%SZ} {' '.join(text.split())}")


def quiet_libraries() -> None:
    """Keeps pydicom's and pynetdicom's own messages away: some quote the values of headers."""
    warnings.filterwarnings("ignore", module=r"(pydicom|pynetdicom|highdicom)\b.*")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    for name in ("pydicom", "pynetdicom", "highdicom"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
