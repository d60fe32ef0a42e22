"""Ways to run the commands of a sweep's jobs.

A launcher takes shell commands. If one fails, it still runs the others. If it waits for them, it names the failed ones
at the end and exits with an error code. Plugins add their own launchers to REGISTRY.
"""

from __future__ import annotations

from cim_dg.domainbed.launchers import Launcher, launcher


def dummy_launcher(commands: list[str]) -> None:
    """Run nothing; print every command."""
    for command in commands:
        print(f"Dummy launcher: {command}")


REGISTRY: dict[str, Launcher] = {
    "local": launcher("local"),
    "dummy": dummy_launcher,
    "multi_gpu": launcher("multi_gpu"),
}
