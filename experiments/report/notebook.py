# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %%
# The sweep directory comes from the environment, so this notebook is the same file for every sweep.
import os
from pathlib import Path

from IPython.display import HTML, Image, display

from kleiber.experiments.report import drawing, markup, story, tables
from kleiber.experiments.report.results import read_results, varied_knob
from kleiber.scaling.figures.style import claim_of

study = drawing.Study(read_results(Path(os.environ["KLEIBER_SWEEP_DIR"])))
experiment = study.results.experiment
display(HTML(f"<style>{(Path(markup.__file__).parent / 'report.css').read_text(encoding='utf-8')}</style>"))


def show(*names: str) -> None:
    """Shows figures, each with its claim as the text that stands in for it, or says what they wait for."""
    gaps: dict[str, list[str]] = {}
    for name in names:
        try:
            figure = drawing.draw(study, name)
        except drawing.NotThereYet as gap:
            gaps.setdefault(str(gap), []).append(name)
        else:
            display(Image(drawing.png(figure), format="png", width=1060, alt=claim_of(figure)))
    for reason, waiting in gaps.items():
        display(markup.callout(f"Not drawn ({', '.join(waiting)}): {reason}.", "wait"))


# %%
mood, sentence = story.verdict(study)
display(markup.heading(experiment.get("name", study.results.directory.name)))
display(markup.Markup(f'<p class="question">{markup.text(experiment.get("question", ""))}</p>'))
display(markup.callout(sentence, mood))
display(story.headline_tiles(study))

# %%
asks_for_a_law = bool(experiment.get("laws", True))
knob = varied_knob(study.results)
show("levels" if knob and not asks_for_a_law else "hero")

# %%
if asks_for_a_law:
    display(tables.forecast_table(study))
    display(tables.gate_table(study))
display(tables.missing_box(study))

# %% [markdown]
# ## What was measured

# %%
display(markup.paragraph(*story.measured_sentences(study)))
show("curves")
if knob and asks_for_a_law:
    show("levels")

# %% [markdown]
# ## The law
#
# Loss as a function of size and training length, fitted to the log losses of all finished runs at once.

# %%
if asks_for_a_law:
    display(tables.if_there(lambda s: markup.paragraph(*story.law_sentences(s)), study))
    show("slices", "surface", "frontier")
else:
    display(markup.callout("The experiment fits no law."))

# %% [markdown]
# ## How far to trust it
#
# Residuals say whether the form fits where there are runs; rivals say how much the form matters where there are none;
# the forecasts, written down before their runs, say whether any of it extrapolates.

# %%
if asks_for_a_law:
    show("residuals", "parameters")
    display(tables.if_there(lambda s: markup.paragraph(story.form_sentence(s)), study))
    display(tables.if_there(tables.comparison_table, study))
    display(tables.if_there(tables.identifiability_box, study))
    show("truth")
else:
    display(
        markup.callout("No law, nothing to extrapolate: the spread of seeds is what these runs say of their noise.")
    )

# %% [markdown]
# ## Constants

# %%
if asks_for_a_law:
    display(tables.if_there(tables.parameter_table, study))
else:
    display(markup.callout("None: the experiment fits no law."))

# %% [markdown]
# ## Where the time went
#
# Training steps, and everything else: compiling, evaluating, reading, saving, and what kills took and resumes repeated.

# %%
show("time")

# %% [markdown]
# ## Reporting checklist
#
# Filled by the software from the sweep directory. What was not measured says what would.

# %%
display(tables.checklist_table(study))

# %% [markdown]
# ## Every run
#
# Figures and fit use the rows of split `fit`; the forecasts are tested on those of split `target`. The same rows, with
# all their columns, are in `table.parquet`.

# %%
display(tables.lost_table(study))
display(tables.run_table(study))

# %% [markdown]
# ## The ledger
#
# Each line carries the hash of the line before, and a target notes the last one when it begins: an edit shows, even of
# the whole chain, unless the notes in the target's files were edited too.

# %%
display(tables.ledger_table(study))
