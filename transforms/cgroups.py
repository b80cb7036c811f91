"""Where the kernel keeps what this process's control groups allow: version 1 and 2, in containers and out of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIPS = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class GroupFolder:
    """Of a group that this process is in; it need not be there."""

    path: Path
    is_v1: bool

    def read(self, name: str) -> str:
        """A file's text without white space around it; empty where it cannot be read."""
        try:
            return (self.path / name).read_text().strip()
        except OSError:
            return ""


def group_folders(controller: str, mount: Path, memberships: Path) -> Iterator[GroupFolder]:
    """Folders of all groups whose limits of `controller` (`cpu`, `memory`) hold here, from one's own to the root.

    Args:
        mount, memberships: as `MOUNT` and `MEMBERSHIPS`.
    """
    try:
        lines = memberships.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = mount / controllers if controllers else mount
        # A container may see its own group as the root and yet be told its path outside.
        path = Path(group.lstrip("/"))
        for ancestor in [path, *path.parents]:
            yield GroupFolder(root / ancestor, is_v1=bool(controllers))
