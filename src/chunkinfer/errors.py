"""Every error that chunkinfer raises on purpose.

::

    ChunkinferError
    ├── SourceError            (OSError)            what is at a URL cannot be opened or read
    │   ├── SourceNotFound     (FileNotFoundError)
    │   ├── AmbiguousSource                         a group holds several arrays
    │   └── MissingChunk                            a stored chunk is absent
    ├── VolumeError            (ValueError)         dims, coordinates or dtype of a volume
    ├── ModelError             (ValueError)         the network cannot be opened, or does not fit the volume
    │   ├── UntrustedModel                          opening it would execute code nobody asked to trust
    │   ├── AmbiguousOutput                         it has several outputs, and none was chosen
    │   └── NotExact                                it cannot be tiled exactly
    ├── PlanError              (ValueError)         patch, overlap, block, chunks or memory do not work out
    ├── PipelineError          (ValueError)         the steps of a pipeline do not fit together
    ├── DestinationError       (OSError)            where the output should go cannot take it
    │   ├── SettingsDiffer                          it holds the output of another run
    │   └── OutputInUse                             another run writes it at this moment
    ├── EngineError            (RuntimeError)       an engine cannot run the network, or not as it should
    │   └── PrecisionError                          reduced precision changes more than it may
    ├── DeviceError            (RuntimeError)       no such device here, or a kernel on the wrong worker
    ├── OutputError            (RuntimeError)       the network returned NaN, a wrong shape or a wrong range
    ├── RunError               (RuntimeError)       blocks failed; everything else is stored
    │   └── RunPaused                               Ctrl-C or SIGTERM; what was begun is stored
    ├── ClusterError           (ValueError)         a cluster cannot be started as it is described
    ├── ViewError              (RuntimeError)       a view cannot be served or drawn
    └── MissingExtra           (ImportError)        an optional dependency is absent
"""

from __future__ import annotations

from collections.abc import Sequence


class ChunkinferError(Exception):
    """Base of all errors of this library: what is so, what it usually means, and ways out.

    Parameters
    ----------
    what
        The fact, with the values that matter.
    means
        What this usually means, in a sentence.
    ways
        Ways out, each with a line to paste where there is one.
    """

    def __init__(self, what: str, means: str = "", ways: Sequence[str] = ()) -> None:
        # All three go to args, so that the error survives pickling between workers and client.
        super().__init__(what, means, tuple(ways))
        self.what, self.means, self.ways = what, means, tuple(ways)

    def __str__(self) -> str:
        lines = [self.what]
        if self.means:
            lines.append(self.means)
        lines += [f"  - {way}" for way in self.ways]
        return "\n".join(lines)


class SourceError(ChunkinferError, OSError):
    """What is at a URL cannot be opened or read."""


class SourceNotFound(SourceError, FileNotFoundError):
    """Nothing is at the URL."""


class AmbiguousSource(SourceError):
    """A group holds several arrays and none was chosen."""


class MissingChunk(SourceError):
    """A stored chunk is absent, and nobody said that it may be filled."""


class VolumeError(ChunkinferError, ValueError):
    """Dims, coordinates or dtype of a volume are not what a verb can work on."""


class ModelError(ChunkinferError, ValueError):
    """The network cannot be opened, or does not fit the volume."""


class UntrustedModel(ModelError):
    """Opening the model would execute code that nobody asked to trust."""


class AmbiguousOutput(ModelError):
    """The network has several outputs, and none was chosen."""


class NotExact(ModelError):
    """The network cannot be tiled exactly."""


class PlanError(ChunkinferError, ValueError):
    """Patch, overlap, block, chunks or memory do not work out."""


class PipelineError(ChunkinferError, ValueError):
    """The steps of a pipeline do not fit together, or one of them is not known."""


class DestinationError(ChunkinferError, OSError):
    """Where the output should go cannot take it."""


class SettingsDiffer(DestinationError):
    """The destination holds the output of a run with other settings."""


class EngineError(ChunkinferError, RuntimeError):
    """An engine cannot run the network, or its result is not the network's."""


class PrecisionError(EngineError):
    """Reduced precision changes more of the output than the run allows."""


class DeviceError(ChunkinferError, RuntimeError):
    """There is no such device here, or a kernel ran on the wrong worker."""

    worker: str = ""
    """Address of the dask worker that lacks the device, so that the block can be moved."""


class OutputError(ChunkinferError, RuntimeError):
    """The network returned NaN, a wrong shape, or values outside the declared range."""


class RunError(ChunkinferError, RuntimeError):
    """Some blocks failed; everything else is stored, and the same call resumes."""


class ViewError(ChunkinferError, RuntimeError):
    """A view cannot be served or drawn."""


class ClusterError(ChunkinferError, ValueError):
    """A cluster cannot be started as it is described."""


class RunPaused(RunError):
    """The run was paused; what was begun is stored, and the same call goes on."""


class OutputInUse(DestinationError):
    """Another run writes this output."""


class MissingExtra(ChunkinferError, ImportError):
    """An optional dependency is absent."""

    @classmethod
    def of(cls, what: str, module: str, extra: str) -> MissingExtra:
        """``what`` needs ``module``, which the extra brings."""
        return cls(
            f"{what} need {module}, which is not installed.",
            f"It comes with the extra {extra}.",
            [f'pip install "chunkinfer[{extra}]"', f"pip install {module}"],
        )
