"""Data sets on the disk: archives are unpacked, and what is whole is moved into place in one step.

So several processes can prepare one data set at the same moment: each reads a whole one.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any


def md5_of(file: Path) -> str:
    """The MD5 checksum of a file, as 32 hexadecimal digits. OSError if it cannot be read."""
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def unpack_data_set(dataset_class: Any, root: Path) -> None:
    """Unpack the archives of a torchvision data set that lie in `root` without what they hold.

    They are looked for where torchvision puts them: MNIST's in MNIST/raw (or in MNIST itself),
    CIFAR-10's in `root`. OSError for one whose checksum is not the published one, and
    where its contents cannot be written beside it.
    """
    if hasattr(dataset_class, "filename"):
        target = root / dataset_class.base_folder
        unpack(root / dataset_class.filename, dataset_class.tgz_md5, target)
        return
    inside = root / dataset_class.__name__
    for name, md5 in dataset_class.resources:
        for place in (inside / "raw", inside):
            unpack(place / name, md5, inside / "raw" / name.removesuffix(".gz"))


def unpack(archive: Path, md5: str, target: Path) -> None:
    """Unpack `target`, a file or a folder, from an archive; nothing if it is there, or no archive.

    OSError unless the archive's checksum is `md5`.
    """
    if target.exists() or not archive.exists():
        return
    from torchvision.datasets.utils import extract_archive

    if (found := md5_of(archive)) != md5:
        raise OSError(f"MD5 of {archive} is {found}, expected {md5}: delete it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target.parent) as part:
        extract_archive(str(archive), part)
        move_into_place(Path(part) / target.name, target)


def move_into_place(made: Path, target: Path) -> None:
    """Rename a file or a folder in one step; if another process was first, its work is kept."""
    try:
        made.rename(target)
    except OSError:
        if not target.exists():
            raise
