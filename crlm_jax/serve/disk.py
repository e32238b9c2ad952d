"""Files and folders of the node's queue that are on the disk (fsync) when a call returns."""

import os
import shutil
from pathlib import Path


def sync(path: Path) -> None:
    """Waits until a file, or the list of a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(folder: Path, target: Path) -> None:
    """Renames a folder, also into another one."""
    os.rename(folder, target)
    sync(target.parent)
    sync(folder.parent)


def link(image: Path, target: Path) -> None:
    """Gives a file a second name."""
    try:
        os.link(image, target)
    except OSError:  # a file system without links
        shutil.copyfile(image, target)
        sync(target)


def folders(folder: Path) -> list[Path]:
    """Lists the folders in a folder."""
    return [path for path in folder.iterdir() if path.is_dir()]
