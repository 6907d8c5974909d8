"""shieldkit and Guardrails AI, both ways round.

    Guard().use(ShieldValidator(shield, on_fail="exception"))          a shield as a validator
    Shield(policy, backend, guards=[GuardrailsGuard(guard)])           a Guardrails guard in the shield's chain

Guardrails AI reports its use to its makers as soon as a guard is built. `without_metrics(guard)` switches that off for
one guard, and `GuardrailsGuard` does so by itself; for validators built elsewhere put `enable_metrics=false` into
`~/.guardrailsrc`. Needs `pip install 'guardrails-ai>=0.11,<0.12'`, which wants openai 2: it has no extra here, since
shieldkit's other extras want openai 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from shieldkit.adapters import checks
from shieldkit.conversation import Role, Segment
from shieldkit.guards.base import Inspection, Report
from shieldkit.outcome import Finding, Stage
from shieldkit.shield import Shield

try:
    from guardrails.validator_base import FailResult, PassResult, ValidationResult, Validator, register_validator
except ImportError as error:
    raise checks.NotInstalled("Guardrails AI", "guardrails-ai>=0.11,<0.12", name=error.name) from None

_Guard = TypeVar("_Guard")
_ROLES = {Stage.INPUT: Role.USER, Stage.OUTPUT: Role.ASSISTANT}


def without_metrics(guard: _Guard) -> _Guard:
    """A Guardrails guard that tells nobody of its use."""
    guard.configure(allow_metrics_collection=False)  # type: ignore[attr-defined]
    return guard


@register_validator(name="shieldkit/screen", data_type="string")  # type: ignore[untyped-decorator,unused-ignore]
class ShieldValidator(Validator):  # type: ignore[misc,unused-ignore]
    """Fails for text that the shield's policy blocks, with the refusal's text as the fix.

    Text that the policy redacts fails too, with the redacted text as the fix: Guardrails 0.11 hands the original on when
    a validator passes, whatever the validator puts in its place. So `on_fail="fix"` is what redactions need.
    `stage`: judge as input or as an answer (the default). A stream is judged when it is whole, so that nothing leaves
    before it has passed. A guard of the shield that fails has passed nothing.
    """

    def __init__(
        self, shield: Shield, *, stage: Stage | str = Stage.OUTPUT, tenant: str | None = None, on_fail: Any = None
    ) -> None:
        checks.shield(shield)
        super().__init__(on_fail=on_fail)
        self._shield, self._stage, self._tenant = shield, Stage(stage), tenant

    def _validate(self, value: Any, metadata: dict[str, Any]) -> ValidationResult:
        segment = Segment(str(value), _ROLES[self._stage])
        screening = self._shield.screen(segment, stage=self._stage, tenant=self._tenant)
        if not screening.allowed or screening.conversation is None:
            refusal = screening.refusal
            rule = refusal.rule if refusal is not None else "shield"
            said = refusal.message if refusal is not None else self._shield.policy.refusal_message
            return FailResult(error_message=f"refused by {rule}", fix_value=said)
        (passed,) = screening.conversation.segments
        if passed.text != str(value):
            return FailResult(error_message="redacted by the policy", fix_value=passed.text)
        return PassResult()

    def _chunking_function(self, chunk: str) -> list[str]:
        return []  # the whole stream is one piece


class GuardrailsGuard:
    """A Guardrails guard as a guard of the shield: reports `failed` where it does not pass, or would change the text.

    The guard is asked to validate each text as a string. What it raises is this guard's failure, and so a block, unless
    the policy says otherwise: validators with `on_fail="exception"` are better given `noop` here.
    """

    rules = ("failed", "changed")

    def __init__(
        self, guard: Any, *, name: str = "guardrails", stages: Iterable[Stage | str] = (Stage.OUTPUT,)
    ) -> None:
        self.name, self.stages = name, frozenset(Stage(stage) for stage in stages)
        self._guard = without_metrics(guard)

    def check(self, inspection: Inspection) -> Report:
        """Validate each text."""
        found: list[Finding] = []
        for index, segment in inspection.texts():
            outcome = self._guard.validate(segment.text)
            end = len(segment.text)
            if not outcome.validation_passed:
                found.append(inspection.finding("failed", 1.0, index, 0, end, "a Guardrails validator did not pass"))
            elif isinstance(outcome.validated_output, str) and outcome.validated_output != segment.text:
                found.append(
                    inspection.finding("changed", 1.0, index, 0, end, "a Guardrails validator changed the text")
                )
        return Report(tuple(found))
