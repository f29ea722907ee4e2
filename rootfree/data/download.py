"""Fetching a data set on request: with a progress bar, a checksum, and nothing half-made left in its place."""

import shutil
from pathlib import Path

from rootfree.data.cache import PATIENCE
from rootfree.run.files import exclusive


def download_folder(root: Path, url: str, md5: str | None, download: bool) -> None:
    """Unpack an archive that holds one folder to `root`, unless `root` is there already.

    Args:
        root: the folder.
        url: of the archive.
        md5: of the archive, checked if it is given.
        download: whether it may be fetched.

    Raises:
        FileNotFoundError: if `root` is not there and may not, or cannot, be fetched.
    """
    if root.is_dir():
        return
    if not download:
        raise FileNotFoundError(f"dataset.root = {root} is not a folder: add dataset.download=true to fetch {url}, "
                                "or unpack it there")  # fmt: skip
    from torchvision.datasets.utils import download_and_extract_archive  # 1 s to import

    part = root.with_name(f"{root.name}.part")
    root.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(Path(f"{part}.lock"), PATIENCE):  # the ranks of one run, or the jobs of a sweep, wait for the first
        if root.is_dir():
            return
        try:
            download_and_extract_archive(url, part, extract_root=part / "unpacked", md5=md5)
        except (RuntimeError, OSError) as error:
            raise FileNotFoundError(f"{url} cannot be fetched: is the network there? ({error})") from error
        (folder,) = (part / "unpacked").iterdir()
        folder.rename(root)
        shutil.rmtree(part)
