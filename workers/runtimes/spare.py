"""A runner without a model: it has read its libraries, which takes longer than most models do, and waits to be told
what to load."""

import json
import os
from concurrent.futures import Executor
from pathlib import Path

from workers.devices.base import CPU_ID
from workers.runtimes.base import Launch
from workers.runtimes.child import MARK, Child, environment
from workers.runtimes.log_ring import LogRing


def surroundings(launch: Launch, mark: str, device: str) -> dict[str, str]:
    """The whole environment of a runner.

    Args:
        mark: id of its residency.
        device: `cpu`, or the GPU that this process is pinned to.
    """
    env = environment(os.environ, {**launch.env, MARK: mark})
    return {**env, "CUDA_VISIBLE_DEVICES": ""} if device == CPU_ID else env


class Spare:
    """A child that waits. It has the key and the mark of the residency that it will be.

    Args:
        launch: the command of such a runner; its last word is replaced by what it is told.
        mark: id of a residency that is still to come.
        key: of that residency.
        device: `cpu`, or the GPU that this process is pinned to.
        spawn: see `Child`.

    Raises:
        Failed: code `runner_not_started`.
    """

    def __init__(self, launch: Launch, mark: str, key: str, device: str, spawn: Executor) -> None:
        self.mark = mark
        self.told = False
        """It is a runner now, and that one's child."""
        self.ring = LogRing(key)
        self._launch = launch
        self._env = surroundings(launch, mark, device)
        self.child = Child(launch.argv, self._env, spawn, self.ring, waits=True)

    def alive(self) -> bool:
        return self.child.exit_code is None

    def become(self, launch: Launch, mark: str, device: str, log_file: Path | None) -> bool:
        """Be the runner that this would start. False: it is another kind of runner, or this one is gone."""
        *command, _ = self._launch.argv
        alike = launch.argv[: len(command)] == tuple(command) and surroundings(launch, mark, device) == self._env
        if not alike or not self.child.tell(json.dumps(launch.argv[len(command) :])):
            return False
        self.told, self.child.log_file = True, log_file
        return True

    def stop(self) -> None:
        """End it; what it has becomes free at once, as it holds nothing that anybody needs."""
        self.child.stop(0)
