"""The parser of every command: what is wrong with a call is one sentence, with the nearest name that exists."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

_OPTION = re.compile(r"--[A-Za-z][^=]*")


class Parser(argparse.ArgumentParser):
    """argparse's parser, but a mistake ends in one line on stderr and exit code 2, without the usage.

    An option that takes several of a few `choices` ends where something else follows: in `log --to tensorboard runs/x`
    the folder is no target. Such an option has the action `extend`.
    """

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, but nothing unknown is returned: it is an error of this parser, not of the one above."""
        if args is not None:
            args = self._given = self._apart(list(args))
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"nothing takes the argument {unknown[0]!r}")
        return namespace, unknown

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, for words that can be printed and written into files."""
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            if word != word.encode("utf-8", "replace").decode("utf-8"):
                self.error(f"the argument {word!r} is not text in UTF-8")
        return super().parse_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one line: an unknown option, which explains best what else is wrong, or `message`.

        Raises:
            SystemExit: always.
        """
        known = list(self._option_string_actions)
        # Before Python 3.12 a word such as --seed is an abbreviation of --seeds where the parser allows it.
        given = [match[0] for word in _before_dashes(self._given) if (match := _OPTION.match(word))]
        unknown = next((word for word in given if not any(name.startswith(word) for name in known)), None)
        if unknown is not None:
            message = f"there is no option {unknown}{_suggestion(unknown, known)}"
        command = f"python -m {self.prog}" if "." in self.prog else self.prog
        self.exit(2, f"{self.prog}: error: {message} (help: {command} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        hint = f"accepted is {', '.join(choices)}{_suggestion(str(value), choices)}"
        if isinstance(action, argparse._SubParsersAction):
            raise argparse.ArgumentError(None, f"there is no command {value!r}; {hint}")
        name = action.option_strings[-1] if action.option_strings else action.metavar or action.dest
        raise argparse.ArgumentError(None, f"{name} is {value!r}; {hint}")

    def _apart(self, words: list[str]) -> list[str]:
        """`words` in which an option with several of its choices is given once for each of them."""
        apart: list[str] = []
        place = 0
        while place < len(words) and words[place] != "--":
            action = self._option_string_actions.get(words[place])
            chosen = 0
            if action is not None and action.nargs in ("+", "*") and action.choices is not None:
                for word in words[place + 1 :]:
                    if word not in action.choices:
                        break
                    chosen += 1
                apart += [f"{words[place]}={word}" for word in words[place + 1 : place + 1 + chosen]]
            if not chosen:
                apart.append(words[place])
            place += 1 + chosen
        return apart + words[place:]


def flag(parser: Any, name: str, **kwargs: Any) -> None:
    """Add an option that is true without a value, as in WILDS' run_expt.py, or takes true or false."""
    parser.add_argument(name, nargs="?", const=True, type=boolean, metavar="BOOL", **kwargs)


def boolean(text: str) -> bool:
    """true or false, in any case.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _before_dashes(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _suggestion(name: str, known: Iterable[str]) -> str:
    from cim_dg.runtime.schema import suggestion  # which takes longer to import than this file

    return suggestion(name, known)
