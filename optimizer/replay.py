"""Make an earlier build's engines again: its evidence says which trials they are, so nothing is searched."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from enginehouse.errors import InvalidInput, VerifyFailed
from enginehouse.evidence import CandidateRecord, Evidence
from optimizer.libraries import library_versions
from optimizer.plan import Plan
from optimizer.recipe import Recipe, recipe_from_options
from optimizer.search.choose import Choice
from optimizer.search.search import Searched
from optimizer.search.trial_runner import TrialRunner
from optimizer.search.tried import SOURCE
from optimizer.trial import Trial

# What a replay may say anew: where things lie and how long it measures, not what is made.
RENEWABLE = ("model", "name", "repository", "data", "cache", "benchmark_seconds")
_NOT_OF_A_RECIPE = ("replay", "no_cache", "dry_run")
_MODEL_FILE = "model.onnx"


@dataclass(frozen=True, slots=True)
class Replay:
    """An earlier build."""

    evidence: Evidence

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The earlier build's recipe with what is given anew."""
        changed = {name: given[name] for name in RENEWABLE if given.get(name) is not None}
        return {**self.evidence.recipe, "cache": None, **changed}

    def check_inputs(self, plan: Plan) -> None:
        """Refuse another model or other data; raises `InvalidInput`."""
        if plan.source.sha256 != self.evidence.source.sha256:
            raise InvalidInput(
                f"{plan.recipe.model} has SHA-256 {plan.source.sha256[:12]}…, and the evidence is of a build from "
                f"{self.evidence.source.sha256[:12]}…. Replay it with the file {self.evidence.source.file}."
            )
        found = plan.data.fingerprint() if plan.data is not None else None
        if found != self.evidence.data_sha256:
            raise InvalidInput(
                f"the data {plan.recipe.data} holds other rows than the build that is replayed. Name those with --data."
            )

    def trial(self, candidate: str) -> Trial | None:
        """What an engine of the earlier build was made by; None for the source as it came."""
        if candidate == SOURCE:
            return None
        record = next(record for record in self.evidence.candidates if record.name == candidate)
        return Trial.model_validate(record.trial)

    def trials(self) -> list[Trial]:
        """The trials that became engines, in the order of the files."""
        made = (self.trial(record.candidate) for record in self.evidence.engines)
        return [trial for trial in made if trial is not None]

    def accepted_trials(self) -> list[Trial]:
        """What was inside the tolerance, whether it was published or not."""
        inside = (one for one in self.evidence.candidates if one.verdict in ("accepted", "chosen"))
        return [Trial.model_validate(one.trial) for one in inside if one.name != SOURCE]

    def choice(self, candidates: Sequence[CandidateRecord]) -> Choice:
        """The earlier choice, under the names that the candidates have now.

        Raises:
            VerifyFailed: what was chosen is outside the tolerance now, or cannot be made.
        """
        portable = next(record.candidate for record in self.evidence.engines if record.file == _MODEL_FILE)
        chosen = self._name_now(self.evidence.chosen, candidates)
        reason = f"replayed: {self.evidence.reason.removeprefix('replayed: ')}"
        verdicts = tuple(
            record.model_copy(update={"verdict": "chosen", "reason": reason}) if record.name == chosen else record
            for record in candidates
        )
        return Choice(chosen, self._name_now(portable, candidates), reason, verdicts)

    def check_files(self, digests: Mapping[str, str]) -> None:
        """Every ONNX file must be the earlier one, byte for byte; raises `VerifyFailed`."""
        for name, expected in self.evidence.files.items():
            if name.endswith(".onnx") and digests.get(name) != expected:
                changed = self._changed_libraries()
                raise VerifyFailed(
                    f"the replay made another {name} than the evidence records (SHA-256 "
                    f"{digests.get(name, 'none')[:12]}…, {expected[:12]}… expected), and nothing was published. "
                    + (f"Libraries changed: {changed}." if changed else "Was it built on another kind of processor?")
                )

    def _name_now(self, name: str, candidates: Sequence[CandidateRecord]) -> str:
        trial = self.trial(name)
        if trial is None:
            return SOURCE
        now = trial.model_dump(mode="json")
        found = next(record for record in candidates if record.trial == now)
        if found.verdict != "accepted":
            raise VerifyFailed(f"{name} cannot be published again, and nothing was published: {found.reason}.")
        return found.name

    def _changed_libraries(self) -> str:
        before = self.evidence.libraries
        now = library_versions(tuple(before))
        return ", ".join(
            f"{name} {before[name]} -> {now.get(name)}" for name in before if now.get(name) != before[name]
        )


def check_given(names: Iterable[str]) -> None:
    """Raise `InvalidInput` for options, by their names, that a replay takes from the evidence."""
    theirs = [f"--{name.replace('_', '-')}" for name in names if name not in (*RENEWABLE, *_NOT_OF_A_RECIPE)]
    if theirs:
        raise InvalidInput(f"--replay takes its options from the evidence; leave out {', '.join(theirs)}.")


def read_replay(path: Path) -> Replay:
    """Read the evidence of the build to be replayed; raises `InvalidInput`, also where it contradicts itself."""
    try:
        evidence = Evidence.model_validate_json(path.read_bytes())
        _check_recipe(evidence)
        _check_engines(evidence)
        _check_trials(evidence)
    except OSError as problem:
        raise InvalidInput(f"--replay {path} cannot be read: {problem.strerror or problem}.") from problem
    except (ValidationError, InvalidInput) as problem:
        found = problem.errors()[0]["msg"] if isinstance(problem, ValidationError) else str(problem).rstrip(".")
        raise InvalidInput(
            f"--replay {path} is no evidence that this version can replay: {found}. "
            "Name the evidence.json of a published version."
        ) from problem
    return Replay(evidence)


def _check_recipe(evidence: Evidence) -> None:
    unknown = sorted(evidence.recipe.keys() - Recipe.model_fields.keys())
    if unknown:
        raise InvalidInput(f"its recipe has unknown options: {', '.join(unknown)}")
    try:
        recipe_from_options(**evidence.recipe)
    except InvalidInput as problem:
        raise InvalidInput(f"in its recipe, {problem}") from problem


def _check_engines(evidence: Evidence) -> None:
    """Every engine must be of a listed candidate and have its digest; what was chosen must be an engine."""
    if all(record.file != _MODEL_FILE for record in evidence.engines):
        raise InvalidInput(f"its engines do not include {_MODEL_FILE}")
    made_by = {record.candidate for record in evidence.engines}
    unknown = sorted(made_by - {record.name for record in evidence.candidates} - {SOURCE})
    if unknown:
        raise InvalidInput(f"it has an engine of '{unknown[0]}', which is none of its candidates")
    without_digest = [record.file for record in evidence.engines if record.file not in evidence.files]
    if without_digest:
        raise InvalidInput(f"it has no digest of {without_digest[0]}, so the replay could not be compared")
    if evidence.chosen not in made_by:
        raise InvalidInput(f"'{evidence.chosen}' was chosen, which is none of its engines")


def _check_trials(evidence: Evidence) -> None:
    for record in evidence.candidates:
        if record.name == SOURCE:
            continue
        if not record.trial:
            raise InvalidInput(f"its candidate '{record.name}' has no trial")
        try:
            Trial.model_validate(record.trial)
        except ValidationError as problem:
            first = problem.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise InvalidInput(f"the trial of '{record.name}' has a wrong {field}: {first['msg']}") from problem


def replayed(runner: TrialRunner, replay: Replay) -> Searched:
    """Run only the trials that became engines.

    Where the source alone was published, run what was accepted beside it, up to the first that still is: a build
    without any is refused. The rewritten graph is not run for that, because it would become the fallback.
    """
    trials = replay.trials()
    for trial in trials:
        runner.run(trial, "recipe")
    for trial in replay.accepted_trials() if not trials else ():
        if runner.run(trial, "recipe").is_accepted:
            break
    return Searched(runner.tried, replay.evidence.repairs, {}, is_complete=True)
