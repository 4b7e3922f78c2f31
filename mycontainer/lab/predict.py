"""Predictions: commit to an answer before you run it, and see afterwards what it told about you."""

from __future__ import annotations

from mycontainer.lab import exercises
from mycontainer.lab.display import card
from mycontainer.lab.progress import picks, record


def predict(id: str, pick: str = "") -> None:
    """Show a question and its choices, or note your answer: ``lab.predict("start.where", "b")``.

    Nothing is said about right or wrong here: run the next cells, then `reveal`.
    """
    question = exercises.find_prediction(id)
    rows = [(letter, text) for letter, text in question.choices.items()]
    pick = pick.strip().lower()
    if not pick:
        card("plain", question.question, rows, f'Your guess: lab.predict("{id}", "{rows[0][0]}")')
    elif pick not in question.choices:
        card("open", question.question, rows, f"{pick!r} is none of these.")
    else:
        record({"type": "progress", "exercise": id, "event": "predicted", "pick": pick})
        card("plain", question.question, rows, f"Noted: {pick}. Run on, and see.")


def reveal(id: str) -> None:
    """Show the answer, and what is behind the choice that you made (behind all of them if you made none)."""
    question = exercises.find_prediction(id)
    pick = picks().get(id, "")
    right = pick == question.answer
    rows = [(question.answer, f"{question.choices[question.answer]}. {question.why}")]
    wrong = [pick] if pick and not right else [] if right else list(question.misconceptions)
    rows += [(letter, f"{question.choices[letter]}: {question.misconceptions[letter]}") for letter in wrong]
    title = "You had it right." if right else f"You said {pick}; it is {question.answer}." if pick else \
        f"It is {question.answer}."
    card("good" if right else "plain", title, rows)
