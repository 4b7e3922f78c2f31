"""Help, in small doses: `hint` one at a time, `solution` only when asked twice."""

from __future__ import annotations

import os

from mycontainer.lab import exercises
from mycontainer.lab.display import card, show
from mycontainer.lab.exercise import source_of
from mycontainer.lab.progress import begin, solved

_given: dict[str, int] = {}  # hints given so far
_asked: set[str] = set()     # solutions asked for once


def hint(id: str) -> None:
    """Show the next hint for an exercise; after the last one, the last one again."""
    exercise = exercises.find(id)
    begin(id)
    number = min(_given.get(id, 0), len(exercise.hints) - 1)
    _given[id] = number + 1
    last = number == len(exercise.hints) - 1
    more = f'That was the last. The solution: lab.solution("{id}")' if last else "Once more for the next."
    title = f"{id}: hint {number + 1} of {len(exercise.hints)}"
    card("plain", title, after=f"{exercise.hints[number]}\n{more}")


def solution(id: str) -> None:
    """Show our solution, from the source that really runs. The first call only asks whether you are sure."""
    exercise = exercises.find(id)
    if id not in _asked and id not in solved():
        _asked.add(id)
        card("plain", f"{id}: sure?", after="It is yours only if you find it. A hint may do: "
             f'lab.hint("{id}")\nTo see our solution all the same, run this again.')
        return
    function = exercise.reference_function()
    code = source_of(function).rstrip()
    file = os.path.basename(function.__code__.co_filename)
    show(f"{id}, as in {file}:\n\n{code}", markdown=f"{id}, as in `{file}`:\n```python\n{code}\n```")
