"""What the server of the course hands out to whom: a part of it, for `mycontainer.lab.course`."""

from __future__ import annotations

from typing import Any

from jupyter_server.auth import AllowAllAuthorizer

# What a browser wants a file for, when it is going to execute it. https://www.w3.org/TR/fetch-metadata/
TO_EXECUTE = ("script", "worker", "sharedworker", "serviceworker", "audioworklet", "paintworklet")


class NoScripts(AllowAllAuthorizer):  # type: ignore[misc]
    """Whoever has the token may do everything, but no page may execute the learner's files.

    The policy of `course.content_security_policy` allows scripts that come from this server. So do the files
    of the workspace, and notebooks exported as a script, in which a cell could have its words.
    """

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        """Called for all that is neither a static file nor the page itself."""
        return handler.request.headers.get("Sec-Fetch-Dest") not in TO_EXECUTE
