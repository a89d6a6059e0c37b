"""Words of a data set: its class words and split words, and the suite's names for them.

A vocabulary is a TOML file: `anger = ["angry", "ang", 6]` for a class, and a table `[splits]` with lines such as
`test = ["fold1"]`. Words are compared exactly first, then as numbers (1.0 is 1), then without case, `_` and `-`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from open_set_fer.console import log
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT, check_class_names
from open_set_fer.datasets.listing import read_lines
from open_set_fer.errors import SuiteError, some
from open_set_fer.plugins import nearest

SPLITS = ("train", "valid", "test")
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "train set", "training set"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev", "val set", "validation set", "publictest"), "valid"),
    **dict.fromkeys(("test", "testing", "test set", "privatetest"), "test"),
}
"""Splits by common words, FER2013's among them."""
EXPRESSIONS = (*BASIC, *COMPOUND, CONTEMPT)
SYNONYMS = {
    "surprise": ("surprised", "surprize", "suprise"),
    "fear": ("fearful", "afraid", "scared", "fearfull"),
    "disgust": ("disgusted",),
    "happiness": ("happy", "joy", "joyful", "smile"),
    "sadness": ("sad", "sorrow"),
    "anger": ("angry", "mad"),
    "neutral": ("neutrality", "natural", "calm"),
    CONTEMPT: ("contemptuous", "scorn"),
}
"""Words that mean an expression: a data set with them needs a vocabulary, which its error suggests."""
MISSING = ("", "na", "n/a", "nan", "null", "none", "<na>")
"""Words of a table for no value; a label that the vocabulary names is one all the same."""


@dataclass(frozen=True)
class Vocabulary:
    """Class names and splits by a data set's words. path: of its file, '' for none."""

    path: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)

    def split_of(self, word: str) -> str | None:
        """Split of a word, None for an unknown one."""
        return self.splits.get(word) or SPLIT_WORDS.get(fold(word))

    def is_missing(self, label: Any) -> bool:
        """Whether a label is none."""
        return bool(pd.isna(label)) or (str(label).strip().lower() in MISSING and str(label) not in self.names)


def fold(word: str) -> str:
    """The word without what people write differently: case, `_`, `-`, several blanks."""
    return " ".join(word.casefold().replace("_", " ").replace("-", " ").split())


def as_number(word: str) -> str:
    """A whole number as its digits: '1.0' and '01' are '1'; any other word as it is."""
    try:
        return str(int(float(word))) if float(word).is_integer() else word
    except (ValueError, OverflowError):
        return word


def class_names(name: str, words: pd.Series[str], vocabulary: Vocabulary) -> pd.Series[str]:
    """Class name of each label; raises SuiteError for labels without a name and for words that may mean one class."""
    counts = {str(word): int(count) for word, count in words.value_counts().items()}
    if vocabulary.path:
        names = {word: _by_vocabulary(word, vocabulary) for word in counts}
        if unknown := sorted(word for word, found in names.items() if found is None):
            listed = some([f"{word!r} ({counts[word]:,} images)" for word in unknown], 12)
            close = {word: nearest(word, [*vocabulary.names]) for word in unknown[:3]}
            near = "".join(f"; {word!r}{text}" for word, text in close.items() if text)
            fault = f"{name}: labels {unknown[:12]} are not in {vocabulary.path}: {listed}{near}"
            raise SuiteError(fault, "add them to the vocabulary")
        found = {word: str(class_name) for word, class_name in names.items()}
    else:
        found = _without_vocabulary(name, counts)
    check_class_names(name, dict.fromkeys(found.values()))
    taken = {word: class_name for word, class_name in found.items() if class_name != word}
    if guessed := [word for word in taken if vocabulary.names.get(word) != taken[word]]:
        log.info("%s: %s", name, some([f"{w!r} is taken for {taken[w]} ({counts[w]:,} images)" for w in guessed], 12))
    return words.astype(str).map(found)


def _by_vocabulary(word: str, vocabulary: Vocabulary) -> str | None:
    for form in (word, as_number(word)):
        if form in vocabulary.names:
            return vocabulary.names[form]
    alike = {name for alias, name in vocabulary.names.items() if fold(alias) == fold(word)}
    return alike.pop() if len(alike) == 1 else None


def _without_vocabulary(name: str, counts: Mapping[str, int]) -> dict[str, str]:
    """Class name by word: the word itself, or the expression that it spells; SuiteError for words that need a name."""
    listed = some([f"{word} ({count:,})" for word, count in counts.items()], 12)
    if all(as_number(word).lstrip("-").isdigit() for word in counts):
        lines = "\n    ".join(f"{expression} = [ ]" for expression in BASIC)
        fix = f"name them in a TOML file, given as `vocabulary`, each number in the brackets of its class:\n    {lines}"
        raise SuiteError(f"{name}: the labels are numbers without names: {listed}", fix)
    alike: dict[str, list[str]] = {}
    for word, count in counts.items():
        alike.setdefault(fold(word), []).append(f"{word!r} ({count:,} images)")
    if doubled := [" and ".join(words) for words in alike.values() if len(words) > 1]:
        fix = 'if they are one class, say so in a vocabulary: anger = ["Anger", "ANGER"]'
        raise SuiteError(f"{name}: class names are equal apart from case: {some(doubled)}", fix)
    spelled = {fold(expression): expression for expression in EXPRESSIONS}
    meant = {word: expression for expression, words in SYNONYMS.items() for word in words}
    if any(fold(word) in meant for word in counts):
        by_name: dict[str, list[str]] = {}
        for word in counts:
            by_name.setdefault(spelled.get(fold(word), meant.get(fold(word), word)), []).append(word)
        lines = "\n    ".join(f"{_key(key)} = {_list(key, words)}" for key, words in by_name.items())
        fix = "name them in a TOML file, given as `vocabulary` (`angry = []` in it keeps a word as the class)"
        raise SuiteError(f"{name}: classes mean expressions but are not named so: {listed}", f"{fix}:\n    {lines}")
    return {word: spelled.get(fold(word), word) for word in counts}


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and name.isascii() else '"' + name.replace('"', '\\"') + '"'


def _list(name: str, words: list[str]) -> str:
    return "[" + ", ".join('"' + word.replace('"', '\\"') + '"' for word in words if word != name) + "]"


def split_names(name: str, words: pd.Series[str], vocabulary: Vocabulary) -> pd.Series[str]:
    """Split of each word; raises SuiteError for unknown words and for a data set without a split train or test."""
    counts = {str(word): int(count) for word, count in words.value_counts().items()}
    found = {word: vocabulary.split_of(word) for word in counts}
    fix = 'use train, valid, test, or name them in the file of `vocabulary`, in a table [splits]: test = ["fold1"]'
    if unknown := sorted(word for word, split in found.items() if split is None):
        raise SuiteError(f"{name} has unknown splits {unknown}", fix)
    if other := {word: split for word, split in found.items() if word != split}:
        taken = [f"split {word!r} is taken for {split} ({counts[word]:,} rows)" for word, split in other.items()]
        log.info("%s: %s", name, ", ".join(taken))
    for split in ("train", "test"):
        if split not in found.values():
            there = ", ".join(f"{word} ({count:,})" for word, count in counts.items())
            alias = f'name it in the file of `vocabulary`, in a table [splits]: {split} = ["{next(iter(counts))}"]'
            fix = f"rename a split to {split}, or {alias}; `osfer data split` draws splits"
            raise SuiteError(f"{name} has no split {split}, only {there}", fix)
    return words.astype(str).map(found)


def read_vocabulary(path: Path) -> Vocabulary:
    """Read class names and splits by a data set's words and numbers; a class name maps to itself."""
    fix = 'write lines such as anger = ["angry", 6]'
    try:
        content = tomllib.loads("\n".join(read_lines(path)))
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"manifest: {path} is not TOML: {error}", fix) from error
    splits = content.pop("splits", {}) if isinstance(content.get("splits"), dict) else {}
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise SuiteError(f"manifest: {path} has unknown splits {unknown}", f"use {', '.join(SPLITS)}")
    if len({fold(name) for name in content}) < len(content):
        raise SuiteError(f"manifest: {path} has class names that are equal apart from case", "keep one of them")
    for name in content:
        spelled = next((expression for expression in EXPRESSIONS if fold(expression) == fold(name)), name)
        if spelled != name:
            raise SuiteError(f"manifest: {path}: {name!r} is an expression in another case", f"write {spelled!r}")
    return Vocabulary(str(path), _aliases(path, content, fix), _aliases(path, splits, 'write test = ["fold1"]'))


def _aliases(path: Path, table: Mapping[str, object], fix: str) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for name, words in table.items():
        if not isinstance(words, list):
            raise SuiteError(f"manifest: {path}: {name} is not a list", fix)
        for word in [name, *words]:
            if (other := aliases.setdefault(str(word), name)) != name:
                raise SuiteError(f"manifest: {path} maps {word!r} to {other} and {name}", "keep one of them")
    return aliases
