"""Where the files of a running cluster lie."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from images.cache import cache_root


@dataclass(frozen=True)
class StateFolder:
    """Everything one running cluster writes; removing it forgets the cluster."""

    root: Path

    @classmethod
    def of_cluster(cls, name: str) -> "StateFolder":
        """The folder of the cluster called `name`, below the cache."""
        return cls(cache_root() / "run" / name)

    @classmethod
    def temporary(cls) -> "StateFolder":
        """A new folder for temporary files, for the caller to remove."""
        return cls(Path(tempfile.mkdtemp(prefix="octavo-")))

    @property
    def pki(self) -> Path:
        """Certificates, keys and one kubeconfig for each component."""
        return self.root / "pki"

    @property
    def processes(self) -> Path:
        """One file for each process that was started."""
        return self.root / "processes"

    @property
    def logs(self) -> Path:
        """One log for each process."""
        return self.root / "logs"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.root / "kubeconfig"

    def create(self) -> None:
        """Make the folders, readable by their owner alone: keys lie in them."""
        for folder in (self.pki, self.processes, self.logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
