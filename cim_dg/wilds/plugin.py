"""The registration of our methods in WILDS' examples harness, when run_expt.py is run.

The harness' modules have generic names (`configs.supported`, `transforms`, ...). Their hooks are therefore installed
only if the running program is a run_expt.py next to those modules: `cim_dg.autoload` calls `on_wilds` when the program
has imported `wilds`, and `on_wilds` installs the others.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from types import ModuleType
from typing import Any

from cim_dg.harness.compat import restore_adamw
from cim_dg.harness.endings import end_in_a_sentence
from cim_dg.wilds.our_methods import our_methods

HOOKS = {
    "transformers": "cim_dg.wilds.plugin:on_transformers",
    "transforms": "cim_dg.wilds.plugin:on_transforms",
    "configs.supported": "cim_dg.wilds.plugin:on_supported",
    "configs.algorithm": "cim_dg.wilds.plugin:on_algorithm_defaults",
    "algorithms.initializer": "cim_dg.wilds.plugin:on_initializer",
}
"""Module of the harness -> our hook, as in `cim_dg.autoload.HOOKS`."""


def is_examples(program: str) -> bool:
    """Whether `program` is a run_expt.py of WILDS."""
    folder = os.path.dirname(os.path.abspath(program))
    return os.path.basename(program) == "run_expt.py" and all(
        os.path.isfile(os.path.join(folder, *path))
        for path in (("configs", "supported.py"), ("algorithms", "initializer.py"))
    )


def on_wilds(module: ModuleType) -> None:
    """Install the hooks for run_expt.py's other imports, if it is the running program."""
    from cim_dg import autoload

    if is_examples(sys.argv[0]) and not HOOKS.keys() <= autoload.HOOKS.keys():
        autoload.HOOKS.update(HOOKS)
        end_in_a_sentence()
        _extend_parser()


def on_transformers(module: ModuleType) -> None:
    """Restore the AdamW that the harness imports."""
    restore_adamw()


def on_transforms(module: ModuleType) -> None:
    """Do not standardise RxRx1's images for our methods: their featurizer does it (`transforms.Standardize`)."""
    from cim_dg.wilds.transforms import make_transform

    original = module.initialize_transform

    @functools.wraps(original)
    def initialize_transform(transform_name: Any, config: Any, dataset: Any, is_training: bool, **kwargs: Any) -> Any:
        if transform_name == "rxrx1" and config.algorithm in our_methods():
            return make_transform("rxrx1", None, None, None, training=is_training)
        return original(transform_name, config, dataset, is_training, **kwargs)

    module.initialize_transform = initialize_transform  # type: ignore[attr-defined]


def on_supported(module: ModuleType) -> None:
    """Add our methods to the choices of --algorithm."""
    choices: list[str] = vars(module)["algorithms"]
    choices += [name for name in our_methods() if name not in choices]


def on_algorithm_defaults(module: ModuleType) -> None:
    """Give our methods the loaders of the harness' ERM."""
    for name in our_methods():
        module.algorithm_defaults.setdefault(name, dict(module.algorithm_defaults["ERM"]))


def on_initializer(module: ModuleType) -> None:
    """Make `initialize_algorithm` build our methods, and record every run."""
    from cim_dg.wilds import examples

    original = module.initialize_algorithm

    @functools.wraps(original)
    def initialize_algorithm(config: Any, datasets: Any, train_grouper: Any, unlabeled_dataset: Any = None) -> Any:
        if config.algorithm in our_methods():
            algorithm = examples.initialize(config, datasets, train_grouper)
        else:
            algorithm = original(config, datasets, train_grouper, unlabeled_dataset)
        examples.write_record(config, algorithm)
        return algorithm

    module.initialize_algorithm = initialize_algorithm  # type: ignore[attr-defined]


def _extend_parser() -> None:
    """Make the next parser with --algorithm accept our options too. The harness has no other place to add them."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        if "--algorithm" not in self._option_string_actions:
            return original(self, args, namespace)
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]
        from cim_dg.errors import UserError
        from cim_dg.wilds import examples

        examples.add_options(self)
        config = original(self, args, namespace)
        try:
            examples.check_options(config)
        except UserError as error:
            self.error(str(error))
        return config

    argparse.ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]
