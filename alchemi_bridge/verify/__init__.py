"""Verification checks for any metatomic model, each with its number.

After the verification checks of OpenKIM (https://openkim.org/doc/evaluation/kim-tests): forces and
stress against finite differences, invariances, extensivity, smoothness, repeatability, memory.
"""

# importing a family registers its checks; they run in this order
from alchemi_bridge.verify import gradients, symmetry, size, cutoff, machine  # noqa: F401  # isort: skip
from alchemi_bridge.verify.check import CHECKS, Check, Measure, Outcome, Severity, Status
from alchemi_bridge.verify.run import Report, select_checks, verify

__all__ = [
    "CHECKS",
    "Check",
    "Measure",
    "Outcome",
    "Report",
    "Severity",
    "Status",
    "select_checks",
    "verify",
]
