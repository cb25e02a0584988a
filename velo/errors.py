"""Errors caused by the user's input: one line that says the value, the rule and the remedy."""


class UserError(Exception):
    """A mistake that the user can correct; the command line prints it as one line and exits 2, without a traceback."""


class Refused(Exception):
    """A race that breaks a rule of the runner table: it goes to the dead letters with `reason`, the load continues.

    `reason` is short and stable (it is data); `detail` names the offending value and the remedy.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
