"""A kernel for a machine that cannot have a lab: it runs nothing, and says why.

A kernel that just dies makes Jupyter start it again, and again, and then say "Kernel died". This one answers
every cell with the reason and the cure. It has no interpreter for the cell's text, so it needs no sandbox.
"""

from __future__ import annotations

import sys
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

from mycontainer import __version__


class Explanation(Kernel):
    """Answers each cell with ``reason`` and ``cure``."""

    implementation = "mycontainer"
    implementation_version = __version__
    banner = "The lab cannot run here."
    language_info = {  # noqa: RUF012 (ipykernel's own convention)
        "name": "python", "mimetype": "text/x-python", "file_extension": ".py"}
    reason = cure = ""

    async def do_execute(self, code: str, silent: bool, *_: Any, **__: Any) -> dict[str, Any]:
        """Run nothing; the notebook shows an error with the reason."""
        content = {
            "ename": "NoLab", "evalue": self.reason,
            "traceback": ["The lab cannot run on this machine, and outside of it no cell is run.",
                          "", self.reason, *([f"hint: {self.cure}"] if self.cure else []), "",
                          "'mycontainer doctor' in a terminal tells more. After the cure: Kernel > Restart."],
        }
        if not silent:
            self.send_response(self.iopub_socket, "error", content)
        return {"status": "error", "execution_count": self.execution_count, **content}


def main() -> None:
    connection_file, Explanation.reason, Explanation.cure = sys.argv[1:]
    IPKernelApp.launch_instance(argv=["-f", connection_file], kernel_class=Explanation)


if __name__ == "__main__":
    main()
