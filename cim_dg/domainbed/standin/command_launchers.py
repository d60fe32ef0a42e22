"""Ways to run the commands of a sweep's jobs.

A launcher takes shell commands. If it waits for them it names those that failed in the end, and ends the program with
an exit code; it runs the others all the same. Plugins add their own to REGISTRY.
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
