"""Loading a metatomic model under the trust policy, choosing its outputs, evaluating it."""

from alchemi_bridge.model.evaluate import Evaluation, SystemInput, Wanted, evaluate
from alchemi_bridge.model.inputs import Quantity
from alchemi_bridge.model.load import LoadedModel, load_model
from alchemi_bridge.model.outputs import OutputPlan, plan_outputs

__all__ = [
    "Evaluation",
    "LoadedModel",
    "OutputPlan",
    "Quantity",
    "SystemInput",
    "Wanted",
    "evaluate",
    "load_model",
    "plan_outputs",
]
