"""Studies in Optuna's own storage: where it lies, what a study is called, and what is read back from it.

optuna-dashboard, the `optuna` command and `optuna.load_study` see the same studies. Free of torch and of the runner.
"""

from __future__ import annotations

import json
import logging
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import filelock
import numpy as np

from open_set_fer.errors import SuiteError, masked, summary

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

Objective = Literal["auroc", "control", "test"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
AREAS: dict[Objective, str] = {"auroc": "AUROC", "control": "control AUROC", "test": "test AUROC"}
"""What an objective's value is called."""
DATABASE = "studies.db"
"""The default storage, under the home."""
FILES = (".db", ".sqlite", ".sqlite3")
HEARTBEAT, GRACE = 15, 60
"""Seconds, where the storage is a server's and no lock tells whether a worker lives."""
ASKING = int.from_bytes(b"osfer")
"""The number of the lock, in a PostgreSQL database, of who counts trials."""
DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""What a database driver is called on PyPI, where its module is called otherwise or needs an extra."""
STAMP = "CHOSEN ON THE TEST SPLIT"
"""On every output of a study whose objective is 'test'."""


@dataclass(frozen=True)
class Storage:
    """Where studies are kept.

    address: what `optuna --storage` and `optuna-dashboard` take. locks: folder of the locks that living workers hold.
    is_file: whether those locks are seen by every worker; else Optuna's heartbeat tells who lives.
    """

    address: str
    locks: Path
    is_file: bool

    @classmethod
    def of(cls, text: str, home: Path) -> Storage:
        """From --storage: '' for the home's SQLite file, a database file, `journal:PATH` or a .log file, or a database URL."""
        if not text:
            return cls(f"sqlite:///{home / DATABASE}", home / f"{DATABASE}.locks", True)
        if text.startswith("journal:") or text.endswith(".log"):
            path = text.removeprefix("journal:")
            return cls(path, Path(f"{path}.locks"), True)
        if text.startswith("sqlite:///") or text.endswith(FILES):
            path = text.removeprefix("sqlite:///")
            return cls(f"sqlite:///{path}", Path(f"{path}.locks"), True)
        if re.match(r"[a-z0-9+]+://", text):
            return cls(text, home / f"{DATABASE}.locks", False)
        raise SuiteError(
            f"--storage {text!r} is no place for studies",
            "a database URL as postgresql://host/studies, a file ending in .db, or journal:PATH for a journal file",
        )

    @property
    def is_journal(self) -> bool:
        """Whether it is Optuna's journal file."""
        return "://" not in self.address

    @property
    def path(self) -> Path:
        """Of a storage that is a file."""
        return Path(self.address.removeprefix("sqlite:///"))

    def open(self, create: bool = True) -> optuna.storages.BaseStorage:
        """Optuna's storage; SuiteError where it cannot be used, or with `create` False is not there."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        if self.is_file and not create and not self.path.exists():
            raise SuiteError(f"no studies in {self.path}", "run `osfer tune` first, or name their place with --storage")
        try:
            if not self.is_file:
                return self._on_server()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.locks.mkdir(exist_ok=True)
            with filelock.FileLock(self.locks / "open.lock"):  # two workers must not both make the tables
                if self.is_journal:
                    return optuna.storages.JournalStorage(JournalFileBackend(str(self.path)))
                patient = {"connect_args": {"timeout": 60}}
                return optuna.storages.RDBStorage(self.address, engine_kwargs=patient)
        except ImportError as error:
            missing = error.__cause__ or error  # Optuna's own says no name
            if not isinstance(missing, ModuleNotFoundError):
                raise self._unusable(error) from error
            package = DRIVERS.get(str(missing.name), str(missing.name))
            raise SuiteError(
                f"the storage {masked(self.address)} needs the Python package {missing.name}, which is not installed",
                f"pip install '{package}', or use a file",
            ) from error
        except Exception as error:
            raise self._unusable(error) from error

    def _on_server(self) -> optuna.storages.RDBStorage:
        """Tried again where another worker made the tables of a new database at the same time."""
        import optuna
        from sqlalchemy.exc import IntegrityError, ProgrammingError

        def connected() -> optuna.storages.RDBStorage:
            with unwarned():
                return optuna.storages.RDBStorage(self.address, heartbeat_interval=HEARTBEAT, grace_period=GRACE)

        for wait in (1, 2, 4):
            with suppress(IntegrityError, ProgrammingError):
                return connected()
            time.sleep(wait)
        return connected()

    def _unusable(self, error: Exception) -> SuiteError:
        return SuiteError(
            f"the storage of studies {masked(self.address)} cannot be used: {summary(error)}",
            "see that it is there and lets you in, or name another one with --storage"
            + " (a PostgreSQL address begins with postgresql://)" * self.address.startswith("postgres://"),
        )

    @contextmanager
    def asking(self, backend: optuna.storages.BaseStorage) -> Iterator[None]:
        """One worker at a time counts the trials and takes the next one.

        Workers that share a PostgreSQL server and no home exclude each other there; on other servers only those of one home do.
        """
        import sqlalchemy

        self.locks.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.locks / "asking.lock"), ExitStack() as stack:
            engine = getattr(backend, "engine", None)
            if engine is not None and engine.dialect.name == "postgresql":
                connection = stack.enter_context(engine.begin())  # its end, the worker's death too, gives the lock back
                connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": ASKING})
            yield

    def lock_of(self, study: str, number: int) -> filelock.BaseFileLock:
        """The lock that a trial's worker holds as long as it lives."""
        return filelock.FileLock(self.locks / f"{study}.{number}.lock")


@dataclass(frozen=True)
class Trial:
    """A trial as the suite sees it.

    number: Optuna's. values: of the searched settings. state: 'finished', 'failed', 'pruned', 'running' or 'waiting'.
    value: the objective. cells: each with cell_key, protocol, seed, auroc, auroc_low, auroc_high and run_id.
    """

    number: int
    values: dict[str, Any]
    state: str
    value: float | None
    cells: list[dict[str, Any]]
    note: str = ""


@dataclass(frozen=True)
class Study:
    """A study read from its storage; trials in Optuna's order, without those that a dead worker left and another took up.

    own: the profile's values when it was last started. chosen: how its best values are chosen, in words.
    """

    name: str
    profile: str
    label: str
    objective: Objective
    own: dict[str, Any]
    chosen: str
    parent: str
    """Its run in MLflow."""
    trials: list[Trial]

    @classmethod
    def of(cls, study: optuna.Study) -> Study:
        """From Optuna's study."""
        attrs = study.user_attrs
        trials = study.get_trials(deepcopy=False)
        retried = taken_up(trials)
        read = [_read(trial, study.user_attrs.get("choices", {})) for trial in trials if trial.number not in retried]
        return cls(
            study.study_name,
            attrs["profile"],
            attrs["label"],
            attrs["objective"],
            attrs["own"],
            attrs["chosen"],
            attrs.get("run_id", ""),
            read,
        )

    @property
    def finished(self) -> list[Trial]:
        """The trials that have a value."""
        return [trial for trial in self.trials if trial.state == "finished"]

    @property
    def selection(self) -> str:
        """Where the best values come from, in the words that a profile's `selection` should have."""
        stamp = f"{STAMP}, so not comparable: " * (self.objective == "test")
        return f"{stamp}{self.chosen}, {len(self.finished)} trials"

    @property
    def area(self) -> str:
        """The objective's name."""
        return AREAS[self.objective]

    def best(self) -> Trial:
        """The finished trial with the highest objective; the earliest among equals. SuiteError without any."""
        if not self.finished:
            raise SuiteError(f"no trial of {self.label} has finished", "see the errors above, or raise --trials")
        return max(self.finished, key=lambda trial: (trial.value, -trial.number))

    def own_trial(self) -> Trial | None:
        """The finished trial of the profile's own values."""
        return next((trial for trial in self.finished if trial.values == self.own), None)

    def verdict(self) -> Verdict:
        """Whether the best values are to be taken."""
        return Verdict.of(self.best(), self.own_trial())


@dataclass(frozen=True)
class Verdict:
    """The best trial against the profile's own values, over the same seeds and protocols.

    gain: mean difference of AUROC. spread: its standard deviation over seeds and protocols; of a single cell half the
    bootstrap interval of its AUROC; None where neither is known. keep: whether the profile's own values should stay.
    """

    keep: bool
    gain: float | None
    spread: float | None
    words: str

    @classmethod
    def of(cls, best: Trial, own: Trial | None) -> Verdict:
        """Compare two trials."""
        if own is None:
            return cls(
                False, None, None, "the profile's own values have not finished, so there is nothing to compare with"
            )
        if own.number == best.number:
            return cls(True, 0.0, None, "keep yours: no trial was better")
        mine = {(cell["protocol"], cell["seed"]): cell for cell in own.cells}
        pairs = [(cell, mine[place]) for cell in best.cells if (place := (cell["protocol"], cell["seed"])) in mine]
        gains = np.array([cell["auroc"] - base["auroc"] for cell, base in pairs])
        gain = float(gains.mean())
        if len(gains) > 1:
            spread, of = (
                float(gains.std(ddof=1)),
                f"its standard deviation over {len(gains)} cells (seeds and protocols)",
            )
        else:
            (cell, _), of = (
                pairs[0],
                "half the bootstrap interval over faces of its one cell; more seeds tell more: --seed",
            )
            low, high = cell.get("auroc_low"), cell.get("auroc_high")
            spread = float("nan") if low is None or high is None else (high - low) / 2
        if not gain > spread:
            return cls(True, gain, spread, f"keep yours: the best is {gain:+.3f} from it, within {spread:.3f}, {of}")
        return cls(False, gain, spread, f"better than yours by {gain:.3f}, beyond {spread:.3f}, {of}")


def spread_of(trial: Trial) -> str:
    """A trial's AUROC with its spread: sd over seeds and protocols, or of a single cell its bootstrap interval."""
    if trial.value is None:
        return trial.state
    if len(trial.cells) > 1:
        return f"{trial.value:.3f} ± {np.std([cell['auroc'] for cell in trial.cells], ddof=1):.3f}"
    low, high = (trial.cells[0].get(f"auroc_{end}") if trial.cells else None for end in ("low", "high"))
    return f"{trial.value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else "")


def stored_studies(storage: Storage, profile: str, labels: tuple[str, ...] = ()) -> list[optuna.Study]:
    """The studies of a profile's labels, the one started last first; SuiteError where there are none."""
    import optuna

    backend = storage.open(create=False)
    found = [
        item
        for item in optuna.get_all_study_summaries(backend)
        if item.user_attrs.get("profile") == profile and (not labels or item.user_attrs.get("label") in labels)
    ]
    if not found:
        of = f" of {', '.join(labels)}" if labels else ""
        raise SuiteError(
            f"no study of profile {profile}{of} in {masked(storage.address)}",
            "run `osfer tune` first, or name --storage",
        )
    found.sort(key=lambda item: item.user_attrs.get("started", 0.0), reverse=True)
    return [optuna.load_study(study_name=item.study_name, storage=backend) for item in found]


def taken_up(trials: list[FrozenTrial]) -> set[int]:
    """Numbers of the trials that were left unfinished and have another one in their place."""
    return {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}


def put_back(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue an unfinished trial's values again, as a new trial, and close it as failed; the new one first: none is lost."""
    import optuna

    if trial.number not in taken_up(study.get_trials(deepcopy=False)):
        with unwarned():
            optuna.storages.RetryHeartbeatStaleTrialCallback()(study, trial)
    with suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):  # closed already
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def choice(value: Any) -> Any:
    """A value of a list in [search] as Optuna stores it: lists and tables as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _read(trial: FrozenTrial, choices: dict[str, list[Any]]) -> Trial:
    states = {"COMPLETE": "finished", "FAIL": "failed", "PRUNED": "pruned", "RUNNING": "running", "WAITING": "waiting"}
    values = {
        name: next((option for option in choices.get(name, ()) if choice(option) == value), value)
        for name, value in (trial.params or trial.system_attrs.get("fixed_params", {})).items()
    }
    state = states[trial.state.name]
    attrs = trial.user_attrs
    return Trial(
        trial.number,
        values,
        state,
        trial.value if state == "finished" else None,
        attrs.get("cells", []),
        attrs.get("error", ""),
    )


@contextmanager
def unwarned() -> Iterator[None]:
    """Without Optuna's notes on what it calls experimental."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
