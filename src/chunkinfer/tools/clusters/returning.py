"""A cluster on this machine whose workers come back, however often they die."""

from __future__ import annotations

import logging
from typing import Any

from distributed import LocalCluster, Status
from distributed.deploy.spec import SpecCluster
from tornado.ioloop import PeriodicCallback

logger = logging.getLogger("distributed.chunkinfer.clusters")

EVERY = 5.0
"""Seconds between looks at the nannies."""


class Returning(LocalCluster):
    """dask's local cluster, which keeps as many workers as it was scaled to.

    A nanny starts its worker again, but dask closes the nanny of a worker that is not back 15 seconds after it was lost
    (``distributed.deploy.lost-worker-timeout``), as one is not that dies again while it starts; and a nanny closes
    itself where its worker cannot start. In both cases nobody comes instead. Here a nanny is left in peace, and one
    that closed is replaced.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]

    async def _start(self) -> None:
        await super()._start()  # type: ignore[no-untyped-call]
        self._looks = PeriodicCallback(self._replace, EVERY * 1000)
        self._looks.start()

    async def _close(self) -> None:
        if (looks := getattr(self, "_looks", None)) is not None:
            looks.stop()
        await super()._close()  # type: ignore[no-untyped-call]

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # Not SpecCluster's own, which closes the nanny later.
        super(SpecCluster, self)._update_worker_status(op, msg)  # type: ignore[no-untyped-call]

    async def _replace(self) -> None:
        """Start a nanny in place of each that closed, unless the cluster was scaled down."""
        ended = [name for name, nanny in self.workers.items() if nanny.status in (Status.closed, Status.failed)]
        for name in ended:
            del self.workers[name]
        if self.status == Status.running and self.worker_spec.keys() - self.workers.keys():
            logger.warning("Workers %s ended with their nannies; others are started.", ", ".join(map(str, ended)))
            try:
                await self._correct_state()  # type: ignore[no-untyped-call]
            except Exception:  # whatever hinders a start: it is tried again
                logger.exception("A worker could not be started; it is tried again.")
