"""A worker backend of Ray actors. `ray` is imported only when a cluster is requested."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from spos_quant.errors import ConfigError
from spos_quant.progress import remark
from spos_quant.searchers.process_backend import failure
from spos_quant.searchers.worker_pool import STARTING, Work, Worker, WorkerFailure

LOCAL = "local"
"""The address of a cluster on this machine alone, which ends with the command."""
_PATIENCE_SECONDS = 20.0
"""After this time without a running actor, the command reports what it waits for."""


@dataclass(frozen=True)
class Share:
    """The resources of a node that one actor takes."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")

    def fits(self, resources: dict[str, float]) -> int:
        """How many such shares fit on a node."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return min((int(resources.get(name, 0) / much + 1e-9) for name, much in wanted.items() if much), default=0)


def check_address(address: str) -> None:
    """Raises `ConfigError` if Ray is not installed or nothing listens at the address."""
    if find_spec("ray") is None:
        raise ConfigError("--ray needs Ray, which is not installed; install it with: pip install 'spos-quant[ray]'")
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host:
        if address not in (LOCAL, "auto") and "://" not in address:
            raise ConfigError(f"--ray {address!r}: expected local, auto, or an address such as 10.0.0.1:6379")
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"--ray {address}: no Ray cluster answers there ({str(error).strip() or type(error).__name__}); "
        "start one with: ray start --head --port 6379"
    )


class RayBackend:
    """Actors of a Ray cluster, each with its share of a node.

    `make` is put into the object store once; every actor loads it from the copy on its node. An actor that dies, alone
    or with its node, is replaced wherever the cluster has room. Actors do not write to the run directory: the caller
    stores the answers.

    Args:
        make: Makes the task function from the worker's number and whether it has a GPU.
        address: `local`, `auto` or a cluster's address.
        workers: Number of actors; 0 means as many as the cluster has room for now.
        cpus: CPUs per actor.
        gpus: GPUs per actor; None takes one if the cluster has any.

    Raises:
        ConfigError: there is no such cluster, or no node has room for one actor.
    """

    noun = "actor"

    def __init__(
        self,
        make: Callable[[int, bool], Work[Any, Any]],
        address: str,
        workers: int,
        *,
        cpus: float,
        gpus: float | None,
    ) -> None:
        self._ray: Any = import_module("ray")
        self._own = not self._ray.is_initialized()
        if self._own:
            _connect(self._ray, address, math.ceil(workers * cpus))
        try:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            if gpus is None:
                gpus = float(any(node.get("GPU", 0) for node in nodes))
            self.share = Share(cpus, gpus)
            self.size = _size(self.share, nodes, workers)
            self._actor = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(_Actor)
            self._made = self._ray.put(make)
        except BaseException:
            self.close()
            raise

    def spawn(self, number: int) -> RayWorker:
        """Creates an actor, which starts as soon as the cluster has room for it."""
        return RayWorker(self._ray, self._actor.remote(), (self._made, number, self.share.gpus > 0))

    def ready(self, busy: Sequence[RayWorker]) -> list[RayWorker]:
        """The workers that answered, started or died; waits for the first."""
        asked = [worker.answer for worker in busy]
        # If all actors are starting, there may be no room for any of them, for example after a node was lost.
        patience = _PATIENCE_SECONDS if all(worker.index == STARTING for worker in busy) else None
        found, _ = self._ray.wait(asked, timeout=patience, fetch_local=False)
        if not found:
            remark(f"no actor works: the cluster has no room now for one that takes {self.share}; waiting for it")
            found, _ = self._ray.wait(asked, fetch_local=False)
        return [worker for worker in busy if worker.answer in found]

    def close(self) -> None:
        """Disconnects from the cluster, and stops it if this command started it."""
        if self._own:
            self._ray.shutdown()


class RayWorker(Worker):
    """One actor, and the reference to its pending answer."""

    def __init__(self, ray: Any, actor: Any, start: tuple[Any, ...]) -> None:
        self._ray, self._actor = ray, actor
        self.answer = actor.start.remote(*start)

    def submit(self, index: int, task: Any) -> None:
        """Sends a task to the actor."""
        self.index = index
        self.answer = self._actor.do.remote(task)

    def receive(self) -> Any:
        """Its answer, None if it has just started, an exception that it raised, or a `WorkerFailure`."""
        try:
            return self._ray.get(self.answer)
        except self._ray.exceptions.RayTaskError as error:
            last = str(error).strip().splitlines()[-1]
            return ConfigError(
                f"--ray: an actor cannot work ({last}); every node needs the same Python and the same packages"
            )
        except self._ray.exceptions.RayError as error:
            return WorkerFailure(_cause(error))

    def end(self) -> None:
        """Kills the actor, even during a task."""
        self._ray.kill(self._actor)


class _Actor:
    """The class that runs on the cluster."""

    def start(self, make: Callable[[int, bool], Work[Any, Any]], number: int, gpu: bool) -> Exception | None:
        """Makes the task function. Exceptions are returned, because Ray would wrap raised ones."""
        try:
            self.work = make(number, gpu)
        except Exception as error:  # noqa: BLE001 - raised in the main process
            return failure(error)
        return None

    def do(self, task: Any) -> Any:
        """Runs a task; returns its answer or the exception that it raised."""
        try:
            (answer,) = self.work([task])
        except Exception as error:  # noqa: BLE001 - raised in the main process
            return failure(error)
        return answer


def _size(share: Share, nodes: Sequence[dict[str, float]], workers: int) -> int:
    room = sum(share.fits(node) for node in nodes)
    if not room:
        raise ConfigError(
            f"--ray: no node of the cluster has {share} for an evaluator; lower --set ray.cpus=N or ray.gpus=N"
        )
    if workers > room:
        remark(f"the cluster has room for {room} of {workers} actors that take {share} each; the others wait")
    return workers or room


def _connect(ray: Any, address: str, cpus: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise Ray sends usage statistics
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == LOCAL:
        # As with processes, the user may request more actors than cores.
        options |= {"num_cpus": max(os.cpu_count() or 1, cpus), "include_dashboard": False}
    try:
        with _own_signals():
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _no_cluster(address, error) from None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restores the SIGTERM handler of this process, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


def _cause(error: Exception) -> str:
    """The first line of Ray's message, which may be long."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}" if str(error) else type(error).__name__
