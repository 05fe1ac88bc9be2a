"""Make an earlier build's engines again: its evidence says which trials they are, so nothing is searched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from enginehouse.errors import InvalidInput, VerifyFailed
from enginehouse.evidence import CandidateRecord, Evidence
from optimizer.libraries import library_versions
from optimizer.plan import Plan
from optimizer.search.choose import Choice
from optimizer.search.search import Searched
from optimizer.search.trial_runner import TrialRunner
from optimizer.search.tried import SOURCE
from optimizer.trial import Trial

# What a replay may say anew: where things lie, not what is made of them.
PLACES = ("model", "name", "repository", "data", "cache")


@dataclass(frozen=True, slots=True)
class Replay:
    """An earlier build."""

    evidence: Evidence

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The earlier build's recipe with the places that were given now."""
        changed = {name: given[name] for name in PLACES if given.get(name) is not None}
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
        record = next(record for record in self.evidence.candidates if record.name == candidate)
        return Trial.model_validate(record.trial) if record.trial else None

    def choice(self, candidates: Sequence[CandidateRecord]) -> Choice:
        """The earlier choice, under the names that the candidates have now."""
        portable = next(record.candidate for record in self.evidence.engines if record.file == "model.onnx")
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
        trial = None if name == SOURCE else self.trial(name)
        if trial is None:
            return SOURCE
        now = trial.model_dump(mode="json")
        return next(record.name for record in candidates if record.trial == now)

    def _changed_libraries(self) -> str:
        before = self.evidence.libraries
        now = library_versions(tuple(before))
        return ", ".join(
            f"{name} {before[name]} -> {now.get(name)}" for name in before if now.get(name) != before[name]
        )


def read_replay(path: Path) -> Replay:
    """Read the evidence of the build to be replayed; raises `InvalidInput`."""
    try:
        return Replay(Evidence.model_validate_json(path.read_bytes()))
    except OSError as problem:
        raise InvalidInput(f"--replay {path} cannot be read: {problem.strerror or problem}.") from problem
    except ValidationError as problem:
        raise InvalidInput(
            f"--replay {path} is no evidence that this version can replay: {problem.errors()[0]['msg']}. "
            "Name the evidence.json of a published version."
        ) from problem


def replayed(runner: TrialRunner, replay: Replay) -> Searched:
    """Run only the trials that became engines."""
    for record in replay.evidence.engines:
        trial = replay.trial(record.candidate)
        if trial is not None:
            runner.run(trial, "recipe")
    return Searched(runner.tried, replay.evidence.repairs, {}, is_complete=True)
