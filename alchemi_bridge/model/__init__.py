"""Loading a metatomic model under the trust policy, choosing its outputs, evaluating it."""

from alchemi_bridge.model.evaluate import Evaluation, evaluate
from alchemi_bridge.model.graph import NoGradientError, Route, SystemInput
from alchemi_bridge.model.inputs import Quantity
from alchemi_bridge.model.load import LoadedModel, load_model
from alchemi_bridge.model.outputs import OutputPlan, Wanted, plan_outputs

__all__ = [
    "Evaluation",
    "LoadedModel",
    "NoGradientError",
    "OutputPlan",
    "Quantity",
    "Route",
    "SystemInput",
    "Wanted",
    "evaluate",
    "load_model",
    "plan_outputs",
]
