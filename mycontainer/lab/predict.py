"""Predictions: commit to an answer before you run it, and see afterwards what it told about you."""

from __future__ import annotations

from mycontainer.lab import exercises
from mycontainer.lab.display import card
from mycontainer.lab.exercise import Prediction
from mycontainer.lab.progress import picks, record

YOURS = "  ← your guess"


def predict(id: str, pick: str = "") -> None:
    """Show a question and its choices, or note your answer: ``lab.predict("start.where", "b")``.

    Nothing is said about right or wrong here: run the next cells, then `reveal`.
    """
    question = exercises.find_prediction(id)
    pick = pick.strip().lower()
    known = pick in question.choices
    rows = [(letter, text + YOURS * (letter == pick)) for letter, text in question.choices.items()]
    if known:
        record({"type": "progress", "exercise": id, "event": "predicted", "pick": pick})
    after = f"Noted: {pick}. Run on, and see." if known else f"{pick!r} is none of these." if pick else \
        f'Your guess: lab.predict("{id}", "{rows[0][0]}")'
    card("open" if pick and not known else "plain", question.question, rows, after, marked=pick)


def reveal(id: str) -> None:
    """Show the answer, and what is behind the choice that you made.

    To whoever has made none it shows all of them, folded: the notebooks run without an answer, too.
    """
    question = exercises.find_prediction(id)
    answer, pick = question.answer, picks().get(id, "")
    rows = [(f"It is {answer}", _told(question, answer, question.why, pick))]
    rows += [(f"not {letter}", _told(question, letter, belief, pick))
             for letter, belief in question.misconceptions.items() if pick in (letter, "")]
    if not pick:
        card("open", f'Your guess first? lab.predict("{id}", "a"), and this cell again.', rows,
             fold="Show the answer")
    elif pick == answer:
        card("good", "You had it right.", rows)
    else:
        card("plain", f"You said {pick}; it is {answer}.", rows)


def _told(question: Prediction, letter: str, about: str, pick: str) -> str:
    return f"{question.choices[letter]}{YOURS * (letter == pick)}\n{about}"
