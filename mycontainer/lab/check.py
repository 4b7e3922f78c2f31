'''How an exercise is judged, and how to write one.

An exercise lives in ``mycontainer/lab/exercises/CHAPTER.py``, in the list EXERCISES::

    def probe_rename(p: Probe) -> None:
        name, before = p.token(), p.world.inside(socket.gethostname)
        with p.child(name) as process:            # my_rename(name) has returned; its process lives on
            p.expect("the host name of the world outside", p.world.inside(socket.gethostname), before,
                     cause="The name was changed for everybody.", look="man 7 uts_namespaces")
            p.expect("the host name inside", process.inside(socket.gethostname), name, cause=..., look=...)

    EXERCISES = [Exercise(
        id="namespaces.rename", title="A host name of its own", difficulty=1, minutes=2, lines=2,
        syscalls=("unshare", "sethostname"),
        hints=("Which namespace holds the host name?", "..."),      # in order, never the answer
        reference="mycontainer.lab.exercises.namespaces.rename",  # or the core's: "mycontainer.chroot.enter"
        stub="""
            def my_rename(name):
                ...
            """,
        probe=probe_rename,
        wrong=(Wrong("""
            def my_rename(name):
                syscalls.sethostname(name)
            """, says="changed for everybody"), ...),
        fast_track="Only the unshare; the name is set for you.",
    )]

In the notebook, right below the stub: ``lab.check("namespaces.rename")``. It takes what has the stub's name;
``lab.check("namespaces.rename", my_rename)`` says which. A solution may be a plain value instead of a
function; then the probe finds it in ``p.call()``.

A **probe** looks at what the function does, never at its text, with fresh tokens each time:

- ``p.child(*args, before=, after=, run=, may_raise=, may_end=, seconds=)`` calls the learner's function in
  a process of a throw-away *world* (own user, mount, host name, IPC, network, cgroup namespaces; root in
  it; its own /tmp) and yields that process, alive: ``.value``, ``.error``, ``.exit_code`` and, from the
  kernel, ``.link("root")``, ``.ns("uts")``, ``.status("NSpid")``, ``.read("uid_map")``, ``.mounts()``,
  ``.has("/file")``, ``.children()``, ``.inside(look, *args)`` (a fresh process joins it, calls ``look``).
- ``p.call(*args)``: only the value. ``p.world``: the process that is "outside", with the same methods.
- ``p.fresh_root(programs=False)``: ``.path`` of a throw-away root with a file ``.canary`` holding
  ``.content``; with ``programs`` it is the base image.
- ``p.checkpoint()``: a callable for the learner's function to call. Who calls it stops there until
  ``.release()``; ``.arrived(cause=, look=)`` is that process, as the kernel names it. If the function
  waits for it, the block begins all the same (``process.returned`` is False), and after the release
  ``process.finish()`` gives the value. ``.exit_status()`` is how a child of the learner's ended.
- ``p.token()``; ``p.expect(what, got, expected, cause=, look=)``, ``p.fail(...)`` with the same arguments.

Choose the cause from what was observed. A function that raises, hangs or exits is reported for you. Texts
say what was looked at, never the answer. What the test (tests/test_exercises.py) then proves by itself: the
reference passes, the stub is "not solved yet", each wrong solution gets its own message, and the reference
with any one call or flag removed fails (else give the reason in ``equivalent_mutants``).
'''

from __future__ import annotations

import inspect
import re
import sys
import textwrap
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mycontainer.lab import exercises
from mycontainer.lab.child import TIMEOUT, run
from mycontainer.lab.display import card
from mycontainer.lab.exercise import Exercise, is_the_stub, name_of
from mycontainer.lab.progress import begin, record_solved
from mycontainer.lab.result import Result

LONGEST = 300  # characters of a value that we show
SOLVED, OPEN, WRONG, OURS, CANNOT = "solved", "open", "wrong", "ours", "cannot"


@dataclass(frozen=True)
class Verdict:
    """What a check says: ``state`` is solved, open, wrong, ours (our own function) or cannot (try here)."""

    exercise: str
    state: str
    title: str
    rows: tuple[tuple[str, str], ...] = ()
    after: str = ""

    def __bool__(self) -> bool:
        return self.state == SOLVED

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"{label}: {text}" for label, text in self.rows), self.after]).strip()

    def show(self) -> None:
        """Show it as a card."""
        card({SOLVED: "good", WRONG: "bad"}.get(self.state, "open"), self.title, self.rows, self.after)


NOT_GIVEN: Any = object()


def check(id: str, solution: Any = NOT_GIVEN, *, quiet: bool = False) -> Verdict | None:
    """Try a solution of an exercise, say what came of it, and keep it if it is right.

    Without a ``solution`` it takes what the caller, a notebook as a rule, has under the name of the stub.
    ``quiet`` shows nothing and returns the `Verdict`. Raises LookupError if there is no such exercise.
    """
    begin(id)
    if solution is NOT_GIVEN:
        solution = _of_the_caller(exercises.find(id), sys._getframe(1).f_globals)
    verdict = _missing(id) if solution is NOT_GIVEN else judge(id, solution)
    if verdict:
        record_solved(id, solution)
    if quiet:
        return verdict
    verdict.show()
    return None


def _of_the_caller(exercise: Exercise, names: Mapping[str, Any]) -> Any:
    """What has the stub's name in there; NOT_GIVEN if nothing has."""
    return names.get(stub_name(exercise), NOT_GIVEN)


def stub_name(exercise: Exercise) -> str:
    """The name of what the learner is given to fill in: the last function that the stub defines."""
    name: str = re.findall(r"^def (\w+)\(", textwrap.dedent(exercise.stub), re.MULTILINE)[-1]
    return name


def _missing(id: str) -> Verdict:
    return Verdict(id, OPEN, f"○ {id}: run the cell above first",
                   after=f"It defines {stub_name(exercises.find(id))}, and that is what this cell tries.")


def judge(id: str, solution: Any, patience: float = 1.0) -> Verdict:
    """The verdict on a solution, from a process of its own: what is patched in this one has no say.

    ``patience`` scales the seconds that a probe waits for what a wrong solution may never do.
    """
    import cloudpickle

    exercise = exercises.find(id)
    if solution is None or solution is ... or is_the_stub(solution, exercise.stub):
        return _open(id)
    try:
        body = cloudpickle.dumps(solution)
    except Exception as error:
        return Verdict(id, WRONG, f"✗ {id}: this cannot be tried", (("why", str(error)),),
                       "Your function uses something that lives in this notebook only: make that inside it.")
    where = exercises.module_of(exercise.chapter)
    result = run(_examine, where, exercise.chapter, id, body, patience, timeout=3 * TIMEOUT)
    if result.error and result.error.kind == "TimeoutError":
        return Verdict(id, WRONG, f"✗ {id}: not yet", (("got", "no end after a minute"),))
    if not isinstance(result.value, Verdict):
        return Verdict(id, CANNOT, f"? {id}: the check itself failed. That is our fault.",
                       (("report", str(result.error or result)),), result.stderr)
    return _with_prints(result.value, result)


def _with_prints(verdict: Verdict, printed: Result) -> Verdict:
    """What the function and its children wrote helps to find the fault; when all is well nobody needs it."""
    if verdict.state != WRONG:
        return verdict
    if printed.stdout.strip():
        verdict = replace(verdict, rows=(*verdict.rows, ("it printed", _first(printed.stdout))))
    return replace(verdict, after=verdict.after or _first(printed.stderr))


def _first(text: str, count: int = 12) -> str:
    lines = text.rstrip().splitlines()
    return "\n".join(lines[:count] + ["…"] * (len(lines) > count))


def _open(id: str) -> Verdict:
    return Verdict(id, OPEN, f"○ {id} is not solved yet",
                   after=f'Write your lines into the function above, run that cell, then this one again. '
                         f'A hint: lab.hint("{id}")')


def _examine(module: str, chapter: str, id: str, body: bytes, patience: float) -> Verdict:
    """Run the exercise's probe on a solution: in the examiner, where no code of the learner ever runs."""
    from mycontainer.lab import probe

    if chapter not in exercises.CHAPTERS:
        exercises.add(chapter, module)
    exercise = exercises.find(id)
    try:
        exercise.probe(probe.Probe(exercise, body, patience))
    except probe.Unfinished:
        return _open(id)
    except probe.Ours as ours:
        return Verdict(id, OURS, f"○ {id}: that is our function {ours} at work, not yours",
                       after=f"{_steps_of(exercise, str(ours))} yourself: what is yours you keep.")
    except probe.CannotTry as error:
        return Verdict(id, CANNOT, f"? {id} cannot be tried on this machine",
                       (("why", str(error)),), "What is missing: mycontainer doctor")
    except probe.Mismatch as seen:
        return _not_yet(id, seen)
    except Exception:
        return Verdict(id, CANNOT, f"? {id}: the check itself failed. That is our fault.",
                       (("report", traceback.format_exc(limit=-3)),))
    return Verdict(id, SOLVED, f"✓ {id} is solved, and yours")


def _steps_of(exercise: Exercise, name: str) -> str:
    """What to write instead of this function of ours."""
    sources = [inspect.getsource(one) for one in exercise.ours() if name_of(one) == name]
    calls = [call for source in sources for call in re.findall(r"\bsyscalls\.\w+(?=\()", source)]
    return f"It calls {', '.join(dict.fromkeys(calls))}. Write that out" if calls else "Write its steps"


def _not_yet(id: str, seen: Any) -> Verdict:
    rows = [("looked at", seen.what)] if not seen.learners else [("seen", seen.what)]
    if not seen.learners:
        rows += [("got", _shown(seen.got)), ("expected", _shown(seen.expected))]
    rows += [(label, text) for label, text in (("likely", seen.cause), ("look at", seen.look)) if text]
    return Verdict(id, WRONG, f"✗ {id}: not yet", tuple(rows), seen.learners.rstrip())


def _shown(value: Any) -> str:
    text = (value or "(empty)") if isinstance(value, str) else "nothing" if value is None else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
