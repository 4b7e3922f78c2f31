"""`mycontainer doctor`: the findings as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mycontainer.cli.options import Command, Option
from mycontainer.lab.doctor import Finding, examine, good, verdict

DOCTOR = Command(
    "mycontainer doctor [--json]",
    "Try on this machine what each chapter needs, and say how to mend what fails.\n"
    "It changes nothing, and takes about a second.",
    Option("json", "the findings for a program: a list of objects"),
    epilog="Exit code: 0 if chapters 0 to 6 and 10 can be done here, else 1.")

VERDICTS = {True: "ok", False: "FAILS", None: "-"}


def main(arguments: Sequence[str]) -> int:
    """Examine and print; 0 if the first chapters work."""
    given, _ = DOCTOR.parse(arguments)
    if "help" in given:
        print(DOCTOR.help(), end="")
        return 0
    findings = examine()
    if "json" in given:
        print(json.dumps([finding._asdict() for finding in findings], indent=1))
    else:
        print(table(findings), end="")
    return int(not good(findings))


def table(findings: Sequence[Finding]) -> str:
    """A row for each need, and below it the cure if there is something to cure."""
    width = max(len(finding.need) for finding in findings)
    lines = [f"CHAPTER  HERE   {'NEEDS':{width}}  FOUND"]
    for finding in findings:
        here = VERDICTS[finding.works]
        lines.append(f"{finding.chapter:>7}  {here:5}  {finding.need:{width}}  {finding.detail}".rstrip())
        if finding.cure:
            lines.append(f"{'':16}cure: {finding.cure}")
    lines += ["", *verdict(findings)]
    return "\n".join(lines) + "\n"
